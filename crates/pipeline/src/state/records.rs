//! What the state file holds about the source, the tables and the collections.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use walvec_capture::Shape;
use walvec_model::{Generation, Lsn, Position, TableName};

use crate::error::Resync;
use crate::state::witness::Witnesses;

/// Which cluster, database and slot the data directory was filled from. Its positions mean nothing anywhere else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceIdentity {
    /// `system_identifier` of the cluster.
    pub system_id: String,
    /// Its timeline.
    pub timeline: u32,
    /// `pg_database.oid`.
    pub database_oid: u32,
    /// The replication slot.
    pub slot: String,
}

impl SourceIdentity {
    /// Returns whether both are the same slot of the same database of the same cluster, on any timeline.
    #[must_use]
    pub fn is_same_slot(&self, other: &Self) -> bool {
        self.is_same_database(other) && self.slot == other.slot
    }

    /// Returns whether both are the same database of the same cluster.
    #[must_use]
    pub fn is_same_database(&self, other: &Self) -> bool {
        (&self.system_id, self.database_oid) == (&other.system_id, other.database_oid)
    }
}

/// The state of the current generation's snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotState {
    /// The copy is not finished. Its exported snapshot died with its connection, so the next start begins a new
    /// generation.
    Copying,
    /// Everything is in the sink, and the stream follows.
    Done,
    /// The tables of the same source have to be read again.
    Again,
    /// `walvec reset` asked for a new snapshot, of the source that is configured at the next start.
    Wanted,
}

/// Tables by the collections that hold their rows.
pub type TablesByCollection = BTreeMap<String, BTreeSet<TableName>>;

/// How far walvec has come with one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The source that it was read from.
    pub source: SourceIdentity,
    /// The current generation.
    pub generation: Generation,
    /// The state of this generation's snapshot.
    pub snapshot: SnapshotState,
    /// Everything committed up to here is durably in the sink. Never behind what was confirmed to PostgreSQL.
    pub applied: Lsn,
    /// The end of the last transaction up to `applied` that brought rows. `applied` may be later, because it follows
    /// the server's position too.
    #[serde(default)]
    pub last_commit: Lsn,
    /// The position that the server's history has to contain, so that everything that may have been written is part of
    /// it. `None` while a session follows the stream: what it wrote is known when it ends.
    #[serde(default)]
    pub written_to: Option<Lsn>,
    /// The gap or request that made the current snapshot necessary, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync: Option<Resync>,
    /// Whether points without a row in the snapshot are still there, because they are too many to be removed without an
    /// operator's decision.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sweep_waits: bool,
    /// Some of the writes into each collection, by its name, to be looked for.
    #[serde(default, rename = "writes", skip_serializing)]
    pub witnesses: BTreeMap<String, Witnesses>,
    /// The tables whose rows each collection may hold, by its name: one table, and during a snapshot the former tables
    /// too.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tables: TablesByCollection,
    /// The version of the publication when the snapshot began.
    pub publication: String,
    /// The digest of the configuration that decides rows and payloads. When it changes, tables are read again.
    pub config_digest: String,
    /// The digest of each table's configuration, where tables can be read again one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<(TableName, String)>,
    /// The ids of the collections that were filled, by their names.
    #[serde(default)]
    pub collections: BTreeMap<String, String>,
    /// The offset after the last record that was written to a partition, by `topic/partition`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub written: BTreeMap<String, i64>,
}

/// The shapes that the tables had when their rows were read. Rows are read again because of a difference that the
/// stream has not brought.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// The version of the publication, if it has changed since the snapshot began in a way that does not affect what it
    /// publishes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publication: Option<String>,
    /// The shapes of the tables.
    pub shapes: Vec<(TableName, Shape)>,
    /// The positions as of which altered tables were read whole. What the stream brings of them from before says
    /// nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub floors: Vec<(TableName, Position)>,
    /// Tables that were set aside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aside: Vec<TableName>,
    /// Tables that were found altered and have not been read again to the end, even if they are by now as they were.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub owed: BTreeSet<TableName>,
    /// Tables to be read again for which nothing older than the next session counts: they were other tables before, had
    /// other columns, or were not followed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub anew: BTreeSet<TableName>,
    /// Tables of `anew` that were not published all the time. If most of their rows are gone, that may be a mistake.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unproved: BTreeSet<TableName>,
    /// Partitions, by oid, that rows were streamed of or copied from and that no shape has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strays: Vec<(TableName, BTreeMap<u32, Stray>)>,
}

/// A partition that the stream has brought rows of, and that was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stray {
    /// The last position at which the stream named it.
    pub(crate) named: Position,
    /// The transaction that wrote the first streamed row; 0, which is no transaction's id, if the rows were copied.
    pub(crate) first: u32,
}

impl Stray {
    /// Returns a stray whose rows were copied as of `position`. The transaction that created the partition had
    /// committed before.
    pub(crate) const fn copied(position: Position) -> Self {
        Self { named: position, first: 0 }
    }
}

#[cfg(test)]
mod tests;
