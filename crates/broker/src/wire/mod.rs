//! The contents of records: versioned envelopes around changes, vectors and dead letters. Pure: no client, no I/O, no clock.
//!
//! - `debezium`: changes as Debezium's PostgreSQL connector writes them, with walvec's own block in Debezium's `source`
//! - `reference`: changes as wal2json writes them, in the form that the tutorial stack expects
//! - [`vectors`]: points, in the form that the Qdrant connector for Kafka reads; [`reference_vectors`]: in the form of
//!   the tutorial's ingester
//! - [`again`]: records of parked rows that are written once more
//! - [`dead_letter`]: rows and records that could not be processed
//! - `shapes`: tables as records show them
//! - `control`, `stamp`: walvec's own block in records that are not rows, and versions in headers
//! - `json`: writes JSON without building a tree
//! - `base64`, `civil`: two small encodings that other programs' records need
//!
//! An envelope of walvec carries a version, [`VERSION`]. A reader accepts every version up to its own and refuses newer ones.

pub mod again;
mod base64;
mod civil;
mod control;
pub mod dead_letter;
mod debezium;
mod json;
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

/// The position of a null value of another program, which has no position of its own: newer than all others.
pub const UNPLACED: Position = Position { commit_lsn: Lsn(u64::MAX), ordinal: 0 };

/// Names of the headers that walvec writes.
pub mod header {
    /// The position of a change, e.g. `0/1D5C408.3`, where the value has no place for it.
    pub const POSITION: &str = "walvec-position";
    /// The generation of a change, as a decimal number.
    pub const GENERATION: &str = "walvec-generation";
    /// When the change was committed, in microseconds since 1970.
    pub const COMMITTED_AT: &str = "walvec-committed-at";
    /// The type oids of the key columns, as a JSON array.
    pub const KEY_TYPES: &str = "walvec-key-types";
    /// The names of the key columns, as a JSON array.
    pub const KEY: &str = "walvec-key";
    /// Marks a record of a parked row that was written again, and that is processed only while the row is still parked.
    /// The header's value is the key of the row's record.
    pub const AGAIN: &str = "walvec-again";
    /// The names of the columns that PostgreSQL did not send, as a JSON array.
    pub const NOT_SENT: &str = "walvec-not-sent";
    /// The transaction of a change that lacks columns. They can be read from the table as soon as that transaction is visible.
    pub const XID: &str = "walvec-xid";
    /// The purpose of a record that is not a row: `snapshot-end`, `truncate`.
    pub const CONTROL: &str = "walvec-control";
    /// The value of [`CONTROL`] at the end of a snapshot.
    pub const SNAPSHOT_END: &str = "snapshot-end";
    /// The topic whose offsets the end of a snapshot refers to. A program that copies the record to another topic does
    /// not adjust them.
    pub const TOPIC: &str = "walvec-topic";
    /// The value of [`CONTROL`] for a truncated table.
    pub const TRUNCATE: &str = "truncate";
}

/// The envelope of a topic's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Debezium's envelope: one topic for each table, with the row's key as record key.
    Debezium,
    /// The tutorial stack's envelope: one topic for all tables, the table's name as record key, changes as wal2json
    /// writes them.
    Reference,
}

/// What capture knows about a change, apart from the change itself.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangeContext {
    /// The generation of the latest snapshot before the change.
    pub generation: Generation,
    /// When the change's transaction committed, by the server's clock; for a row of a snapshot, when it was read.
    pub committed_at: SystemTime,
    /// The change's transaction, if it is known.
    pub xid: Option<u32>,
    /// Whether the change is a row of a snapshot.
    pub snapshot: bool,
}

/// Which rows to remove after a table was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// Rows of older generations: every table was read, for a new generation.
    Generations,
    /// Rows older than the position: only this table was read again.
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
    /// Which rows to remove.
    pub sweep: Sweep,
    /// For each partition, the offset after its last row. Rows may be removed once all partitions were read up to there.
    pub barrier: Vec<i64>,
}

/// The contents of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A row or a table changed.
    Change(Arrived),
    /// The end of a snapshot.
    SnapshotEnd(SnapshotEnd),
    /// A record that says nothing about rows: a heartbeat, the begin or end of a transaction, a message, a tombstone of
    /// an unknown table.
    Nothing,
}

/// A change that was read from a topic.
///
/// Its table is as the record shows it: the columns that the record names, in its order, and only the key columns with
/// types. A deleted row shows its key columns and perhaps no others; a truncated table shows none.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrived {
    /// The change. Its position orders it among all changes of its generation. If another program wrote the record, the
    /// position is not a position in PostgreSQL's WAL.
    pub change: Change,
    /// The position in PostgreSQL's WAL that the source has reached with this change; zero if the record does not contain it.
    pub lsn: Lsn,
    /// The change's generation; 0 if another program wrote the record.
    pub generation: Generation,
    /// When the change was committed, if the record contains it. A row of a snapshot was committed at an unknown earlier time.
    pub committed_at: Option<SystemTime>,
    /// The change's transaction, if the record contains it.
    pub xid: Option<u32>,
}

/// The error for a record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    /// `E_OP` for an unknown operation, `E_RECORD` for everything else.
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

/// Writes changes as records. Use one for each capture process: it caches what is the same for all rows of a table.
#[derive(Debug)]
pub struct Encoder(Encoding);

#[derive(Debug)]
enum Encoding {
    Debezium(debezium::DebeziumEncoder),
    Reference(reference::ReferenceEncoder),
}

impl Encoder {
    /// Creates an encoder for `format`. `prefix` is the prefix of the topics' names, `database` the database that the
    /// rows come from.
    #[must_use]
    pub fn new(format: Format, prefix: &str, database: &str) -> Self {
        Self(match format {
            Format::Debezium => Encoding::Debezium(debezium::DebeziumEncoder::new(prefix, database)),
            Format::Reference => Encoding::Reference(reference::ReferenceEncoder::default()),
        })
    }

    /// Appends the records of one change. Most changes have one record; in Debezium's format a delete has two, a
    /// changed key three.
    pub fn change(&mut self, change: &Change, context: &ChangeContext, out: &mut Vec<Outgoing>) {
        match &mut self.0 {
            Encoding::Debezium(encoder) => encoder.change(change, context, out),
            Encoding::Reference(encoder) => out.push(encoder.change(change, context)),
        }
    }

    /// Returns the record that ends a snapshot. It has no key, and one partition is enough for it.
    #[must_use]
    pub fn snapshot_end(&mut self, end: &SnapshotEnd) -> Outgoing {
        match &self.0 {
            Encoding::Debezium(encoder) => encoder.snapshot_end(end),
            Encoding::Reference(_) => reference::snapshot_end(end),
        }
    }
}

/// Reads records. Use one for each consumer: rows of equal tables share one [`Table`](walvec_model::Table).
#[derive(Debug)]
pub struct Decoder(Decoding);

#[derive(Debug)]
enum Decoding {
    Debezium(debezium::DebeziumDecoder),
    Reference(reference::ReferenceDecoder),
}

impl Decoder {
    /// Creates a decoder for `format`. `needed` holds for each table the columns that the configured collections need. Only
    /// [`Format::Reference`] uses it: its updates leave out unchanged values, and so do not show which ones are missing.
    #[must_use]
    pub fn new(format: Format, needed: HashMap<TableName, Vec<String>>) -> Self {
        Self(match format {
            Format::Debezium => Decoding::Debezium(debezium::DebeziumDecoder::default()),
            Format::Reference => Decoding::Reference(reference::ReferenceDecoder::new(needed)),
        })
    }

    /// Reads `record`. `table` is the table that the topic's name stands for, if it stands for one; tombstones need it.
    ///
    /// # Errors
    /// Fails if the record is not an envelope, or has a version that is not supported.
    pub fn decode(&mut self, record: &Record, table: Option<&TableName>) -> Result<Event, Malformed> {
        match &mut self.0 {
            Decoding::Debezium(decoder) => decoder.decode(record, table),
            Decoding::Reference(decoder) => decoder.decode(record),
        }
    }
}
