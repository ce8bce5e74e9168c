//! Checks whether the model reads the rows' texts to their ends.

use std::sync::Arc;

use serde_json::json;
use walvec_capture::Source;
use walvec_embed::{Embedder, Reads};
use walvec_pipeline::{Lengths, PipelineError, lengths};

use super::report::CheckReport;
use crate::assembly::transform;
use crate::config::{CollectionConfig, Config, OnLong};
use crate::failure::Failure;

/// The code of texts that are too long.
const E_EMBED_LONG: &str = "E_EMBED_LONG";

/// The tokens of a chunk that most models read.
const USUAL_CHUNK: usize = 256;

/// Checks a sample of the rows of each collection.
pub(super) async fn check(
    config: &Config,
    source: &Source,
    embedder: &Arc<dyn Embedder>,
    report: &mut CheckReport,
) -> Result<(), Failure> {
    // It is not known how much the model reads, or how it counts.
    let Some(reads) = embedder.reads() else { return Ok(()) };
    let tables = source.followed_tables().await.map_err(PipelineError::from)?;
    for collection in &config.collections {
        let Some(table) = tables.iter().find(|table| table.name == collection.table) else { continue };
        let transform = Arc::new(transform::compile(collection, transform::token_counter(embedder))?);
        let found = lengths(source, table, &transform, embedder).await?;
        if found.long > 0 {
            let (message, remedy) = told(collection, reads, found);
            let detail = json!({"code": E_EMBED_LONG, "message": message, "remedy": remedy});
            report.warning(format!("table {}", table.name), detail);
        }
    }
    Ok(())
}

/// Says what long texts mean, and what to do.
fn told(collection: &CollectionConfig, reads: Reads, found: Lengths) -> (String, String) {
    let CollectionConfig { table, chunk, on_long, .. } = collection;
    let share = share(found);
    let about = if matches!(reads, Reads::Estimated(_)) { "by an estimate, " } else { "" };
    let what = if chunk.is_some() { "has chunks that are longer" } else { "is longer" };
    let becomes = match on_long {
        OnLong::Cut => "their ends are not found",
        OnLong::Park => "such rows are parked",
    };
    let message = format!(
        "{about}{share} of {table} {what} than the {reads} that the model reads, {becomes} (of {} rows that were looked at)",
        found.rows
    );
    // The limit of the model includes special tokens.
    let tokens = match reads {
        Reads::Tokens(tokens) => tokens.saturating_sub(2).min(USUAL_CHUNK),
        Reads::Estimated(_) | Reads::Bytes(_) => USUAL_CHUNK,
    };
    let example = format!("for example chunk: {{ tokens: {tokens}, overlap: {} }}", tokens / 8);
    let remedy = match chunk {
        Some(_) => format!("let `chunk` say how many tokens a chunk has at most, {example}"),
        None => format!("use `chunk`, {example}"),
    };
    (message, remedy)
}

/// Returns the share of long rows, in percent.
fn share(Lengths { rows, long }: Lengths) -> String {
    match long * 100 / rows.max(1) {
        0 => "less than 1 %".to_owned(),
        percent => format!("{percent} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::hits::testkit::config;

    fn told_of(keys: &str, reads: Reads, found: Lengths) -> (String, String) {
        told(&config(&format!("text: '{{{{ name }}}}'{keys}")).collections[0], reads, found)
    }

    #[test]
    fn the_share_is_named_with_what_becomes_of_such_rows_and_what_helps() {
        let found = Lengths { rows: 1000, long: 120 };
        let (message, remedy) = told_of("", Reads::Tokens(256), found);
        assert!(
            message.starts_with(
                "12 % of public.books is longer than the 256 tokens that the model reads, their ends are not found"
            ),
            "{message}"
        );
        assert_eq!(remedy, "use `chunk`, for example chunk: { tokens: 254, overlap: 31 }");
        let (message, _) = told_of(", on_long: park", Reads::Estimated(8192), found);
        assert!(message.contains("by an estimate, 12 %") && message.contains("such rows are parked"), "{message}");
        let (message, remedy) =
            told_of(", chunk: { sentences: 50 }", Reads::Tokens(256), Lengths { rows: 1000, long: 3 });
        assert!(message.contains("less than 1 % of public.books has chunks that are longer"), "{message}");
        assert!(remedy.contains("tokens"), "{remedy}");
    }
}
