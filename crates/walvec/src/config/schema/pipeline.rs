//! How rows are batched on their way from the database to the sink.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

/// How rows are batched on their way from the database to the sink.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PipelineSettings {
    /// The maximum number of rows that are read and rendered together, 1 to 10000. They are embedded and written in parts,
    /// one call of the model for each.
    pub(crate) batch_rows: usize,
    /// How long a row of an unfinished transaction waits for further rows, in milliseconds, 0 to 10000.
    pub(crate) batch_wait_ms: u64,
}

impl PipelineSettings {
    /// From this many rows on, a batch's fixed cost no longer matters, and larger batches only delay the first row.
    const BATCH_ROWS: usize = 256;
    /// Well below what a person notices, and enough to collect the rows of a bulk load.
    const BATCH_WAIT_MS: u64 = 5;

    /// Returns how long a row of an unfinished transaction waits for further rows.
    pub(crate) const fn batch_wait(&self) -> Duration {
        Duration::from_millis(self.batch_wait_ms)
    }
}

impl Default for PipelineSettings {
    fn default() -> Self {
        Self { batch_rows: Self::BATCH_ROWS, batch_wait_ms: Self::BATCH_WAIT_MS }
    }
}
