//! Writes changes to topics: the stage `capture`.
//!
//! ```text
//!            snapshot rows, then the stream
//! capture ──────────────────────────────────▶ outlet ──▶ topics
//!    ▲                                          │ segments of records
//!    └──── confirm ◀── checkpoint ◀─────────────┘ acknowledged by the broker, in order
//! ```
//!
//! - [`topic_writer`]: which topic a change goes to, and which records the broker has acknowledged
//! - [`snapshot`]: the rows that existed before the slot, and the mark at their end
//! - [`stream`]: everything committed since
//! - here: starting, running and stopping the stage

mod snapshot;
mod stream;
mod topic_writer;

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
use walvec_model::{Generation, RowKey, Table, TableName};

use crate::error::PipelineError;
use crate::error::policy::During;
use crate::observe::lock_waits::showing_waits;
use crate::observe::status::{BrokerStatus, CollectionStatus, Phase, Status};
use crate::observe::telemetry::Telemetry;
use crate::port::SourcePort;
use crate::retry::Retry;
use crate::session::{self, Sessions};
use crate::shared::{Leaves, Shared, Truncates};
use crate::source::anew::want_snapshot_after;
use crate::source::aside::Fitness;
use crate::source::facts::{Before, ConfigDigest, Followed, facts};
use crate::source::gap::{self, OnGap};
use crate::source::preflight::{follow_publication, refuse_standby, refuse_what_cannot_work};
use crate::source::replay::Replay;
use crate::source::reread::{Floors, Jobs, QueuedJob};
use crate::source::start::{Slot, Start, decide};
use crate::source::watch::Watch;
use crate::state::checkpoint::Checkpointer;
use crate::state::dead_letters::DeadLetterStore;
use crate::state::records::Checkpoint;
use crate::state::store::Store;
use stream::{PublisherJobs, StreamStart};
use topic_writer::{KnownTopics, TopicWriter};

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
    orders: mpsc::Receiver<QueuedJob>,
    interrupted: Option<QueuedJob>,
    during: During,
    /// The first connection, for the first session.
    connected: Option<Source>,
}

/// One session of the publisher: the state that lives as long as one connection.
struct PublishSession<'a> {
    config: &'a PublisherConfig,
    store: &'a Arc<Store>,
    shared: &'a Shared,
    source: Arc<Source>,
    tables: Vec<Arc<Table>>,
    topic_writer: TopicWriter,
    /// Rows whose newest version the topics do not have, because its record is too large.
    too_large: BTreeMap<TableName, HashSet<RowKey>>,
    /// The position from which the stream counts, for tables that were altered.
    floors: Floors,
}

impl Publisher {
    /// Creates a publisher. Connects to nothing yet.
    #[must_use]
    pub fn new(
        config: PublisherConfig,
        store: Arc<Store>,
        letters: Arc<dyn DeadLetterStore>,
        stop: CancellationToken,
    ) -> Self {
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
            connected: None,
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
        Box::pin(async {
            let connected = Some(self.connect().await?);
            Topics::new(&self.config.connection)?.partitions().await?;
            session::run(Self { connected, ..self }).await
        })
    }

    async fn connect(&self) -> Result<Source, PipelineError> {
        let source = Source::connect(self.config.source.clone()).await?;
        Ok(source.spooling_in(self.store.directory()))
    }

    async fn work_once(&mut self, retry: &mut Retry) -> Result<(), PipelineError> {
        let source = match self.connected.take() {
            Some(source) => source,
            None => self.connect().await?,
        };
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
        let Self { config, store, shared, jobs, orders, interrupted, during, .. } = self;
        let fits = async {
            follow_publication(source, store, config.on_gap).await?;
            refuse_what_cannot_work(source, *during).await
        };
        // The checks that try a row filter or a lookup may have to wait for a lock.
        shared.or_stop(fits).await?;
        *during = During::Running;
        let tables = source.followed_tables().await?;
        let stored = store.checkpoint()?;
        let topic_writer = shared.or_stop(open_outlet(config, source, stored.as_ref(), &shared.stop)).await?;
        shared.letters.refresh().await?;
        let too_large = snapshot::too_large(config, shared)?;
        let (watched, source) = (tables.clone(), Arc::clone(source));
        let mut session = PublishSession {
            config,
            store,
            shared,
            source,
            tables,
            topic_writer,
            too_large,
            floors: Floors::default(),
        };
        session.show_too_large()?;
        let source = Arc::clone(&session.source);
        let watch = Watch::new(&source, &watched, shared, jobs.clone(), fitness);
        let acknowledged = session.topic_writer.counter();
        let partitions = session.topic_writer.partitions().clone();
        let outcome = tokio::select! {
            outcome = session.work(stored, retry, orders, interrupted) => outcome,
            error = watch.run(&[]) => Err(error),
            () = report(&shared.telemetry, &*acknowledged) => Ok(()),
            error = repartitioned(config, &partitions) => Err(error),
        };
        session.topic_writer.flush(GOODBYE).await;
        outcome
    }
}

impl Sessions for Publisher {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn session<'a>(&'a mut self, retry: &'a mut Retry) -> BoxFuture<'a, Result<(), PipelineError>> {
        Box::pin(self.work_once(retry))
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
) -> Result<TopicWriter, PipelineError> {
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
    TopicWriter::open(config, &source.server().database, producer, KnownTopics { partitions, written }, stop.clone())
        .await
}

impl PublishSession<'_> {
    fn port(&self) -> Arc<dyn SourcePort> {
        Arc::<Source>::clone(&self.source)
    }

    async fn work(
        &mut self,
        stored: Option<Checkpoint>,
        retry: &mut Retry,
        orders: &mut mpsc::Receiver<QueuedJob>,
        interrupted: &mut Option<QueuedJob>,
    ) -> Result<(), PipelineError> {
        let identities = self.topic_writer.identities();
        let PublisherConfig { config_digest: config, source: SourceConfig { slot, .. }, .. } = self.config;
        let baseline = self.store.baseline()?;
        let before = Before { checkpoint: stored.as_ref(), baseline: baseline.as_ref() };
        let followed = Followed { slot, config, tables: &self.tables, collections: identities };
        let facts = facts(&self.source, followed, before).await?;
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
                    resync,
                    digests: Vec::new(),
                    collections: self.topic_writer.identities_made(),
                    ..facts.first_checkpoint(generation)
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
        let checkpointer = Checkpointer::open(Arc::clone(self.store), self.port(), checkpoint)?;
        let start = StreamStart { stream: Box::new(stream), checkpointer, replay, generation };
        self.follow(start, PublisherJobs { orders, interrupted }).await.map_err(found_in)
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
