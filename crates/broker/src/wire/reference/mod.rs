//! Changes as the tutorial stack's capture writes them: one topic, the table's name as key, one wal2json change as value.
//!
//! <https://github.com/eulerto/wal2json>, format version 1: `{"kind":"insert","schema","table","columnnames",
//! "columntypes","columnvalues"}`, and `oldkeys` with `keynames`, `keytypes` and `keyvalues` in updates and deletes.
//!
//! - `encode`: changes → records
//! - `values`: single values, in and out
//! - `decode`: records → changes
//!
//! The value stays wal2json's own, so what it has no field for is in headers. There are no tombstones: the tutorial's
//! programs would fail on them, and one topic for all rows of a table cannot be compacted anyway.

mod decode;
mod encode;
mod values;

pub(super) use decode::Decoder;
pub(super) use encode::{Encoder, snapshot_end};
