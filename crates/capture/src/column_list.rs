//! The list of columns that a publication of walvec's own sends of a table, where the configuration asks for one.
//!
//! PostgreSQL refuses UPDATE and DELETE of a table whose list leaves out a column of its replica identity, and of any list at all for
//! a whole row (FULL). So there is a list only where it holds the identity of the table and of each of its partitions.

use std::collections::BTreeMap;

use walvec_model::TableName;

use crate::CaptureError;
use crate::catalog::{Capabilities, TableFacts, facts_by_name};
use crate::config::{Columns, SourceConfig, TableSpec};
use crate::connect::{Session, statement_error};
use crate::preflight::identities;
use crate::publication::Published;

/// The columns that the publication is to name one by one, in the order of the table; `None` if it sends all of them.
pub(crate) async fn listed(
    session: &Session,
    config: &SourceConfig,
    spec: &TableSpec,
    facts: &TableFacts,
    can: Capabilities,
) -> Result<Option<Vec<String>>, CaptureError> {
    // What rows of another table are rendered with is read from all columns.
    let is_looked_up = config.lookups_in(&spec.name).next().is_some();
    if !matches!(spec.columns, Columns::Listed(_)) || !can.column_lists || is_looked_up {
        return Ok(None);
    }
    let Ok(key) = facts.key() else { return Ok(None) };
    let mut needed = key.columns().to_vec();
    for (_, is_full, columns) in identities(session, facts).await? {
        if is_full {
            return Ok(None);
        }
        needed.extend(columns);
    }
    let sent = facts.columns.iter().filter(|column| column.can_be_sent(can)).map(|facts| &facts.column.name);
    let (used, unused): (Vec<&String>, Vec<&String>) =
        sent.partition(|name| spec.columns.has(name) || needed.contains(name));
    Ok((!unused.is_empty()).then(|| used.into_iter().cloned().collect()))
}

/// How the lists of walvec's own publication differ from what is configured.
pub(crate) async fn list_differences(
    session: &Session,
    config: &SourceConfig,
    published: &BTreeMap<TableName, Published>,
    can: Capabilities,
) -> Result<Vec<String>, CaptureError> {
    let lists = with_list(session, &config.publication).await?;
    let mut differences = Vec::new();
    for spec in &config.published() {
        let has_list = lists.contains(&spec.name);
        if !has_list && !matches!(spec.columns, Columns::Listed(_)) {
            continue;
        }
        let Some(facts) = facts_by_name(session, &spec.name).await? else { continue };
        let sent = published.get(&spec.name).and_then(|published| published.columns.as_deref()).unwrap_or_default();
        match listed(session, config, spec, &facts, can).await? {
            None if has_list => {
                differences.push(format!("it sends only some columns of {}: {}", spec.name, sent.join(", ")));
            }
            Some(wanted) if !has_list || !same_names(&wanted, sent) => {
                differences.push(format!("it sends other columns of {} than {}", spec.name, wanted.join(", ")));
            }
            None | Some(_) => {}
        }
    }
    Ok(differences)
}

/// The tables of which a publication names the columns one by one.
async fn with_list(session: &Session, publication: &str) -> Result<Vec<TableName>, CaptureError> {
    let query = "SELECT n.nspname::text, c.relname::text
                 FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                 JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE p.pubname = $1 AND r.prattrs IS NOT NULL";
    let rows = session.query(query, &[&publication]).await;
    let rows = rows.map_err(|error| statement_error("reading the publication", &error))?;
    Ok(rows.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect())
}

fn same_names(left: &[String], right: &[String]) -> bool {
    left.len() == right.len() && left.iter().all(|name| right.contains(name))
}
