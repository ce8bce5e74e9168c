//! The answer of a search, in the API and in `walvec search --json`.

use serde::Serialize;
use walvec_model::{Lsn, Payload, PointId, Value};
use walvec_pipeline::Status;
use walvec_sink::Hit;

use super::score;

/// The answer of a search.
#[derive(Serialize)]
pub(crate) struct SearchAnswer<'a> {
    pub(crate) query: &'a str,
    pub(crate) collection: &'a str,
    pub(crate) hits: Vec<AnswerHit<'a>>,
    /// The cursor of the next page; null at the end.
    pub(crate) next: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<&'static str>,
    pub(crate) query_cut: bool,
    pub(crate) freshness: Freshness,
}

/// How current the answer is.
#[derive(Serialize)]
pub(crate) struct Freshness {
    pub(crate) lag_ms: Option<u64>,
    pub(crate) applied_lsn: Option<Lsn>,
}

impl From<&Status> for Freshness {
    fn from(status: &Status) -> Self {
        let applied_lsn = (status.applied_lsn != Lsn::ZERO).then_some(status.applied_lsn);
        Self { lag_ms: status.lag_ms, applied_lsn }
    }
}

/// One hit. The payload is data from the database: programs that hand it to a language model must treat it as such.
#[derive(Serialize)]
pub(crate) struct AnswerHit<'a> {
    id: PointId,
    score: f64,
    /// The row that it shows; `None`: another program wrote the point.
    #[serde(flatten)]
    row: HitRow<'a>,
    payload: &'a Payload,
}

/// The row that a hit shows, and the chunk of it. All fields are null for a point that another program wrote.
#[derive(Default, Serialize)]
struct HitRow<'a> {
    /// The table, `schema.table`.
    table: Option<&'a str>,
    /// The values of the key columns.
    key: Option<&'a [Value]>,
    /// The chunk's number inside its row, from 0, and how many there are.
    chunk: Option<u32>,
    chunks: Option<u32>,
}

impl<'a> From<&'a Hit> for AnswerHit<'a> {
    fn from(hit: &'a Hit) -> Self {
        let row = hit.provenance.as_ref().map(|row| HitRow {
            table: Some(&row.table),
            key: Some(&row.key),
            chunk: Some(row.chunk),
            chunks: Some(row.chunks),
        });
        Self { id: hit.id, score: score::exact(hit.score), row: row.unwrap_or_default(), payload: &hit.payload }
    }
}
