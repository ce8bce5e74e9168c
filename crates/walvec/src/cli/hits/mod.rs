//! How hits are printed: as records for people, as tab-separated values for programs.
//!
//! - [`record`]: one hit for people: title, score, snippet, facts
//! - [`snippet`]: the part of a text that answers the query
//! - [`tsv`]: hits for programs
//! - [`wrap`]: wrapping texts to the columns of a terminal

mod record;
mod snippet;
#[cfg(test)]
pub(super) mod testkit;
mod tsv;
mod wrap;

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use serde_json::Value;

use super::Failure;
use super::output::{self, Screen};
use crate::config::CollectionConfig;

pub(super) use record::records;

/// Prints the hits of a search: records on a terminal, tab-separated values elsewhere.
pub(super) fn print(hits: &[Value], collection: &CollectionConfig, query: &str) -> Result<ExitCode, Failure> {
    if std::io::stdout().is_terminal() {
        return output::line(&records(hits, collection, query, Screen::of_stdout()));
    }
    output::line(&tsv::table(hits, collection))
}

/// Returns the stored fields of a hit, for any layout of the payload.
fn stored<'a>(hit: &'a Value, collection: &CollectionConfig) -> Vec<(&'a str, &'a Value)> {
    let payload = hit.get("payload").and_then(Value::as_object);
    let fields = payload.into_iter().flat_map(|payload| collection.layout().fields(payload));
    fields.map(|(name, value)| (name.as_str(), value)).collect()
}

/// Returns the names of the fields in an order that does not depend on the hits: first those that the configuration
/// names, in its order, then the others by name. The stored order does not serve, because a Qdrant server keeps none.
fn columns(hits: &[Value], collection: &CollectionConfig) -> Vec<String> {
    let configured = collection.payload.iter().flatten().chain(collection.computed.keys()).map(String::as_str);
    let mut columns: Vec<&str> = configured.chain(collection.chunk_field()).collect();
    let others: BTreeSet<&str> = hits.iter().flat_map(|hit| stored(hit, collection)).map(|(name, _)| name).collect();
    let others: Vec<&str> = others.into_iter().filter(|name| !columns.contains(name)).collect();
    columns.extend(others);
    columns.into_iter().map(str::to_owned).collect()
}

/// Formats the score of a hit for people.
fn score(hit: &Value) -> String {
    crate::api::score::shown(hit.get("score").and_then(Value::as_f64).unwrap_or_default())
}
