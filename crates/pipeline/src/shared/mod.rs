//! What the components of one pipeline share: telemetry, dead letters, the stop request, and notes about the stream.
//!
//! - [`leaves`]: partitions that the stream has brought rows of and that no shape has
//! - [`truncates`]: which transactions of the stream emptied tables

mod leaves;
mod truncates;

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::error::PipelineError;
use crate::observe::telemetry::Telemetry;
use crate::state::dead_letters::DeadLetterStore;
pub(crate) use leaves::Leaves;
pub(crate) use truncates::Truncates;

/// Decides whether this worker may still write, where several could write a collection. Checked right before each
/// write.
pub(crate) trait Fence: Send + Sync {
    /// Fails if another process may write in place of this one.
    fn check(&self) -> BoxFuture<'_, Result<(), PipelineError>>;
}

/// What all writers of a pipeline share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) guard: Option<Arc<dyn Fence>>,
    pub(crate) telemetry: Telemetry,
    pub(crate) letters: Arc<dyn DeadLetterStore>,
    /// The transactions of the stream that emptied tables.
    pub(crate) truncates: Truncates,
    /// The partitions that the stream has brought rows of.
    pub(crate) leaves: Leaves,
    pub(crate) stop: CancellationToken,
}

impl Shared {
    /// Waits for an answer, or for a stop: the component that answers may itself be waiting.
    pub(crate) async fn or_stop<T>(
        &self,
        answer: impl Future<Output = Result<T, PipelineError>>,
    ) -> Result<T, PipelineError> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(PipelineError::Stopped),
            answer = answer => answer,
        }
    }
}

/// Returns the first error, but prefers any other error to [`PipelineError::Stopped`], which says less than its cause.
pub(crate) fn first_error(
    first: Result<(), PipelineError>,
    other: Result<(), PipelineError>,
) -> Result<(), PipelineError> {
    match first {
        Ok(()) => other,
        Err(PipelineError::Stopped) if other.is_err() => other,
        Err(_) => first,
    }
}

#[cfg(test)]
mod tests;
