//! The frame of the page.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::page_query::PageQuery;
use super::{View, assets, pipeline_state, results};
use crate::http::LOGIN_PATH;
use crate::search::request::{MAX_LIMIT, MAX_QUERY_BYTES};

/// The numbers of hits that the page offers.
const LIMITS: [&str; 4] = ["5", "10", "20", "50"];

/// The modes of a search, as requests name them and as people do.
const MODES: [(&str, &str); 3] = [("", "meaning and words"), ("dense", "meaning"), ("keyword", "words")];

/// A magnifying glass, drawn in the text's colour.
const LENS: PreEscaped<&str> = PreEscaped(
    r#"<svg class="lens" viewBox="0 0 20 20" aria-hidden="true"><circle cx="8.5" cy="8.5" r="5.5"/><path d="m13 13 4.5 4.5"/></svg>"#,
);

pub(super) fn page(view: &View) -> Markup {
    let title = match view.page_query.text.trim() {
        "" => "walvec".to_owned(),
        text => format!("{text} · walvec"),
    };
    let body = html! {
        main {
            h1.sr { "Search " (view.page_query.collection) " by meaning" }
            (search_form(view))
            (pipeline_state::notices(&view.status))
            (results::render(view))
        }
        footer {
            nav aria-label="For programs" {
                a href="/openapi.json" { "API" }
                a href="/api/v1/status" { "Status" }
                a href="/metrics" { "Metrics" }
            }
            p.keys data-script hidden { kbd { "/" } " query " kbd { "↑" } " " kbd { "↓" } " hits " kbd { "Enter" } " more " kbd { "Esc" } " clear" }
        }
    };
    document(&title, &pipeline_state::line(&view.status), &body)
}

/// Renders the page for a browser that has not shown the token yet.
pub(super) fn sign_in(refused: bool) -> Markup {
    let body = html! {
        main.sign-in {
            form action=(LOGIN_PATH) method="post" {
                h1 { "Sign in" }
                p { "This server asks for its token: the value of " code { "server.token" } " in its configuration." }
                label for="token" { "Token" }
                input #token type="password" name="token" required autofocus autocomplete="current-password"
                    aria-describedby=[refused.then_some("refused")];
                @if refused { p #refused.refused role="alert" { "That is not the token." } }
                button type="submit" { "Sign in" }
            }
        }
    };
    document("Sign in · walvec", &html! {}, &body)
}

fn document(title: &str, pulse: &Markup, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="icon" type="image/svg+xml" href=(assets::ICON.path());
                link rel="stylesheet" href=(assets::STYLE.path());
                // The script is small, cached and not deferred, so that the page never flashes in
                // the wrong colours.
                script src=(assets::THEME.path()) {}
                script src=(assets::SCRIPT.path()) defer {}
            }
            body {
                header.top {
                    a.brand href="/" { img src=(assets::ICON.path()) alt="" width="22" height="22"; "walvec" }
                    (pulse)
                    button #theme type="button" data-script hidden aria-label="Switch between light and dark" {}
                }
                (body)
            }
        }
    }
}

fn search_form(view: &View) -> Markup {
    let page_query = &view.page_query;
    html! {
        form #search role="search" action="/" method="get" {
            div.field {
                label.sr for="q" { "What to look for" }
                (LENS)
                input #q type="search" name="q" value=(page_query.text) maxlength=(MAX_QUERY_BYTES)
                    placeholder=(format!("Search {} by meaning", page_query.collection))
                    autocomplete="off" autocapitalize="off" spellcheck="false" autofocus[page_query.text.is_empty()];
                kbd data-script hidden title="Press / to search" { "/" }
                button type="submit" { "Search" }
            }
            div.options {
                @if view.collections.len() > 1 { (collection_choice(view)) }
                @if view.options.has_keywords || !page_query.mode.is_empty() { (mode_choice(page_query)) }
                (limit_choice(page_query))
                (active_filters(page_query))
            }
        }
    }
}

fn collection_choice(view: &View) -> Markup {
    let known = view.collections.contains(&view.page_query.collection);
    html! {
        label {
            "in "
            select name="collection" {
                @if !known { option value=(view.page_query.collection) selected { (view.page_query.collection) } }
                @for name in &view.collections {
                    option value=(name) selected[*name == view.page_query.collection] { (name) }
                }
            }
        }
    }
}

fn mode_choice(page_query: &PageQuery) -> Markup {
    let odd = !MODES.iter().any(|(mode, _)| *mode == page_query.mode);
    html! {
        label {
            "by "
            select name="mode" {
                @if odd { option value=(page_query.mode) selected { (page_query.mode) } }
                @for (mode, name) in MODES { option value=(mode) selected[mode == page_query.mode] { (name) } }
            }
        }
    }
}

fn limit_choice(page_query: &PageQuery) -> Markup {
    let odd = !LIMITS.contains(&page_query.limit.as_str());
    html! {
        label {
            "show "
            select name="limit" title={ "At most " (MAX_LIMIT) } {
                @if odd { option value=(page_query.limit) selected { (page_query.limit) } }
                @for limit in LIMITS { option value=(limit) selected[limit == page_query.limit] { (limit) } }
            }
        }
    }
}

/// Renders each condition as a removable chip, and as a hidden field so that the next query keeps
/// it.
fn active_filters(page_query: &PageQuery) -> Markup {
    html! {
        @for filter in &page_query.filters {
            input type="hidden" name="filter" value=(filter);
            a.filter href=(page_query.link_without(filter)) aria-label={ "Remove the filter " (filter) } {
                (filter) span aria-hidden="true" { "×" }
            }
        }
    }
}
