//! How much is asked at the same time, and how much in a minute.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::clock::Clock;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Rows, of which there may be many: so many requests at the same time, and no more.
    Documents,
    /// A person who waits: not behind the rows.
    Query,
}

/// What a configuration allows.
pub(super) struct Limits {
    clock: Arc<dyn Clock>,
    concurrency: usize,
    permits: Semaphore,
    requests: Option<Pace>,
    tokens: Option<Pace>,
}

impl Limits {
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
            requests: requests_per_minute.map(Pace::new),
            tokens: tokens_per_minute.map(Pace::new),
        }
    }

    pub(super) const fn concurrency(&self) -> usize {
        self.concurrency
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    /// Waits until a request of so many tokens may be sent. It is under way for as long as the permit is held.
    pub(super) async fn turn(&self, lane: Lane, tokens: u64) -> Option<SemaphorePermit<'_>> {
        let permit = match lane {
            // Nobody closes it.
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

/// So much per minute, evenly: each taker waits for what those before it have taken. Nothing is saved up while nobody takes,
/// because providers look at seconds, too.
struct Pace {
    per_minute: u64,
    /// When the next one may go.
    next: Mutex<Duration>,
}

impl Pace {
    const fn new(per_minute: u64) -> Self {
        Self { per_minute, next: Mutex::new(Duration::ZERO) }
    }

    /// When so much may be sent.
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

    fn limits(clock: &SimulatedClock, requests_per_minute: Option<u64>, tokens_per_minute: Option<u64>) -> Limits {
        Limits::new(Arc::new(clock.clone()), 1, requests_per_minute, tokens_per_minute)
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
