//! What one writer has in flight, and how fast it is written.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use walvec_embed::Embedder;
use walvec_model::RowKey;

/// The time over which written texts are counted. As many texts may be in flight as were written in this time, or those
/// of two calls, if the embedder could use more. With two calls, one that is late leaves room for another.
const LATELY: Duration = Duration::from_secs(10);

/// Texts that are written within this time are counted together.
const MOMENT: Duration = Duration::from_millis(100);

/// The rows and texts that one writer has in flight.
#[derive(Default)]
pub(super) struct InFlightBudget {
    /// Rows that are not durable.
    pub(super) keys: HashSet<RowKey>,
    /// Texts that are being embedded or written.
    pub(super) texts: usize,
    /// How many texts were written at which times, the oldest first.
    written: VecDeque<(Instant, usize)>,
}

impl InFlightBudget {
    /// Returns whether another batch may begin. The line asks this about all writers after each step, and few of them
    /// are busy; hence the lazy `embedder`.
    pub(super) fn has_room<'e>(&self, embedder: impl FnOnce() -> &'e dyn Embedder) -> bool {
        if self.texts == 0 {
            return true;
        }
        let embedder = embedder();
        self.texts < self.lately().max(embedder.texts_per_call().saturating_mul(2)) && self.can_take(embedder)
    }

    /// Returns whether the embedder can use more texts: up to half as many again as it works on, so that it never runs
    /// dry.
    pub(super) fn can_take(&self, embedder: &dyn Embedder) -> bool {
        let at_once = embedder.texts_per_call().saturating_mul(embedder.calls_at_once());
        self.texts == 0 || self.texts < at_once.saturating_add(at_once / 2)
    }

    fn lately(&self) -> usize {
        let now = Instant::now();
        self.written.iter().filter(|(at, _)| now - *at <= LATELY).map(|(_, texts)| texts).sum()
    }

    /// Notes that `texts` texts of these rows are durable.
    pub(super) fn written(&mut self, keys: &[RowKey], texts: usize) {
        for key in keys {
            self.keys.remove(key);
        }
        self.texts -= texts;
        let now = Instant::now();
        match self.written.back_mut() {
            Some((at, sum)) if now - *at < MOMENT => *sum += texts,
            _ => self.written.push_back((now, texts)),
        }
        while self.written.pop_front_if(|(at, _)| now - *at > LATELY).is_some() {}
    }
}

#[cfg(test)]
mod tests;
