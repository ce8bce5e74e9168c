//! Looks at the server, the catalogue and the collections once a second, concurrently with the stream.
//!
//! A look costs two statements, however many tables there are. A look that fails decides nothing: a server that does
//! not answer causes an error of the stream.
//!
//! - [`publication`]: whether the publication has left changes out since the rows were read
//! - [`tables`]: whether the tables are as they were when their rows were read, and what to do if not
//! - [`verdict`]: what a difference between two looks at a table means
//! - [`reading`]: a table that is read again
//! - [`notes`]: what is stored of the tables

mod notes;
mod publication;
mod reading;
mod tables;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use walvec_capture::{Blocker, Finding, PublicationIdentity, Source};
use walvec_model::{Position, Table};
use walvec_sink::Sink;

use crate::error::PipelineError;
use crate::observe::problems::ProblemGuard;
use crate::observe::status::{Phase, Problem};
use crate::rounds::Rounds;
use crate::shared::Shared;
use crate::source::aside::Fitness;
use crate::source::gap::OnGap;
use crate::source::reread::Jobs;
use crate::state::records::Baseline;
use crate::state::store::Store;
use crate::upkeep::count_points;
use notes::{KnownShapes, TableNotes};
use reading::Reading;
pub(crate) use tables::{follow_replaced, is_any_replaced, is_replaced};
use verdict::Suspicions;

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
    let found = source.shapes_now().await?;
    let stored = store.baseline()?.unwrap_or_default();
    store.save_baseline(&notes::before_snapshot(found, source.unfollowed(), stored))?;
    Ok(publication.unwrap_or_default())
}

/// Notes which partitions were added between the note that [`begin`] made and the snapshot, which began at `position`.
/// Their rows are copied or streamed, and may be removed before the next look sees the partition.
pub(crate) async fn begun(source: &Source, store: &Store, position: Position) -> Result<(), PipelineError> {
    let baseline = store.baseline()?.unwrap_or_default();
    let strays = notes::copied_strays(&baseline.shapes, &source.shapes_now().await?, position);
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
    store: Arc<Store>,
    /// Gives jobs to the pipeline for tables that have to be read again.
    jobs: Jobs,
    /// The version of the publication that the rows were read with; loaded when the stream is followed.
    as_read: Option<String>,
    /// The publication at the last look.
    publication: Option<PublicationIdentity>,
    /// The shapes that the tables had when their rows were read; loaded when the stream is followed.
    known: Option<KnownShapes>,
    /// The tables to be read again; loaded together with the shapes.
    notes: TableNotes,
    suspicions: Suspicions,
    reading: Option<Reading>,
    /// Whether the status shows tables that are read again.
    shows_readings: bool,
    /// When the tables are looked at next.
    due: Instant,
    /// The shapes of tables whose keys and replica identities were examined.
    examined: KnownShapes,
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
        jobs: Jobs,
        fitness: Fitness,
    ) -> Self {
        let trouble = || ProblemGuard::new(&shared.telemetry);
        let (store, on_gap) = (Arc::clone(fitness.store()), fitness.on_gap());
        Self {
            source,
            tables,
            shared,
            store,
            jobs,
            as_read: None,
            publication: None,
            known: None,
            notes: TableNotes::default(),
            suspicions: Suspicions::default(),
            reading: None,
            shows_readings: true,
            due: Instant::now(),
            examined: KnownShapes::new(),
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
                () = reading::ended(self.reading.as_ref()) => self.due = Instant::now(),
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
        show_risk(look.is_slot_at_risk.then(|| self.source.slot_at_risk()), &mut self.at_risk);
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
                self.due = Instant::now() + rest_after(begun.elapsed());
                Ok(())
            }
            Phase::Snapshot => self.refuse_replaced().await,
            _ => Ok(()),
        }
    }
}

/// Returns how long the comparison of tables rests after it took this long.
fn rest_after(comparison: Duration) -> Duration {
    comparison.saturating_sub(INTERVAL / REST) * REST
}

/// Shows a problem while PostgreSQL may invalidate the slot before walvec has read it to the end.
fn show_risk(risk: Option<Finding>, trouble: &mut ProblemGuard) {
    let Some(Finding { code, message, remedy, .. }) = risk else { return trouble.end() };
    let problem = Problem { part: "source".to_owned(), message, remedy: Some(remedy.to_string()), attempts: 1 };
    if !trouble.shows(&problem) {
        tracing::warn!(code, remedy = problem.remedy, "{}", problem.message);
        trouble.show(problem);
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

#[cfg(test)]
mod tests;
