//! The ranges to copy.

use std::collections::VecDeque;
use std::sync::Arc;

use walvec_model::TableName;

use super::{Piece, Selection};
use crate::CaptureError;
use crate::catalog::{Leaf, leaves};
use crate::connect::{Session, describe, statement_error};
use crate::fetch::{self, KEYS_PER_STATEMENT};
use crate::source::{PublishedTable, Source};
use crate::sql::{quote_columns, quote_table};
use crate::value::Kind;

/// A range is not worth a statement of its own below this many pages (32 MiB with pages of 8 KiB).
const MIN_PAGES: u64 = 4096;
/// How many ranges each worker gets of a big table, so that all of them end at about the same time.
const RANGES_PER_WORKER: u64 = 4;

/// Cuts the tables into pieces for `workers` workers, in the order of the configuration.
pub(super) async fn pieces(source: &Source, workers: usize) -> Result<VecDeque<Piece>, CaptureError> {
    let session = source.session().await?;
    let ranges = if source.server().capabilities.tid_range_scan { workers as u64 * RANGES_PER_WORKER } else { 1 };
    let mut pieces = VecDeque::new();
    for published in source.published_tables().await? {
        let kinds: Arc<[Kind]> = source.catalog.kinds_of(&published.table.columns).await?.into();
        let leaves = leaves(&session, published.facts.oid).await?;
        for (query, leaves) in queries(&published, &leaves, ranges, None) {
            pieces.push_back(Piece { table: Arc::clone(&published.table), kinds: Arc::clone(&kinds), query, leaves });
        }
    }
    Ok(pieces)
}

/// The pieces of one table that hold the selected rows.
pub(super) async fn selected(
    source: &Source,
    published: PublishedTable,
    rows: &Selection,
) -> Result<VecDeque<Piece>, CaptureError> {
    let session = source.session().await?;
    let kinds: Arc<[Kind]> = source.catalog.kinds_of(&published.table.columns).await?.into();
    let leaves = leaves(&session, published.facts.oid).await?;
    let conditions: Vec<Option<String>> = match rows {
        Selection::Where(condition) => vec![condition.clone()],
        Selection::Keys(keys) => {
            keys.chunks(KEYS_PER_STATEMENT).map(|keys| Some(fetch::condition(&published.table, &kinds, keys))).collect()
        }
    };
    let queries = conditions.iter().flat_map(|condition| queries(&published, &leaves, 1, condition.as_deref()));
    let piece =
        |(query, leaves)| Piece { table: Arc::clone(&published.table), kinds: Arc::clone(&kinds), query, leaves };
    Ok(queries.map(piece).collect())
}

/// Refuses a condition that is not one by itself. It becomes part of a COPY, which takes no parameters.
pub(super) async fn check(session: &Session, table: &TableName, condition: &str) -> Result<(), CaptureError> {
    // In two sorts of brackets: what is balanced in both does not leave either.
    for bracketed in [format!("({condition}\n)"), format!("(ARRAY[{condition}\n])[1]")] {
        let query = format!("SELECT 1 FROM {} WHERE {bracketed}", quote_table(table));
        match session.prepare(&query).await {
            Ok(_) => {}
            Err(error) if is_about_the_statement(&error) => {
                return Err(CaptureError::Condition { table: table.clone(), reason: describe(&error) });
            }
            Err(error) => return Err(statement_error("checking the condition", &error)),
        }
    }
    Ok(())
}

/// Syntax, names, types and rights (SQLSTATE class 42), and values that cannot be read (22).
fn is_about_the_statement(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|state| state.code().starts_with("42") || state.code().starts_with("22"))
}

/// Queries, each with the oids of the leaves that it reads.
fn queries(
    published: &PublishedTable,
    leaves: &[Leaf],
    ranges: u64,
    condition: Option<&str>,
) -> Vec<(String, Vec<u32>)> {
    let conditions: Vec<&str> = published.filter.as_deref().into_iter().chain(condition).collect();
    let columns = quote_columns(published.table.columns.iter().map(|column| column.name.as_str()));
    // The right to read the root is enough to read its rows, but only through the root.
    if published.facts.kind == "p" && leaves.iter().any(|leaf| !leaf.can_select) {
        let query = select(&columns, &quote_table(&published.table.name), &conditions);
        return vec![(query, leaves.iter().map(|leaf| leaf.oid).collect())];
    }
    let mut queries = Vec::new();
    for leaf in leaves {
        let from = format!("ONLY {}", quote_table(&leaf.name));
        // The right to read single columns does not reach the column ctid.
        let ranges = if leaf.can_select { ranges } else { 1 };
        for range in ctid_ranges(leaf.pages, ranges) {
            let conditions: Vec<&str> = range.as_deref().into_iter().chain(conditions.iter().copied()).collect();
            queries.push((select(&columns, &from, &conditions), vec![leaf.oid]));
        }
    }
    queries
}

fn select(columns: &str, from: &str, conditions: &[&str]) -> String {
    // On a line of its own: a comment in it ends there.
    let conditions: Vec<_> = conditions.iter().map(|condition| format!("({condition}\n)")).collect();
    let conditions = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    format!("SELECT {columns} FROM {from}{conditions}")
}

/// Conditions that cut a table of `pages` pages into at most `ranges` ranges. The last one has no end, so that nothing
/// depends on the size being right.
fn ctid_ranges(pages: u64, ranges: u64) -> Vec<Option<String>> {
    let count = (pages / MIN_PAGES).clamp(1, ranges.max(1));
    if count == 1 {
        return vec![None];
    }
    let bound = |index: u64| pages * index / count;
    let range = |index: u64| {
        let from = format!("ctid >= '({},0)'::tid", bound(index));
        Some(if index + 1 == count { from } else { format!("{from} AND ctid < '({},0)'::tid", bound(index + 1)) })
    };
    (0..count).map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_without_gap_or_overlap() {
        let ranges: Vec<_> = ctid_ranges(10_000, 8).into_iter().flatten().collect();
        assert_eq!(ranges, ["ctid >= '(0,0)'::tid AND ctid < '(5000,0)'::tid", "ctid >= '(5000,0)'::tid"]);
        assert_eq!(ctid_ranges(1_000_000, 8).len(), 8);
    }

    #[test]
    fn a_small_table_is_copied_whole() {
        assert_eq!(ctid_ranges(0, 8), [None]);
        assert_eq!(ctid_ranges(MIN_PAGES, 8), [None]);
        assert_eq!(ctid_ranges(1_000_000, 1), [None]);
    }

    #[test]
    fn filter_and_range_both_apply() {
        assert_eq!(
            select("\"a\"", "ONLY \"t\"", &["x OR y", "b OR c"]),
            "SELECT \"a\" FROM ONLY \"t\" WHERE (x OR y\n) AND (b OR c\n)"
        );
    }
}
