//! Writes changes to topics: the stage `capture`.
//!
//! ```text
//!            snapshot rows, then the stream
//! capture ──────────────────────────────────▶ outlet ──▶ topics
//!    ▲                                          │ segments of records
//!    └──── confirm ◀── checkpoint ◀─────────────┘ acknowledged by the broker, in order
//! ```
//!
//! - [`outlet`]: which topic a change goes to, and which records the broker has acknowledged
//! - [`snapshot`]: the rows that existed before the slot, and the mark at their end
//! - [`stream`]: everything committed since
//! - here: starting, running and stopping the stage

mod outlet;
mod snapshot;
mod stream;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use walvec_broker::BrokerError;
use walvec_broker::kafka::connection::BrokerConnection;
use walvec_broker::kafka::producer::{LARGEST_RECORD, Producer, Sending};
use walvec_broker::kafka::topics::{TopicSpec, Topics};
use walvec_broker::wire::Format;
use walvec_capture::{Source, SourceConfig};
use walvec_model::{Generation, Lsn, RowKey, Table, TableName};

use crate::aside::Fitness;
use crate::checkpoint::Checkpointer;
use crate::error::PipelineError;
use crate::facts::{Before, ConfigDigest, facts};
use crate::gap::{self, OnGap};
use crate::letters::Letters;
use crate::policy::During;
use crate::replay::Replay;
use crate::reread::{Floors, Jobs, Order};
use crate::retry::Retry;
use crate::start::{Slot, Start, decide};
use crate::status::{BrokerStatus, CollectionStatus, Phase, Status};
use crate::store::{Checkpoint, SnapshotState, Store};
use crate::supervisor::{follow_publication, refuse_standby, refuse_what_cannot_work, want_snapshot_after};
use crate::telemetry::Telemetry;
use crate::waits::showing_waits;
use crate::watch::{Leaves, Truncates, Watch};
use crate::writer::Shared;
use outlet::Outlet;

/// How often the status is updated.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// How often the broker is asked how many partitions the topics have.
const PARTITIONS_INTERVAL: Duration = Duration::from_secs(10);

/// How long the last records may take to be sent at the end. A change that was not acknowledged was not confirmed.
const GOODBYE: Duration = Duration::from_secs(5);

/// The settings of a publisher.
#[derive(Clone)]
pub struct PublisherConfig {
    /// The source.
    pub source: SourceConfig,
    /// The digest of the configuration that decides which rows there are. When it changes, the tables are read again.
    pub config_digest: ConfigDigest,
    /// What to do about a gap.
    pub on_gap: OnGap,
    /// The broker.
    pub connection: BrokerConnection,
    /// How records are compressed.
    pub compression: String,
    /// The envelope.
    pub format: Format,
    /// The prefix of the topics' names, which records name as their origin.
    pub prefix: String,
    /// The tables, with the topics that they go to.
    pub topics: Vec<TableTopic>,
    /// The collections that show each table: a row that cannot be written gets a dead letter for each of them.
    pub collections: Vec<(String, TableName)>,
}

/// The topic of a table.
#[derive(Clone, Debug)]
pub struct TableTopic {
    /// The table.
    pub table: TableName,
    /// The topic.
    pub topic: TopicSpec,
}

/// Keeps topics in step with tables.
pub struct Publisher {
    config: PublisherConfig,
    store: Arc<Store>,
    shared: Shared,
    jobs: Jobs,
    orders: mpsc::Receiver<Order>,
    interrupted: Option<Order>,
    during: During,
}

/// One session of the publisher: the state that lives as long as one connection.
struct Session<'a> {
    config: &'a PublisherConfig,
    store: &'a Arc<Store>,
    shared: &'a Shared,
    source: Arc<Source>,
    tables: Vec<Arc<Table>>,
    outlet: Outlet,
    /// Rows whose newest version the topics do not have, because its record is too large.
    too_large: BTreeMap<TableName, HashSet<RowKey>>,
    /// The position from which the stream counts, for tables that were altered.
    floors: Floors,
}

impl Publisher {
    /// Creates a publisher. Connects to nothing yet.
    #[must_use]
    pub fn new(config: PublisherConfig, store: Arc<Store>, letters: Arc<dyn Letters>, stop: CancellationToken) -> Self {
        let statuses = config.collections.iter().map(|(collection, table)| CollectionStatus {
            collection: collection.clone(),
            table: table.to_string(),
            ..CollectionStatus::default()
        });
        let telemetry = Telemetry::new(statuses.collect(), true);
        telemetry.broker(BrokerStatus::default());
        let (jobs, orders) = Jobs::channel();
        Self {
            config,
            store,
            shared: Shared {
                guard: None,
                telemetry,
                letters,
                truncates: Truncates::default(),
                leaves: Leaves::default(),
                stop,
            },
            jobs,
            orders,
            interrupted: None,
            during: During::FirstStart,
        }
    }

    /// Returns a handle that gives backfills to the publisher while it runs.
    #[must_use]
    pub fn jobs(&self) -> Jobs {
        self.jobs.clone()
    }

    /// Returns a receiver of the publisher's status, now and whenever it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.telemetry.subscribe()
    }

    /// Runs until asked to stop or until a definite error.
    ///
    /// The first connections, to the source and to the broker, have to succeed. After that, the publisher waits for a
    /// server that goes away.
    ///
    /// # Errors
    /// The definite error that ended it.
    #[must_use]
    pub fn run(self) -> BoxFuture<'static, Result<(), PipelineError>> {
        // Boxed: a bare future would be compiled in the crate that awaits it, with that crate's optimisation settings.
        Box::pin(self.run_sessions())
    }

    async fn run_sessions(mut self) -> Result<(), PipelineError> {
        let mut retry = Retry::new(&self.shared.telemetry, &self.shared.stop);
        let mut source = Some(self.connect().await?);
        Topics::new(&self.config.connection)?.partitions().await?;
        loop {
            let outcome = match source.take() {
                Some(source) => Box::pin(self.session(source, &mut retry)).await,
                None => match self.connect().await {
                    Ok(source) => Box::pin(self.session(source, &mut retry)).await,
                    Err(error) => Err(error),
                },
            };
            let error = match outcome {
                Ok(()) => return Ok(()),
                Err(PipelineError::Stopped) if self.shared.stop.is_cancelled() => return Ok(()),
                Err(error) => error,
            };
            self.shared.telemetry.phase(Phase::Starting);
            match retry.after(error).await {
                Ok(()) => {}
                Err(PipelineError::Stopped) => return Ok(()),
                Err(definite) => return Err(definite),
            }
        }
    }

    async fn connect(&self) -> Result<Source, PipelineError> {
        let source = Source::connect(self.config.source.clone()).await?;
        Ok(source.spooling_in(self.store.directory()))
    }

    async fn session(&mut self, source: Source, retry: &mut Retry) -> Result<(), PipelineError> {
        let telemetry = self.shared.telemetry.clone();
        telemetry.phase(Phase::Starting);
        let locks = source.lock_watch();
        showing_waits(locks, &telemetry, Box::pin(self.begin(source, retry))).await
    }

    async fn begin(&mut self, source: Source, retry: &mut Retry) -> Result<(), PipelineError> {
        refuse_standby(&source, self.during, &self.store)?;
        let Self { config, store, shared, .. } = self;
        let fitness = Fitness::new(std::iter::empty(), Arc::clone(store), config.on_gap);
        let source = Arc::new(shared.or_stop(fitness.set_aside(source, &shared.telemetry)).await?);
        let outcome = Box::pin(self.follow_tables(&source, fitness.clone(), retry)).await;
        // The broker is not watched until the next session begins.
        self.shared.telemetry.broker_trouble(None);
        let outcome = fitness.judged(&source, outcome).await;
        want_snapshot_after(&outcome, &self.store)?;
        outcome
    }

    async fn follow_tables(
        &mut self,
        source: &Arc<Source>,
        fitness: Fitness,
        retry: &mut Retry,
    ) -> Result<(), PipelineError> {
        let Self { config, store, shared, jobs, orders, interrupted, during } = self;
        let fits = async {
            follow_publication(source, store, config.on_gap).await?;
            refuse_what_cannot_work(source, *during).await
        };
        // The checks that try a row filter or a lookup may have to wait for a lock.
        shared.or_stop(fits).await?;
        *during = During::Running;
        let tables = source.followed_tables().await?;
        let stored = store.checkpoint()?;
        let outlet = shared.or_stop(open_outlet(config, source, stored.as_ref(), &shared.stop)).await?;
        shared.letters.refresh().await?;
        let too_large = snapshot::too_large(config, shared)?;
        let (watched, source) = (tables.clone(), Arc::clone(source));
        let mut session =
            Session { config, store, shared, source, tables, outlet, too_large, floors: Floors::default() };
        session.show_too_large()?;
        let source = Arc::clone(&session.source);
        let watch = Watch::new(&source, &watched, shared, store, jobs.clone(), config.on_gap, fitness);
        let acknowledged = session.outlet.counter();
        let partitions = session.outlet.partitions().clone();
        let outcome = tokio::select! {
            outcome = session.work(stored, retry, orders, interrupted) => outcome,
            error = watch.run(&[]) => Err(error),
            () = report(&shared.telemetry, &*acknowledged) => Ok(()),
            error = repartitioned(config, &partitions) => Err(error),
        };
        session.outlet.flush(GOODBYE).await;
        outcome
    }
}

/// Returns an error when a topic's number of partitions changes. Within minutes, the client library then assigns keys
/// to other partitions.
async fn repartitioned(config: &PublisherConfig, partitions: &BTreeMap<String, i32>) -> PipelineError {
    let mut ticks = tokio::time::interval_at(Instant::now() + PARTITIONS_INTERVAL, PARTITIONS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let topics = match Topics::new(&config.connection) {
        Ok(topics) => topics,
        Err(error) => return error.into(),
    };
    loop {
        ticks.tick().await;
        // A broker that cannot be reached shows up elsewhere.
        let Ok(found) = topics.partitions().await else { continue };
        let other = partitions.iter().find_map(|(topic, before)| {
            let now = *found.get(topic).filter(|now| *now != before)?;
            Some(BrokerError::Repartitioned { topic: topic.clone(), before: *before, now })
        });
        if let Some(error) = other {
            return error.into();
        }
    }
}

/// Creates the topics that are missing and connects to them.
async fn open_outlet(
    config: &PublisherConfig,
    source: &Source,
    stored: Option<&Checkpoint>,
    stop: &CancellationToken,
) -> Result<Outlet, PipelineError> {
    let topics = Topics::new(&config.connection)?;
    let specs: Vec<TopicSpec> = config.topics.iter().map(|topic| topic.topic.clone()).collect();
    let partitions = topics.ensure(&specs).await?;
    let names: Vec<String> = partitions.keys().cloned().collect();
    let largest_record = topics.largest_record(&names).await.unwrap_or(LARGEST_RECORD);
    // Wait without limit for a broker that is away: no other process writes these topics, and nothing is confirmed
    // meanwhile.
    let sending = Sending { compression: config.compression.clone(), largest_record, patience: None };
    let producer = Producer::new(&config.connection, sending)?;
    let written = stored.map(|checkpoint| checkpoint.written.clone()).unwrap_or_default();
    Outlet::open(config, &source.server().database, producer, partitions, written, stop.clone()).await
}

impl Session<'_> {
    async fn work(
        &mut self,
        stored: Option<Checkpoint>,
        retry: &mut Retry,
        orders: &mut mpsc::Receiver<Order>,
        interrupted: &mut Option<Order>,
    ) -> Result<(), PipelineError> {
        let identities = self.outlet.identities();
        let slot = &self.config.source.slot;
        let baseline = self.store.baseline()?;
        let before = Before { checkpoint: stored.as_ref(), baseline: baseline.as_ref() };
        let facts = facts(&self.source, slot, &self.config.config_digest, &self.tables, identities, before).await?;
        let on_gap = self.config.on_gap;
        let mut replay = Replay::default();
        let checkpoint = match decide(stored.as_ref(), &facts, on_gap)? {
            Start::Resume { checkpoint, .. } => {
                self.shared.telemetry.resync(checkpoint.resync.as_ref());
                if let Slot::Ready { confirmed } = facts.slot {
                    replay = Replay::new(confirmed, checkpoint.last_commit);
                }
                self.shared.telemetry.generation(checkpoint.generation);
                self.shared.telemetry.applied(checkpoint.applied);
                *checkpoint
            }
            Start::Snapshot { generation, why, drop_slot, resync } => {
                gap::announce(resync.as_ref(), &self.shared.telemetry);
                let generation = generation.max(generation_of_now());
                tracing::info!(generation = generation.0, "taking a snapshot: {why}");
                let checkpoint = Checkpoint {
                    source: facts.source,
                    generation,
                    snapshot: SnapshotState::Copying,
                    applied: Lsn::ZERO,
                    last_commit: Lsn::ZERO,
                    written_to: None,
                    resync,
                    sweep_waits: false,
                    witnesses: BTreeMap::new(),
                    tables: BTreeMap::new(),
                    publication: String::new(),
                    config_digest: facts.config_digest,
                    digests: Vec::new(),
                    collections: self.outlet.identities_made(),
                    written: BTreeMap::new(),
                };
                self.take_snapshot(checkpoint, drop_slot).await?
            }
        };
        let baseline = self.store.baseline()?.unwrap_or_default();
        self.shared.leaves.begin(&baseline);
        self.floors = Floors::new(baseline.floors);
        let found_in = |error: PipelineError| gap::found_in(error, on_gap);
        let stream = self.source.open_stream().await.map_err(|error| found_in(error.into()))?;
        self.shared.telemetry.phase(Phase::Streaming);
        retry.succeeded();
        tracing::info!(applied = %checkpoint.applied, "following the stream");
        let generation = checkpoint.generation;
        let checkpointer = Checkpointer::open(Arc::clone(self.store), Arc::clone(&self.source), checkpoint)?;
        self.follow(stream, checkpointer, replay, generation, orders, interrupted).await.map_err(found_in)
    }
}

/// Returns a new generation: seconds since 1970.
///
/// Generations distinguish the rows of a snapshot from those of former ones. The state file may be lost, and the topics
/// do not hold the last generation, but the clock is always greater than any former generation.
fn generation_of_now() -> Generation {
    Generation(std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()))
}

async fn report(telemetry: &Telemetry, acknowledged: &(dyn Fn() -> u64 + Send + Sync)) {
    let mut ticks = tokio::time::interval(REPORT_INTERVAL);
    loop {
        ticks.tick().await;
        telemetry.produced(acknowledged());
    }
}
