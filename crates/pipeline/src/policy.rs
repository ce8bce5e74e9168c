//! What is decided about errors: one table, of kinds of errors and of what walvec is at when they happen.
//!
//! Every kind of error of PostgreSQL has a row of its own. The errors of the other parts mean the same at any time.

use walvec_capture::{CaptureError, Outlook, Resource};
use walvec_sink::SinkError;

use crate::error::PipelineError;

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Transient: try again with backoff, for ever and visibly.
    Retry,
    /// What has been built upon is gone: begin again from the start, with backoff and visibly.
    Restart,
    /// Definite: stop with the code; only a person can help.
    Stop,
}

/// What walvec is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum During {
    /// The first attempt to follow the source: somebody watches, and what is wrong is said at once.
    FirstStart,
    /// Everything after that: a reconnect, the copy, the stream, rows that are read again for it. It has worked before, and
    /// what passes is waited for.
    Running,
    /// A backfill or a repair, for which somebody waits.
    Job,
}

impl During {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 3] = [Self::FirstStart, Self::Running, Self::Job];
}

/// The decisions of a row, in the order of [`During`].
type Row = [Policy; 3];

/// Only a person can help, at any time.
const LASTS: Row = [Policy::Stop; 3];
/// It passes, at any time: what is in the way is probably our own session, or the application at work.
const PASSES: Row = [Policy::Retry; 3];
/// What was built upon is another table now.
const BEGINS_AGAIN: Row = [Policy::Restart; 3];
/// It passes once it has worked before; at the first start it is probably a mistake in the settings.
const PASSES_LATER: Row = [Policy::Stop, Policy::Retry, Policy::Retry];
/// As before, and nobody waits with a job for a limit to be raised.
const IS_FULL: Row = [Policy::Stop, Policy::Retry, Policy::Stop];

/// The row of an error of the source. No wildcard arm: a new kind of error has to be decided here.
fn row_of(error: &CaptureError) -> Row {
    match error {
        CaptureError::Connect { .. } | CaptureError::OtherTarget { .. } | CaptureError::Standby { .. } => PASSES_LATER,
        CaptureError::NoHost { tried } => best(tried),
        CaptureError::Exhausted { resource, .. } => row_of_resource(*resource),
        CaptureError::SlotBusy { .. }
        | CaptureError::Rewritten { .. }
        | CaptureError::Spool { .. }
        | CaptureError::Closed => PASSES,
        CaptureError::Statement { sqlstate, .. } => match Outlook::of(sqlstate) {
            Outlook::NextSession | Outlook::NextAttempt => PASSES,
            Outlook::Lasts => LASTS,
        },
        CaptureError::Altered { .. } => BEGINS_AGAIN,
        CaptureError::Config { .. }
        | CaptureError::Condition { .. }
        | CaptureError::Setting { .. }
        | CaptureError::ForeignPublication { .. }
        | CaptureError::Owned { .. }
        | CaptureError::Auth { .. }
        | CaptureError::Database { .. }
        | CaptureError::Tls { .. }
        | CaptureError::WalLevel { .. }
        | CaptureError::Rights { .. }
        | CaptureError::Table { .. }
        | CaptureError::NoKey { .. }
        | CaptureError::Publication { .. }
        | CaptureError::SlotMissing { .. }
        | CaptureError::SlotExists { .. }
        | CaptureError::SlotLost { .. }
        | CaptureError::Schema { .. }
        | CaptureError::Encoding { .. }
        | CaptureError::TooLarge { .. }
        | CaptureError::Unsendable { .. }
        | CaptureError::Protocol { .. }
        | CaptureError::Pooler { .. } => LASTS,
    }
}

const fn row_of_resource(resource: Resource) -> Row {
    match resource {
        Resource::ReplicationSlots | Resource::WalSenders | Resource::Connections => IS_FULL,
        Resource::Memory | Resource::Disk => PASSES_LATER,
    }
}

/// What to do where a server is found to have none left of `resource`, before anything is attempted.
pub(crate) const fn of_resource(resource: Resource, during: During) -> Policy {
    row_of_resource(resource)[during as usize]
}

/// Of several hosts that failed, one that may be there later is enough to go on.
fn best(tried: &[CaptureError]) -> Row {
    tried.iter().map(row_of).find(|row| row[During::Running as usize] == Policy::Retry).unwrap_or(LASTS)
}

impl PipelineError {
    /// What to do about it. No wildcard arm: a new kind of error has to be decided here.
    #[must_use]
    pub fn policy(&self, during: During) -> Policy {
        let is_retryable = match self {
            Self::Source(error) => return row_of(error)[during as usize],
            Self::Altered { .. }
            | Self::Resync(_)
            | Self::Behind { .. }
            | Self::Sink { source: SinkError::Missing { .. }, .. } => return Policy::Restart,
            Self::Disowned => true,
            Self::Broker(error) => error.is_retryable(),
            Self::Embed(error) => error.is_retryable(),
            Self::Sink { source, .. } => source.is_retryable(),
            Self::Store(error) => error.is_retryable(),
            Self::Transform { .. } | Self::Refused(_) | Self::TooFast { .. } | Self::Stopped => false,
        };
        if is_retryable { Policy::Retry } else { Policy::Stop }
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
