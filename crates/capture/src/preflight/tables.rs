//! Checks whether the tables can be copied and followed.

use walvec_model::TableName;

use super::rights::Rights;
use super::{Finding, Remedy};
use crate::CaptureError;
use crate::catalog::{TableFacts, leaves};
use crate::connect::{Session, statement_error};
use crate::published::Published;
use crate::sql::quote_table;

pub(super) fn missing(name: &TableName) -> Finding {
    Finding::of(&CaptureError::Table { table: name.clone(), reason: "does not exist".to_owned() })
}

pub(super) fn findings(facts: &TableFacts, published: Option<&Published>, rights: &Rights<'_>) -> Vec<Finding> {
    let table = &facts.name;
    let mut findings = Vec::new();
    if let Some(reason) = unfit(facts) {
        findings.push(Finding::of(&CaptureError::Table { table: table.clone(), reason }));
        return findings;
    }
    if let Err(error) = facts.key() {
        findings.push(Finding::of(&error));
    }
    findings.extend(rights.reading(facts, published));
    if facts.has_children {
        findings.push(Finding::warning(
            "E_TABLE",
            format!("tables inherit from {table}; their rows are not part of it"),
            "name the inheriting tables too",
        ));
    }
    findings
}

/// Returns why changes of this relation cannot be read.
pub(super) fn unfit(facts: &TableFacts) -> Option<String> {
    if let Some(root) = &facts.partition_of {
        return Some(format!("is a partition; name its root {root} instead"));
    }
    match (facts.kind.as_str(), facts.persistence.as_str()) {
        ("r" | "p", "p") => None,
        ("r" | "p", "u") => {
            Some("is unlogged, so its changes are not in the WAL; ALTER TABLE ... SET LOGGED".to_owned())
        }
        ("r" | "p", _) => Some("is temporary".to_owned()),
        ("v" | "m", _) => Some("is a view; name the tables under it".to_owned()),
        ("f", _) => Some("is a foreign table; read it where it lives".to_owned()),
        _ => Some("is not a table".to_owned()),
    }
}

/// Reports partitions whose changes are not in the WAL: unlogged partitions and foreign tables.
pub(super) async fn partitions_elsewhere(
    session: &Session,
    facts: &TableFacts,
) -> Result<Option<Finding>, CaptureError> {
    if facts.kind != "p" {
        return Ok(None);
    }
    let query = "
        SELECT n.nspname::text, c.relname::text, c.relkind = 'f'
        FROM pg_partition_tree($1::oid::regclass) AS leaf
        JOIN pg_class c ON c.oid = leaf.relid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE leaf.isleaf AND (c.relkind = 'f' OR c.relpersistence = 'u') ORDER BY 1, 2 LIMIT 1";
    let row = session.query_opt(query, &[&facts.oid]).await;
    let Some(row) = row.map_err(|error| statement_error("looking at the partitions", &error))? else { return Ok(None) };
    let leaf = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
    let (what, remedy) = match row.get(2) {
        true => (
            "a foreign table, whose rows are on another server",
            "detach it, or follow the table where it lives".to_owned(),
        ),
        false => (
            "unlogged, so that its changes are not in the log",
            format!("ALTER TABLE {} SET LOGGED;", quote_table(&leaf)),
        ),
    };
    let what = format!("partition {leaf} of {} is {what}", facts.name);
    Ok(Some(Finding::error("E_TABLE", what, remedy)))
}

pub(super) async fn partitions(
    session: &Session,
    facts: &TableFacts,
    rights: &Rights<'_>,
) -> Result<Option<Finding>, CaptureError> {
    if facts.kind != "p" {
        return Ok(None);
    }
    let hidden: Vec<_> = leaves(session, facts.oid).await?.into_iter().filter(|leaf| !leaf.can_select).collect();
    let Some(first) = hidden.first() else { return Ok(None) };
    let what = match hidden.len() {
        1 => format!("partition {} of {} cannot be read by itself", first.name, facts.name),
        count => format!("{count} partitions of {}, {} for one, cannot be read by themselves", facts.name, first.name),
    };
    let remedy = Remedy::Statements(rights.reading_leaves(session, &hidden).await?);
    Ok(Some(Finding::warning("E_RIGHTS", format!("{what}: the copy falls back to one connection"), remedy)))
}
