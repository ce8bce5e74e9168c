//! One hit: title, texts, facts.
//!
//! walvec knows nothing about the columns of a table but their values, so the values decide: the first text is the
//! title, long texts are paragraphs, everything else is a labelled fact.

use std::borrow::Cow;

use maud::{Markup, html};
use serde_json::Value;
use walvec_sink::Hit;
use walvec_transform::PayloadLayout;

use super::page_query::PageQuery;
use crate::api::score as scores;
use crate::search::filter::equals_as_text;
use crate::search::mode::Mode;
use crate::search::words::{QueryWords, is_prose};

/// Longer titles are cut, and repeated as a paragraph.
const TITLE_CHARS: usize = 160;
/// Arrays with more items are shown as JSON.
const FACT_ITEMS: usize = 20;
/// Longer paragraphs are folded to a few lines. About three lines of the page.
const FOLD_CHARS: usize = 280;
/// Longer texts are cut: the page is for reading, and a hundred large documents would stall it. The API cuts nothing.
const CUT_CHARS: usize = 4_000;

/// The values that all hits of a page share.
pub(super) struct Page<'a> {
    pub(super) layout: PayloadLayout,
    pub(super) page_query: &'a PageQuery,
    pub(super) words: QueryWords,
    pub(super) scale: Scale,
}

/// The scale for the scores of a page.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    /// The mode of the search.
    pub(super) mode: Mode,
    /// The score of the best hit.
    pub(super) best: f32,
}

/// Renders a hit as a list item; `number` counts from 1 on the page.
pub(super) fn render(hit: &Hit, number: usize, page: &Page<'_>) -> Markup {
    let (page_query, words) = (page.page_query, &page.words);
    let parts = HitParts::of(hit, page.layout);
    html! {
        li.hit {
            article aria-labelledby={ "hit-" (number) } {
                header {
                    h2 id={ "hit-" (number) } {
                        @match parts.title {
                            Some(title) => { (words.mark(title)) @if parts.is_title_cut { "…" } }
                            None => { "Point " (hit.id) }
                        }
                    }
                    (score(hit.score, page.scale))
                }
                @for (index, text) in parts.texts.iter().enumerate() {
                    (paragraph(text, &format!("fold-{number}-{index}"), words))
                }
                dl.facts {
                    @for (field, value) in &parts.facts { (fact(field, value, page_query)) }
                    @if let Some((chunk, chunks)) = chunk_of(hit) {
                        div.fact { dt { "chunk" } dd { (chunk) " of " (chunks) } }
                    }
                    div.fact.id { dt { "point" } dd { (hit.id) } }
                }
            }
        }
    }
}

/// Returns the number of the chunk, from 1, and how many its row has; `None` for a row that is one point.
fn chunk_of(hit: &Hit) -> Option<(u32, u32)> {
    let provenance = hit.provenance.as_ref().filter(|provenance| provenance.chunks > 1)?;
    Some((provenance.chunk + 1, provenance.chunks))
}

/// A payload's fields, grouped by how their values are shown; within a group the order of the columns is kept.
struct HitParts<'a> {
    title: Option<&'a str>,
    is_title_cut: bool,
    texts: Vec<HitText<'a>>,
    facts: Vec<(&'a str, &'a Value)>,
}

/// A value that is shown as a paragraph.
struct HitText<'a> {
    field: &'a str,
    text: Cow<'a, str>,
    is_json: bool,
}

impl<'a> HitParts<'a> {
    fn of(hit: &'a Hit, layout: PayloadLayout) -> Self {
        let mut parts = Self { title: None, is_title_cut: false, texts: Vec::new(), facts: Vec::new() };
        for (field, value) in layout.fields(&hit.payload) {
            match value {
                Value::String(text) if parts.title.is_none() && !text.trim().is_empty() => {
                    let end = text.char_indices().nth(TITLE_CHARS).map_or(text.len(), |(end, _)| end);
                    parts.title = text.get(..end);
                    parts.is_title_cut = end < text.len();
                    if parts.is_title_cut {
                        parts.texts.push(HitText { field, text: Cow::Borrowed(text), is_json: false });
                    }
                }
                Value::String(text) if is_prose(text) => {
                    parts.texts.push(HitText { field, text: Cow::Borrowed(text), is_json: false });
                }
                value if is_nested(value) => {
                    parts.texts.push(HitText { field, text: Cow::Owned(value.to_string()), is_json: true });
                }
                _ => parts.facts.push((field, value)),
            }
        }
        parts
    }
}

/// Returns whether an array is shown as JSON. Short arrays of short values are facts with several values; deeper or longer ones
/// are nested.
fn is_nested(value: &Value) -> bool {
    match value {
        Value::Object(_) => true,
        Value::Array(items) => {
            let is_plain = |item: &Value| !item.is_array() && !item.is_object() && !item.as_str().is_some_and(is_prose);
            items.len() > FACT_ITEMS || !items.iter().all(is_plain)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Returns the first [`CUT_CHARS`] characters, and how many more there are.
fn cut(text: &str) -> (String, usize) {
    let shown: String = text.chars().take(CUT_CHARS).collect();
    let more = text.chars().count().saturating_sub(CUT_CHARS);
    (shown, more)
}

/// Renders the score as a number and as a bar. The bar of a similarity, which has an upper limit, shows the score itself; any
/// other bar shows its share of the best score. The bar is drawn with attributes, because the policy forbids inline styles.
fn score(score: f32, scale: Scale) -> Markup {
    let (title, full) = match scale.mode {
        Mode::Dense => ("Cosine similarity: 1 is the same meaning", 1.0),
        Mode::Keyword => ("BM25: how much the words say, more for rare ones", scale.best),
        Mode::Hybrid => ("Reciprocal rank fusion: from the places by meaning and by words", scale.best),
    };
    let percent = if full > 0.0 { ((score / full).clamp(0.0, 1.0) * 100.0).round() } else { 0.0 };
    html! {
        p.score title=(title) {
            span.sr { "Score " }
            span.number { (scores::shown(scores::exact(score))) }
            svg viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" {
                rect.track width="100" height="6" {}
                rect.bar width=(percent) height="6" {}
            }
        }
    }
}

/// Renders a long text. Folding needs no script: a hidden checkbox holds the state, its label is the button.
fn paragraph(HitText { field, text, is_json }: &HitText<'_>, fold_id: &str, words: &QueryWords) -> Markup {
    let (shown, more) = cut(text);
    let folded = shown.chars().nth(FOLD_CHARS).is_some() || shown.lines().count() > 4;
    html! {
        div.text.json[*is_json] {
            h3 { (field) }
            @if folded { input.sr type="checkbox" id=(fold_id) aria-label={ "Show all of " (field) }; }
            p {
                (words.mark(&shown))
                @if more > 0 { " … " em { (super::format::count(more as u64)) " more characters" } }
            }
            @if folded { label for=(fold_id) aria-hidden="true" {} }
        }
    }
}

fn fact(field: &str, value: &Value, page_query: &PageQuery) -> Markup {
    html! {
        div.fact {
            dt { (field) }
            @match value {
                Value::Array(items) if items.is_empty() => dd { span.null { "none" } },
                Value::Array(items) => @for item in items { dd { (fact_value(field, item, page_query)) } },
                _ => dd { (fact_value(field, value, page_query)) },
            }
        }
    }
}

/// Renders the value, as a link that narrows the search to it if a condition can express that.
fn fact_value(field: &str, value: &Value, page_query: &PageQuery) -> Markup {
    let text = match value {
        Value::Null => return html! { span.null { "null" } },
        Value::String(text) if text.trim().is_empty() => return html! { span.null { "empty" } },
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let filter = equals_as_text(field, value).filter(|filter| !page_query.filters.contains(filter));
    html! {
        @match filter {
            Some(filter) => a href=(page_query.link_with(&filter)) title={ "Only hits with " (filter) } rel="nofollow" { (text) },
            None => (text),
        }
    }
}
