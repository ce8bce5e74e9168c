//! Divides checks of many collections into turns, so that each look costs the same however many collections there are.

use std::ops::Range;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _, stream};

/// How many collections one look checks.
const AT_ONCE: usize = 32;

/// How many collections are asked concurrently.
const CONCURRENT: usize = 16;

/// Remembers which collections are checked next.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    next: usize,
}

impl Rounds {
    /// Returns the indexes of the collections to check next, out of `all`.
    pub(crate) fn turn(&mut self, all: usize) -> Range<usize> {
        let from = if self.next < all { self.next } else { 0 };
        self.next = (from + AT_ONCE).min(all);
        from..self.next
    }

    /// Returns the time until the next turn, so that each of `all` collections is checked once per `interval`: at least
    /// one second.
    pub(crate) fn pause(all: usize, interval: Duration) -> Duration {
        let turns = u32::try_from(all.div_ceil(AT_ONCE)).unwrap_or(u32::MAX).max(1);
        (interval / turns).max(Duration::from_secs(1)).min(interval)
    }
}

/// Collects answers about many collections, in their order. Stops at the first error.
pub(crate) fn answers<'a, T: Send + 'a, E: Send + 'a>(
    asked: Vec<BoxFuture<'a, Result<T, E>>>,
) -> BoxFuture<'a, Result<Vec<T>, E>> {
    Box::pin(stream::iter(asked).buffered(CONCURRENT).try_collect())
}

/// Makes changes in many collections, and runs all of them to the end even if one fails: a change that is abandoned
/// half-way may still arrive later.
pub(crate) fn outcomes<'a, T: Send + 'a>(changes: Vec<BoxFuture<'a, T>>) -> BoxFuture<'a, Vec<T>> {
    Box::pin(stream::iter(changes).buffered(CONCURRENT).collect())
}

#[cfg(test)]
mod tests;
