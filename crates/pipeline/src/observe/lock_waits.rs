//! Shows in the status which statements wait for locks on tables, while rows are read.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use walvec_capture::{LockWait, LockWatch};

use crate::observe::problems::ProblemGuard;
use crate::observe::status::{Phase, Problem, Status};
use crate::observe::telemetry::Telemetry;

/// The interval between looks. A wait is shown if two looks in a row find it.
const LOOK: Duration = Duration::from_secs(1);

/// The lag from which the stream may be waiting for a row that cannot be read, in milliseconds.
const LATE_MS: u64 = 2000;

/// Runs `work`, and shows meanwhile which statements wait for each other's locks on tables.
pub(crate) async fn showing_waits<T>(locks: LockWatch, telemetry: &Telemetry, work: impl Future<Output = T>) -> T {
    tokio::select! {
        done = work => done,
        never = show_waits(locks, telemetry) => match never {},
    }
}

/// Shows which statements wait for each other's locks on tables.
async fn show_waits(mut watch: LockWatch, telemetry: &Telemetry) -> Infallible {
    let mut shown = ShownWait { trouble: ProblemGuard::new(telemetry), last: None };
    let status = telemetry.subscribe();
    // A start without lock waits ends before the first look.
    let mut ticks = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let may_wait = may_wait(&status.borrow());
        let waits = if may_wait {
            // A server that does not answer shows up elsewhere.
            watch.look().await.unwrap_or_default()
        } else {
            watch.rest();
            Vec::new()
        };
        shown.found(waits.into_iter().next());
    }
}

/// Returns whether walvec may be waiting for a lock: while it copies rows, or while the stream waits for a row that
/// cannot be read.
fn may_wait(status: &Status) -> bool {
    matches!(status.phase, Phase::Starting | Phase::Snapshot) || status.lag_ms.is_some_and(|lag| lag > LATE_MS)
}

/// The wait that the last look has found, and the problem that shows it.
struct ShownWait {
    trouble: ProblemGuard,
    last: Option<LockWait>,
}

impl ShownWait {
    /// Shows the wait that a look has `found`, if the last one found it too. Shows no other one any more if there is
    /// none.
    fn found(&mut self, found: Option<LockWait>) {
        match &found {
            Some(wait) if found == self.last => self.show(wait),
            Some(_) => {}
            None => self.trouble.end(),
        }
        self.last = found;
    }

    fn show(&mut self, wait: &LockWait) {
        let (message, remedy) = (wait.to_string(), wait.remedy());
        let problem = Problem { part: "source".to_owned(), message, remedy, attempts: 1 };
        if !self.trouble.shows(&problem) {
            tracing::warn!(remedy = problem.remedy, "{}", problem.message);
            self.trouble.show(problem);
        }
    }
}

#[cfg(test)]
mod tests;
