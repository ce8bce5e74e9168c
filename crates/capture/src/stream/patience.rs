//! How often walvec reports to the server, and how long the server may be silent.

use std::time::Duration;

use crate::CaptureError;
use crate::connect::Replication;

/// The longest interval between two feedback messages to the server.
const MAX_STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// The longest silence of a server that was asked to answer. After it, the server counts as gone unless it is at work, even if
/// TCP believes that the connection is alive. Shorter if the server's own timeout for a silent client is shorter.
const MAX_SILENCE: Duration = Duration::from_secs(60);
/// The shortest silence after which the server is checked.
const MIN_SILENCE: Duration = Duration::from_secs(3);
/// How long both sides wait for each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// How often walvec reports to the server: often enough for `wal_sender_timeout`, which a role or a database may override.
    pub(super) status_interval: Duration,
    /// How long the server may be silent before it is checked.
    pub(super) silence: Duration,
}

impl Patience {
    /// Reads the server's `wal_sender_timeout`.
    pub(super) async fn of(replication: &mut Replication) -> Result<Self, CaptureError> {
        let row = replication.query("SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'").await?;
        let timeout = row.first().cloned().flatten().and_then(|milliseconds| milliseconds.parse().ok()).unwrap_or(0);
        Ok(Self::with(Duration::from_millis(timeout)))
    }

    /// Computes the intervals. A timeout of 0 means that the server waits for ever.
    fn with(timeout: Duration) -> Self {
        if timeout.is_zero() {
            return Self { status_interval: MAX_STATUS_INTERVAL, silence: MAX_SILENCE };
        }
        let status_interval = (timeout / 4).clamp(Duration::from_millis(50), MAX_STATUS_INTERVAL);
        Self { status_interval, silence: timeout.clamp(MIN_SILENCE, MAX_SILENCE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_hears_from_walvec_often_enough_and_is_not_looked_at_before_it_would_look_itself() {
        let seconds = Duration::from_secs;
        for (timeout, interval, silence) in [
            (Duration::ZERO, seconds(10), seconds(60)),
            (Duration::from_millis(100), Duration::from_millis(50), seconds(3)),
            (seconds(4), seconds(1), seconds(4)),
            (seconds(60), seconds(10), seconds(60)),
            (seconds(600), seconds(10), seconds(60)),
        ] {
            let patience = Patience::with(timeout);
            assert_eq!((patience.status_interval, patience.silence), (interval, silence), "{timeout:?}");
        }
    }
}
