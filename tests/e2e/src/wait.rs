//! Waits until a condition is true, and never just for a time to pass.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// How long a test waits for anything before it fails: far longer than anything takes on the slowest machine.
pub const LIMIT: Duration = Duration::from_secs(90);

/// The shortest and the longest pause between two checks.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));

/// Calls `look` until it returns something. `what` completes the message "waited in vain until ...".
///
/// The pauses grow with the time waited, because many tests that wait concurrently would otherwise keep a processor
/// busy.
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
