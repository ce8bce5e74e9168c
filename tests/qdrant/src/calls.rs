//! What was asked of the server, and how much of it at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The kinds of calls that the server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// The server's version.
    HealthCheck,
    /// Whether a collection is there.
    CollectionExists,
    /// How a collection looks.
    CollectionInfo,
    /// A new collection.
    CreateCollection,
    /// Other metadata for a collection.
    UpdateCollection,
    /// Which shards a collection has.
    ClusterInfo,
    /// A shard for a key.
    CreateShardKey,
    /// The end of a collection.
    DeleteCollection,
    /// The names of all collections.
    ListCollections,
    /// Aliases made, renamed, removed.
    UpdateAliases,
    /// Aliases of one collection or of all.
    ListAliases,
    /// A payload index.
    CreateFieldIndex,
    /// Points stored.
    Upsert,
    /// Several changes of points in one request.
    UpdateBatch,
    /// Points removed.
    Delete,
    /// Points by id.
    Get,
    /// Points in id order.
    Scroll,
    /// How many points.
    Count,
    /// The nearest points.
    Query,
}

impl Call {
    /// Whether it changes points.
    #[must_use]
    pub const fn is_write(self) -> bool {
        matches!(self, Self::Upsert | Self::UpdateBatch | Self::Delete)
    }
}

/// What was asked so far, refused calls included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    counts: BTreeMap<Call, usize>,
    most_writes: usize,
    by_filter: usize,
    overlaps: Vec<String>,
}

impl Calls {
    /// How many calls of this kind.
    #[must_use]
    pub fn of(&self, call: Call) -> usize {
        self.counts.get(&call).copied().unwrap_or(0)
    }

    /// How many calls that change points.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.counts.iter().filter(|(call, _)| call.is_write()).map(|(_, count)| count).sum()
    }

    /// How many calls.
    #[must_use]
    pub fn total(&self) -> usize {
        self.counts.values().sum()
    }

    /// The greatest number of calls that changed points at the same time.
    #[must_use]
    pub const fn most_writes_in_flight(&self) -> usize {
        self.most_writes
    }

    /// How many calls changed whatever matched a filter, and not points that they named.
    #[must_use]
    pub const fn by_filter(&self) -> usize {
        self.by_filter
    }

    /// Points that two calls named at the same time, so that chance decided which won. Changes by filter name no points.
    #[must_use]
    pub fn overlaps(&self) -> &[String] {
        &self.overlaps
    }
}

/// The book that the calls are entered in. Clones are the same book.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    calls: Calls,
    writes: usize,
    /// How many calls in flight name a point.
    points: HashMap<String, usize>,
}

/// A write in flight; it has landed when this is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    ledger: Ledger,
    points: Vec<String>,
}

impl Ledger {
    pub(crate) fn calls(&self) -> Calls {
        self.lock().calls.clone()
    }

    /// Forgets what was asked, but not what is in flight.
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
