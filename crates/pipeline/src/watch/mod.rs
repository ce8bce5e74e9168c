//! Looks at the server, the catalogue and the collections once a second, beside the stream.
//!
//! A look costs two statements, however many tables there are. One that fails decides nothing: a server that cannot be asked shows in
//! the stream.
//!
//! - [`tables`]: whether the tables are what they were when their rows were read, and what to do if not
//! - [`leaves`]: which partitions the stream has brought rows of that no look has found
//! - [`truncates`]: which transactions of the stream emptied tables
//! - here: the loop, and the publication

mod leaves;
mod tables;
mod truncates;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use walvec_capture::{Blocker, Finding, PublicationIdentity, Shape, Source};
use walvec_model::{Position, Table, TableName};
use walvec_sink::Sink;

use crate::aside::Fitness;
use crate::error::PipelineError;
use crate::gap::{self, OnGap};
use crate::reread::Jobs;
use crate::rounds::Rounds;
use crate::status::{Phase, Problem};
use crate::store::{Baseline, SnapshotState, Store};
use crate::supervisor::count_points;
use crate::trouble::Trouble;
use crate::writer::Shared;
pub(crate) use leaves::{Leaves, Stray};
use tables::{Known, Reading, Suspicion};
pub(crate) use tables::{follow_replaced, is_any_replaced, is_replaced};
pub(crate) use truncates::Truncates;

/// How often to look.
const INTERVAL: Duration = Duration::from_secs(1);

/// What the catalogue is asked about very many tables takes a while: it is left alone for this many times as long.
const REST: u32 = 20;

/// How long an answer may take before what is known counts as old.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Notes what the tables are before a snapshot is taken of them, and returns the publication's version.
///
/// What happens to a table after this note and before the snapshot is seen as a difference, and means reading it once more.
pub(crate) async fn begin(source: &Source, store: &Store) -> Result<String, PipelineError> {
    let publication = source.publication_identity().await?.map(|identity| identity.version);
    // A table that is set aside is no less one that was followed, and is what it was then.
    let unfollowed = source.unfollowed();
    let shapes = source.shapes_now().await?.into_iter().filter_map(|(table, shape)| Some((table, shape?)));
    let mut shapes: Vec<_> = shapes.filter(|(table, _)| !unfollowed.contains(table)).collect();
    let before = store.baseline()?.unwrap_or_default().shapes;
    shapes.extend(before.into_iter().filter(|(table, _)| unfollowed.contains(table)));
    store.save_baseline(&Baseline { shapes, aside: unfollowed, ..Baseline::default() })?;
    Ok(publication.unwrap_or_default())
}

/// Notes which partitions have come between the note that [`begin`] made and the snapshot, which was begun at `position`. Their rows
/// are copied or streamed, and what removes them may do so before they are seen again.
pub(crate) async fn begun(source: &Source, store: &Store, position: Position) -> Result<(), PipelineError> {
    let baseline = store.baseline()?.unwrap_or_default();
    let now = source.shapes_now().await?;
    let now = |table: &TableName| now.iter().find(|(found, _)| found == table).and_then(|(_, shape)| shape.as_ref());
    let strays = |(table, before): &(TableName, Shape)| {
        let added = now(table)?.added_since(before);
        let strays: BTreeMap<u32, Stray> = added.into_iter().map(|leaf| (leaf, Stray::copied(position))).collect();
        (!strays.is_empty()).then(|| (table.clone(), strays))
    };
    let strays: Vec<_> = baseline.shapes.iter().filter_map(strays).collect();
    if !strays.is_empty() {
        store.save_baseline(&Baseline { strays, ..baseline })?;
    }
    Ok(())
}

/// What one session looks at.
pub(crate) struct Watch<'a> {
    source: &'a Source,
    /// The tables as they were when the source was connected.
    tables: &'a [Arc<Table>],
    shared: &'a Shared,
    store: &'a Store,
    /// Takes the tables that have to be read again.
    jobs: Jobs,
    /// The version of the publication as of which the rows were read; loaded when the stream is followed.
    as_read: Option<String>,
    /// The publication at the last look.
    publication: Option<PublicationIdentity>,
    /// What the tables were when their rows were read; loaded when the stream is followed.
    known: Option<Known>,
    /// Tables that were found altered and have not been read again to the end.
    owed: BTreeSet<TableName>,
    /// Those of which nothing counts from before the session: see [`Baseline::anew`].
    anew: BTreeSet<TableName>,
    /// See [`Baseline::unproved`].
    unproved: BTreeSet<TableName>,
    /// As of which position altered tables were read whole.
    floors: BTreeMap<TableName, Position>,
    suspicions: BTreeMap<TableName, Suspicion>,
    reading: Option<Reading>,
    /// Whether the status shows tables that are read again.
    shows_readings: bool,
    /// When the tables are looked at next.
    due: Instant,
    /// Tables whose keys and identities were examined as they are now.
    examined: Known,
    unfit: Trouble,
    missing: Trouble,
    unread: Trouble,
    waiting: Trouble,
    at_risk: Trouble,
    fitness: Fitness,
    on_gap: OnGap,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(
        source: &'a Source,
        tables: &'a [Arc<Table>],
        shared: &'a Shared,
        store: &'a Store,
        jobs: Jobs,
        on_gap: OnGap,
        fitness: Fitness,
    ) -> Self {
        let trouble = || Trouble::new(&shared.telemetry);
        Self {
            source,
            tables,
            shared,
            store,
            jobs,
            as_read: None,
            publication: None,
            known: None,
            owed: BTreeSet::new(),
            anew: BTreeSet::new(),
            unproved: BTreeSet::new(),
            floors: BTreeMap::new(),
            suspicions: BTreeMap::new(),
            reading: None,
            shows_readings: true,
            due: Instant::now(),
            examined: Known::new(),
            unfit: trouble(),
            missing: trouble(),
            unread: trouble(),
            waiting: trouble(),
            at_risk: trouble(),
            fitness,
            on_gap,
        }
    }

    /// Looks until the session has to begin again, or must not go on.
    pub(crate) async fn run(mut self, sinks: &[Arc<dyn Sink>]) -> PipelineError {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rounds = Rounds::default();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // The next one need not wait for the next look.
                () = tables::ended(self.reading.as_ref()) => self.due = Instant::now(),
            }
            show_blockers(&self.source.waiting_for(), &mut self.waiting);
            if let Err(gone) = count_points(sinks, rounds.turn(sinks.len()), &self.shared.telemetry).await {
                return gone;
            }
            if let Err(error) = self.look().await {
                return error;
            }
        }
    }

    async fn look(&mut self) -> Result<(), PipelineError> {
        let Ok(Ok(look)) = tokio::time::timeout(ANSWER_LIMIT, self.source.look()).await else {
            self.shared.telemetry.unobserved();
            return Ok(());
        };
        self.shared.telemetry.observed(look.position.flushed, look.position.retained_wal_bytes);
        self.show_risk(look.is_slot_at_risk);
        let before = std::mem::replace(&mut self.publication, look.publication);
        let phase = self.shared.telemetry.subscribe().borrow().phase;
        match phase {
            Phase::Streaming => {
                self.compare_publication(before).await?;
                self.fitness.look(self.source).await?;
                let begun = Instant::now();
                if self.due > begun {
                    return Ok(());
                }
                self.compare_tables(look.position.flushed).await?;
                self.show_readings();
                self.due = Instant::now() + begun.elapsed().saturating_sub(INTERVAL / REST) * REST;
                Ok(())
            }
            Phase::Snapshot => self.refuse_replaced().await,
            _ => Ok(()),
        }
    }

    /// Shows that the slot may be lost before walvec has come to its end.
    fn show_risk(&mut self, is_at_risk: bool) {
        if !is_at_risk {
            return self.at_risk.end();
        }
        let Finding { code, message, remedy, .. } = self.source.slot_at_risk();
        let problem = Problem { part: "source".to_owned(), message, remedy: Some(remedy.to_string()), attempts: 1 };
        if !self.at_risk.shows(&problem) {
            tracing::warn!(code, remedy = problem.remedy, "{}", problem.message);
            self.at_risk.show(problem);
        }
    }

    /// Fails if the publication may have left changes out since the snapshot began. `before`: what it was at the last look.
    async fn compare_publication(&mut self, before: Option<PublicationIdentity>) -> Result<(), PipelineError> {
        let as_read = match self.as_read.take() {
            Some(as_read) => as_read,
            // It has very many parts where there are very many collections.
            None => match self.store.checkpoint()?.filter(|stored| stored.snapshot == SnapshotState::Done) {
                Some(checkpoint) => checkpoint.publication,
                None => return Ok(()),
            },
        };
        let Some(now) = &self.publication else {
            let called = self.source.publication_called(&as_read).await.ok().flatten();
            return Err(gap::found(gap::publication_changed(called.as_deref()), self.on_gap));
        };
        if now.version == as_read {
            self.as_read = Some(as_read);
            return Ok(());
        }
        // Between two looks of one session there is no time for more than that.
        let was_the_same = |before: &PublicationIdentity| before.version == as_read;
        if before.is_some_and(|before| was_the_same(&before) && now.is_handed_over(&before)) {
            let baseline = self.store.baseline()?.unwrap_or_default();
            let publication = Some(now.version.clone());
            tracing::info!("the publication has another owner; nothing else has changed");
            return Ok(self.store.save_baseline(&Baseline { publication, ..baseline })?);
        }
        match self.unpublished_since(&as_read).await {
            // The next session reads it anew, or says that it is a gap.
            Some(table) => Err(PipelineError::Altered { table }),
            None => Err(gap::found(gap::publication_changed(None), self.on_gap)),
        }
    }

    /// The table that was not published all the time since that version, if there is one and the publication is otherwise as it was.
    async fn unpublished_since(&self, version: &str) -> Option<TableName> {
        let now = self.publication.as_ref().filter(|_| self.on_gap == OnGap::Resync)?;
        if !PublicationIdentity::differ_in_tables_only(version, &now.version) {
            return None;
        }
        let entries = self.source.publication_entries().await.ok()?;
        let is_new = |table: &TableName| !PublicationIdentity::lists(version, entries.get(table));
        self.tables.iter().map(|table| table.name.clone()).find(is_new)
    }
}

/// Shows which open transactions the creation of a slot waits for, as long as it does.
fn show_blockers(blockers: &[Blocker], trouble: &mut Trouble) {
    if blockers.is_empty() {
        return trouble.end();
    }
    let list = |of: fn(&Blocker) -> String| blockers.iter().map(of).collect::<Vec<_>>().join("; ");
    let message = format!(
        "the rows are read once PostgreSQL has created a replication slot, and that waits for open transactions: {}",
        list(Blocker::to_string)
    );
    let remedy = Some(list(Blocker::remedy));
    trouble.show(Problem { part: "source".to_owned(), message, remedy, attempts: 1 });
}
