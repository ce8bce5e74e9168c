//! The slot of a snapshot: prepared before the copy, dropped if it fails.

use std::time::Duration;

use walvec_capture::Source;

use crate::error::PipelineError;
use crate::source::watch;
use crate::state::store::Store;

/// How long PostgreSQL may take to drop a useless slot.
const GOODBYE: Duration = Duration::from_secs(3);

/// Drops the slot of a snapshot that failed: it is useless, and would keep WAL indefinitely. If the server does not
/// answer in time, perhaps because of a lock, the next start drops the slot.
pub(crate) async fn abandon_slot(source: &Source) {
    match tokio::time::timeout(GOODBYE, source.drop_slot()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("the slot of the failed snapshot stays until the next start: {error}"),
        Err(_) => {
            tracing::warn!("the slot of the failed snapshot stays until the next start: PostgreSQL does not answer")
        }
    }
}

/// Prepares the server for a new slot. Returns the version of the publication.
pub(crate) async fn prepare_source(source: &Source, store: &Store, drop_slot: bool) -> Result<String, PipelineError> {
    if drop_slot {
        source.drop_slot().await?;
    }
    source.ensure_publication().await?;
    watch::begin(source, store).await
}
