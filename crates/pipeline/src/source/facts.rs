//! Collects what a session needs to know before it decides how to begin: about the server, the tables, and their
//! configuration.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use walvec_capture::{Shape, SlotState, Source};
use walvec_model::{Column, Fingerprint, Lsn, Table, TableName, Type};

use crate::error::PipelineError;
use crate::source::anew::TableAtStart;
use crate::source::start::{Facts, Slot};
use crate::source::watch::is_replaced;
use crate::state::records::{Baseline, Checkpoint, SourceIdentity};

/// The digests of the configuration that decides rows and payloads.
#[derive(Clone, Debug, Default)]
pub struct ConfigDigest {
    /// The digest of everything except `numbers`.
    pub digest: String,
    /// Columns that are indexed as numbers. Only for these are values of type numeric stored as numbers.
    pub numbers: Vec<(TableName, String)>,
    /// A digest of what is configured for each table; empty where tables are not read again one by one.
    pub tables: BTreeMap<TableName, String>,
}

impl ConfigDigest {
    fn of_table(&self, table: &TableName) -> Self {
        let digest = self.tables.get(table).cloned().unwrap_or_default();
        Self { digest, numbers: self.numbers.clone(), tables: BTreeMap::new() }
    }
}

/// The state that was stored when the rows were read.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    /// How far walvec has come.
    pub checkpoint: Option<&'a Checkpoint>,
    /// The tables as they were then.
    pub baseline: Option<&'a Baseline>,
}

/// What is to be followed.
#[derive(Clone, Debug)]
pub struct Followed<'a> {
    /// The name of the slot.
    pub slot: &'a str,
    /// The digests of the configuration.
    pub config: &'a ConfigDigest,
    /// The followed tables, as they are now.
    pub tables: &'a [Arc<Table>],
    /// The ids of the present collections, by name.
    pub collections: BTreeMap<String, String>,
}

/// Collects what PostgreSQL says, as far as starting is concerned.
///
/// # Errors
/// If PostgreSQL does not answer.
pub async fn facts(source: &Source, followed: Followed<'_>, before: Before<'_>) -> Result<Facts, PipelineError> {
    let Followed { slot, config, tables, collections } = followed;
    let server = source.server();
    let publication = source.publication_identity().await?.map(|identity| identity.version);
    let publication_called = match (&publication, before.checkpoint) {
        (None, Some(checkpoint)) => source.publication_called(&checkpoint.publication).await?,
        _ => None,
    };
    let replaced = replaced(before.baseline, source.shapes_now().await?);
    let unfollowed = source.unfollowed();
    let identity = SourceIdentity {
        system_id: server.system_id.to_string(),
        timeline: server.timeline,
        database_oid: server.database_oid,
        slot: slot.to_owned(),
    };
    let slot = slot_of(source.slot().await?);
    Ok(Facts {
        left_at: left_at(source, before.checkpoint).await?,
        publication,
        publication_called,
        replaced: replaced.iter().any(|table| !unfollowed.contains(table)),
        source: identity,
        slot,
        server: source.server_position().await?.flushed,
        config_digest: with_shapes(config, tables),
        collections,
        shown: BTreeMap::new(),
        tables: match config.tables.is_empty() {
            true => BTreeMap::new(),
            false => table_facts(source, config, tables, &replaced, before.baseline).await?,
        },
    })
}

fn slot_of(state: SlotState) -> Slot {
    match state {
        SlotState::Missing => Slot::Missing,
        SlotState::Ready { confirmed, .. } => Slot::Ready { confirmed },
        SlotState::Lost { reason } => Slot::Lost { reason },
    }
}

/// Returns where the server's history left the timeline that the data directory was filled from, if the server is on
/// another one.
async fn left_at(source: &Source, stored: Option<&Checkpoint>) -> Result<Option<Lsn>, PipelineError> {
    match stored.map(|stored| stored.source.timeline).filter(|before| *before != source.server().timeline) {
        Some(before) => Ok(source.timeline_left_at(before).await?),
        None => Ok(None),
    }
}

/// Returns the tables whose names belong to other tables `now` than those that were read.
fn replaced(baseline: Option<&Baseline>, now: Vec<(TableName, Option<Shape>)>) -> BTreeSet<TableName> {
    let known = baseline.map(|baseline| baseline.shapes.as_slice()).unwrap_or_default();
    let known: HashMap<_, _> = known.iter().map(|(table, shape)| (table, shape)).collect();
    let is_other = |table: &TableName, now: &Shape| known.get(table).is_some_and(|before| is_replaced(before, now));
    now.into_iter().filter_map(|(table, now)| is_other(&table, &now?).then_some(table)).collect()
}

/// Returns the facts of each followed table.
async fn table_facts(
    source: &Source,
    config: &ConfigDigest,
    tables: &[Arc<Table>],
    replaced: &BTreeSet<TableName>,
    baseline: Option<&Baseline>,
) -> Result<BTreeMap<TableName, TableAtStart>, PipelineError> {
    let entries = source.publication_entries().await?;
    let facts = |table: &Arc<Table>| {
        let name = &table.name;
        let facts = TableAtStart {
            digest: with_shapes(&config.of_table(name), std::slice::from_ref(table)),
            is_replaced: replaced.contains(name),
            is_owed: baseline.is_some_and(|baseline| baseline.anew.contains(name)),
            entry: entries.get(name).cloned(),
            mains: source.dependents(name),
        };
        (name.clone(), facts)
    };
    Ok(tables.iter().map(facts).collect())
}

/// The version of the form in which numeric and JSON values are stored and passed to templates. Points in another form
/// are made again.
const FORM: &str = "values 2";

/// Returns whether the form of values of this type has changed between versions of walvec.
fn has_form(ty: &Type) -> bool {
    matches!(ty.scalar(), Type::Numeric { .. } | Type::Json)
}

/// Returns the digest of the configuration and of the tables' columns and keys: ALTER TABLE changes rows without
/// changes in the stream.
fn with_shapes(config_digest: &ConfigDigest, tables: &[Arc<Table>]) -> String {
    let ConfigDigest { digest, numbers, .. } = config_digest;
    let mut parts = vec![digest.clone()];
    for table in tables {
        parts.push(table.name.to_string());
        parts.push(format!("{:?}", table.key));
        parts.extend(table.columns.iter().flat_map(|column| [column.name.clone(), column.type_name.clone()]));
        if table.columns.iter().any(|column| has_form(&column.ty)) {
            parts.push(FORM.to_owned());
        }
        let is_stored = |column: &Column| numbers.iter().any(|(of, name)| *of == table.name && *name == column.name);
        let stored = table.columns.iter().filter(|column| column.ty.is_numeric() && is_stored(column));
        parts.extend(stored.map(|column| format!("number {}", column.name)));
    }
    Fingerprint::of(&parts.iter().map(String::as_str).collect::<Vec<_>>()).to_string()
}

#[cfg(test)]
mod tests;
