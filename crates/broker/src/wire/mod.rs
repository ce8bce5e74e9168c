//! What records say: versioned envelopes around changes, vectors and dead letters. Pure: no client, no I/O, no clock.
//!
//! - `debezium`: changes as Debezium's PostgreSQL connector writes them, with walvec's own block in Debezium's `source`
//! - `reference`: changes as wal2json writes them, as the tutorial stack expects them
//! - [`vectors`]: points, as the Qdrant connector for Kafka reads them; [`reference_vectors`]: as the tutorial's ingester does
//! - [`again`]: records of parked rows that are written once more
//! - [`dead_letter`]: rows and records that could not be processed
//! - `shapes`: tables as records show them
//! - `control`, `stamp`: walvec's own block in records that are no row, and versions in headers
//! - `json`, `number`: writing JSON without a tree; reading it without rounding
//! - `base64`, `civil`: two small encodings that other programs' records need
//!
//! An envelope of walvec's carries a version, [`VERSION`]. A reader takes every version up to its own and refuses a newer one.

pub mod again;
mod base64;
mod civil;
mod control;
pub mod dead_letter;
mod debezium;
mod json;
mod number;
mod reference;
pub mod reference_vectors;
mod shapes;
mod stamp;
pub mod vectors;

use std::collections::HashMap;
use std::time::SystemTime;

use walvec_model::{Change, Generation, Lsn, Position, TableName};

use crate::{Outgoing, Record};

/// The version of walvec's own part of an envelope.
pub const VERSION: u64 = 1;

/// The position of a null value of another program, which tells nothing of its time: newer than all others.
pub const UNPLACED: Position = Position { commit_lsn: Lsn(u64::MAX), ordinal: 0 };

/// Names of the headers that walvec writes.
pub mod header {
    /// The position of a change, e.g. `0/1D5C408.3`, where the value has no place for it.
    pub const POSITION: &str = "walvec-position";
    /// The generation of a change, as a number.
    pub const GENERATION: &str = "walvec-generation";
    /// When the change was committed, in microseconds since 1970.
    pub const COMMITTED_AT: &str = "walvec-committed-at";
    /// The type oids of the key columns, as a JSON array.
    pub const KEY_TYPES: &str = "walvec-key-types";
    /// The names of the key columns, as a JSON array.
    pub const KEY: &str = "walvec-key";
    /// Says that a record of a parked row was written again, to be processed only while the row is still parked. Its value is the
    /// record's key.
    pub const AGAIN: &str = "walvec-again";
    /// The names of the columns that PostgreSQL did not send, as a JSON array.
    pub const NOT_SENT: &str = "walvec-not-sent";
    /// The transaction of a change that lacks columns. They can be read from the table once that transaction is visible.
    pub const XID: &str = "walvec-xid";
    /// What a record that is no row is for: `snapshot-end`, `truncate`.
    pub const CONTROL: &str = "walvec-control";
    /// The value of [`CONTROL`] at the end of a snapshot.
    pub const SNAPSHOT_END: &str = "snapshot-end";
    /// With the end of a snapshot, the topic whose offsets it counts: a program that copies it into another one knows nothing
    /// of them.
    pub const TOPIC: &str = "walvec-topic";
    /// The value of [`CONTROL`] when a table was emptied.
    pub const TRUNCATE: &str = "truncate";
}

/// Which envelope a topic's records have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Debezium's: one topic for each table, the row's key as record key.
    Debezium,
    /// That of the tutorial stack: one topic for all tables, the table's name as record key, changes as wal2json writes them.
    Reference,
}

/// What capture knows about a change besides the change.
#[derive(Clone, Debug, PartialEq)]
pub struct Context {
    /// The generation of the snapshot that is valid for the change.
    pub generation: Generation,
    /// When its transaction committed, by the server's clock; for a row of a snapshot, when it was read.
    pub committed_at: SystemTime,
    /// Its transaction, if it is known.
    pub xid: Option<u32>,
    /// Whether it is a row of a snapshot.
    pub snapshot: bool,
}

/// Which rows are gone from a table whose rows were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// Those of older generations: every table was read, for a new one.
    Generations,
    /// Those that are older than the position: the table alone was read again.
    Older,
}

/// The end of a table's snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotEnd {
    /// The table.
    pub table: TableName,
    /// The position of the snapshot's rows.
    pub position: Position,
    /// The snapshot's generation.
    pub generation: Generation,
    /// Which rows are gone.
    pub sweep: Sweep,
    /// For each partition the offset after its last row: what is gone may be swept once all of them were read.
    pub barrier: Vec<i64>,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A row or a table changed.
    Change(Arrived),
    /// A snapshot has ended.
    SnapshotEnd(SnapshotEnd),
    /// Nothing about rows: a heartbeat, a transaction's border, a message, a tombstone of an unknown table.
    Nothing,
}

/// A change that came through a topic.
///
/// Its table is as the record shows it: the columns that the record names, in its order, with the types of the key columns
/// only. A deleted row shows its key columns and maybe no others, a truncated table shows none.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrived {
    /// The change. Its position orders it among all changes of its generation; that of another program's record is no place in
    /// PostgreSQL's log.
    pub change: Change,
    /// The place in PostgreSQL's log up to which this change has come; zero if the record does not say it.
    pub lsn: Lsn,
    /// Its generation; 0 if another program wrote the record.
    pub generation: Generation,
    /// When it was committed, if the record says so; a row of a snapshot was at some time before.
    pub committed_at: Option<SystemTime>,
    /// Its transaction, if the record says so.
    pub xid: Option<u32>,
}

/// A record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    /// `E_OP` for an operation that nobody knows, `E_RECORD` for everything else.
    pub code: &'static str,
    /// What is wrong, and with which field.
    pub reason: String,
}

impl Malformed {
    fn record(reason: impl Into<String>) -> Self {
        Self { code: "E_RECORD", reason: reason.into() }
    }

    fn op(reason: impl Into<String>) -> Self {
        Self { code: "E_OP", reason: reason.into() }
    }
}

/// Writes changes as records. One for each capture process: it keeps what is the same for all rows of a table.
#[derive(Debug)]
pub struct Encoder(Encoding);

#[derive(Debug)]
enum Encoding {
    Debezium(debezium::Encoder),
    Reference(reference::Encoder),
}

impl Encoder {
    /// An encoder for `format`. `prefix` is the one of the topics' names, `database` is where the rows are from.
    #[must_use]
    pub fn new(format: Format, prefix: &str, database: &str) -> Self {
        Self(match format {
            Format::Debezium => Encoding::Debezium(debezium::Encoder::new(prefix, database)),
            Format::Reference => Encoding::Reference(reference::Encoder::default()),
        })
    }

    /// Appends the record of one change, or its records: in Debezium's format a delete has two, a changed key three.
    pub fn change(&mut self, change: &Change, context: &Context, out: &mut Vec<Outgoing>) {
        match &mut self.0 {
            Encoding::Debezium(encoder) => encoder.change(change, context, out),
            Encoding::Reference(encoder) => out.push(encoder.change(change, context)),
        }
    }

    /// The record that ends a snapshot. It has no key, and one partition is enough for it.
    #[must_use]
    pub fn snapshot_end(&mut self, end: &SnapshotEnd) -> Outgoing {
        match &self.0 {
            Encoding::Debezium(encoder) => encoder.snapshot_end(end),
            Encoding::Reference(_) => reference::snapshot_end(end),
        }
    }
}

/// Reads records. One for each consumer: rows of equal tables share one [`Table`](walvec_model::Table).
#[derive(Debug)]
pub struct Decoder(Decoding);

#[derive(Debug)]
enum Decoding {
    Debezium(debezium::Decoder),
    Reference(reference::Decoder),
}

impl Decoder {
    /// A decoder for `format`. `needed`: for each table the columns that the configured collections need. Only
    /// [`Format::Reference`] uses it: its updates leave out what did not change, and so cannot say what is missing.
    #[must_use]
    pub fn new(format: Format, needed: HashMap<TableName, Vec<String>>) -> Self {
        Self(match format {
            Format::Debezium => Decoding::Debezium(debezium::Decoder::default()),
            Format::Reference => Decoding::Reference(reference::Decoder::new(needed)),
        })
    }

    /// What `record` says. `table`: the table that the topic is for, where its name says so; tombstones need it.
    ///
    /// # Errors
    /// If the record is no envelope, or one that this version does not know.
    pub fn decode(&mut self, record: &Record, table: Option<&TableName>) -> Result<Event, Malformed> {
        match &mut self.0 {
            Decoding::Debezium(decoder) => decoder.decode(record, table),
            Decoding::Reference(decoder) => decoder.decode(record),
        }
    }
}
