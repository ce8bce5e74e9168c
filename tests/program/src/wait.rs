//! Waits until a condition is true, and never just for a time to pass.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// How long a test waits for anything before it fails: far longer than anything takes on the slowest machine.
pub const LIMIT: Duration = Duration::from_secs(90);

/// The pauses between two checks: they grow with the time waited, because many tests that wait concurrently would otherwise keep a
/// processor busy.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    /// The first pause.
    pub shortest: Duration,
    /// No pause is longer.
    pub longest: Duration,
}

impl Pauses {
    /// The pauses of tests, which many processes share the processors with.
    pub const OF_TESTS: Self = Self { shortest: Duration::from_millis(10), longest: Duration::from_millis(100) };

    /// Returns pauses that do not grow.
    #[must_use]
    pub const fn of(pause: Duration) -> Self {
        Self { shortest: pause, longest: pause }
    }
}

/// Calls `look` until it returns something. `what` completes the message "waited in vain until ...".
///
/// # Errors
/// The first error of `look`, or that [`LIMIT`] has passed.
pub async fn until<T>(what: &str, look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    until_with(Pauses::OF_TESTS, what, look).await
}

/// Calls `look` with these pauses until it returns something. `what` completes the message "waited in vain until ...".
///
/// # Errors
/// The first error of `look`, or that [`LIMIT`] has passed.
pub async fn until_with<T>(pauses: Pauses, what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look().await? {
            return Ok(seen);
        }
        let waited = begun.elapsed();
        if waited > LIMIT {
            bail!("waited in vain until {what}");
        }
        tokio::time::sleep((waited / 16).clamp(pauses.shortest, pauses.longest)).await;
    }
}
