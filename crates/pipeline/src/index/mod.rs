//! Moves records from topics into collections: the stages `index`, `embed` and `sink`, with any number of workers.
//!
//! ```text
//! topic ──▶ consumer ──▶ intake ──▶ sink
//!              ▲          decode, batch, (render, embed,) write
//!              │                     │
//!              └── commit offsets ◀──┘ durable
//! ```
//!
//! - [`worker`]: the loop of one worker: records, assigned and revoked partitions, offsets
//! - [`changes`]: records of changed rows, for `index` and `embed`
//! - [`points`]: records of vectors, for `sink`
//! - [`points_topic`]: a topic as the sink of the stage `embed`
//! - [`held`]: records that have to wait until the group has read the other partitions so far
//! - [`fence`]: whether this worker may still write
//! - here: starting, running and stopping a worker

mod changes;
mod fence;
mod held;
mod points;
pub mod points_topic;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use walvec_broker::BrokerError;
use walvec_broker::kafka::connection::BrokerConnection;
use walvec_broker::kafka::consumer::{Consumer, GroupSharing, Membership};
use walvec_broker::kafka::topics::Topics;
use walvec_broker::wire::Format;
use walvec_capture::SourceConfig;
use walvec_model::{Fingerprint, TableName};
use walvec_sink::{CollectionId, Sink};

use crate::error::PipelineError;
use crate::observe::status::{BrokerStatus, CollectionStatus, Phase, Status};
use crate::observe::telemetry::{ReadsFrom, Telemetry};
use crate::retry::Retry;
use crate::rounds::Rounds;
use crate::session::{self, NextSession, Sessions};
use crate::shared::{Fence, Leaves, Shared, Truncates};
use crate::source::rows::LazyRowSource;
use crate::state::dead_letters::DeadLetterStore;
use crate::upkeep::{count_points, maintain};
use crate::writer::{Collection, Writer};
use changes::{ChangeHandler, ChangeTopics};
use fence::WriteFence;
use points::PointHandler;
use worker::{RecordHandler, Worker};

/// How often points are counted.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(1);

/// How many looks pass between two checks that the collections are still the ones that were filled.
const LOOKS_PER_IDENTITY: u64 = 5;

/// How often to ask for an instance name that the group has not released yet.
const ASK_FOR_NAME: Duration = Duration::from_millis(500);

/// The shortest time for which a topic must keep deletes. A worker that is restarted within it misses nothing.
const DELETES_KEPT_AT_LEAST: Duration = Duration::from_secs(60);

/// The time for which a topic should keep deletes: with less, a quiet weekend makes the collection useless.
const DELETES_KEPT_GOOD: Duration = Duration::from_secs(3 * 24 * 3600);

/// The settings of a worker, in addition to its collections.
#[derive(Clone)]
pub struct IndexerConfig {
    /// The broker.
    pub connection: BrokerConnection,
    /// The consumer group.
    pub group: String,
    /// This worker's name in the group.
    pub instance: String,
    /// How the group shares partitions; `None`: with the newest protocol that the broker knows.
    pub protocol: Option<GroupSharing>,
    /// How long a worker may be silent before its partitions go to others, in the classic protocol.
    pub session_timeout: Duration,
    /// The records to read.
    pub reads: IndexInput,
    /// Where to read values that PostgreSQL did not send, if a source is configured.
    pub source: Option<SourceConfig>,
    /// Rows per batch.
    pub batch_rows: usize,
    /// The digest of the configuration that decides what is made of rows. What was read with another digest does not
    /// count.
    pub config_digest: String,
}

/// The records that a worker reads.
#[derive(Clone, Debug)]
pub enum IndexInput {
    /// Changes of rows.
    Changes {
        /// Their envelope.
        format: Format,
        /// The topics, each with its table if it holds the records of only one.
        topics: Vec<(String, Option<TableName>)>,
    },
    /// Points with their vectors.
    Vectors {
        /// Their format.
        format: Format,
        /// The topic.
        topic: String,
    },
}

impl IndexInput {
    fn topics(&self) -> Vec<String> {
        match self {
            Self::Changes { topics, .. } => topics.iter().map(|(topic, _)| topic.clone()).collect(),
            Self::Vectors { topic, .. } => vec![topic.clone()],
        }
    }
}

/// A worker that reads topics.
pub struct Indexer {
    config: IndexerConfig,
    shared: Shared,
    fence: Arc<WriteFence>,
    collections: Vec<Collection>,
    protocol: GroupSharing,
}

impl Indexer {
    /// Creates a worker. Connects to nothing yet.
    #[must_use]
    pub fn new(
        config: IndexerConfig,
        collections: Vec<Collection>,
        letters: Arc<dyn DeadLetterStore>,
        stop: CancellationToken,
    ) -> Self {
        let statuses = collections.iter().map(|collection| CollectionStatus {
            collection: collection.name.clone(),
            table: collection.table.to_string(),
            ..CollectionStatus::default()
        });
        let telemetry = Telemetry::that_reads(ReadsFrom::Topics, statuses.collect(), true);
        telemetry.broker(BrokerStatus { group: Some(config.group.clone()), ..BrokerStatus::default() });
        let fence = Arc::new(WriteFence::default());
        let guard: Arc<dyn Fence> = Arc::<WriteFence>::clone(&fence);
        let (truncates, leaves) = (Truncates::default(), Leaves::default());
        let shared = Shared { telemetry, letters, stop, guard: Some(guard), truncates, leaves };
        let protocol = config.protocol.unwrap_or(GroupSharing::Consumer);
        Self { config, shared, fence, collections, protocol }
    }

    /// Returns a receiver of the worker's status, now and whenever it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.telemetry.subscribe()
    }

    /// Runs until asked to stop or until a definite error.
    ///
    /// The first connection to the broker has to succeed. After that, the worker waits for a broker that goes away.
    ///
    /// # Errors
    /// The definite error that ended it.
    #[must_use]
    pub fn run(self) -> BoxFuture<'static, Result<(), PipelineError>> {
        // Boxed: a bare future would be compiled in the crate that awaits it, with that crate's optimisation settings.
        Box::pin(async {
            self.find_topics().await?;
            session::run(self).await
        })
    }

    /// Fails if a topic does not exist. The worker would wait silently for a topic that no process writes.
    async fn find_topics(&self) -> Result<(), PipelineError> {
        let there = Topics::new(&self.config.connection)?.partitions().await?;
        match self.config.reads.topics().into_iter().find(|topic| !there.contains_key(topic)) {
            Some(topic) => {
                let reason = "does not exist, or may not be seen".to_owned();
                Err(BrokerError::Topic { topic, reason }.into())
            }
            None => Ok(()),
        }
    }

    /// Runs one membership of the group.
    async fn work_once(&mut self, retry: &mut Retry) -> Result<(), PipelineError> {
        self.shared.telemetry.phase(Phase::Starting);
        self.shared.letters.refresh().await?;
        let mut writers = Vec::with_capacity(self.collections.len());
        let mut filled = Vec::with_capacity(self.collections.len());
        for (index, collection) in self.collections.iter().enumerate() {
            let writer = Writer::new(index, collection.clone(), self.shared.clone())?;
            filled.push(writer.prepare().await?);
            writers.push(writer);
        }
        let mut about: Vec<&str> = filled.iter().map(|id: &CollectionId| id.0.as_str()).collect();
        about.sort_unstable();
        let source = LazyRowSource::new(self.config.source.clone(), &self.shared);
        self.check_lookups(&source).await?;
        let deletes_kept = self.deletes_kept().await?;
        match &self.config.reads {
            IndexInput::Changes { format, topics } => {
                about.push(&self.config.config_digest);
                let compacted = deletes_kept.keys().cloned().collect();
                let topics = ChangeTopics { format: *format, topics, compacted };
                let (rows, shared) = (self.config.batch_rows, self.shared.clone());
                let changes = ChangeHandler::new(topics, writers, source, rows, shared);
                self.work(changes, self.membership(&about, deletes_kept), &filled, retry).await
            }
            IndexInput::Vectors { format, .. } => {
                let vectors = PointHandler::new(*format, writers, self.config.batch_rows, self.shared.clone());
                self.work(vectors, self.membership(&about, deletes_kept), &filled, retry).await
            }
        }
    }

    /// Checks the columns of lookups against the source. Records contain the columns of their own tables, but not those
    /// of looked-up tables.
    async fn check_lookups(&self, source: &LazyRowSource) -> Result<(), PipelineError> {
        let looks_up = |collection: &&Collection| !collection.transform.lookups().is_empty();
        if matches!(self.config.reads, IndexInput::Vectors { .. }) || !self.collections.iter().any(|c| looks_up(&c)) {
            return Ok(());
        }
        let tables = source.followed_tables().await?;
        for Collection { name, transform, .. } in self.collections.iter().filter(looks_up) {
            let checked = transform.check_lookups(&tables);
            checked.map_err(|error| PipelineError::Transform { collection: name.clone(), source: error.into() })?;
        }
        Ok(())
    }

    /// Returns how long compacted topics keep deletes, which is the longest time that a worker may be without reading.
    async fn deletes_kept(&self) -> Result<BTreeMap<String, Duration>, PipelineError> {
        let kept = Topics::new(&self.config.connection)?.deletes_kept(&self.config.reads.topics()).await;
        for (topic, kept) in &kept {
            if *kept < DELETES_KEPT_AT_LEAST {
                return Err(BrokerError::DeletesShort { topic: topic.clone(), kept: *kept }.into());
            }
            if *kept < DELETES_KEPT_GOOD {
                tracing::warn!(
                    topic,
                    seconds = kept.as_secs(),
                    "the topic is compacted and forgets deletes after that time (`delete.retention.ms`): a worker that was away for \
                     longer does not start, because rows may have been deleted without a word"
                );
            }
        }
        Ok(kept)
    }

    /// Returns how to join the group. `about`: what its offsets are about.
    fn membership(&self, about: &[&str], deletes_kept: BTreeMap<String, Duration>) -> Membership {
        Membership {
            deletes_kept,
            group: self.config.group.clone(),
            instance: self.config.instance.clone(),
            topics: self.config.reads.topics(),
            protocol: self.protocol,
            about: Fingerprint::of(about).to_string(),
            session_timeout: self.config.session_timeout,
        }
    }

    async fn work<I: RecordHandler>(
        &self,
        handler: I,
        membership: Membership,
        filled: &[CollectionId],
        retry: &mut Retry,
    ) -> Result<(), PipelineError> {
        let renews = !membership.deletes_kept.is_empty();
        let consumer = Consumer::join(&self.config.connection, &membership)?;
        self.fence.open(consumer.member());
        let sinks: Vec<Arc<dyn Sink>> =
            self.collections.iter().map(|collection| Arc::clone(&collection.sink)).collect();
        let telemetry = &self.shared.telemetry;
        let (connection, fence) = (self.config.connection.clone(), Arc::clone(&self.fence));
        let mut worker = Worker::new(connection, consumer, handler, fence, self.shared.clone()).renewing(renews);
        let outcome = tokio::select! {
            outcome = worker.run(retry) => outcome,
            gone = observe(&sinks, filled, telemetry) => Err(gone),
            () = maintain(&sinks, telemetry.subscribe()) => Ok(()),
        };
        self.fence.close();
        worker.close().await;
        // The broker is not watched until the next session begins.
        self.shared.telemetry.broker_trouble(None);
        outcome
    }
}

impl Sessions for Indexer {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn session<'a>(&'a mut self, retry: &'a mut Retry) -> BoxFuture<'a, Result<(), PipelineError>> {
        Box::pin(self.work_once(retry))
    }

    fn next(&mut self, error: &PipelineError) -> NextSession {
        match error {
            PipelineError::Broker(BrokerError::OldProtocol { .. }) if self.config.protocol.is_none() => {
                tracing::info!("the broker does not know the group protocol of Kafka 4; using the classic one");
                self.protocol = GroupSharing::Classic;
                NextSession::AtOnce
            }
            // The group releases the name when the session of its former holder ends. No event says when.
            PipelineError::Broker(BrokerError::InstanceTaken { .. }) => NextSession::In(ASK_FOR_NAME),
            _ => NextSession::BackOff,
        }
    }
}

/// Counts points periodically. Returns an error when a collection is missing: the next session creates a new one, for
/// which the group's offsets do not count. Also returns one when another worker has already done that.
async fn observe(sinks: &[Arc<dyn Sink>], filled: &[CollectionId], telemetry: &Telemetry) -> PipelineError {
    let mut ticks = tokio::time::interval(OBSERVE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rounds = Rounds::default();
    for look in 1_u64.. {
        ticks.tick().await;
        if let Err(gone) = count_points(sinks, rounds.turn(sinks.len()), telemetry).await {
            return gone;
        }
        for (index, sink) in sinks.iter().enumerate() {
            if look % LOOKS_PER_IDENTITY == 0
                && let Ok(Ok(found)) = tokio::time::timeout(OBSERVE_INTERVAL, sink.prepare()).await
                && filled.get(index).is_some_and(|filled| *filled != found)
            {
                return BrokerError::OtherTarget { partition: "its topics".to_owned() }.into();
            }
        }
        telemetry.age();
    }
    std::future::pending().await
}
