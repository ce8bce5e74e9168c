//! A record's version in headers, for formats whose values have no place for it.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::SystemTime;

use walvec_model::{Generation, Lsn, Position};

use super::{Malformed, header, json};
use crate::{Partition, Record};

/// Returns the headers for a version.
pub(super) fn headers(
    position: Position,
    generation: Generation,
    committed_at: Option<SystemTime>,
) -> Vec<(&'static str, Vec<u8>)> {
    let mut headers = vec![
        (header::POSITION, position.to_string().into_bytes()),
        (header::GENERATION, generation.0.to_string().into_bytes()),
    ];
    headers.extend(committed_at.map(|at| (header::COMMITTED_AT, json::micros(at).to_string().into_bytes())));
    headers
}

/// Returns the value of one of walvec's headers, if the record has it.
pub(super) fn read<T: FromStr>(record: &Record, name: &'static str) -> Result<Option<T>, Malformed> {
    // A header that is not text is as wrong as one that is not a number.
    if !record.headers.iter().any(|(found, _)| found == name) {
        return Ok(None);
    }
    let value = record.header(name).and_then(|text| text.parse().ok());
    value.map(Some).ok_or_else(|| Malformed::record(format!("the header `{name}` cannot be read")))
}

/// Returns the position in the headers.
pub(super) fn position(record: &Record) -> Result<Option<Position>, Malformed> {
    read(record, header::POSITION)
}

/// Returns the generation in the headers; 0, which is older than every snapshot, if another program wrote the record.
pub(super) fn generation(record: &Record) -> Result<Generation, Malformed> {
    Ok(Generation(read(record, header::GENERATION)?.unwrap_or_default()))
}

/// Returns the commit time in the headers.
pub(super) fn committed_at(record: &Record) -> Result<Option<SystemTime>, Malformed> {
    Ok(read(record, header::COMMITTED_AT)?.and_then(json::time))
}

/// Orders the records of other programs among all records of their topics: by the time at which they were written, and
/// within a millisecond by `then`. A position in the WAL of one PostgreSQL server cannot be compared with that of
/// another server that may have replaced it, and offsets cannot be compared between partitions.
#[derive(Debug, Default)]
pub(super) struct TopicOrder {
    /// The newest time so far, for each partition. Clocks may be set back, but a later record of a partition must not be older.
    newest: HashMap<Partition, u64>,
}

impl TopicOrder {
    pub(super) fn position(&mut self, record: &Record, committed_at: Option<SystemTime>, then: u64) -> Position {
        let since = record.timestamp.or(committed_at).and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let written = since.and_then(|since| u64::try_from(since.as_millis()).ok()).unwrap_or_default();
        let newest = self.newest.entry(record.partition()).or_default();
        *newest = written.max(*newest);
        Position { commit_lsn: Lsn(*newest), ordinal: then }
    }
}

/// Returns the place of a record in its partition, from 1.
pub(super) fn ordinal(record: &Record) -> u64 {
    u64::try_from(record.offset).unwrap_or_default().saturating_add(1)
}
