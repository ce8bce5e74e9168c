//! Starts, runs and stops the pipeline.
//!
//! Shutdown, in order: stop reading the slot → write the oldest batch in flight, and every other part whose vectors
//! have arrived by then → store the checkpoint → report the position to the slot → close. A change that was not written
//! was not confirmed, so the pipeline can stop at any moment without loss.
//!
//! - [`begin`]: continues the stream, or takes a snapshot first
//! - [`snapshot`]: copies the rows that existed before the slot, as one generation
//! - [`follow`]: follows the stream, transaction by transaction
//! - [`pending`]: changes that were read and have not begun yet
//! - [`jobs`]: jobs that run concurrently with the stream
//! - [`looks`]: looks at the collections while the stream is followed

mod begin;
mod follow;
mod jobs;
mod looks;
mod pending;
mod snapshot;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use walvec_capture::{CaptureError, Source, SourceConfig};
use walvec_model::Generation;
use walvec_sink::{CollectionId, SinkError};

use crate::error::PipelineError;
use crate::error::policy::During;
use crate::observe::lock_waits::showing_waits;
use crate::observe::status::{CollectionStatus, Phase, Status};
use crate::observe::telemetry::Telemetry;
use crate::retry::Retry;
use crate::rounds::answers;
use crate::sequencer::PipelineCollections;
use crate::session::{self, Sessions};
use crate::shared::{Fence, Leaves, Shared, Truncates};
use crate::source::anew::{self, CollectionFacts, want_snapshot_after};
use crate::source::aside::Fitness;
use crate::source::facts::{Before, ConfigDigest, Followed, facts};
use crate::source::gap::{HeldPoints, OnGap};
use crate::source::owner::Owner;
use crate::source::preflight::{check_columns, follow_publication, refuse_standby, refuse_what_cannot_work};
use crate::source::reread::{Jobs, QueuedJob};
use crate::source::start::Facts;
use crate::source::watch::Watch;
use crate::state::dead_letters::DeadLetterStore;
use crate::state::store::Store;
use crate::upkeep::maintain;
use crate::writer::{Collection, Writer};
use begin::work;

/// The settings of a pipeline, in addition to its collections.
pub struct PipelineConfig {
    /// The source.
    pub source: SourceConfig,
    /// Rows per batch.
    pub batch_rows: usize,
    /// How long rows of an unfinished transaction may wait for more rows to join their batch.
    pub batch_wait: Duration,
    /// The digest of the configuration that decides rows and payloads. When it changes, tables are read again.
    pub config_digest: ConfigDigest,
    /// What to do about a gap.
    pub on_gap: OnGap,
    /// Whether this pipeline sets the gauges. A pipeline that fills collections concurrently with another one (a
    /// reindex) does not.
    pub reports: bool,
}

/// Keeps collections in step with their tables.
pub struct Pipeline {
    config: PipelineConfig,
    run: Run,
    jobs: Jobs,
    during: During,
    /// The first connection, for the first session.
    connected: Option<Source>,
}

/// The parts of a pipeline that live as long as it does.
pub(crate) struct Run {
    pub(crate) shared: Shared,
    pub(crate) store: Arc<Store>,
    pub(crate) collections: PipelineCollections,
    pub(crate) batch_rows: usize,
    pub(crate) batch_wait: Duration,
    pub(crate) on_gap: OnGap,
    owner: Arc<Owner>,
    /// Shows points that wait for an operator's decision.
    pub(crate) held: Option<HeldPoints>,
    /// Jobs to do concurrently with the stream.
    pub(crate) orders: mpsc::Receiver<QueuedJob>,
    /// The job that was running when the stream failed.
    pub(crate) interrupted: Option<QueuedJob>,
}

impl Run {
    pub(crate) fn begin_generation(&mut self, generation: Generation) {
        self.shared.telemetry.generation(generation);
        self.collections.begin_generation(generation);
    }
}

impl Pipeline {
    /// Creates a pipeline. Connects to nothing yet.
    ///
    /// # Errors
    /// If the state file cannot be read.
    pub fn new(
        config: PipelineConfig,
        collections: Vec<Collection>,
        store: Arc<Store>,
        stop: CancellationToken,
    ) -> Result<Self, PipelineError> {
        let statuses = collections.iter().map(|collection| CollectionStatus {
            collection: collection.name.clone(),
            table: collection.table.to_string(),
            ..CollectionStatus::default()
        });
        let telemetry = Telemetry::new(statuses.collect(), config.reports);
        let letters: Arc<dyn DeadLetterStore> = Arc::<Store>::clone(&store);
        let owner = Arc::new(Owner::default());
        let guard: Arc<dyn Fence> = Arc::<Owner>::clone(&owner);
        let (truncates, leaves) = (Truncates::default(), Leaves::default());
        let shared = Shared { guard: Some(guard), telemetry, letters, truncates, leaves, stop };
        let writers = collections
            .into_iter()
            .enumerate()
            .map(|(index, collection)| Writer::new(index, collection, shared.clone()))
            .collect::<Result<Vec<Writer>, _>>()?;
        let (batch_rows, batch_wait) = (config.batch_rows, config.batch_wait);
        let (jobs, orders) = Jobs::channel();
        let run = Run {
            shared,
            store,
            collections: PipelineCollections::new(writers),
            batch_rows,
            batch_wait,
            on_gap: config.on_gap,
            owner,
            held: None,
            orders,
            interrupted: None,
        };
        Ok(Self { config, run, jobs, during: During::FirstStart, connected: None })
    }

    /// Continues the counters from the status of a pipeline that wrote the same collections before.
    #[must_use]
    pub fn counting_on(self, before: &Status) -> Self {
        self.run.shared.telemetry.count_on(before);
        self
    }

    /// Returns a handle that gives jobs to the pipeline while it runs.
    #[must_use]
    pub fn jobs(&self) -> Jobs {
        self.jobs.clone()
    }

    /// Returns a receiver of the pipeline's status, now and whenever it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.run.shared.telemetry.subscribe()
    }

    /// Runs until asked to stop or until a definite error.
    ///
    /// The first connection has to succeed, so that a wrong URL or password is reported at once. After that, the
    /// pipeline waits for a source that goes away.
    ///
    /// # Errors
    /// The definite error that ended it.
    #[must_use]
    pub fn run(self) -> BoxFuture<'static, Result<(), PipelineError>> {
        // Boxed: a bare future would be compiled in the crate that awaits it, with that crate's optimisation settings.
        Box::pin(async {
            let connected = Some(self.connect().await?);
            session::run(Self { connected, ..self }).await
        })
    }

    async fn connect(&self) -> Result<Source, PipelineError> {
        let source = Source::connect(self.config.source.clone()).await?;
        Ok(source.spooling_in(self.run.store.directory()))
    }

    /// Runs one session, the lifetime of one connection: takes a snapshot if one is needed, then follows the stream.
    async fn work_once(&mut self, retry: &mut Retry) -> Result<(), PipelineError> {
        let source = match self.connected.take() {
            Some(source) => source,
            None => self.connect().await?,
        };
        let telemetry = self.run.shared.telemetry.clone();
        telemetry.phase(Phase::Starting);
        let locks = source.lock_watch();
        showing_waits(locks, &telemetry, Box::pin(self.begin(source, retry))).await
    }

    async fn begin(&mut self, source: Source, retry: &mut Retry) -> Result<(), PipelineError> {
        refuse_standby(&source, self.during, &self.run.store)?;
        let shared = self.run.shared.clone();
        let collections = self.run.collections.writers.iter().map(|writer| &writer.collection);
        let fitness = Fitness::new(collections, Arc::clone(&self.run.store), self.run.on_gap);
        let source = Arc::new(shared.or_stop(fitness.set_aside(source, &shared.telemetry)).await?);
        self.run.collections.set_aside(source.unfollowed());
        let outcome = Box::pin(self.follow_tables(&source, fitness.clone(), retry)).await;
        self.run.owner.set(None);
        let outcome = fitness.judged(&source, outcome).await;
        self.want_after(&outcome)?;
        outcome
    }

    async fn follow_tables(
        &mut self,
        source: &Arc<Source>,
        fitness: Fitness,
        retry: &mut Retry,
    ) -> Result<(), PipelineError> {
        let shared = self.run.shared.clone();
        let facts = shared.or_stop(self.prepare(source)).await?;
        let run = &mut self.run;
        let stored = run.store.checkpoint()?;
        let tables = run.collections.tables().to_vec();
        let sinks = run.collections.sinks();
        let telemetry = run.shared.telemetry.clone();
        let watch = Watch::new(source, &tables, &shared, self.jobs.clone(), fitness);
        let work = work(run, source, stored, facts, retry);
        tokio::select! {
            outcome = work => outcome,
            error = watch.run(&sinks) => Err(error),
            () = maintain(&sinks, telemetry.subscribe()) => Ok(()),
        }
    }

    /// Stores what the next session has to read again because of the error that ended this one.
    fn want_after(&self, outcome: &Result<(), PipelineError>) -> Result<(), PipelineError> {
        let store = &self.run.store;
        match outcome {
            Err(PipelineError::Altered { table } | PipelineError::Source(CaptureError::Altered { table, .. }))
                if self.reads_tables_one_by_one()? =>
            {
                anew::owe(store, table)
            }
            // The next session finds out which collection was replaced.
            Err(PipelineError::Sink { source: SinkError::Missing { .. }, .. }) if self.reads_tables_one_by_one()? => {
                Ok(())
            }
            outcome => want_snapshot_after(outcome, store),
        }
    }

    /// Returns whether the stored checkpoint has a digest for each table. Checkpoints of earlier versions of walvec do
    /// not.
    fn reads_tables_one_by_one(&self) -> Result<bool, PipelineError> {
        Ok(self.run.store.checkpoint()?.is_some_and(|checkpoint| !checkpoint.digests.is_empty()))
    }

    /// Makes sure that the tables can be followed and that the collections exist.
    async fn prepare(&mut self, source: &Source) -> Result<Facts, PipelineError> {
        let run = &mut self.run;
        follow_publication(source, &run.store, run.on_gap).await?;
        refuse_what_cannot_work(source, self.during).await?;
        self.during = During::Running;
        run.collections.found(source.followed_tables().await?);
        for table in run.collections.tables() {
            for index in run.collections.writers_of(&table.name) {
                let Collection { name, transform, .. } = &run.collections.writers[index].collection;
                check_columns(source, name, transform, table, run.collections.tables()).await?;
            }
        }
        let (stored, baseline) = (run.store.checkpoint()?, run.store.baseline()?);
        let known = stored.as_ref().map(|checkpoint| checkpoint.collections.clone()).unwrap_or_default();
        let (mut collections, mut shown) = (BTreeMap::new(), BTreeMap::new());
        let mut shared = Vec::new();
        let prepared =
            answers(run.collections.writers.iter().map(|writer| prepared(writer, &known).boxed()).collect()).await?;
        for (writer, (CollectionId(id), is_empty)) in run.collections.writers.iter().zip(prepared) {
            let name = writer.collection.name.clone();
            if writer.collection.sink.is_shared() {
                shared.push((name.clone(), id.clone()));
            }
            let table = writer.collection.table.clone();
            if !run.collections.is_aside(&table) {
                shown.insert(name.clone(), CollectionFacts { table, is_empty });
            }
            collections.insert(name, id);
        }
        if !shared.is_empty() {
            run.owner.set(Some(source.own(&shared).await?));
        }
        let before = Before { checkpoint: stored.as_ref(), baseline: baseline.as_ref() };
        let PipelineConfig { config_digest: config, source: SourceConfig { slot, .. }, .. } = &self.config;
        let followed = Followed { slot, config, tables: run.collections.tables(), collections };
        Ok(Facts { shown, ..facts(source, followed, before).await? })
    }
}

/// Creates the collection if it does not exist. Returns its id, and whether it is empty and not the `known` collection.
async fn prepared(writer: &Writer, known: &BTreeMap<String, String>) -> Result<(CollectionId, bool), PipelineError> {
    let id = writer.prepare().await?;
    let is_empty = known.get(&writer.collection.name) != Some(&id.0) && writer.is_empty().await?;
    Ok((id, is_empty))
}

impl Sessions for Pipeline {
    fn shared(&self) -> &Shared {
        &self.run.shared
    }

    fn session<'a>(&'a mut self, retry: &'a mut Retry) -> BoxFuture<'a, Result<(), PipelineError>> {
        Box::pin(self.work_once(retry))
    }
}
