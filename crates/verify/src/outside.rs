//! What the caller provides.

use std::future::Future;
use std::pin::Pin;

use serde_json::Value;
use walvec_model::{Lsn, PointId, RawPage, RawPoint};

use crate::VerifyError;

/// A boxed future, so that the traits can be used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The points of one collection, exactly as they are stored.
pub trait Points: Send + Sync {
    /// Up to `limit` points in id order (numbers, then UUIDs) from `from` (inclusive) on, without vectors.
    fn page(&self, from: Option<PointId>, limit: usize) -> BoxFuture<'_, Result<RawPage, VerifyError>>;

    /// The points with these ids that exist, at most [`GET_LIMIT`] of them, in any order.
    fn get(&self, ids: Vec<PointId>, with_vectors: bool) -> BoxFuture<'_, Result<Vec<RawPoint>, VerifyError>>;

    /// How many points are stored and shown to nobody yet. They would look missing.
    fn held_back(&self) -> BoxFuture<'_, Result<u64, VerifyError>>;
}

/// How many ids one call of [`Points::get`] may name.
pub(crate) const GET_LIMIT: usize = 1000;

/// The walvec that fills the collections.
pub trait Running: Send + Sync {
    /// How far it has come.
    fn applied(&self) -> BoxFuture<'_, Result<Applied, VerifyError>>;

    /// A page of the rows that it could not process, in the order of their keys, from behind the key `after` on.
    fn parked(&self, collection: &str, after: Option<Vec<Value>>) -> BoxFuture<'_, Result<ParkedPage, VerifyError>>;

    /// Has a portion mended and waits until that is done; returns how many rows were read again. `watch` is told the state
    /// now and then.
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
    /// It follows the stream; else it is starting, copying or stopping, and the position means nothing yet.
    pub streaming: bool,
    /// What it is retrying at the moment.
    pub problem: Option<String>,
}

/// A row that could not be processed.
#[derive(Clone, Debug, PartialEq)]
pub struct Parked {
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
    pub rows: Vec<Parked>,
    /// The key behind which the next page begins; `None` at the end.
    pub next: Option<Vec<Value>>,
}

/// What to mend in one go.
#[derive(Clone, Debug, PartialEq)]
pub struct RepairPortion {
    /// The collection.
    pub collection: String,
    /// Keys of the rows to read and embed again.
    pub rows: Vec<Vec<Value>>,
    /// Points to remove if they still have this version (`_walvec.v`).
    pub points: Vec<(PointId, Option<String>)>,
}

/// What a repair is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepairState {
    /// Another task of the running walvec has to end first.
    Queued,
    /// It runs, and has read this many rows.
    Running(u64),
}
