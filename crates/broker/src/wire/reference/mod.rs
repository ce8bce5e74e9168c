//! Changes in the form of the tutorial stack's capture: one topic, the table's name as key, one wal2json change as value.
//!
//! <https://github.com/eulerto/wal2json>, format version 1: `{"kind":"insert","schema","table","columnnames",
//! "columntypes","columnvalues"}`, and `oldkeys` with `keynames`, `keytypes` and `keyvalues` in updates and deletes.
//!
//! - `encode`: changes → records
//! - `values`: single values, in and out
//! - `decode`: records → changes
//!
//! The value is wal2json's own, so data that it has no field for is in headers. There are no tombstones: the tutorial's
//! programs would fail on them, and a topic in which all rows of a table share a key cannot be compacted anyway.

mod decode;
mod encode;
mod values;

pub(super) use decode::ReferenceDecoder;
pub(super) use encode::{ReferenceEncoder, snapshot_end};
