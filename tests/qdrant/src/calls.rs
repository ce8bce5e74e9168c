//! A record of the calls that the server received, and how many were in flight at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The kinds of calls that the server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// Asks for the server's version.
    HealthCheck,
    /// Asks whether a collection exists.
    CollectionExists,
    /// Asks for the description of a collection.
    CollectionInfo,
    /// Creates a collection.
    CreateCollection,
    /// Changes a collection's metadata.
    UpdateCollection,
    /// Asks which shards a collection has.
    ClusterInfo,
    /// Creates a shard for a key.
    CreateShardKey,
    /// Deletes a collection.
    DeleteCollection,
    /// Lists the names of all collections.
    ListCollections,
    /// Creates, renames and removes aliases.
    UpdateAliases,
    /// Lists the aliases of one collection or of all.
    ListAliases,
    /// Creates a payload index.
    CreateFieldIndex,
    /// Stores points.
    Upsert,
    /// Makes several changes of points in one request.
    UpdateBatch,
    /// Removes points.
    Delete,
    /// Reads points by id.
    Get,
    /// Reads points in id order.
    Scroll,
    /// Counts points.
    Count,
    /// Searches for the nearest points.
    Query,
}

impl Call {
    /// Returns whether the call changes points.
    #[must_use]
    pub const fn is_write(self) -> bool {
        matches!(self, Self::Upsert | Self::UpdateBatch | Self::Delete)
    }
}

/// The calls so far, including refused ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    counts: BTreeMap<Call, usize>,
    most_writes: usize,
    by_filter: usize,
    overlaps: Vec<String>,
}

impl Calls {
    /// Returns the number of calls of this kind.
    #[must_use]
    pub fn of(&self, call: Call) -> usize {
        self.counts.get(&call).copied().unwrap_or(0)
    }

    /// Returns the number of calls that change points.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.counts.iter().filter(|(call, _)| call.is_write()).map(|(_, count)| count).sum()
    }

    /// Returns the number of calls.
    #[must_use]
    pub fn total(&self) -> usize {
        self.counts.values().sum()
    }

    /// Returns the greatest number of calls that changed points concurrently.
    #[must_use]
    pub const fn most_writes_in_flight(&self) -> usize {
        self.most_writes
    }

    /// Returns the number of calls that changed points by a filter instead of by id.
    #[must_use]
    pub const fn by_filter(&self) -> usize {
        self.by_filter
    }

    /// Returns the points that two concurrent calls named, so that chance decided which one won. Changes by filter name
    /// no points.
    #[must_use]
    pub fn overlaps(&self) -> &[String] {
        &self.overlaps
    }
}

/// The log in which calls are recorded. Clones share one log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    calls: Calls,
    writes: usize,
    /// How many calls in flight name a point.
    points: HashMap<String, usize>,
}

/// A write in flight, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    ledger: Ledger,
    points: Vec<String>,
}

impl Ledger {
    pub(crate) fn calls(&self) -> Calls {
        self.lock().calls.clone()
    }

    /// Clears the recorded calls, but not the writes in flight.
    pub(crate) fn reset(&self) {
        self.lock().calls = Calls::default();
    }

    pub(crate) fn enter(&self, call: Call) {
        *self.lock().calls.counts.entry(call).or_default() += 1;
    }

    pub(crate) fn begin_write(&self, mut points: Vec<String>) -> InFlight {
        // One call may name a point twice: its operations are applied in order.
        points.sort_unstable();
        points.dedup();
        let book = &mut *self.lock();
        book.writes += 1;
        book.calls.by_filter += usize::from(points.is_empty());
        book.calls.most_writes = book.calls.most_writes.max(book.writes);
        for point in &points {
            let calls = book.points.entry(point.clone()).or_default();
            *calls += 1;
            if *calls == 2 {
                book.calls.overlaps.push(point.clone());
            }
        }
        InFlight { ledger: self.clone(), points }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut book = self.ledger.lock();
        book.writes -= 1;
        for point in &self.points {
            if let Some(calls) = book.points.get_mut(point) {
                *calls -= 1;
                if *calls == 0 {
                    book.points.remove(point);
                }
            }
        }
    }
}
