//! Compares the tables with what they were when their rows were read, and decides what to do if they differ.
//!
//! | what has changed | what follows |
//! |---|---|
//! | columns or key as the stream shows them, or the table behind the name | a new session begins and reads that table again |
//! | how rows read, or which rows there are, without a change in the stream | that table is read again, concurrently with the stream |
//! | a replica identity | the status shows what does not work with it any more |
//! | anything else | it is noted |
//!
//! Notes survive a restart, so that a change that happened while walvec was not running is found too. The new shape of
//! a table that is read again is noted when the reading is complete. Until then the table is noted as owed. If the
//! session ends first, the next one reads the table, even if the alteration was undone, because some of its rows may
//! have been read in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use walvec_capture::{Alteration, Finding, Severity, Shape, Source};
use walvec_model::{Lsn, Position, Table, TableName};

use super::Watch;
use crate::error::PipelineError;
use crate::observe::status::{Problem, ReadAgain};
use crate::source::reread::{JobSpec, Progress};
use crate::state::records::Baseline;

/// Tables and their shapes.
pub(super) type Known = BTreeMap<TableName, Shape>;

/// The logged reason for reading a table that was owed when the session began.
const BEGUN_BEFORE: &str = "that was begun or decided before";

/// How long to wait after a table could not be read again.
const PAUSE: Duration = Duration::from_secs(30);

/// How long the examination of keys and replica identities may take: it may have to wait for a lock.
const EXAMINATION: Duration = Duration::from_secs(10);

/// A table whose partitions were added, truncated or rewritten. What that means depends on what the stream still has to
/// bring: a TRUNCATE of the whole table that caused it, or rows of an added partition.
pub(super) struct Suspicion {
    /// The shape that the table was found with.
    shape: Shape,
    /// The position that the stream has to reach: by then it has brought everything that caused the change.
    until: Option<Lsn>,
}

/// A table that is being read again.
pub(super) struct Reading {
    table: TableName,
    /// The shape that the table had when the reading began, to be noted at the end.
    shape: Shape,
    /// The server's position at that look, if the table is read whole.
    from: Option<Lsn>,
    /// The tables whose rows depend on it, each with the partitions to read. The last one is being read.
    todo: Vec<(TableName, Option<Vec<u32>>)>,
    /// The position as of which the first of them was read whole.
    since: Option<Position>,
    progress: Option<watch::Receiver<Progress>>,
    /// When to try again, if the table could not be read.
    again: Option<Instant>,
}

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

/// Waits until a table has been read again.
pub(super) async fn ended(reading: Option<&Reading>) {
    let progress = reading.filter(|reading| reading.again.is_none()).and_then(|reading| reading.progress.clone());
    let Some(mut progress) = progress else { return std::future::pending().await };
    if progress.wait_for(|progress| progress.ended.is_some()).await.is_err() {
        // The job was dropped together with its pipeline.
        std::future::pending().await
    }
}

enum Verdict {
    /// Note the new shape: the stream brings everything.
    Completion,
    /// Wait: it cannot be decided yet.
    Wait,
    /// Read rows again: those of these partitions, or all.
    Read { partitions: Option<Vec<u32>>, why: &'static str },
}

impl Watch<'_> {
    /// Compares all tables with what they were when their rows were read.
    pub(super) async fn compare_tables(&mut self, flushed: Lsn) -> Result<(), PipelineError> {
        let Ok(found) = self.source.shapes_now().await else { return Ok(()) };
        let mut known = match self.known.take() {
            Some(known) => known,
            None => {
                let Baseline { owed, anew, unproved, .. } = self.store.baseline()?.unwrap_or_default();
                self.owed = owed.union(&anew).cloned().collect();
                (self.anew, self.unproved) = (anew, unproved);
                self.noted()?
            }
        };
        let mut is_noted = !self.read_on(&mut known);
        let mut missing = None;
        let unfollowed = self.source.unfollowed();
        for (table, shape) in found {
            let (is_followed, is_owed) = (!unfollowed.contains(&table), self.owed.contains(&table));
            let Some(shape) = shape else {
                missing = missing.or(is_followed.then_some(table));
                continue;
            };
            if !is_followed {
                // Other tables look up rows in it, and have to be read again.
                if is_owed {
                    self.begin(table, shape, None, flushed, BEGUN_BEFORE);
                }
                continue;
            }
            let is_due = is_owed || self.shared.leaves.is_any_gone(&table, &shape, flushed);
            let Some(before) = known.get(&table).filter(|before| **before != shape || is_due) else {
                if !known.contains_key(&table) {
                    is_noted = false;
                    self.know(&mut known, table, shape);
                }
                continue;
            };
            if self.reading.as_ref().is_some_and(|reading| reading.table == table) {
                continue;
            }
            match self.judge(&table, before, &shape, flushed).await? {
                Verdict::Completion if is_owed => {
                    self.begin(table, shape, None, flushed, BEGUN_BEFORE);
                }
                Verdict::Completion => {
                    self.know(&mut known, table, shape);
                    is_noted = false;
                }
                Verdict::Wait => {}
                Verdict::Read { partitions, why } => {
                    if self.owed.insert(table.clone()) {
                        self.note(&known)?;
                    }
                    // A table that is owed has to be read whole.
                    self.begin(table, shape, partitions.filter(|_| !is_owed), flushed, why);
                }
            }
        }
        is_noted &= !self.read_on(&mut known);
        if let Some(table) = &missing
            && self.fitness.is_to_be_set_aside(self.source, table).await
        {
            return Err(PipelineError::Altered { table: table.clone() });
        }
        self.show_missing(missing);
        if !is_noted {
            self.note(&known)?;
        }
        self.known = Some(known);
        Ok(())
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
        if self.shared.leaves.is_any_gone(table, now, flushed) {
            return Ok(Verdict::Read { partitions: None, why: "a partition has come and gone" });
        }
        let xids = match now.since(before) {
            None => return Ok(Verdict::Completion),
            // `refuse_altered` has failed for this already.
            Some(Alteration::Replaced) => return Ok(Verdict::Wait),
            Some(Alteration::Rows { why }) => return Ok(Verdict::Read { partitions: None, why }),
            Some(Alteration::Partitions(_)) => Vec::new(),
            Some(Alteration::Storage { xids }) => xids,
        };
        let Some(until) = self.brought(table, now, flushed) else { return Ok(Verdict::Wait) };
        Ok(self.judge_partitions(table, &xids, (before, now), until))
    }

    /// Decides about partitions that were added, or were given new storage by the transactions `xids`. The stream has
    /// brought everything up to `until`, and the shape has not changed since.
    fn judge_partitions(
        &self,
        table: &TableName,
        xids: &[u32],
        (before, now): (&Shape, &Shape),
        until: Lsn,
    ) -> Verdict {
        if !self.shared.truncates.explain(table, xids) {
            return Verdict::Read { partitions: None, why: "a partition was truncated or rewritten" };
        }
        if self.shared.leaves.is_any_emptied(table, now, until) {
            return Verdict::Read {
                partitions: None,
                why: "a partition may have been filled and emptied before it was seen",
            };
        }
        match now.added_since(before) {
            added if added.is_empty() => Verdict::Completion,
            added => Verdict::Read { partitions: Some(added), why: "partitions were attached or created" },
        }
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
        let found = |tables: &[Arc<Table>]| tables.iter().find(|found| found.name == *table).cloned();
        if found(&tables) == found(self.tables) {
            return Ok(());
        }
        Err(PipelineError::Altered { table: table.clone() })
    }

    /// Returns the position up to which the stream has brought everything that made the table what it is now; `None` if
    /// it has not come so far.
    fn brought(&mut self, table: &TableName, now: &Shape, flushed: Lsn) -> Option<Lsn> {
        let suspicion = self.suspicions.get_mut(table).filter(|suspicion| suspicion.shape == *now);
        let Some(suspicion) = suspicion else {
            // By the next look, everything committed so far is flushed on the server, and will be streamed.
            self.suspicions.insert(table.clone(), Suspicion { shape: now.clone(), until: None });
            return None;
        };
        let until = *suspicion.until.get_or_insert(flushed);
        (self.shared.telemetry.subscribe().borrow().applied_lsn >= until).then_some(until)
    }

    /// Begins to read a table again, or some of its partitions. The server was at `flushed` before the look that found
    /// it.
    fn begin(&mut self, table: TableName, shape: Shape, partitions: Option<Vec<u32>>, flushed: Lsn, why: &'static str) {
        if self.reading.is_some() {
            return;
        }
        tracing::info!(%table, "rows are read again: {why}");
        // A table that looks up rows in this one is read whole: any of its rows may be affected.
        let part = |main: &TableName| partitions.clone().filter(|_| *main == table);
        let todo = self.source.dependents(&table).into_iter().map(|main| (main.clone(), part(&main))).collect();
        let from = partitions.is_none().then_some(flushed);
        self.reading = Some(Reading { table, shape, from, todo, since: None, progress: None, again: None });
    }

    /// Advances the reading of the table that is read again. Returns whether it is done and its shape is in `known`.
    fn read_on(&mut self, known: &mut Known) -> bool {
        let Some(reading) = &mut self.reading else { return false };
        if let Some(again) = reading.again {
            if again <= Instant::now() {
                self.reading = None;
            }
            return false;
        }
        let ended = reading.progress.as_ref().and_then(|progress| progress.borrow().ended.clone());
        match ended {
            None if reading.progress.is_some() => return false,
            None => {}
            Some(Ok(())) => {
                reading.todo.pop();
                let superseded = reading.progress.take().and_then(|progress| progress.borrow().superseded.clone());
                reading.since = reading.since.or(superseded.as_ref().map(|(_, position)| *position));
                self.floors.extend(superseded);
            }
            Some(Err(ended)) => {
                let message = format!("table {} could not be read again: {}", reading.table, ended.message);
                tracing::warn!(code = ended.code, "{message}; it is tried again");
                self.unread.show(Problem { part: "source".to_owned(), message, remedy: ended.remedy, attempts: 1 });
                reading.again = Some(Instant::now() + PAUSE);
                return false;
            }
        }
        let Some((table, partitions)) = reading.todo.last().cloned() else {
            let Some(Reading { table, shape, from, since, .. }) = self.reading.take() else { return false };
            if let Some(from) = from {
                self.shared.leaves.read(&table, from);
            }
            self.owed.remove(&table);
            self.unproved.remove(&table);
            if self.anew.remove(&table)
                && let Some(since) = since
            {
                // Older changes of a table that is only looked up are passed over too.
                self.floors.entry(table.clone()).or_insert(since);
            }
            // A table that is set aside keeps its noted shape, which shows whether it can be followed again.
            if !self.source.unfollowed().contains(&table) {
                self.know(known, table, shape);
            }
            self.unread.end();
            return true;
        };
        // There is no room while another job waits. The next look gives the job then.
        let may_sweep_most = !self.unproved.contains(&reading.table);
        reading.progress = self.jobs.give(JobSpec::Altered { table, partitions, may_sweep_most }).ok();
        false
    }

    /// Shows what does not work any more with the present keys and replica identities.
    async fn examine(&mut self, table: &TableName, now: &Shape) {
        if self.examined.get(table) == Some(now) {
            return;
        }
        let Ok(Ok(findings)) = tokio::time::timeout(EXAMINATION, self.source.preflight()).await else { return };
        self.examined.insert(table.clone(), now.clone());
        let is_error = |finding: &Finding| finding.severity == Severity::Error && !finding.code.starts_with("E_SLOT_");
        let Some(finding) = findings.into_iter().find(is_error) else { return self.unfit.end() };
        let (message, remedy) = (finding.message, Some(finding.remedy.to_string()));
        tracing::warn!(code = finding.code, remedy, "{message}");
        self.unfit.show(Problem { part: "source".to_owned(), message, remedy, attempts: 1 });
    }

    /// Shows which tables are read again, and how far each has come.
    pub(super) fn show_readings(&mut self) {
        let is_reading = !self.owed.is_empty() || self.reading.is_some();
        if !(is_reading || std::mem::replace(&mut self.shows_readings, is_reading)) {
            return;
        }
        self.shows_readings = is_reading;
        let (table, progress) = match &self.reading {
            Some(Reading { todo, progress, .. }) => (todo.last().map(|(table, _)| table), progress.as_ref()),
            None => (None, None),
        };
        let is_waiting = |table: &TableName| self.owed.iter().any(|owed| self.source.dependents(owed).contains(table));
        let how_far = |name: &str| {
            let is_named = |table: &&TableName| table.to_string() == name;
            if table.filter(is_named).is_some() {
                let Progress { rows, rows_estimated, .. } =
                    progress.map(|now| now.borrow().clone()).unwrap_or_default();
                return Some(ReadAgain { rows, rows_estimated });
            }
            let table = self.tables.iter().map(|table| &table.name).find(is_named)?;
            is_waiting(table).then(ReadAgain::default)
        };
        self.shared.telemetry.read_again(how_far);
    }

    fn show_missing(&mut self, table: Option<TableName>) {
        let Some(table) = table else { return self.missing.end() };
        let message = format!("table {table} does not exist any more; its points stay as they were");
        let remedy = Some("create the table again, or remove its collection from the configuration".to_owned());
        self.missing.show(Problem { part: "source".to_owned(), message, remedy, attempts: 1 });
    }

    /// Records `shape` as the one that the table had when its rows were read.
    fn know(&self, known: &mut Known, table: TableName, shape: Shape) {
        self.shared.leaves.know(&table, &shape);
        known.insert(table, shape);
    }

    fn noted(&self) -> Result<Known, PipelineError> {
        Ok(self.store.baseline()?.unwrap_or_default().shapes.into_iter().collect())
    }

    fn note(&mut self, known: &Known) -> Result<(), PipelineError> {
        let stored = self.store.baseline()?.unwrap_or_default();
        let mut floors: BTreeMap<TableName, Position> = stored.floors.iter().cloned().collect();
        floors.append(&mut self.floors);
        let shapes = known.iter().map(|(table, shape)| (table.clone(), shape.clone())).collect();
        let (floors, owed) = (floors.into_iter().collect(), self.owed.clone());
        let (anew, unproved) = (self.anew.clone(), self.unproved.clone());
        let strays = self.shared.leaves.strays();
        Ok(self.store.save_baseline(&Baseline { shapes, floors, owed, anew, unproved, strays, ..stored })?)
    }
}
