//! Compares the tables with what they were when their rows were read, and decides what to do if they differ.
//!
//! | what has changed | what follows |
//! |---|---|
//! | columns or key as the stream shows them, or the table behind the name | a new session begins and reads that table again |
//! | how rows read, or which rows there are, without a change in the stream | that table is read again, concurrently with the stream |
//! | a replica identity | the status shows what does not work with it any more |
//! | anything else | it is noted |

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use walvec_capture::{Alteration, Finding, Severity, Shape, Source};
use walvec_model::{Lsn, Table, TableName};

use super::Watch;
use super::notes::{KnownShapes, TableNotes};
use super::reading::{Reading, ReadingStep};
use super::verdict::{StreamEvidence, TableLook, TableStep, Verdict};
use crate::error::PipelineError;
use crate::observe::status::{Problem, ReadAgain};
use crate::shared::Shared;
use crate::source::reread::{Ended, JobSpec, Progress};

/// How long the examination of keys and replica identities may take: it may have to wait for a lock.
const EXAMINATION: Duration = Duration::from_secs(10);

/// Makes walvec's own publication publish the tables that have the configured names now. If the publication is not
/// walvec's own, the next session reports what to do.
pub(crate) async fn follow_replaced(source: &Source) -> Result<(), PipelineError> {
    if source.mend_publication().await? {
        tracing::info!("another table has the name of one that was read; the publication publishes that one now");
    }
    Ok(())
}

/// Returns whether another table has the name of a table whose rows were read.
pub(crate) fn is_any_replaced(known: &[(TableName, Shape)], now: &[(TableName, Option<Shape>)]) -> bool {
    let before = |table: &TableName| known.iter().find(|(name, _)| name == table).map(|(_, shape)| shape);
    let is_other = |table: &TableName, now: &Shape| before(table).is_some_and(|before| is_replaced(before, now));
    now.iter().any(|(table, now)| now.as_ref().is_some_and(|now| is_other(table, now)))
}

/// Returns whether the name belongs to another table than before.
pub(crate) fn is_replaced(before: &Shape, now: &Shape) -> bool {
    now.since(before) == Some(Alteration::Replaced)
}

impl Watch<'_> {
    /// Compares all tables with what they were when their rows were read.
    pub(super) async fn compare_tables(&mut self, flushed: Lsn) -> Result<(), PipelineError> {
        let Ok(found) = self.source.shapes_now().await else { return Ok(()) };
        let mut known = match self.known.take() {
            Some(known) => known,
            None => {
                self.notes = TableNotes::stored(&self.store.baseline()?.unwrap_or_default());
                self.noted()?
            }
        };
        let mut is_noted = !self.read_on(&mut known);
        let mut missing = None;
        let unfollowed = self.source.unfollowed();
        for (table, shape) in found {
            let look = TableLook {
                before: known.get(&table),
                now: shape.as_ref(),
                is_followed: !unfollowed.contains(&table),
                is_owed: self.notes.owed.contains(&table),
                has_lost_partition: shape
                    .as_ref()
                    .is_some_and(|shape| self.shared.leaves.is_any_gone(&table, shape, flushed)),
                is_being_read: self.reading.as_ref().is_some_and(|reading| reading.table == table),
            };
            is_noted &= match (look.step(), shape) {
                (TableStep::Skip, _) => true,
                (TableStep::Missing, _) | (_, None) => {
                    missing = missing.or(Some(table));
                    true
                }
                (TableStep::Know, Some(shape)) => {
                    self.know(&mut known, table, shape);
                    false
                }
                (TableStep::ReadOwed, Some(shape)) => {
                    self.follow(Verdict::Completion.of_owed(), &mut known, (table, shape), flushed)?
                }
                (TableStep::Judge, Some(shape)) => {
                    let verdict = self.judge(&table, &known[&table], &shape, flushed).await?;
                    self.follow(verdict, &mut known, (table, shape), flushed)?
                }
            };
        }
        is_noted &= !self.read_on(&mut known);
        self.show_missing(missing).await?;
        if !is_noted {
            self.note(&known)?;
        }
        self.known = Some(known);
        Ok(())
    }

    /// Does what a verdict says. Returns false if something has to be noted.
    fn follow(
        &mut self,
        verdict: Verdict,
        known: &mut KnownShapes,
        (table, shape): (TableName, Shape),
        flushed: Lsn,
    ) -> Result<bool, PipelineError> {
        match verdict {
            Verdict::Completion => self.know(known, table, shape),
            Verdict::Wait => return Ok(true),
            Verdict::Read { partitions, why } => {
                if self.notes.owed.insert(table.clone()) {
                    self.note(known)?;
                }
                self.begin((table, shape), partitions, flushed, why);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Fails if a table was altered so that its snapshot is useless. Every other difference is compared when the
    /// snapshot is complete.
    pub(super) async fn refuse_replaced(&mut self) -> Result<(), PipelineError> {
        let Ok(found) = self.source.shapes_now().await else { return Ok(()) };
        let (known, unfollowed) = (self.noted()?, self.source.unfollowed());
        for (table, shape) in found.into_iter().filter(|(table, _)| !unfollowed.contains(table)) {
            if let (Some(before), Some(shape)) = (known.get(&table), shape)
                && *before != shape
            {
                self.refuse_altered(&table, before, &shape).await?;
            }
        }
        Ok(())
    }

    async fn judge(
        &mut self,
        table: &TableName,
        before: &Shape,
        now: &Shape,
        flushed: Lsn,
    ) -> Result<Verdict, PipelineError> {
        self.refuse_altered(table, before, now).await?;
        if !(now.has_same_identity(before) && now.has_same_columns(before)) {
            self.examine(table, now).await;
            match self.fitness.is_lost(self.source, table).await {
                Some(true) => return Err(PipelineError::Altered { table: table.clone() }),
                Some(false) => {}
                // No answer: the next look asks again.
                None => return Ok(Verdict::Wait),
            }
        }
        let Shared { truncates, leaves, telemetry, .. } = self.shared;
        let applied = telemetry.subscribe().borrow().applied_lsn;
        let evidence = StreamEvidence { truncates, leaves, flushed, applied };
        let verdict = self.suspicions.judge(table, (before, now), evidence);
        Ok(if self.notes.owed.contains(table) { verdict.of_owed() } else { verdict })
    }

    /// Fails if the stream shows the table with other columns or another key from now on.
    async fn refuse_altered(&self, table: &TableName, before: &Shape, now: &Shape) -> Result<(), PipelineError> {
        if is_replaced(before, now) {
            follow_replaced(self.source).await?;
            return Err(PipelineError::Altered { table: table.clone() });
        }
        if now.has_same_columns(before) && now.has_same_identity(before) {
            return Ok(());
        }
        let tables = match self.source.followed_tables().await {
            Ok(tables) => tables,
            Err(_) if self.fitness.is_to_be_set_aside(self.source, table).await => {
                return Err(PipelineError::Altered { table: table.clone() });
            }
            // `examine` has shown the problem. The stream will not go on with this table.
            Err(_) => return Ok(()),
        };
        if is_same_in(table, &tables, self.tables) {
            return Ok(());
        }
        Err(PipelineError::Altered { table: table.clone() })
    }

    /// Begins to read a table again, or some of its partitions, unless another one is being read. The server was at
    /// `flushed` before the look that found it.
    fn begin(
        &mut self,
        (table, shape): (TableName, Shape),
        partitions: Option<Vec<u32>>,
        flushed: Lsn,
        why: &'static str,
    ) {
        if self.reading.is_some() {
            return;
        }
        tracing::info!(%table, "rows are read again: {why}");
        let dependents = self.source.dependents(&table);
        self.reading = Some(Reading::of(table, shape, partitions.as_deref(), dependents, flushed));
    }

    /// Advances the reading of the table that is read again. Returns whether it is done and its shape is in `known`.
    fn read_on(&mut self, known: &mut KnownShapes) -> bool {
        let Some(reading) = &mut self.reading else { return false };
        match reading.step(Instant::now(), &mut self.notes.floors) {
            ReadingStep::Wait => {}
            ReadingStep::Forget => self.reading = None,
            ReadingStep::Failed(ended) => {
                let problem = unread(&reading.table, ended);
                self.unread.show(problem);
            }
            ReadingStep::Give((table, partitions)) => {
                let may_sweep_most = !self.notes.unproved.contains(&reading.table);
                // There is no room while another job waits. The next look gives the job then.
                reading.given(self.jobs.give(JobSpec::Altered { table, partitions, may_sweep_most }).ok());
            }
            ReadingStep::Done => {
                self.complete(known);
                return true;
            }
        }
        false
    }

    /// Notes that a table has been read again to the end.
    fn complete(&mut self, known: &mut KnownShapes) {
        let Some(Reading { table, shape, from, since, .. }) = self.reading.take() else { return };
        if let Some(from) = from {
            self.shared.leaves.read(&table, from);
        }
        self.notes.complete(&table, since);
        // A table that is set aside keeps its noted shape, which shows whether it can be followed again.
        if !self.source.unfollowed().contains(&table) {
            self.know(known, table, shape);
        }
        self.unread.end();
    }

    /// Shows what does not work any more with the present keys and replica identities.
    async fn examine(&mut self, table: &TableName, now: &Shape) {
        if self.examined.get(table) == Some(now) {
            return;
        }
        let Ok(Ok(findings)) = tokio::time::timeout(EXAMINATION, self.source.preflight()).await else { return };
        self.examined.insert(table.clone(), now.clone());
        let Some(finding) = first_error(findings) else { return self.unfit.end() };
        let (message, remedy) = (finding.message, Some(finding.remedy.to_string()));
        tracing::warn!(code = finding.code, remedy, "{message}");
        self.unfit.show(Problem { part: "source".to_owned(), message, remedy, attempts: 1 });
    }

    /// Shows which tables are read again, and how far each has come.
    pub(super) fn show_readings(&mut self) {
        let is_reading = !self.notes.owed.is_empty() || self.reading.is_some();
        if !(is_reading || std::mem::replace(&mut self.shows_readings, is_reading)) {
            return;
        }
        self.shows_readings = is_reading;
        let dependents: BTreeSet<TableName> =
            self.notes.owed.iter().flat_map(|owed| self.source.dependents(owed)).collect();
        let followed = self.tables.iter().map(|table| &table.name);
        let waiting: BTreeSet<String> =
            followed.filter(|table| dependents.contains(table)).map(ToString::to_string).collect();
        self.shared.telemetry.read_again(|name| how_far(self.reading.as_ref(), &waiting, name));
    }

    /// Shows that a followed table is missing. Fails if the next session sets it aside.
    async fn show_missing(&mut self, table: Option<TableName>) -> Result<(), PipelineError> {
        let Some(table) = table else {
            self.missing.end();
            return Ok(());
        };
        if self.fitness.is_to_be_set_aside(self.source, &table).await {
            return Err(PipelineError::Altered { table });
        }
        let message = format!("table {table} does not exist any more; its points stay as they were");
        let remedy = Some("create the table again, or remove its collection from the configuration".to_owned());
        self.missing.show(Problem { part: "source".to_owned(), message, remedy, attempts: 1 });
        Ok(())
    }

    /// Records `shape` as the one that the table had when its rows were read.
    fn know(&self, known: &mut KnownShapes, table: TableName, shape: Shape) {
        self.shared.leaves.know(&table, &shape);
        known.insert(table, shape);
    }

    fn noted(&self) -> Result<KnownShapes, PipelineError> {
        Ok(self.store.baseline()?.unwrap_or_default().shapes.into_iter().collect())
    }

    fn note(&mut self, known: &KnownShapes) -> Result<(), PipelineError> {
        let stored = self.store.baseline()?.unwrap_or_default();
        let strays = self.shared.leaves.strays();
        Ok(self.store.save_baseline(&self.notes.merged_into(stored, known, strays))?)
    }
}

/// Returns whether the stream shows a table in the same way as `before`.
fn is_same_in(table: &TableName, now: &[Arc<Table>], before: &[Arc<Table>]) -> bool {
    let found = |tables: &[Arc<Table>]| tables.iter().find(|found| found.name == *table).cloned();
    found(now) == found(before)
}

/// Returns the first error that a pipeline that follows the stream has to show. It reads the slot, so it knows more
/// about it.
fn first_error(findings: Vec<Finding>) -> Option<Finding> {
    let is_error = |finding: &Finding| finding.severity == Severity::Error && !finding.code.starts_with("E_SLOT_");
    findings.into_iter().find(is_error)
}

/// Returns the problem of a table that could not be read again, and logs it.
fn unread(table: &TableName, Ended { code, message, remedy }: Ended) -> Problem {
    let message = format!("table {table} could not be read again: {message}");
    tracing::warn!(code, "{message}; it is tried again");
    Problem { part: "source".to_owned(), message, remedy, attempts: 1 }
}

/// Returns how far the table with this name has been read again; `None` if it is neither read nor `waiting`.
fn how_far(reading: Option<&Reading>, waiting: &BTreeSet<String>, name: &str) -> Option<ReadAgain> {
    if let Some((Some(table), Progress { rows, rows_estimated, .. })) = reading.map(Reading::shown)
        && table.to_string() == name
    {
        return Some(ReadAgain { rows, rows_estimated });
    }
    waiting.contains(name).then(ReadAgain::default)
}

#[cfg(test)]
mod tests;
