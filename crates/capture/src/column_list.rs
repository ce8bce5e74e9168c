//! The column list of a table in a publication that walvec makes, where the configuration asks for one.
//!
//! PostgreSQL refuses UPDATE and DELETE on a table if its list leaves out a column of the replica identity, or if there
//! is a list and the identity is the whole row (FULL). A list is therefore only used if it contains the identity of the
//! table and of each of its partitions.

use std::collections::BTreeMap;

use walvec_model::TableName;

use crate::CaptureError;
use crate::catalog::{Capabilities, TableFacts, facts_of};
use crate::config::{Columns, SourceConfig, TableSpec};
use crate::connect::Session;
use crate::identities::Identities;
use crate::published::Published;

/// Returns the columns that the publication lists, in the order of the table; `None` if it sends all columns.
pub(crate) fn listed(
    config: &SourceConfig,
    spec: &TableSpec,
    facts: &TableFacts,
    identities: &Identities,
    can: Capabilities,
) -> Option<Vec<String>> {
    // Rows of a looked-up table are rendered with all of their columns.
    let is_looked_up = config.lookups_in(&spec.name).next().is_some();
    if !matches!(spec.columns, Columns::Listed(_)) || !can.column_lists || is_looked_up {
        return None;
    }
    let key = facts.key().ok()?;
    let mut needed = key.columns().to_vec();
    for (_, is_full, columns) in identities.get(facts) {
        if *is_full {
            return None;
        }
        needed.extend(columns.iter().cloned());
    }
    let sent = facts.columns.iter().filter(|column| column.can_be_sent(can)).map(|facts| &facts.column.name);
    let (used, unused): (Vec<&String>, Vec<&String>) =
        sent.partition(|name| spec.columns.has(name) || needed.contains(name));
    (!unused.is_empty()).then(|| used.into_iter().cloned().collect())
}

/// Describes how the column lists in walvec's own publication differ from the configuration.
pub(crate) async fn list_differences(
    session: &Session,
    config: &SourceConfig,
    published: &BTreeMap<TableName, Published>,
    can: Capabilities,
) -> Result<Vec<String>, CaptureError> {
    let has_list = |table: &TableName| published.get(table).is_some_and(|published| published.has_list);
    let mut differences = Vec::new();
    let mut specs = config.published();
    specs.retain(|spec| has_list(&spec.name) || matches!(spec.columns, Columns::Listed(_)));
    let facts = facts_of(session, specs.iter().map(|spec| &spec.name)).await?;
    let identities = Identities::of(session, facts.values()).await?;
    for spec in &specs {
        let has_list = has_list(&spec.name);
        let Some(facts) = facts.get(&spec.name) else { continue };
        let sent = published.get(&spec.name).and_then(|published| published.columns.as_deref()).unwrap_or_default();
        match listed(config, spec, facts, &identities, can) {
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

fn same_names(left: &[String], right: &[String]) -> bool {
    left.len() == right.len() && left.iter().all(|name| right.contains(name))
}
