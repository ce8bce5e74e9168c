//! One hit for people: title, score, snippet, facts.

use serde_json::Value;
use walvec_transform::printed_names;

use super::snippet::SnippetSource;
use super::wrap::{cut, fill, on_one_line, width};
use super::{columns, score, stored};
use crate::cli::output::Screen;
use crate::config::CollectionConfig;
use crate::search::words::{QueryWords, is_prose};

/// The separator between facts.
const BETWEEN: &str = " · ";

/// The longest value of a fact, in columns of the screen; longer ones are cut and end in `…`.
const MAX_FACT: usize = 60;

/// Formats the hits of a search, best first.
pub(crate) fn records(hits: &[Value], collection: &CollectionConfig, query: &str, screen: Screen) -> String {
    if hits.is_empty() {
        return "No hits.".to_owned();
    }
    let printer = Printer { screen, words: QueryWords::of(query), indent: format!("{}. ", hits.len()).len() };
    let columns = columns(hits, collection);
    let records =
        hits.iter().zip(1..).map(|(hit, rank)| printer.print(&HitRecord::of(hit, collection, &columns), rank));
    records.collect::<Vec<_>>().join("\n\n")
}

/// The parts of a hit that can be shown.
struct HitRecord<'a> {
    score: String,
    /// The point's id.
    id: String,
    fields: Vec<ShownField<'a>>,
    /// The field that is the title.
    title: Option<&'a str>,
    /// The chunk that the point is for, where rows are cut into chunks.
    chunk: Option<String>,
}

/// A field with a value.
struct ShownField<'a> {
    name: &'a str,
    /// The value on one line.
    text: String,
    is_prose: bool,
}

impl<'a> HitRecord<'a> {
    fn of(hit: &'a Value, collection: &CollectionConfig, columns: &[String]) -> Self {
        let mut stored = stored(hit, collection);
        stored.sort_by_key(|(name, _)| columns.iter().position(|column| column == name));
        let title = title(&stored, collection);
        let chunk = chunk(hit, collection);
        let fields = stored.into_iter().filter(|(name, _)| Some(*name) != collection.chunk_field());
        let fields = fields.map(|(name, value)| ShownField {
            name,
            text: plain(value),
            is_prose: value.as_str().is_some_and(is_prose),
        });
        Self {
            score: score(hit),
            id: hit.get("id").map(plain).unwrap_or_default(),
            fields: fields.filter(|field| !field.text.is_empty()).collect(),
            title,
            chunk,
        }
    }

    fn text_of(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|field| field.name == name).map(|field| field.text.as_str())
    }

    /// Returns the facts: the fields that are neither the title nor the snippet.
    fn facts(&self, snippet: Option<&str>) -> Vec<String> {
        let told = |field: &&ShownField<'_>| Some(field.name) != self.title && Some(field.name) != snippet;
        let fact = |field: &ShownField<'_>| format!("{}: {}", on_one_line(field.name), cut(&field.text, MAX_FACT));
        let mut facts: Vec<String> = self.fields.iter().filter(told).map(fact).collect();
        // A table's `id` is usually the point's id too.
        if self.text_of("id") != Some(self.id.as_str()) {
            facts.push(format!("point: {}", self.id));
        }
        facts
    }
}

/// Returns the first field that the text's template prints; without one, the first field with a text.
fn title<'a>(fields: &[(&'a str, &'a Value)], collection: &CollectionConfig) -> Option<&'a str> {
    let is_text = |value: &Value| value.as_str().is_some_and(|text| !text.trim().is_empty());
    let texts = || fields.iter().filter(|(_, value)| is_text(value)).map(|(name, _)| *name);
    let printed = printed_names(&collection.text);
    let first_printed = printed.iter().find_map(|printed| texts().find(|name| name == printed));
    first_printed.or_else(|| texts().find(|name| Some(*name) != collection.chunk_field()))
}

/// Returns the text of a chunk.
fn chunk(hit: &Value, collection: &CollectionConfig) -> Option<String> {
    collection.chunk.as_ref()?;
    let payload = hit.get("payload")?.as_object()?;
    let text = match collection.chunk_field() {
        Some(field) => payload.get(field)?.as_str().map(str::to_owned),
        None => collection.layout().text(payload),
    };
    Some(on_one_line(&text?))
}

/// Formats a value on one line; `None` and empty lists become an empty text.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => on_one_line(text),
        Value::Array(items) if items.iter().all(|item| !item.is_array() && !item.is_object()) => {
            items.iter().map(plain).collect::<Vec<_>>().join(", ")
        }
        other => on_one_line(&other.to_string()),
    }
}

/// Writes records for a screen.
struct Printer {
    screen: Screen,
    /// The words of the query.
    words: QueryWords,
    /// The width of the rank, by which all lines but the first are indented.
    indent: usize,
}

impl Printer {
    fn print(&self, record: &HitRecord<'_>, rank: usize) -> String {
        let columns = self.screen.columns.saturating_sub(self.indent);
        let whole = match record.title.and_then(|name| record.text_of(name)) {
            Some(title) => title.to_owned(),
            None => format!("point {}", record.id),
        };
        let room = columns.saturating_sub(record.score.len() + 2);
        let title = cut(&whole, room);
        let gap = " ".repeat(columns.saturating_sub(width(&title) + record.score.len()));
        let rank = format!("{:>1$}", format!("{rank}. "), self.indent);
        let mut lines = vec![format!("{rank}{}{gap}{}", self.screen.bold(&title), record.score)];

        let is_cut = title != whole;
        let (name, snippet) = self.snippet(record, is_cut);
        let snippet = snippet.map(|text| SnippetSource::new(text, &self.words).lines(columns)).unwrap_or_default();
        let indent = " ".repeat(self.indent);
        lines.extend(snippet.iter().map(|line| format!("{indent}{}", self.marked(line))));
        let facts = record.facts(name);
        let facts = fill(facts.iter().map(String::as_str), BETWEEN, columns);
        lines.extend(facts.iter().map(|line| format!("{indent}{line}")));
        lines.join("\n")
    }

    /// Returns the text to show, and its field: the chunk's own text, else the prose with the most words of the query.
    fn snippet<'a>(&self, record: &'a HitRecord<'_>, is_title_cut: bool) -> (Option<&'a str>, Option<&'a str>) {
        if let Some(chunk) = &record.chunk {
            return (None, Some(chunk));
        }
        let prose = record.fields.iter().filter(|field| field.is_prose);
        let prose = prose.filter(|field| is_title_cut || Some(field.name) != record.title);
        // `max_by_key` returns the last of equals, and the first one is wanted.
        let best = prose.rev().max_by_key(|field| SnippetSource::new(&field.text, &self.words).matches());
        (best.map(|field| field.name), best.map(|field| field.text.as_str()))
    }

    /// Returns the line with the words of the query in bold.
    fn marked(&self, line: &str) -> String {
        let mark = |(run, of_query)| if of_query { self.screen.bold(run) } else { run.to_owned() };
        self.words.runs(line).map(mark).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testkit::{books, collection, hit};
    use super::*;

    const STORY: &str = "Martians land in Surrey and lay waste to London with heat rays and black smoke, until the \
                         smallest things on earth end the battle.";

    fn shown(hits: &[Value], collection: &CollectionConfig, columns: usize) -> String {
        records(hits, collection, "battle in space", Screen { columns, is_styled: false })
    }

    #[test]
    fn a_hit_is_a_record_with_title_score_snippet_and_facts() {
        let payload = json!({
            "id": 17, "author": "H.G. Wells", "description": STORY, "name": "The War of the Worlds", "year": 1898,
            "tags": ["mars", "war"], "sold": null,
        });
        let expected = "\
1. The War of the Worlds                               0.712
   …lay waste to London with heat rays and black smoke,
   until the smallest things on earth end the battle.
   author: H.G. Wells · id: 17 · tags: mars, war
   year: 1898";
        assert_eq!(shown(&[hit(17, 0.71234, payload)], &books(), 60), expected);
    }

    #[test]
    fn every_line_fits_the_screen() {
        let payload =
            json!({"name": "日本".repeat(60), "description": STORY.repeat(9), "note": "x".repeat(500), "a": "b"});
        let hits: Vec<Value> = (0..12).map(|id| hit(id, 0.5, payload.clone())).collect();
        for columns in [40, 80, 120, 200] {
            let shown = shown(&hits, &books(), columns);
            assert!(shown.lines().all(|line| width(line) <= columns), "{columns}: {shown}");
            assert!(shown.lines().any(|line| width(line) > columns - 8), "{columns}: {shown}");
        }
    }

    #[test]
    fn the_title_is_the_first_column_of_the_template_else_the_first_text() {
        let payload = json!({"sku": "SKU-01974", "stock": 3, "title": "A kettle"});
        for (text, title) in
            [("{{ title }} {{ sku }}", "A kettle"), ("{{ stock }} {{ sku }}", "SKU-01974"), ("nothing", "SKU-01974")]
        {
            let shown = shown(&[hit(1, 0.5, payload.clone())], &collection(&format!("text: '{text}'")), 80);
            assert!(shown.starts_with(&format!("1. {title} ")), "{text}: {shown}");
        }
        let nameless = shown(&[hit(1, 0.5, json!({"stock": 3}))], &books(), 80);
        assert!(nameless.starts_with("1. point 1 "), "{nameless}");
    }

    #[test]
    fn the_snippet_is_the_text_that_answers_the_query() {
        let filler = "Nothing of the kind happens here, page after page. ".repeat(20);
        let payload =
            json!({"name": "Emma", "a": filler, "b": format!("{filler}A battle in space. {filler}"), "c": filler});
        let shown = shown(&[hit(1, 0.5, payload)], &books(), 80);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[1].starts_with("   …") && lines[1].contains("A battle in space."), "{shown}");
        assert!(lines[3].starts_with("   a: Nothing of the kind") && !shown.contains("b: "), "{shown}");
    }

    #[test]
    fn of_a_chunk_its_own_text_is_shown() {
        let flat = hit(1, 0.5, json!({"name": "Emma", "chunk": "The chunk.", "notes": STORY}));
        let nested = hit(1, 0.5, json!({"page_content": "The chunk.", "metadata": {"name": "Emma"}}));
        for (hit, layout) in [(flat, "flat"), (nested, "langchain")] {
            let keys = format!("text: '{{{{ name }}}}', chunk: {{ tokens: 64 }}, layout: {layout}");
            let shown = shown(&[hit], &collection(&keys), 80);
            assert_eq!(shown.lines().nth(1), Some("   The chunk."), "{layout}: {shown}");
            assert!(!shown.contains("chunk: "), "{layout}: {shown}");
        }
    }

    #[test]
    fn a_long_title_is_cut_and_its_text_shown_below() {
        let shown = shown(&[hit(1, 0.5, json!({"name": STORY, "year": 1898}))], &books(), 60);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[0].contains("…  0.500") && lines[2].ends_with("end the battle."), "{shown}");
    }

    #[test]
    fn words_of_the_query_stand_out_on_a_terminal() {
        let payload = json!({"name": "Emma", "description": format!("{STORY} So it ends.")});
        let screen = Screen { columns: 200, is_styled: true };
        let shown = records(&[hit(1, 0.5, payload)], &books(), "a battle", screen);
        assert!(shown.contains("\u{1b}[1mEmma\u{1b}[0m") && shown.contains("the \u{1b}[1mbattle\u{1b}[0m."), "{shown}");
    }
}
