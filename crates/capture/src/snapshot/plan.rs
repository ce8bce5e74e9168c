//! What has to be copied, and the statements that copy it.

use std::sync::Arc;

use walvec_model::{Column, Table, TableName};

use super::Selection;
use crate::catalog::{Leaf, leaves, leaves_of};
use crate::connect::{Session, describe, statement_error};
use crate::fetch::{self, KEYS_PER_STATEMENT};
use crate::server::{PublishedTable, Source};
use crate::sql::{quote_ident, quote_literal, quote_table};
use crate::value::ValueKind;
use crate::{CaptureError, row_filter};

/// A table to copy.
pub(super) struct Plan {
    pub(super) table: Arc<Table>,
    pub(super) kinds: Arc<[ValueKind]>,
    pub(super) parts: Vec<TablePart>,
    columns: String,
    /// Whether the server can read a range of ctids without reading the whole table.
    has_range_scan: bool,
}

/// Rows that can be read by one statement.
pub(super) struct TablePart {
    /// The text after FROM.
    from: String,
    conditions: Vec<String>,
    /// The oids of the tables that hold the rows.
    pub(super) leaves: Vec<u32>,
    /// The size of the largest of these tables, in pages; 0 if ctids have no meaning.
    pub(super) pages: u64,
    /// Whether the conditions may select few rows, which an index may find.
    pub(super) is_selected: bool,
}

impl TablePart {
    /// Returns whether a ctid identifies a row of the part.
    pub(super) const fn has_ctids(&self) -> bool {
        self.pages > 0 && self.leaves.len() == 1
    }
}

/// A range of pages in a table. The last range has no end, so nothing depends on an exact size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pages {
    pub(super) from: u64,
    pub(super) end: Option<u64>,
}

impl Plan {
    /// Returns the statement for the rows of a part in these pages, or in all pages for `None`.
    pub(super) fn query(&self, part: &TablePart, pages: Option<Pages>) -> String {
        self.query_for(&self.columns, part, pages)
    }

    /// Returns the statement for the ctids of the rows in these pages.
    pub(super) fn ctids(&self, part: &TablePart, pages: Option<Pages>) -> String {
        self.query_for("ctid::text", part, pages)
    }

    fn query_for(&self, columns: &str, part: &TablePart, pages: Option<Pages>) -> String {
        let range = pages.map(|pages| self.range(part, pages));
        let conditions: Vec<&str> = range.iter().chain(&part.conditions).map(String::as_str).collect();
        select(columns, &part.from, &conditions)
    }

    /// Returns the statement for the rows with these ctids, which come from [`ctids`](Self::ctids).
    pub(super) fn query_at(&self, part: &TablePart, ctids: &[String]) -> String {
        select(&self.columns, &part.from, &[&at(ctids)])
    }

    /// Returns the statement for the keys of the rows with these ctids. All other columns are NULL.
    pub(super) fn keys_at(&self, part: &TablePart, ctids: &[String]) -> String {
        let column = |(index, column): (usize, &Column)| match self.table.key.contains(&index) {
            true => quote_ident(&column.name),
            false => "NULL".to_owned(),
        };
        let columns: Vec<String> = self.table.columns.iter().enumerate().map(column).collect();
        select(&columns.join(", "), &part.from, &[&at(ctids)])
    }

    fn range(&self, part: &TablePart, Pages { from, end }: Pages) -> String {
        if self.has_range_scan {
            let from = format!("ctid >= '({from},0)'::tid");
            return end.map_or(from.clone(), |end| format!("{from} AND ctid < '({end},0)'::tid"));
        }
        // Lists every possible ctid: a row version takes at least 28 bytes of a page. The size was taken after the
        // snapshot, so it covers all of its rows.
        let last = end.unwrap_or_else(|| part.pages.max(from + 1)) - 1;
        format!(
            "ctid = ANY (ARRAY(SELECT format('(%s,%s)', page, item)::tid FROM generate_series({from}, {last}) AS page, \
             generate_series(1, current_setting('block_size')::int / 28) AS item))"
        )
    }
}

/// Returns what to copy of the configured tables, in their order, or only of the `named` ones if there are any.
pub(super) async fn tables(source: &Source, named: Option<&[TableName]>) -> Result<Vec<Plan>, CaptureError> {
    let mut wanted = source.published_tables().await?;
    wanted.retain(|published| named.is_none_or(|named| named.contains(&published.table.name)));
    let oids: Vec<u32> = wanted.iter().map(|published| published.facts.oid).collect();
    let mut leaves = leaves_of(&*source.catalog.patient_session().await?, &oids).await?;
    let mut plans = Vec::with_capacity(wanted.len());
    for published in wanted {
        let leaves = leaves.remove(&published.facts.oid).unwrap_or_default();
        plans.push(plan(source, published, &leaves, &[None]).await?);
    }
    Ok(plans)
}

/// Returns what to copy of the selected rows of one table.
pub(super) async fn selected(
    source: &Source,
    published: PublishedTable,
    rows: &Selection,
) -> Result<Plan, CaptureError> {
    let partitions = match rows {
        Selection::Partitions(wanted) => Some(wanted.as_slice()),
        Selection::Where(_) | Selection::Keys(_) => None,
    };
    let conditions: Vec<Option<String>> = match rows {
        // If the role may not read the partitions directly, it reads them through the root.
        Selection::Partitions(wanted) => {
            let oids: Vec<String> = wanted.iter().map(u32::to_string).collect();
            vec![Some(format!("tableoid IN ({})", oids.join(", ")))]
        }
        Selection::Where(condition) => vec![condition.clone()],
        Selection::Keys(keys) => {
            let kinds = source.catalog.kinds_of(&published.table.columns, &published.table.key).await?;
            let equalities = source.catalog.equalities_of(&published.table.columns).await?;
            let condition = |keys| Some(fetch::condition(&published.table, &kinds, &equalities, keys));
            keys.chunks(KEYS_PER_STATEMENT).map(condition).collect()
        }
    };
    let mut leaves = leaves(&*source.catalog.patient_session().await?, published.facts.oid).await?;
    leaves.retain(|leaf| partitions.is_none_or(|wanted| wanted.contains(&leaf.oid)));
    plan(source, published, &leaves, &conditions).await
}

/// Plans the copy of a table. `leaves` holds what has to be read of it.
async fn plan(
    source: &Source,
    published: PublishedTable,
    leaves: &[Leaf],
    conditions: &[Option<String>],
) -> Result<Plan, CaptureError> {
    let kinds = source.catalog.kinds_of(&published.table.columns, &published.table.key).await?.into();
    let parts = conditions.iter().flat_map(|condition| parts(&published, leaves, condition.as_deref())).collect();
    let columns = source.select_list(&published.table);
    let has_range_scan = source.server().capabilities.tid_range_scan;
    Ok(Plan { table: published.table, kinds, parts, columns, has_range_scan })
}

/// Refuses a text that is not a complete condition by itself. It becomes part of a COPY, which takes no parameters.
pub(super) async fn check(session: &Session, table: &TableName, condition: &str) -> Result<(), CaptureError> {
    row_filter::prepare(session, table, condition).await.map_err(|error| match is_about_the_statement(&error) {
        true => CaptureError::Condition { table: table.clone(), reason: describe(&error) },
        false => statement_error("checking the condition", &error),
    })
}

/// Returns whether an error is about the statement: syntax, names, types and rights (SQLSTATE class 42), or invalid
/// values (22).
fn is_about_the_statement(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|state| state.code().starts_with("42") || state.code().starts_with("22"))
}

fn parts(published: &PublishedTable, leaves: &[Leaf], condition: Option<&str>) -> Vec<TablePart> {
    let conditions = published.filter.as_deref().into_iter().chain(condition);
    let conditions: Vec<String> = conditions.map(str::to_owned).collect();
    let part = |from: String, leaves: &[Leaf], reads_ctid: bool| TablePart {
        from,
        conditions: conditions.clone(),
        leaves: leaves.iter().map(|leaf| leaf.oid).collect(),
        pages: if reads_ctid && leaves.iter().all(|leaf| leaf.is_heap) {
            leaves.iter().map(|leaf| leaf.pages).max().unwrap_or(0)
        } else {
            0
        },
        is_selected: condition.is_some(),
    };
    // The right to read the root is sufficient to read its rows, but only through the root.
    if published.facts.kind == "p" && leaves.iter().any(|leaf| !leaf.can_select) {
        return vec![part(quote_table(&published.table.name), leaves, published.facts.reads_ctid)];
    }
    let of =
        |leaf: &Leaf| part(format!("ONLY {}", quote_table(&leaf.name)), std::slice::from_ref(leaf), leaf.reads_ctid);
    leaves.iter().map(of).collect()
}

fn at(ctids: &[String]) -> String {
    let ctids: Vec<String> = ctids.iter().map(|ctid| quote_literal(ctid)).collect();
    format!("ctid = ANY (ARRAY[{}]::tid[])", ctids.join(", "))
}

fn select(columns: &str, from: &str, conditions: &[&str]) -> String {
    // On a separate line, so that a comment in the condition ends there.
    let conditions: Vec<_> = conditions.iter().map(|condition| format!("({condition}\n)")).collect();
    let conditions = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    format!("SELECT {columns} FROM {from}{conditions}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_and_range_both_apply() {
        assert_eq!(
            select("\"a\"", "ONLY \"t\"", &["x OR y", "b OR c"]),
            "SELECT \"a\" FROM ONLY \"t\" WHERE (x OR y\n) AND (b OR c\n)"
        );
    }
}
