//! The replication slot of a reindex.

use walvec_capture::{Source, SourceConfig};
use walvec_pipeline::{During, PipelineError, Policy};

use super::RETRY_PAUSE;
use crate::assembly::source::source_config;
use crate::config::Config;

/// How often dropping the slot is tried: its last reader may need some seconds to release it.
const DROP_ATTEMPTS: u32 = 10;

/// The longest name of a slot, in bytes.
const SLOT_NAME_BYTES: usize = 63;

/// Returns the source with the slot of the reindex.
pub(super) fn reindex_source(config: &Config) -> SourceConfig {
    const SUFFIX: &str = "_reindex";
    let source = source_config(config);
    let kept = source.slot.len().min(SLOT_NAME_BYTES - SUFFIX.len());
    // Slot names are ASCII.
    SourceConfig { slot: format!("{}{SUFFIX}", &source.slot[..kept]), ..source }
}

/// Returns the slot that a reindex reads.
pub(crate) fn slot(config: &Config) -> String {
    reindex_source(config).slot
}

/// Drops the slot that a reindex has read.
pub(super) async fn drop_slot(config: &Config) -> Result<(), PipelineError> {
    let source = reindex_source(config);
    let mut tried = 0;
    loop {
        let dropped = async { Ok::<_, PipelineError>(Source::connect(source.clone()).await?.drop_slot().await?) };
        tried += 1;
        match dropped.await {
            Err(error) if tried < DROP_ATTEMPTS && error.policy(During::Running) == Policy::Retry => {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            dropped => return dropped,
        }
    }
}
