//! The traits that the caller implements.

use futures::future::BoxFuture;
use serde_json::Value;
use walvec_model::{Lsn, PointId, RawPage, RawPoint};

use crate::VerifyError;

/// The points of one collection, exactly as they are stored.
pub trait Points: Send + Sync {
    /// Returns up to `limit` points in id order (numbers, then UUIDs) from `from` (inclusive) on, without vectors.
    fn page(&self, from: Option<PointId>, limit: usize) -> BoxFuture<'_, Result<RawPage, VerifyError>>;

    /// Returns the points with these ids that exist, at most [`GET_LIMIT`] of them, in any order.
    fn get(&self, ids: Vec<PointId>, with_vectors: bool) -> BoxFuture<'_, Result<Vec<RawPoint>, VerifyError>>;

    /// Returns how many points are stored but not shown to readers yet. They would look missing.
    fn held_back(&self) -> BoxFuture<'_, Result<u64, VerifyError>>;
}

/// How many ids one call of [`Points::get`] may name.
pub(crate) const GET_LIMIT: usize = 1000;

/// The walvec that fills the collections.
pub trait Running: Send + Sync {
    /// Reports how far it has come.
    fn applied(&self) -> BoxFuture<'_, Result<Applied, VerifyError>>;

    /// Returns a page of the rows that it could not process, in the order of their keys, after the key `after`.
    fn parked(&self, collection: &str, after: Option<Vec<Value>>) -> BoxFuture<'_, Result<ParkedPage, VerifyError>>;

    /// Has a portion mended and waits for the end; returns how many rows were read again. `watch` receives the state now
    /// and then.
    fn repair<'a>(
        &'a self,
        portion: &'a RepairPortion,
        watch: &'a (dyn Fn(RepairState) + Send + Sync),
    ) -> BoxFuture<'a, Result<u64, VerifyError>>;
}

/// How far the running walvec has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Everything committed up to here can be found.
    pub lsn: Lsn,
    /// Whether it follows the stream; otherwise it is starting, copying or stopping, and the position means nothing yet.
    pub streaming: bool,
    /// The problem that it is retrying at the moment.
    pub problem: Option<String>,
}

/// A row that could not be processed.
#[derive(Clone, Debug, PartialEq)]
pub struct ParkedRow {
    /// The key columns' values.
    pub key: Vec<Value>,
    /// The error's code.
    pub code: String,
    /// The error in words.
    pub reason: String,
}

/// Some of the parked rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParkedPage {
    /// The rows.
    pub rows: Vec<ParkedRow>,
    /// The key behind which the next page begins; `None` at the end.
    pub next: Option<Vec<Value>>,
}

/// Findings to mend in one request.
#[derive(Clone, Debug, PartialEq)]
pub struct RepairPortion {
    /// The collection.
    pub collection: String,
    /// Keys of the rows to read and embed again.
    pub rows: Vec<Vec<Value>>,
    /// Points to remove if they still have this version (`_walvec.v`).
    pub points: Vec<(PointId, Option<String>)>,
}

/// The state of a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepairState {
    /// Another task of the running walvec has to end first.
    Queued,
    /// The repair is running, and has read this many rows.
    Running(u64),
}
