//! How often the server hears from walvec, and how long it may be silent itself.

use std::time::Duration;

use crate::CaptureError;
use crate::connect::Replication;

/// How often the server hears from us at least.
const MAX_STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// A server that says nothing for so long, although it is asked to, is gone unless it is at work, whatever TCP believes. It
/// is looked at earlier where the server itself gives up on a silent client earlier,
const MAX_SILENCE: Duration = Duration::from_secs(60);
/// and not before this.
const MIN_SILENCE: Duration = Duration::from_secs(3);
/// How patient both sides are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// How often the server hears from us: often enough for `wal_sender_timeout`, which a role or a database may have for
    /// itself.
    pub(super) status_interval: Duration,
    /// How long the server may be silent before it is looked at.
    pub(super) silence: Duration,
}

impl Patience {
    /// Asks the server for its `wal_sender_timeout`.
    pub(super) async fn of(replication: &mut Replication) -> Result<Self, CaptureError> {
        let row = replication.query("SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'").await?;
        let timeout = row.first().cloned().flatten().and_then(|milliseconds| milliseconds.parse().ok()).unwrap_or(0);
        Ok(Self::with(Duration::from_millis(timeout)))
    }

    /// 0: the server waits for ever.
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
