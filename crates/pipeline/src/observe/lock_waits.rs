//! Shows in the status which statements wait for locks on tables, while rows are read.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use walvec_capture::{LockWait, LockWatch};

use crate::observe::problems::ProblemGuard;
use crate::observe::status::{Phase, Problem};
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
    let (mut shown, mut last) = (ProblemGuard::new(telemetry), None);
    let status = telemetry.subscribe();
    // A start without lock waits ends before the first look.
    let mut ticks = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let is_reading = {
            let status = status.borrow();
            matches!(status.phase, Phase::Starting | Phase::Snapshot) || status.lag_ms.is_some_and(|lag| lag > LATE_MS)
        };
        let waits = if is_reading {
            // A server that does not answer shows up elsewhere.
            watch.look().await.unwrap_or_default()
        } else {
            watch.rest();
            Vec::new()
        };
        let first = waits.into_iter().next();
        match &first {
            Some(wait) if first == last => show(&mut shown, wait),
            Some(_) => {}
            None => shown.end(),
        }
        last = first;
    }
}

fn show(shown: &mut ProblemGuard, wait: &LockWait) {
    let problem = Problem { part: "source".to_owned(), message: wait.to_string(), remedy: wait.remedy(), attempts: 1 };
    if !shown.shows(&problem) {
        tracing::warn!(remedy = problem.remedy, "{}", problem.message);
        shown.show(problem);
    }
}
