//! Looks at the server, the catalogue and the collections once a second, concurrently with the stream.
//!
//! A look costs two statements, however many tables there are. A look that fails decides nothing: a server that does
//! not answer causes an error of the stream.
//!
//! - [`tables`]: whether the tables are as they were when their rows were read, and what to do if not
//! - here: the loop, and the publication

mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use walvec_capture::{Blocker, Finding, PublicationIdentity, Shape, Source};
use walvec_model::{Position, Table, TableName};
use walvec_sink::Sink;

use crate::error::PipelineError;
use crate::observe::problems::ProblemGuard;
use crate::observe::status::{Phase, Problem};
use crate::rounds::Rounds;
use crate::shared::Shared;
use crate::source::aside::Fitness;
use crate::source::gap::{self, OnGap};
use crate::source::reread::Jobs;
use crate::state::records::{Baseline, SnapshotState, Stray};
use crate::state::store::Store;
use crate::upkeep::count_points;
use tables::{Known, Reading, Suspicion};
pub(crate) use tables::{follow_replaced, is_any_replaced, is_replaced};

/// The interval between looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long the comparison of tables rests after each run, as a multiple of its own duration: with very many tables it
/// takes a while.
const REST: u32 = 20;

/// How long an answer may take before the known position counts as outdated.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Notes the shapes of the tables before a snapshot is taken of them, and returns the publication's version.
///
/// A change of a table between this note and the snapshot shows up as a difference, and the table is then read once
/// more.
pub(crate) async fn begin(source: &Source, store: &Store) -> Result<String, PipelineError> {
    let publication = source.publication_identity().await?.map(|identity| identity.version);
    // A table that is set aside was followed before. It keeps the shape that it had then.
    let unfollowed = source.unfollowed();
    let shapes = source.shapes_now().await?.into_iter().filter_map(|(table, shape)| Some((table, shape?)));
    let mut shapes: Vec<_> = shapes.filter(|(table, _)| !unfollowed.contains(table)).collect();
    let before = store.baseline()?.unwrap_or_default().shapes;
    shapes.extend(before.into_iter().filter(|(table, _)| unfollowed.contains(table)));
    store.save_baseline(&Baseline { shapes, aside: unfollowed, ..Baseline::default() })?;
    Ok(publication.unwrap_or_default())
}

/// Notes which partitions were added between the note that [`begin`] made and the snapshot, which began at `position`.
/// Their rows are copied or streamed, and may be removed before the next look sees the partition.
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

/// The looks of one session.
pub(crate) struct Watch<'a> {
    source: &'a Source,
    /// The tables as they were when the source was connected.
    tables: &'a [Arc<Table>],
    shared: &'a Shared,
    store: &'a Store,
    /// Gives jobs to the pipeline for tables that have to be read again.
    jobs: Jobs,
    /// The version of the publication that the rows were read with; loaded when the stream is followed.
    as_read: Option<String>,
    /// The publication at the last look.
    publication: Option<PublicationIdentity>,
    /// The shapes that the tables had when their rows were read; loaded when the stream is followed.
    known: Option<Known>,
    /// Tables that were found altered and have not been read again to the end.
    owed: BTreeSet<TableName>,
    /// The tables of [`Baseline::anew`]: those for which nothing counts that is older than the session.
    anew: BTreeSet<TableName>,
    /// The tables of [`Baseline::unproved`]: those that were not published all the time.
    unproved: BTreeSet<TableName>,
    /// The positions as of which altered tables were read whole.
    floors: BTreeMap<TableName, Position>,
    suspicions: BTreeMap<TableName, Suspicion>,
    reading: Option<Reading>,
    /// Whether the status shows tables that are read again.
    shows_readings: bool,
    /// When the tables are looked at next.
    due: Instant,
    /// The shapes of tables whose keys and replica identities were examined.
    examined: Known,
    unfit: ProblemGuard,
    missing: ProblemGuard,
    unread: ProblemGuard,
    waiting: ProblemGuard,
    at_risk: ProblemGuard,
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
        let trouble = || ProblemGuard::new(&shared.telemetry);
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

    /// Looks until the session has to begin again or must not go on, and returns the reason.
    pub(crate) async fn run(mut self, sinks: &[Arc<dyn Sink>]) -> PipelineError {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rounds = Rounds::default();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // Another table may be waiting: compare the tables now instead of at the next look.
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

    /// Shows a problem while PostgreSQL may invalidate the slot before walvec has read it to the end.
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

    /// Fails if the publication may have left changes out since the snapshot began. `before`: the publication at the
    /// last look.
    async fn compare_publication(&mut self, before: Option<PublicationIdentity>) -> Result<(), PipelineError> {
        let as_read = match self.as_read.take() {
            Some(as_read) => as_read,
            // Loaded once: the checkpoint has very many parts where there are very many collections.
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
        // Only a change that was seen to happen between two looks of this session: there is no time for anything else.
        let was_the_same = |before: &PublicationIdentity| before.version == as_read;
        if before.is_some_and(|before| was_the_same(&before) && now.is_handed_over(&before)) {
            let baseline = self.store.baseline()?.unwrap_or_default();
            let publication = Some(now.version.clone());
            tracing::info!("the publication has another owner; nothing else has changed");
            return Ok(self.store.save_baseline(&Baseline { publication, ..baseline })?);
        }
        match self.unpublished_since(&as_read).await {
            // The next session reads the table again, or reports a gap.
            Some(table) => Err(PipelineError::Altered { table }),
            None => Err(gap::found(gap::publication_changed(None), self.on_gap)),
        }
    }

    /// Returns a table that has not been published all the time since `version`; `None` if there is none, or if the
    /// publication has changed in another way too.
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

/// Shows which open transactions the creation of a slot waits for, while it waits.
fn show_blockers(blockers: &[Blocker], trouble: &mut ProblemGuard) {
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
