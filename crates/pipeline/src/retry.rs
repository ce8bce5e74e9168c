//! Retries transient errors, visibly.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::PipelineError;
use crate::error::policy::{During, Policy};
use crate::observe::problems::ProblemGuard;
use crate::observe::status::Problem;
use crate::observe::telemetry::Telemetry;

/// The longest pause before jitter, which at most doubles it. So a server that is back is noticed within ten seconds.
const LONGEST: Duration = Duration::from_secs(5);

/// Returns an exponential back-off with jitter, from 100 ms on, without an end.
fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(LONGEST)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Retries transient errors of one part, shows them in the status, and gives up only when asked to stop.
pub(crate) struct Retry {
    trouble: ProblemGuard,
    stop: CancellationToken,
    delays: ExponentialBackoff,
    attempts: u64,
    is_one_of_many: bool,
    during: During,
}

impl Retry {
    pub(crate) fn new(telemetry: &Telemetry, stop: &CancellationToken) -> Self {
        let trouble = ProblemGuard::new(telemetry);
        let (attempts, is_one_of_many, during) = (0, false, During::Running);
        Self { trouble, stop: stop.clone(), delays: backoff(), attempts, is_one_of_many, during }
    }

    /// Creates a retry for a job.
    pub(crate) fn of_job(telemetry: &Telemetry, stop: &CancellationToken) -> Self {
        Self { during: During::Job, ..Self::new(telemetry, stop) }
    }

    /// Creates a retry for a part of a batch. Many parts may have the same problem at the same time; the log shows it
    /// once.
    pub(crate) fn one_of_many(telemetry: &Telemetry, stop: &CancellationToken) -> Self {
        Self { is_one_of_many: true, ..Self::new(telemetry, stop) }
    }

    /// Waits before the next attempt. Returns a definite error at once.
    pub(crate) async fn after(&mut self, error: PipelineError) -> Result<(), PipelineError> {
        if error.policy(self.during) == Policy::Stop {
            return Err(error);
        }
        // Wait no less than the back-off, even if the server allows an earlier request: what a limit lets through at a
        // steady rate is not lost meanwhile.
        let delay = self.delays.next().unwrap_or(LONGEST).max(error.retry_after());
        self.soon(error, delay).await
    }

    /// Waits for `delay`, which the caller has chosen.
    pub(crate) async fn soon(&mut self, error: PipelineError, delay: Duration) -> Result<(), PipelineError> {
        self.attempts += 1;
        if !self.is_one_of_many || !self.trouble.is_anothers(&error.to_string()) {
            tracing::warn!(
                part = error.part(),
                code = error.code(),
                attempt = self.attempts,
                delay_ms = delay.as_millis(),
                remedy = error.remedy(),
                "{error}; trying again"
            );
        }
        self.trouble.show(Problem {
            part: error.part().to_owned(),
            message: error.to_string(),
            remedy: error.remedy(),
            attempts: self.attempts,
        });
        tokio::select! {
            () = tokio::time::sleep(delay) => Ok(()),
            () = self.stop.cancelled() => Err(PipelineError::Stopped),
        }
    }

    /// Forgets past errors after a success.
    pub(crate) fn succeeded(&mut self) {
        if self.attempts > 0 {
            self.attempts = 0;
            self.delays = backoff();
            self.trouble.end();
        }
    }
}

/// Runs `call` until it succeeds or fails with a definite error.
pub(crate) async fn retrying<T, F, Fut>(
    telemetry: &Telemetry,
    stop: &CancellationToken,
    mut call: F,
) -> Result<T, PipelineError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, PipelineError>>,
{
    let mut retry = Retry::new(telemetry, stop);
    loop {
        match call().await {
            Ok(value) => {
                retry.succeeded();
                return Ok(value);
            }
            // Another attempt at the same call would fail in the same way.
            Err(error) if error.policy(During::Running) == Policy::Restart || error.ends_membership() => {
                return Err(error);
            }
            Err(error) => retry.after(error).await?,
        }
    }
}

/// Waits until `due`; for ever if there is no such time.
pub(crate) async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
