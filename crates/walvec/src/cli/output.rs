//! What goes to stdout and how it looks.

use std::io::{IsTerminal as _, Write};
use std::process::ExitCode;
use std::sync::OnceLock;

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::MultiProgress;
use serde_json::{Map, Value};
use walvec_transform::Layout;

use super::Failure;

/// The longest cell of a table on a terminal; longer ones end in `…`.
const MAX_CELL: usize = 60;

/// The process's progress bars. One owner, so that log lines and bars do not overwrite each other.
pub(crate) fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(MultiProgress::new)
}

/// Writes log lines above the progress bars.
pub(crate) fn log_writer() -> impl Write {
    LogWriter
}

struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        bars().suspend(|| std::io::stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Tells on stderr what is being done, above the progress bars.
pub(crate) fn note(text: &str) {
    bars().suspend(|| {
        // A closed stderr leaves nobody to tell.
        let _ = writeln!(std::io::stderr(), "==> {text}");
    });
}

/// Prints one line.
pub(crate) fn line(text: &str) -> Result<ExitCode, Failure> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}") {
        // The reader has seen enough (`| head`).
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Failure::definite("E_OUTPUT", format!("stdout: {error}"))),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

/// Prints a JSON value on one line.
pub(crate) fn json(value: &Value) -> Result<ExitCode, Failure> {
    line(&value.to_string())
}

/// A table with a header, as wide as the terminal allows.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    if !std::io::stdout().is_terminal() {
        table.set_width(120);
    }
    table.set_header(header.iter().copied());
    table
}

/// Hits as a table: score, id, then the fields that the payload's layout holds, in their own order.
pub(crate) fn hits(hits: &[Value], layout: Layout) -> String {
    if hits.is_empty() {
        return "No hits.".to_owned();
    }
    let payload = |hit: &Value| -> Map<String, Value> {
        let payload = hit.get("payload").and_then(Value::as_object).cloned().unwrap_or_default();
        layout.fields(&payload).map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    let mut fields: Vec<String> = Vec::new();
    for hit in hits {
        for field in payload(hit).keys() {
            if !fields.contains(field) {
                fields.push(field.clone());
            }
        }
    }
    // A column that only repeats the points' ids. The id of a chunk is not that of its row.
    let repeats = |hit: &Value| payload(hit).get("id").is_none_or(|id| Some(id) == hit.get("id"));
    if hits.iter().all(repeats) {
        fields.retain(|field| field != "id");
    }
    let mut header = vec!["score", if fields.iter().any(|field| field == "id") { "point" } else { "id" }];
    header.extend(fields.iter().map(String::as_str));
    let mut table = table(&header);
    for hit in hits {
        let payload = payload(hit);
        let score = hit.get("score").and_then(Value::as_f64).unwrap_or_default();
        let mut row = vec![format!("{score:.3}"), cell(hit.get("id"))];
        row.extend(fields.iter().map(|field| cell(payload.get(field))));
        table.add_row(row);
    }
    table.to_string()
}

fn cell(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    // A row of the table is one line.
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= MAX_CELL {
        return text;
    }
    text.chars().take(MAX_CELL - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hits_are_shown_with_every_field_that_any_of_them_has() {
        let flat = [json!({"name": "Dune"}), json!({"name": "Emma", "year": 1815})];
        let nested = flat.clone().map(|fields| json!({"page_content": "the text", "metadata": fields}));
        for (payloads, layout) in [(flat, Layout::Flat), (nested, Layout::LangChain)] {
            let [first, second] = payloads;
            let shown = hits(
                &[
                    json!({"id": 1, "score": 0.51234, "payload": first}),
                    json!({"id": 2, "score": 0.4, "payload": second}),
                ],
                layout,
            );
            for text in ["score", "name", "year", "0.512", "Dune", "1815"] {
                assert!(shown.contains(text), "{text} is missing in\n{shown}");
            }
            assert!(!shown.contains("metadata"), "{shown}");
        }
    }

    #[test]
    fn a_long_text_is_cut_in_the_table() {
        let shown = cell(Some(&json!("x".repeat(100))));
        assert_eq!(shown.chars().count(), MAX_CELL);
        assert!(shown.ends_with('…'));
        assert_eq!(cell(Some(&json!("# A\n\nchunk"))), "# A chunk", "in one line");
    }
}
