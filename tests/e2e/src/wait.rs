//! Waiting for something to become true, never for a time to pass.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// How long anything may take before a test fails: far longer than on the slowest machine.
pub const LIMIT: Duration = Duration::from_secs(90);

/// The shortest and the longest time between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));

/// Looks again and again until there is something to see. `what` completes "waited in vain until ...".
///
/// The longer it waits, the longer the pauses: tests that wait side by side would otherwise take a processor for their looks.
///
/// # Errors
/// The first error of `look`, or that [`LIMIT`] has passed.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look().await? {
            return Ok(seen);
        }
        let waited = begun.elapsed();
        if waited > LIMIT {
            bail!("waited in vain until {what}");
        }
        let (shortest, longest) = PAUSES;
        tokio::time::sleep((waited / 16).clamp(shortest, longest)).await;
    }
}
