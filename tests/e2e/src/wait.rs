//! Waiting for something to become true, never for a time to pass.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// How long anything may take before a test fails: far longer than on the slowest machine.
pub const LIMIT: Duration = Duration::from_secs(90);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks again and again until there is something to see. `what` completes "waited in vain until ...".
///
/// # Errors
/// The first error of `look`, or that [`LIMIT`] has passed.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(seen) = look().await? {
            return Ok(seen);
        }
        if Instant::now() > deadline {
            bail!("waited in vain until {what}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}
