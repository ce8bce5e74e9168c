//! How many requests are in flight, and how many requests and tokens are sent per minute.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::clock::Clock;

/// The kind of caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Rows, of which there may be many: their requests in flight are limited.
    Documents,
    /// A person who waits: does not queue behind the rows.
    Query,
}

/// The limits that a configuration sets.
pub(super) struct ProviderLimits {
    clock: Arc<dyn Clock>,
    concurrency: usize,
    permits: Semaphore,
    requests: Option<EvenRate>,
    tokens: Option<EvenRate>,
}

impl ProviderLimits {
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        concurrency: usize,
        requests_per_minute: Option<u64>,
        tokens_per_minute: Option<u64>,
    ) -> Self {
        Self {
            clock,
            concurrency,
            permits: Semaphore::new(concurrency),
            requests: requests_per_minute.map(EvenRate::new),
            tokens: tokens_per_minute.map(EvenRate::new),
        }
    }

    pub(super) const fn concurrency(&self) -> usize {
        self.concurrency
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    /// Waits until a request of `tokens` tokens may be sent. The request counts as in flight for as long as the permit is
    /// held.
    pub(super) async fn turn(&self, lane: Lane, tokens: u64) -> Option<SemaphorePermit<'_>> {
        let permit = match lane {
            // The semaphore is never closed.
            Lane::Documents => self.permits.acquire().await.ok(),
            Lane::Query => None,
        };
        for (pace, amount) in [(&self.requests, 1), (&self.tokens, tokens)] {
            let Some(pace) = pace else { continue };
            let now = self.clock.now();
            let turn = pace.reserve(amount, now);
            if turn > now {
                self.clock.sleep(turn - now).await;
            }
        }
        permit
    }
}

/// An even rate per minute: each caller waits for the time that earlier amounts take. Nothing accumulates while there is no
/// caller, because providers also limit requests per second.
struct EvenRate {
    per_minute: u64,
    /// The earliest time of the next request.
    next: Mutex<Duration>,
}

impl EvenRate {
    const fn new(per_minute: u64) -> Self {
        Self { per_minute, next: Mutex::new(Duration::ZERO) }
    }

    /// Returns the time at which this amount may be sent.
    fn reserve(&self, amount: u64, now: Duration) -> Duration {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = now.max(*next);
        let nanos = u128::from(amount) * 60_000_000_000 / u128::from(self.per_minute.max(1));
        *next = turn.saturating_add(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::clock::simulated::SimulatedClock;

    fn limits(
        clock: &SimulatedClock,
        requests_per_minute: Option<u64>,
        tokens_per_minute: Option<u64>,
    ) -> ProviderLimits {
        ProviderLimits::new(Arc::new(clock.clone()), 1, requests_per_minute, tokens_per_minute)
    }

    #[test]
    fn a_minute_holds_as_many_requests_as_it_may_and_no_more() {
        let clock = SimulatedClock::default();
        let limits = limits(&clock, Some(120), None);
        let mut sent = 0;
        clock.run(async {
            while clock.now() < Duration::from_secs(60) {
                drop(limits.turn(Lane::Documents, 1).await);
                sent += 1;
            }
        });
        assert_eq!(sent, 121, "the last one begins the next minute");
    }

    #[test]
    fn tokens_are_limited_as_requests_are() {
        let clock = SimulatedClock::default();
        let limits = limits(&clock, None, Some(6000));
        clock.run(async {
            for _ in 0..11 {
                drop(limits.turn(Lane::Documents, 600).await);
            }
        });
        assert_eq!(clock.now(), Duration::from_secs(60));
    }

    #[test]
    fn a_query_does_not_wait_for_the_rows() {
        let clock = SimulatedClock::default();
        let limits = limits(&clock, None, None);
        clock.run(async {
            let held = limits.turn(Lane::Documents, 1).await;
            assert!(held.is_some());
            assert!(limits.turn(Lane::Query, 1).await.is_none());
        });
    }
}
