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
use crate::status::Problem;
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::trouble::Trouble;

/// How often to look whether a table can be followed again: that takes some statements per table.
const INTERVAL: Duration = Duration::from_secs(5);

/// Sets the tables aside that were followed before and cannot be any more. None if gaps are a person's business, or no table would be
/// left.
pub(crate) async fn set_aside(source: Source, store: &Store, on_gap: OnGap) -> Result<Source, PipelineError> {
    let followed = store.baseline()?.unwrap_or_default().shapes;
    if on_gap == OnGap::Stop || followed.is_empty() {
        return Ok(source);
    }
    let mut unfit = source.unfit().await?;
    unfit.retain(|unfit| followed.iter().any(|(table, _)| *table == unfit.table));
    let source = source.setting_aside(unfit);
    if source.follows_nothing() {
        return Ok(source.setting_aside(Vec::new()));
    }
    for Unfit { table, finding } in source.set_aside() {
        let (code, remedy) = (finding.code, finding.remedy.to_string());
        tracing::warn!(%table, code, remedy, "{}", message(table, &finding.message));
    }
    Ok(source)
}

fn message(table: &TableName, reason: &str) -> String {
    format!("table {table} is not followed any more, its points stay as they were: {reason}")
}

/// The tables that are set aside in one session.
pub(crate) struct Aside {
    shown: Vec<(Trouble, Problem)>,
    due: Instant,
}

impl Aside {
    pub(crate) fn new(source: &Source, telemetry: &Telemetry) -> Self {
        let problem = |Unfit { table, finding }: &Unfit| Problem {
            part: "source".to_owned(),
            message: message(table, &finding.message),
            remedy: Some(finding.remedy.to_string()),
            attempts: 1,
        };
        let shown = source.set_aside().iter().map(|unfit| (Trouble::new(telemetry), problem(unfit)));
        Self { shown: shown.collect(), due: Instant::now() + INTERVAL }
    }

    /// Shows why they are not followed. Whatever says that all is well would hide it.
    pub(crate) fn show(&mut self) {
        for (trouble, problem) in self.shown.iter_mut().filter(|(trouble, problem)| !trouble.shows(problem)) {
            trouble.show(problem.clone());
        }
    }

    /// Fails if one of them can be followed again.
    pub(crate) async fn look(&mut self, source: &Source) -> Result<(), PipelineError> {
        if self.shown.is_empty() || Instant::now() < self.due {
            return Ok(());
        }
        self.due = Instant::now() + INTERVAL;
        // A server that cannot be asked shows in the stream.
        let Ok(unfit) = source.unfit().await else { return Ok(()) };
        let is_fit = |aside: &&Unfit| !unfit.iter().any(|unfit| unfit.table == aside.table);
        match source.set_aside().iter().find(is_fit) {
            Some(Unfit { table, .. }) => {
                tracing::info!(%table, "the table can be followed again");
                Err(PipelineError::Altered { table: table.clone() })
            }
            None => Ok(()),
        }
    }
}
