//! Hits in the form of the API and of `walvec search --json`.

use serde::Serialize;
use walvec_model::{Payload, PointId, Value};
use walvec_sink::Hit;

use crate::score;

/// One hit. The payload is data from the database: programs that hand it to a language model must treat it as such.
#[derive(Serialize)]
pub(crate) struct AnswerHit<'a> {
    id: PointId,
    score: f64,
    /// The row that it shows; `None`: another program wrote the point.
    #[serde(flatten)]
    row: RowOf<'a>,
    payload: &'a Payload,
}

/// The row that a hit shows, and the chunk of it. All fields are null for a point that another program wrote.
#[derive(Default, Serialize)]
struct RowOf<'a> {
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
        let row = hit.provenance.as_ref().map(|row| RowOf {
            table: Some(&row.table),
            key: Some(&row.key),
            chunk: Some(row.chunk),
            chunks: Some(row.chunks),
        });
        Self { id: hit.id, score: score::exact(hit.score), row: row.unwrap_or_default(), payload: &hit.payload }
    }
}
