//! Tables that cannot be followed any more, while the others go on.
//!
//! A table that was followed and lost its key, was dropped, may not be read any more, or was taken out of a publication that somebody
//! else has made, is set aside: its points stay as they were, and the status says why. Once it can be followed again, everything is
//! read again, because what happened to it meanwhile never comes. A table that was never followed is a mistake in the settings, and
//! refused.

use std::time::Duration;

use tokio::time::Instant;
use walvec_capture::{Source, Unfit};
use walvec_model::TableName;

use crate::error::PipelineError;
use crate::gap::OnGap;
use crate::status::SetAside;
use crate::store::Store;
use crate::telemetry::Telemetry;

/// How often to look whether a table can be followed again: that takes some statements per table.
const INTERVAL: Duration = Duration::from_secs(5);

/// Sets the tables aside that were followed before and cannot be any more, and shows that in the status. None if gaps are a person's
/// business, or no table would be left.
pub(crate) async fn set_aside(
    source: Source,
    store: &Store,
    on_gap: OnGap,
    telemetry: &Telemetry,
) -> Result<Source, PipelineError> {
    let source = without_unfit(source, store, on_gap).await?;
    for Unfit { table, finding } in source.set_aside() {
        let (code, remedy) = (finding.code, finding.remedy.to_string());
        tracing::warn!(%table, code, remedy, "the table is not followed any more, its points stay as they were: {}", finding.message);
    }
    telemetry.set_aside(|table| {
        let Unfit { finding, .. } = source.set_aside().iter().find(|unfit| unfit.table.to_string() == table)?;
        let (code, message) = (finding.code.to_owned(), finding.message.clone());
        Some(SetAside { code, message, remedy: finding.remedy.to_string() })
    });
    Ok(source)
}

async fn without_unfit(source: Source, store: &Store, on_gap: OnGap) -> Result<Source, PipelineError> {
    let followed = store.baseline()?.unwrap_or_default().shapes;
    if on_gap == OnGap::Stop || followed.is_empty() {
        return Ok(source);
    }
    let mut unfit = source.unfit().await?;
    unfit.retain(|unfit| followed.iter().any(|(table, _)| *table == unfit.table));
    Ok(if source.has_others_than(&unfit) { source.setting_aside(unfit) } else { source })
}

/// Whether the next session goes on without `table`.
pub(crate) async fn is_to_be_set_aside(source: &Source, table: &TableName, on_gap: OnGap) -> bool {
    if on_gap == OnGap::Stop {
        return false;
    }
    let Ok(unfit) = source.unfit().await else { return false };
    unfit.iter().any(|unfit| unfit.table == *table) && source.has_others_than(&unfit)
}

/// Looks now and then whether a table that is set aside can be followed again.
pub(crate) struct Aside {
    due: Instant,
}

impl Aside {
    pub(crate) fn new() -> Self {
        Self { due: Instant::now() + INTERVAL }
    }

    /// Fails if one can be followed again.
    pub(crate) async fn look(&mut self, source: &Source) -> Result<(), PipelineError> {
        if source.set_aside().is_empty() || Instant::now() < self.due {
            return Ok(());
        }
        self.due = Instant::now() + INTERVAL;
        // A server that cannot be asked shows in the stream.
        let Ok(unfit) = source.unfit().await else { return Ok(()) };
        let is_fit = |aside: &&Unfit| !unfit.iter().any(|unfit| unfit.table == aside.table);
        match source.set_aside().iter().find(is_fit) {
            Some(Unfit { table, .. }) => Err(PipelineError::Altered { table: table.clone() }),
            None => Ok(()),
        }
    }
}
