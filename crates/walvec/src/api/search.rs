//! The answer of a search, in the API and in `walvec search --json`.

use serde::Serialize;
use utoipa::ToSchema;
use walvec_model::{Lsn, Payload, PointId, Value};
use walvec_pipeline::Status;
use walvec_sink::Hit;

use super::schema::IdSchema;
use super::score;

/// The answer of a search.
#[derive(Serialize, ToSchema)]
#[schema(as = SearchResult)]
pub(crate) struct SearchAnswer<'a> {
    /// The query.
    pub(crate) query: &'a str,
    /// The collection that was searched.
    pub(crate) collection: &'a str,
    /// The best hits, the best first.
    pub(crate) hits: Vec<AnswerHit<'a>>,
    /// The cursor of the next page; null at the end.
    #[schema(required)]
    pub(crate) next: Option<String>,
    /// Why there are no hits. Only present if a search by words has no word that counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) note: Option<&'static str>,
    /// Whether the query is longer than the model reads: only its beginning counted.
    pub(crate) query_cut: bool,
    /// How current the answer is.
    pub(crate) freshness: Freshness,
}

/// How current an answer is.
#[derive(Serialize, ToSchema)]
pub(crate) struct Freshness {
    /// The age of the oldest commit that was read and cannot be found yet, in milliseconds. 0: there is none. Null: not known.
    #[schema(required)]
    pub(crate) lag_ms: Option<u64>,
    /// Everything committed up to here can be found. Null before the first snapshot is complete.
    #[schema(required, value_type = Option<String>)]
    pub(crate) applied_lsn: Option<Lsn>,
}

impl From<&Status> for Freshness {
    fn from(status: &Status) -> Self {
        let applied_lsn = (status.applied_lsn != Lsn::ZERO).then_some(status.applied_lsn);
        Self { lag_ms: status.lag_ms, applied_lsn }
    }
}

/// A hit. The payload is data from the database: programs that hand it to a language model must treat it as such.
#[derive(Serialize, ToSchema)]
#[schema(as = Hit)]
pub(crate) struct AnswerHit<'a> {
    /// The point's id.
    #[schema(value_type = IdSchema)]
    id: PointId,
    /// Higher is better. Dense: cosine similarity; keyword: BM25; hybrid: reciprocal ranks.
    score: f64,
    /// The row's table, `schema.table`. Null, like `key`, `chunk` and `chunks`, for a point that walvec did not write.
    #[schema(required)]
    table: Option<&'a str>,
    /// The values of the row's key.
    #[schema(required, value_type = Option<Vec<Value>>)]
    key: Option<&'a [Value]>,
    /// The number of the chunk inside its row, from 0.
    #[schema(required)]
    chunk: Option<u32>,
    /// How many chunks the row has.
    #[schema(required)]
    chunks: Option<u32>,
    /// As it is stored, in the collection's layout.
    #[schema(value_type = Object)]
    payload: &'a Payload,
}

impl<'a> From<&'a Hit> for AnswerHit<'a> {
    fn from(hit: &'a Hit) -> Self {
        let row = hit.provenance.as_ref();
        Self {
            id: hit.id,
            score: score::exact(hit.score),
            table: row.map(|row| row.table.as_str()),
            key: row.map(|row| row.key.as_slice()),
            chunk: row.map(|row| row.chunk),
            chunks: row.map(|row| row.chunks),
            payload: &hit.payload,
        }
    }
}
