//! Relation messages, completed from the catalogue.
//!
//! A message names the columns and which of them the replica identity holds. It does not tell the primary key, the types'
//! names, or what a type consists of; the catalogue does, as of now.

use std::collections::HashMap;
use std::sync::Arc;

use walvec_model::{Column, Table, TableName};

use crate::CaptureError;
use crate::assemble::Followed;
use crate::catalog::{self, Catalog, TableFacts};
use crate::config::SourceConfig;
use crate::connect::statement_error;
use crate::pgoutput::Relation;
use crate::source::Source;

/// The configured tables, and how to find out more about them.
pub(super) struct Relations {
    catalog: Arc<Catalog>,
    config: SourceConfig,
    /// The tables as they were when the stream was opened, by their oids.
    known: HashMap<u32, KnownTable>,
}

struct KnownTable {
    name: TableName,
    key: Vec<String>,
}

impl Relations {
    /// Of a source's configured tables.
    pub(super) async fn known_to(source: &Source) -> Result<Self, CaptureError> {
        let mut known = HashMap::new();
        for published in source.published_as(&source.config.published()).await? {
            let key = published.facts.key()?.columns().to_vec();
            known.insert(published.facts.oid, KnownTable { name: published.facts.name, key });
        }
        Ok(Self { catalog: Arc::clone(&source.catalog), config: source.config.clone(), known })
    }

    /// What the table with this oid was called when the stream was opened, if it is configured.
    pub(super) fn name_of(&self, oid: u32) -> Option<&TableName> {
        self.known.get(&oid).map(|known| &known.name)
    }

    /// How to read the rows that follow; `None` if the table is not configured.
    pub(super) async fn describe(&self, relation: &Relation) -> Result<Option<Followed>, CaptureError> {
        let name = TableName::new(&relation.schema, &relation.name);
        let known = match self.known.get(&relation.oid) {
            Some(known) if known.name != name => {
                return Err(altered(&known.name, format!("it is called {name} now")));
            }
            Some(known) => Some(known),
            // A table that was dropped and created again has another oid.
            None if self.known.values().any(|known| known.name == name) => None,
            None => return Ok(None),
        };
        let columns = self.columns(relation).await?;
        let facts = catalog::facts_by_oid(&*self.catalog.session().await?, relation.oid).await?;
        let is_partitioned = facts.as_ref().is_none_or(|facts| facts.kind == "p");
        let key = key_of(relation, facts, known, &name)?;
        let may_lack_old = relation.identity == b'f' && is_partitioned && self.needs_old(relation, &key, &name);
        self.check_lookups(relation, &name)?;
        let kinds = self.catalog.kinds_of(&columns, &key).await?;
        let is_main = self.config.is_main(&name);
        let is_looked_up = self.config.lookups_in(&name).next().is_some();
        let table = Arc::new(Table { name, columns, key });
        let used = self.config.used(&table);
        Ok(Some(Followed { table, kinds, used, is_main, is_looked_up, may_lack_old }))
    }

    /// Whether more than the key has to be known of rows as they were: partitions with the default identity send it when it changes.
    fn needs_old(&self, relation: &Relation, key: &[usize], name: &TableName) -> bool {
        let in_key = |column: &String| key.iter().any(|&index| relation.columns[index].name == *column);
        self.config.lookups_in(name).flat_map(|spec| &spec.lookup.on).any(|(column, _)| !in_key(column))
    }

    /// Deletes, and updates that move a row, must tell to which main rows it belonged.
    fn check_lookups(&self, relation: &Relation, name: &TableName) -> Result<(), CaptureError> {
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

    async fn columns(&self, relation: &Relation) -> Result<Vec<Column>, CaptureError> {
        let oids: Vec<u32> = relation.columns.iter().map(|column| column.type_oid).collect();
        let modifiers: Vec<i32> = relation.columns.iter().map(|column| column.type_modifier).collect();
        let query = "
            SELECT format_type(type, modifier)
            FROM unnest($1::oid[], $2::int[]) WITH ORDINALITY AS t (type, modifier, position) ORDER BY position";
        let rows = self.catalog.session().await?.query(query, &[&oids, &modifiers]).await;
        let rows = rows.map_err(|error| statement_error("looking up types", &error))?;
        let column = |(column, row): (&crate::pgoutput::RelationColumn, &tokio_postgres::Row)| {
            Column::new(&column.name, row.get::<_, Option<String>>(0).unwrap_or_default(), column.type_oid)
        };
        let mut columns: Vec<Column> = relation.columns.iter().zip(&rows).map(column).collect();
        catalog::resolve_types(&*self.catalog.session().await?, columns.iter_mut().zip(modifiers).collect()).await?;
        Ok(columns)
    }
}

/// The indexes of the key columns.
fn key_of(
    relation: &Relation,
    facts: Option<TableFacts>,
    known: Option<&KnownTable>,
    name: &TableName,
) -> Result<Vec<usize>, CaptureError> {
    let key = match (facts, known) {
        (Some(facts), _) => facts.key().map_err(|error| altered(name, error.to_string()))?.columns().to_vec(),
        // Dropped by now; its changes are still to come.
        (None, Some(known)) => known.key.clone(),
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

/// Updates and deletes must carry the key.
fn check_identity(relation: &Relation, key: &[usize], name: &TableName) -> Result<(), CaptureError> {
    if key.is_empty() {
        return Err(altered(name, "it has no key any more".to_owned()));
    }
    if let Some(missing) =
        key.iter().filter_map(|&index| relation.columns.get(index)).find(|column| !column.in_identity)
    {
        let reason = format!("the replica identity does not hold the key column \"{}\"", missing.name);
        return Err(altered(name, reason));
    }
    // With the default identity the flagged columns are the primary key of that time.
    let flagged = relation.columns.iter().filter(|column| column.in_identity).count();
    if relation.identity == b'd' && flagged != key.len() {
        return Err(altered(name, "its primary key was changed".to_owned()));
    }
    Ok(())
}

/// What the message says does not go with the catalogue of now, or with the configuration. Which of them is out of date, the next
/// session finds out.
fn altered(table: &TableName, reason: String) -> CaptureError {
    CaptureError::Altered { table: table.clone(), reason }
}
