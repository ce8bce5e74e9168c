//! The hits, or why there are none.

use maud::{Markup, html};
use walvec_pipeline::observe::status::{CollectionStatus, Phase};

use super::{View, format, hit, pipeline_state};
use crate::api::problem::ApiProblem;
use crate::search::searcher::SearchResult;
use crate::search::words::QueryWords;

/// The outcome of a search.
pub(super) enum SearchOutcome {
    /// The query box is empty.
    NothingAsked,
    /// The search ran.
    Found(SearchResult),
    /// The search failed.
    Failed(ApiProblem),
}

/// Renders the summary, which is announced to screen readers, and the results, which are not: they would be read at
/// every keystroke.
pub(super) fn render(view: &View) -> Markup {
    html! {
        p #summary role="status" { (summary(view)) }
        div #results {
            @match &view.outcome {
                SearchOutcome::NothingAsked => (welcome(view)),
                SearchOutcome::Failed(problem) => (failed(problem)),
                SearchOutcome::Found(found) if found.hits.is_empty() => (nothing_found(view, found.note)),
                SearchOutcome::Found(found) => (hits(view, found)),
            }
        }
    }
}

fn summary(view: &View) -> Markup {
    html! {
        @match &view.outcome {
            // An error is announced by itself.
            SearchOutcome::NothingAsked | SearchOutcome::Failed(_) => {}
            SearchOutcome::Found(found) => {
                (format::counted(found.hits.len() as u64, "hit")) " in "
                (format::milliseconds(u64::try_from(found.took.as_millis()).unwrap_or(u64::MAX)))
                @if let Some(lag) = pipeline_state::noticeable_lag(&view.status) { ", as of " (format::milliseconds(lag)) " ago" }
                @if found.is_cut { ". The model reads only the beginning of so long a text" }
            }
        }
    }
}

fn hits(view: &View, found: &SearchResult) -> Markup {
    let scale = hit::Scale { mode: found.mode, best: found.hits.first().map_or(0.0, |best| best.score) };
    let page = hit::Page {
        layout: found.layout,
        page_query: &view.page_query,
        words: QueryWords::of(&view.page_query.text),
        scale,
    };
    html! {
        ol.hits {
            @for (index, hit) in found.hits.iter().enumerate() { (hit::render(hit, index + 1, &page)) }
        }
    }
}

fn welcome(view: &View) -> Markup {
    let status = collection_status(view);
    if status.is_some_and(|status| status.points == Some(0)) {
        return html! { div.state { (empty(view)) } };
    }
    html! {
        div.state {
            h2 { "Say what you are looking for." }
            p {
                "Rows of " strong { (status.map_or(view.page_query.collection.as_str(), |status| &status.table)) }
                " are found by what they mean, not by the words they happen to use. A change in the database shows "
                "here moments after its commit."
            }
            @if !view.examples.is_empty() {
                p.lead { "For example" }
                ul.examples {
                    @for example in &view.examples { li { a href=(view.page_query.link_to_text(example)) { (example) } } }
                }
            }
        }
    }
}

fn nothing_found(view: &View, note: Option<&str>) -> Markup {
    html! {
        div.state {
            @if collection_status(view).is_some_and(|status| status.points == Some(0)) {
                (empty(view))
            } @else if let Some(note) = note {
                h2 { "No hits" }
                p { (note) }
            } @else if view.page_query.filters.is_empty() {
                h2 { "No hits" }
                p { "The collection answered, and had nothing to offer." }
            } @else {
                h2 { "No hits with these filters" }
                p { a href=(view.page_query.link_without_filters()) { "Search without filters" } }
            }
        }
    }
}

/// Says why the collection has no hits.
fn empty(view: &View) -> Markup {
    let status = collection_status(view);
    let table = status.map_or("the table", |status| &status.table);
    html! {
        h2 { "The collection " q { (view.page_query.collection) } " is empty" }
        p {
            @match view.status.phase {
                Phase::Starting => { "walvec is still connecting; it has not begun to read " (table) "." }
                Phase::Snapshot => {
                    "The snapshot of " (table) " is in progress: "
                    (format::count(status.map_or(0, |status| status.snapshot_rows_copied)))
                    @match status.map_or(0, |status| status.snapshot_rows_estimated) {
                        0 => " rows so far.",
                        estimated => { " of about " (format::count(estimated)) " rows." }
                    }
                }
                Phase::Streaming => {
                    "There are no rows in " (table) " yet. The first one will show up here when it is committed."
                }
                Phase::Stopping => "walvec is shutting down.",
            }
        }
    }
}

fn failed(problem: &ApiProblem) -> Markup {
    html! {
        div.state.failed role="alert" {
            h2 { (problem.title()) }
            p { (problem.detail()) }
        }
    }
}

fn collection_status(view: &View) -> Option<&CollectionStatus> {
    view.status.collections.iter().find(|status| status.collection == view.page_query.collection)
}
