//! Tables that cannot be followed any more, while the others go on.
//!
//! A table that was followed before is set aside if one of these is true:
//!
//! - it was dropped
//! - it lost its key, or a column that a template needs
//! - it may not be read any more
//! - it was removed from a publication that walvec did not create
//! - PostgreSQL refuses the application's updates because the table is published
//!
//! Its points stay as they were, and the status says why. Once it can be followed again it is read again, because the
//! stream does not bring what happened to it meanwhile. Behind a broker, all tables are read again. A table that was
//! never followed is a mistake in the settings, and is refused.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use walvec_capture::{Finding, Severity, Shape, Source, Subject, Unfit};
use walvec_model::TableName;
use walvec_transform::Transform;

use crate::error::PipelineError;
use crate::observe::status::SetAside;
use crate::observe::telemetry::Telemetry;
use crate::source::gap::OnGap;
use crate::source::preflight::check_columns;
use crate::state::records::Baseline;
use crate::state::store::Store;
use crate::writer::Collection;

/// How often to check whether a table can be followed again. A check takes some statements per table.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long the catalogue may take to answer while the stream goes on: a check that tries a row filter may have to wait
/// for a lock.
const PATIENCE: Duration = Duration::from_secs(10);

/// Decides whether tables can be followed.
#[derive(Clone)]
pub(crate) struct Fitness {
    templates: Vec<Templates>,
    /// The state file, which knows the tables that were followed before, and their shapes.
    store: Arc<Store>,
    on_gap: OnGap,
    due: Instant,
}

/// The templates of a collection, and its table.
#[derive(Clone)]
struct Templates {
    collection: String,
    table: TableName,
    transform: Arc<Transform>,
}

impl Fitness {
    /// Creates the check for `collections`: those whose templates this process renders.
    pub(crate) fn new<'a>(collections: impl Iterator<Item = &'a Collection>, store: Arc<Store>, on_gap: OnGap) -> Self {
        let templates = |Collection { name, table, transform, .. }: &Collection| Templates {
            collection: name.clone(),
            table: table.clone(),
            transform: Arc::clone(transform),
        };
        Self { templates: collections.map(templates).collect(), store, on_gap, due: Instant::now() + INTERVAL }
    }

    /// Returns the state file.
    pub(crate) const fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Returns what to do about a gap.
    pub(crate) const fn on_gap(&self) -> OnGap {
        self.on_gap
    }

    /// Sets aside the tables that were followed before and cannot be any more, and shows them in the status. Sets none
    /// aside if gaps are left to an operator, or if no table would be left.
    pub(crate) async fn set_aside(&self, source: Source, telemetry: &Telemetry) -> Result<Source, PipelineError> {
        source.widen_publication().await?;
        let unfit = match self.unfit(&source).await {
            // A table was dropped between two statements.
            Err(error) if is_about_a_table(&error) => self.unfit(&source).await?,
            unfit => unfit?,
        };
        let source = match goes_on_without(self.on_gap, source.has_others_than(&unfit)) {
            true => source.setting_aside(unfit),
            false => {
                if !unfit.is_empty() {
                    unpublish_what_breaks(&source).await?;
                }
                source
            }
        };
        show(source.set_aside(), telemetry);
        Ok(source)
    }

    /// Returns whether the next session sets `table` aside, or removes it from the publication because PostgreSQL
    /// refuses the application's statements while it is published. `None` if the catalogue does not answer in time.
    pub(crate) async fn is_lost(&self, source: &Source, table: &TableName) -> Option<bool> {
        let alone = source.only(std::slice::from_ref(table));
        let is_lost = async {
            let is_lost =
                alone.breaking().await?.contains(table) || self.leaving(source, &alone).await?.contains(table);
            Ok::<_, PipelineError>(is_lost)
        };
        tokio::time::timeout(PATIENCE, is_lost).await.ok()?.ok()
    }

    /// Returns whether the next session goes on without `table`.
    pub(crate) async fn is_to_be_set_aside(&self, source: &Source, table: &TableName) -> bool {
        self.to_be_set_aside(source, &source.only(std::slice::from_ref(table))).await.contains(table)
    }

    /// Converts the outcome of a session: an error about tables becomes [`PipelineError::Altered`] if the next session
    /// sets a further table aside.
    pub(crate) async fn judged(
        &self,
        source: &Source,
        outcome: Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        match outcome {
            Err(error) if is_about_a_table(&error) => {
                match self.to_be_set_aside(source, source).await.into_iter().next() {
                    Some(table) => Err(PipelineError::Altered { table }),
                    None => Err(error),
                }
            }
            outcome => outcome,
        }
    }

    /// Returns the tables that [`leaving`](Self::leaving) returns; none if the catalogue does not answer in time.
    async fn to_be_set_aside(&self, source: &Source, among: &Source) -> Vec<TableName> {
        let leaving = tokio::time::timeout(PATIENCE, self.leaving(source, among)).await;
        leaving.map(Result::unwrap_or_default).unwrap_or_default()
    }

    /// Returns the tables of `among` that the next session sets aside and that `source` has not set aside.
    async fn leaving(&self, source: &Source, among: &Source) -> Result<Vec<TableName>, PipelineError> {
        let unfit = self.unfit(among).await?;
        if !goes_on_without(self.on_gap, source.has_others_than(&unfit)) {
            return Ok(Vec::new());
        }
        Ok(tables_of(&unfit).filter(|table| !is_among(table, source.set_aside())).cloned().collect())
    }

    /// Fails if a table that is set aside can be followed again. Checks only once per [`INTERVAL`].
    pub(crate) async fn look(&mut self, source: &Source) -> Result<(), PipelineError> {
        if source.set_aside().is_empty() || Instant::now() < self.due {
            return Ok(());
        }
        self.due = Instant::now() + INTERVAL;
        // A server that does not answer causes an error of the stream.
        let tables: Vec<TableName> = tables_of(source.set_aside()).cloned().collect();
        let Ok(Ok(unfit)) = tokio::time::timeout(PATIENCE, self.unfit(&source.only(&tables))).await else {
            return Ok(());
        };
        match tables_of(source.set_aside()).find(|table| !is_among(table, &unfit)) {
            Some(table) => Err(PipelineError::Altered { table: table.clone() }),
            None => Ok(()),
        }
    }

    /// Returns the tables that were followed and cannot be any more.
    async fn unfit(&self, source: &Source) -> Result<Vec<Unfit>, PipelineError> {
        let baseline = self.store.baseline()?.unwrap_or_default();
        let Baseline { shapes: followed, aside, .. } = &baseline;
        if followed.is_empty() {
            return Ok(Vec::new());
        }
        let mut unfit = lost(source.unfit().await?, &baseline, source.set_aside());
        let tables = source.tables_without(&unfit).await?;
        for Templates { collection, table, transform } in &self.templates {
            let Some(found) = tables.iter().find(|found| found.name == *table) else { continue };
            let checked = check_columns(source, collection, transform, found, &tables).await;
            if let Err(error) = checked
                && (aside.contains(table) || has_other_columns(source, table, transform, followed).await?)
            {
                unfit.push(Unfit { table: table.clone(), finding: finding(&error) });
            }
        }
        Ok(unfit)
    }
}

/// Removes tables from walvec's publication for which PostgreSQL refuses the application's statements. walvec stops
/// because of them, and the application must be able to go on.
async fn unpublish_what_breaks(source: &Source) -> Result<(), PipelineError> {
    for table in source.unpublish_what_breaks().await? {
        tracing::warn!(
            %table,
            "the table is taken out of walvec's publication, because PostgreSQL would refuse the application's updates and deletes"
        );
    }
    Ok(())
}

/// Returns whether the columns that the templates use have changed since they were `followed`. Otherwise the templates
/// have changed.
async fn has_other_columns(
    source: &Source,
    table: &TableName,
    transform: &Transform,
    followed: &[(TableName, Shape)],
) -> Result<bool, PipelineError> {
    let mut tables = vec![table.clone()];
    tables.extend(transform.lookups().iter().map(|lookup| lookup.table.clone()));
    let now = source.shapes_of(&tables).await?;
    Ok(tables.iter().zip(&now).any(|(table, now)| has_changed(table, now.as_ref(), followed)))
}

/// Returns whether a table has other columns `now` than when it was `followed`. One that was not followed, or does not
/// exist, has not.
fn has_changed(table: &TableName, now: Option<&Shape>, followed: &[(TableName, Shape)]) -> bool {
    let before = followed.iter().find(|(followed, _)| followed == table);
    before.zip(now).is_some_and(|((_, before), now)| !now.has_same_columns(before))
}

/// Returns those of the tables that were followed and have been lost; the others are mistakes in the settings. A table
/// that was set aside, now or before, is not published any more, so that later changes of it look like a mistake.
fn lost(mut unfit: Vec<Unfit>, baseline: &Baseline, set_aside: &[Unfit]) -> Vec<Unfit> {
    let was_followed = |table: &TableName| baseline.shapes.iter().any(|(followed, _)| followed == table);
    let was_aside = |table: &TableName| is_among(table, set_aside) || baseline.aside.contains(table);
    unfit.retain(|unfit| was_followed(&unfit.table) && (unfit.is_lost() || was_aside(&unfit.table)));
    unfit
}

/// Returns whether walvec goes on without the tables that it cannot follow. `has_others`: whether a table would be left.
const fn goes_on_without(on_gap: OnGap, has_others: bool) -> bool {
    match on_gap {
        OnGap::Resync => has_others,
        OnGap::Stop => false,
    }
}

fn tables_of(unfit: &[Unfit]) -> impl Iterator<Item = &TableName> {
    unfit.iter().map(|unfit| &unfit.table)
}

fn is_among(table: &TableName, unfit: &[Unfit]) -> bool {
    tables_of(unfit).any(|of| of == table)
}

/// Shows in the status and the log which tables are set aside.
fn show(aside: &[Unfit], telemetry: &Telemetry) {
    for Unfit { table, finding } in aside {
        let (code, remedy) = (finding.code, finding.remedy.to_string());
        tracing::warn!(%table, code, remedy, "the table is not followed any more, its points stay as they were: {}", finding.message);
    }
    telemetry.set_aside(|table| {
        let Unfit { finding, .. } = aside.iter().find(|unfit| unfit.table.to_string() == table)?;
        let (code, message) = (finding.code.to_owned(), finding.message.clone());
        Some(SetAside { code, message, remedy: finding.remedy.to_string() })
    });
}

/// Returns whether a single table may be the cause of the error.
pub(crate) fn is_about_a_table(error: &PipelineError) -> bool {
    matches!(error.code(), "E_TABLE" | "E_NO_KEY" | "E_RIGHTS" | "E_SCHEMA")
}

fn finding(error: &PipelineError) -> Finding {
    let remedy = error.remedy().unwrap_or_default().into();
    let (code, message) = (error.code(), error.to_string());
    Finding { severity: Severity::Error, code, message, remedy, subject: Subject::Other }
}

#[cfg(test)]
mod tests;
