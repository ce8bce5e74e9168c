//! Decides what to do about errors: a table of kinds of errors and of the activity during which they happen.
//!
//! Every kind of error of PostgreSQL has a row of its own. For the errors of the other parts, the activity does not
//! matter.

use walvec_capture::{CaptureError, Outlook, Resource};
use walvec_sink::SinkError;

use crate::error::PipelineError;

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Transient: try again with back-off, without end and visibly.
    Retry,
    /// What the session was built upon is gone: begin again from the start, with back-off and visibly.
    Restart,
    /// Definite: stop with the code. Only a person can help.
    Stop,
}

/// The activity during which an error happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum During {
    /// The first attempt to follow the source. A person is watching, so an error is reported at once.
    FirstStart,
    /// Everything after that: a reconnect, the copy, the stream, rows that are read again for it. It has worked before,
    /// so transient errors are waited out.
    Running,
    /// A backfill or a repair, whose user waits for the result.
    Job,
}

impl During {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 3] = [Self::FirstStart, Self::Running, Self::Job];
}

/// The decisions for one kind of error, in the order of [`During`].
type PolicyRow = [Policy; 3];

/// Lasts at any time: only a person can help.
const LASTS: PolicyRow = [Policy::Stop; 3];
/// Passes at any time: the cause is probably our own session, or the application at work.
const PASSES: PolicyRow = [Policy::Retry; 3];
/// Begins again: what the session was built upon is another table now.
const BEGINS_AGAIN: PolicyRow = [Policy::Restart; 3];
/// Passes once it has worked before. At the first start it is probably a mistake in the settings.
const PASSES_LATER: PolicyRow = [Policy::Stop, Policy::Retry, Policy::Retry];
/// Passes while running, but not during a job: its user does not wait for a limit to be raised.
const IS_FULL: PolicyRow = [Policy::Stop, Policy::Retry, Policy::Stop];

/// Returns the row for an error of the source. No wildcard arm: a new kind of error has to be decided here.
fn row_of(error: &CaptureError) -> PolicyRow {
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

const fn row_of_resource(resource: Resource) -> PolicyRow {
    match resource {
        Resource::ReplicationSlots | Resource::WalSenders | Resource::Connections => IS_FULL,
        Resource::Memory | Resource::Disk => PASSES_LATER,
    }
}

/// Returns what to do if the server is found to have no more of `resource`, before anything is attempted.
pub(crate) const fn of_resource(resource: Resource, during: During) -> Policy {
    row_of_resource(resource)[during as usize]
}

/// Returns the row for several hosts that failed: one that may recover is enough to retry.
fn best(tried: &[CaptureError]) -> PolicyRow {
    tried.iter().map(row_of).find(|row| row[During::Running as usize] == Policy::Retry).unwrap_or(LASTS)
}

impl PipelineError {
    /// Returns what to do about the error. No wildcard arm: a new kind of error has to be decided here.
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
