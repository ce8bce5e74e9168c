//! Runs one session after the other: the lifetime of one connection to the source, or of one membership of a group.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::error::PipelineError;
use crate::observe::status::Phase;
use crate::retry::Retry;
use crate::shared::Shared;

/// When the next session begins after an error.
pub(crate) enum NextSession {
    /// After a back-off, if the error is transient.
    BackOff,
    /// After this time.
    In(Duration),
    /// At once: the cause is removed.
    AtOnce,
}

/// What runs in sessions.
pub(crate) trait Sessions {
    /// Returns what the sessions share with the other components.
    fn shared(&self) -> &Shared;

    /// Runs one session, until a stop or an error. `retry` forgets past errors once the session works.
    fn session<'a>(&'a mut self, retry: &'a mut Retry) -> BoxFuture<'a, Result<(), PipelineError>>;

    /// Decides when the next session begins after `error`.
    fn next(&mut self, _error: &PipelineError) -> NextSession {
        NextSession::BackOff
    }
}

/// Runs sessions until a stop, or until a definite error.
///
/// # Errors
/// The definite error.
pub(crate) async fn run(mut sessions: impl Sessions) -> Result<(), PipelineError> {
    let Shared { telemetry, stop, .. } = sessions.shared().clone();
    let mut retry = Retry::new(&telemetry, &stop);
    loop {
        let error = match sessions.session(&mut retry).await {
            Ok(()) => return Ok(()),
            Err(PipelineError::Stopped) if stop.is_cancelled() => return Ok(()),
            Err(error) => error,
        };
        let next = sessions.next(&error);
        let retried = match next {
            NextSession::AtOnce => continue,
            NextSession::In(delay) => {
                telemetry.phase(Phase::Starting);
                retry.soon(error, delay).await
            }
            NextSession::BackOff => {
                telemetry.phase(Phase::Starting);
                retry.after(error).await
            }
        };
        match retried {
            Ok(()) => {}
            Err(PipelineError::Stopped) if stop.is_cancelled() => return Ok(()),
            Err(definite) => return Err(definite),
        }
    }
}

#[cfg(test)]
mod tests;
