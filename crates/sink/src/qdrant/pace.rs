//! How many points a request may name on a server that limits how much it takes in a minute.
//!
//! The server does not tell its limits, and its refusals name no number of points. A refusal halves what requests may name from then on,
//! and a success doubles it, so sizes follow a limit that is changed. Small requests also get through where a limit holds for each of
//! several shards: a request for one point needs the consent of one shard only, but some shards count a larger one although another
//! shard refuses it.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Limited;

/// From this size on, requests are as large as without a limit.
const LARGE: usize = 256;
const UNLIMITED: usize = usize::MAX;

/// The sizes of reads and of writes that the limits allow, as learned from refusals.
#[derive(Debug, Default)]
pub(super) struct RequestSizes {
    pub(super) reads: Size,
    pub(super) writes: Size,
}

/// How many points a request may name at most.
#[derive(Debug)]
pub(super) struct Size(AtomicUsize);

impl Default for Size {
    fn default() -> Self {
        Self(AtomicUsize::new(UNLIMITED))
    }
}

impl Size {
    /// Returns how many points a request may name that would name `most` without a limit.
    pub(super) fn of(&self, most: usize) -> usize {
        self.now().min(most)
    }

    /// Returns whether a limit was met lately.
    pub(super) fn is_limited(&self) -> bool {
        self.now() < UNLIMITED
    }

    /// Lowers the size after the refusal of a request that named `points`. Returns whether a smaller one may get through at once.
    pub(super) fn refused(&self, limited: &Limited, points: usize) -> bool {
        self.0.fetch_min((points / 2).max(1), Ordering::Relaxed);
        limited.is_too_large && points > 1
    }

    /// Raises the size after a call about `points` was let through as a whole.
    pub(super) fn passed(&self, points: usize) {
        let now = self.now();
        if now < UNLIMITED && points >= now {
            let larger = if now >= LARGE / 2 { UNLIMITED } else { now * 2 };
            // A refusal that lowered the size meanwhile takes precedence.
            self.0.compare_exchange(now, larger, Ordering::Relaxed, Ordering::Relaxed).ok();
        }
    }

    fn now(&self) -> usize {
        let now = self.0.load(Ordering::Relaxed);
        debug_assert!(now > 0, "a request may name at least one point");
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RateLimit;

    fn refusal(is_too_large: bool) -> Limited {
        let (url, collection, reason) = Default::default();
        Limited {
            url,
            collection,
            limit: RateLimit::Writes,
            reason,
            is_too_large,
            retry_after: None,
            written: Vec::new(),
        }
    }

    #[test]
    fn refusals_halve_the_size_down_to_one_point() {
        let size = Size::default();
        assert_eq!((size.of(256), size.is_limited()), (256, false));
        assert!(size.refused(&refusal(true), 256));
        assert_eq!((size.of(256), size.is_limited()), (128, true));
        assert!(!size.refused(&refusal(false), 100), "it has to wait");
        assert_eq!(size.of(256), 50);
        assert!(!size.refused(&refusal(true), 1), "there is nothing smaller");
        assert_eq!(size.of(256), 1);
    }

    #[test]
    fn the_size_grows_again_once_requests_of_that_size_get_through() {
        let size = Size::default();
        size.refused(&refusal(true), 200);
        size.passed(99);
        assert_eq!(size.of(1000), 100, "that many were not tried");
        size.passed(100);
        assert_eq!(size.of(1000), 200);
        size.passed(1000);
        assert_eq!((size.of(1000), size.is_limited()), (1000, false));
    }
}
