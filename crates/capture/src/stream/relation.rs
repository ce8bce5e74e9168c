//! Completes Relation messages from the catalogue.
//!
//! A message contains the columns, and which of them are in the replica identity. It does not contain the primary key,
//! the types' names, or what a type consists of. The present catalogue does.

use std::collections::HashMap;
use std::sync::Arc;

use walvec_model::{Column, Table, TableName};

use crate::CaptureError;
use crate::assemble::FollowedTable;
use crate::catalog::{self, CatalogSessions, TableFacts};
use crate::config::SourceConfig;
use crate::connect::statement_error;
use crate::pgoutput::{RelationColumn, RelationMessage};
use crate::server::{PublishedTable, Source};

/// The configured tables, and the catalogue to ask about them.
pub(super) struct Relations {
    catalog: Arc<CatalogSessions>,
    config: SourceConfig,
    /// The tables as they were when the stream was opened, by their oids.
    known: HashMap<u32, KnownTable>,
}

/// A published table as it was when the stream was opened.
struct KnownTable {
    facts: TableFacts,
    table: Arc<Table>,
}

impl KnownTable {
    /// Returns whether a message agrees with what the catalogue said about the table. Messages do not contain everything, for
    /// example not the key with REPLICA IDENTITY FULL. Such changes are found by comparing the shapes of tables.
    fn is_shown_by(&self, relation: &RelationMessage) -> bool {
        let sent = |column: &&Column| self.facts.columns.iter().find(|facts| facts.column == **column);
        let in_identity = self.facts.identity_columns();
        let is_shown = |(column, shown): (&Column, &RelationColumn)| {
            sent(&column).is_some_and(|facts| facts.type_modifier == shown.type_modifier)
                && (column.name == shown.name && column.type_oid == shown.type_oid)
                && in_identity.as_ref().is_none_or(|columns| columns.contains(&column.name)) == shown.in_identity
        };
        let is_same_identity = self.facts.identity.as_bytes() == [relation.identity];
        let columns = &self.table.columns;
        is_same_identity
            && columns.len() == relation.columns.len()
            && columns.iter().zip(&relation.columns).all(is_shown)
    }
}

impl Relations {
    /// Reads the configured tables of a source.
    pub(super) async fn known_to(source: &Source) -> Result<Self, CaptureError> {
        let mut known = HashMap::new();
        for published in source.published_as(&source.config.published()).await? {
            let PublishedTable { facts, table, .. } = published;
            known.insert(facts.oid, KnownTable { facts, table });
        }
        Ok(Self { catalog: Arc::clone(&source.catalog), config: source.config.clone(), known })
    }

    /// Returns the name that the table with this oid had when the stream was opened, if it is configured.
    pub(super) fn name_of(&self, oid: u32) -> Option<&TableName> {
        self.known.get(&oid).map(|known| &known.facts.name)
    }

    /// Returns how to read the rows that follow; `None` if the table is not configured.
    pub(super) async fn describe(&self, relation: &RelationMessage) -> Result<Option<FollowedTable>, CaptureError> {
        let name = TableName::new(&relation.schema, &relation.name);
        let known = match self.known.get(&relation.oid) {
            Some(known) if known.facts.name != name => {
                return Err(altered(&known.facts.name, format!("it is called {name} now")));
            }
            Some(known) => Some(known),
            // A table that was dropped and created again has another oid.
            None if self.known.values().any(|known| known.facts.name == name) => None,
            None => return Ok(None),
        };
        // The server repeats the message of every table after each ANALYZE, so do not ask the catalogue if nothing has changed.
        let (table, is_partitioned) = match known.filter(|known| known.is_shown_by(relation)) {
            Some(known) => {
                check_identity(relation, &known.table.key, &name)?;
                (Arc::clone(&known.table), known.facts.kind == "p")
            }
            None => self.asked(relation, known, &name).await?,
        };
        let may_lack_old = relation.identity == b'f' && is_partitioned && self.needs_old(relation, &table.key, &name);
        self.check_lookups(relation, &name)?;
        let kinds = self.catalog.kinds_of(&table.columns, &table.key).await?;
        let is_main = self.config.is_main(&name);
        let is_looked_up = self.config.lookups_in(&name).next().is_some();
        let used = self.config.used(&table);
        Ok(Some(FollowedTable { table, kinds, used, is_main, is_looked_up, may_lack_old }))
    }

    /// Returns the table as the message shows it, completed from the present catalogue, and whether it is partitioned.
    async fn asked(
        &self,
        relation: &RelationMessage,
        known: Option<&KnownTable>,
        name: &TableName,
    ) -> Result<(Arc<Table>, bool), CaptureError> {
        let columns = self.columns(relation).await?;
        let facts = catalog::facts_by_oid(&*self.catalog.session().await?, relation.oid).await?;
        let is_partitioned = facts.as_ref().is_none_or(|facts| facts.kind == "p");
        let key = key_of(relation, facts, known, name)?;
        Ok((Arc::new(Table { name: name.clone(), columns, key }), is_partitioned))
    }

    /// Returns whether a lookup needs old values other than the key. Partitions with the default identity send the old
    /// key when it changes.
    fn needs_old(&self, relation: &RelationMessage, key: &[usize], name: &TableName) -> bool {
        let in_key = |column: &String| key.iter().any(|&index| relation.columns[index].name == *column);
        self.config.lookups_in(name).flat_map(|spec| &spec.lookup.on).any(|(column, _)| !in_key(column))
    }

    /// Checks that deletes, and updates that move a row, contain the columns that show to which main rows the row belonged.
    fn check_lookups(&self, relation: &RelationMessage, name: &TableName) -> Result<(), CaptureError> {
        for spec in self.config.lookups_in(name) {
            for (column, _) in &spec.lookup.on {
                let found = relation.columns.iter().find(|found| found.name == *column);
                if !found.is_some_and(|found| found.in_identity) {
                    let lookup = &spec.lookup.name;
                    let reason = format!(
                        "a change came without the former value of \"{column}\", by which the lookup \"{lookup}\" of {} finds \
                         the rows to render again: the replica identity does not hold it",
                        spec.main
                    );
                    return Err(altered(name, reason));
                }
            }
        }
        Ok(())
    }

    async fn columns(&self, relation: &RelationMessage) -> Result<Vec<Column>, CaptureError> {
        let oids: Vec<u32> = relation.columns.iter().map(|column| column.type_oid).collect();
        let modifiers: Vec<i32> = relation.columns.iter().map(|column| column.type_modifier).collect();
        let query = "
            SELECT format_type(type, modifier)
            FROM unnest($1::oid[], $2::int[]) WITH ORDINALITY AS t (type, modifier, position) ORDER BY position";
        let rows = self.catalog.session().await?.query(query, &[&oids, &modifiers]).await;
        let rows = rows.map_err(|error| statement_error("looking up types", &error))?;
        let column = |(column, row): (&RelationColumn, &tokio_postgres::Row)| {
            Column::new(&column.name, row.get::<_, Option<String>>(0).unwrap_or_default(), column.type_oid)
        };
        let mut columns: Vec<Column> = relation.columns.iter().zip(&rows).map(column).collect();
        catalog::resolve_types(&*self.catalog.session().await?, columns.iter_mut().zip(modifiers).collect()).await?;
        Ok(columns)
    }
}

/// Returns the indexes of the key columns.
fn key_of(
    relation: &RelationMessage,
    facts: Option<TableFacts>,
    known: Option<&KnownTable>,
    name: &TableName,
) -> Result<Vec<usize>, CaptureError> {
    let key = match (facts, known) {
        (Some(facts), _) => facts.key().map_err(|error| altered(name, error.to_string()))?.columns().to_vec(),
        // The table was dropped in the meantime; its changes are still to come.
        (None, Some(known)) => known.facts.key()?.columns().to_vec(),
        (None, None) => Vec::new(),
    };
    let key: Vec<usize> = if key.is_empty() {
        (0..relation.columns.len()).filter(|&index| relation.columns[index].in_identity).collect()
    } else {
        let position = |column: &String| relation.columns.iter().position(|found| found.name == *column);
        let missing = |column: &String| altered(name, format!("the key column \"{column}\" is not in the stream"));
        key.iter().map(|column| position(column).ok_or_else(|| missing(column))).collect::<Result<_, _>>()?
    };
    check_identity(relation, &key, name)?;
    Ok(key)
}

/// Checks that updates and deletes contain the key.
fn check_identity(relation: &RelationMessage, key: &[usize], name: &TableName) -> Result<(), CaptureError> {
    if key.is_empty() {
        return Err(altered(name, "it has no key any more".to_owned()));
    }
    if let Some(missing) =
        key.iter().filter_map(|&index| relation.columns.get(index)).find(|column| !column.in_identity)
    {
        let reason = format!("the replica identity does not hold the key column \"{}\"", missing.name);
        return Err(altered(name, reason));
    }
    // With the default identity, the flagged columns are the primary key at the time of the change.
    let flagged = relation.columns.iter().filter(|column| column.in_identity).count();
    if relation.identity == b'd' && flagged != key.len() {
        return Err(altered(name, "its primary key was changed".to_owned()));
    }
    Ok(())
}

/// Returns the error for a message that does not match the present catalogue or the configuration. The next session
/// finds out which of them is out of date.
fn altered(table: &TableName, reason: String) -> CaptureError {
    CaptureError::Altered { table: table.clone(), reason }
}
