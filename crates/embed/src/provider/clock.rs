//! Time, which tests can simulate.

use std::time::Duration;

use tokio::time::Instant;

use crate::BoxFuture;

/// A source of time and pauses.
pub(super) trait Clock: Send + Sync {
    /// Returns the time since some moment before the first call.
    fn now(&self) -> Duration;

    /// Waits for `time`.
    fn sleep(&self, time: Duration) -> BoxFuture<'_, ()>;
}

/// The real time.
pub(super) struct WallClock(Instant);

impl WallClock {
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for WallClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(time))
    }
}

#[cfg(test)]
pub(super) mod simulated {
    //! A clock that advances when nothing else happens.

    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[derive(Default)]
    struct ClockState {
        now: Duration,
        sleepers: Vec<(Duration, Waker)>,
    }

    #[derive(Clone, Default)]
    pub(in super::super) struct SimulatedClock(Arc<Mutex<ClockState>>);

    impl SimulatedClock {
        /// Runs `work` to its end. Whenever `work` waits, the clock advances to the next sleeper.
        pub(in super::super) fn run<T>(&self, work: impl Future<Output = T>) -> T {
            let mut work = std::pin::pin!(work);
            loop {
                if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    return done;
                }
                let mut state = self.0.lock().unwrap();
                let next = state.sleepers.iter().map(|(at, _)| *at).min().expect("it waits for nothing");
                state.now = state.now.max(next);
                let now = state.now;
                let due: Vec<_> = state.sleepers.extract_if(.., |(at, _)| *at <= now).collect();
                drop(state);
                due.into_iter().for_each(|(_, waker)| waker.wake());
            }
        }
    }

    impl Clock for SimulatedClock {
        fn now(&self) -> Duration {
            self.0.lock().unwrap().now
        }

        fn sleep(&self, time: Duration) -> BoxFuture<'_, ()> {
            let until = self.now() + time;
            Box::pin(std::future::poll_fn(move |context| {
                let mut state = self.0.lock().unwrap();
                if state.now >= until {
                    return Poll::Ready(());
                }
                state.sleepers.push((until, context.waker().clone()));
                Poll::Pending
            }))
        }
    }
}
