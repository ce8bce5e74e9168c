//! A broker between the stages, and how far its groups have come.
//!
//! The tests ask the broker itself what a group has committed, without the code under test. Offsets are committed after
//! the sink has everything before them, so a group that has committed everything must have made the image.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;
use tokio::sync::OnceCell;
use walvec_test_kafka::{Options, TestBroker};

use crate::{Settings, TestContext, Walvec, wait};

/// How long one request to the broker may take.
const ANSWER: Duration = Duration::from_secs(10);

/// The milliseconds of silence after which a worker of the shared broker counts as dead: as short as brokers allow.
pub const SESSION_TIMEOUT_MS: u32 = 6000;

/// Partitions of each topic: enough for three workers to share.
pub const PARTITIONS: usize = 3;

/// A broker as one test uses it: the names of its topics and groups contain that of the test's database.
#[derive(Clone, Debug)]
pub struct Kafka {
    broker: Arc<TestBroker>,
    prefix: String,
}

impl Kafka {
    /// Returns the broker that most tests share. The first test that asks starts it; its guard ends it with this
    /// process.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn shared(context: &TestContext) -> Result<Self> {
        static BROKER: OnceCell<Arc<TestBroker>> = OnceCell::const_new();
        let start = || async { Ok::<_, anyhow::Error>(Arc::new(TestBroker::start(Self::options()).await?)) };
        let broker = BROKER.get_or_try_init(start).await?;
        Ok(Self { broker: Arc::clone(broker), prefix: context.slot().to_owned() })
    }

    /// Starts a broker of the test's own, which the test may stop, kill or configure.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn own(context: &TestContext, options: Options) -> Result<Self> {
        let broker = Arc::new(TestBroker::start(options).await?);
        Ok(Self { broker, prefix: context.slot().to_owned() })
    }

    /// Returns the options of the shared broker.
    #[must_use]
    pub fn options() -> Options {
        Options { group_session_timeout_ms: Some(SESSION_TIMEOUT_MS), ..Options::default() }
    }

    /// The broker itself.
    #[must_use]
    pub fn broker(&self) -> &TestBroker {
        &self.broker
    }

    /// Adds the broker to a configuration.
    #[must_use]
    pub fn carries(&self, settings: Settings) -> Settings {
        let kafka = json!({
            "bootstrap": self.broker.bootstrap(),
            "topic_prefix": self.prefix,
            "group": self.prefix,
            "partitions": PARTITIONS,
            "session_timeout_ms": SESSION_TIMEOUT_MS,
        });
        settings.with("broker", json!({ "kafka": kafka }))
    }

    /// The topic of the changes of `public.<table>`.
    #[must_use]
    pub fn topic(&self, table: &str) -> String {
        format!("{}.public.{table}", self.prefix)
    }

    /// The consumer group of a stage.
    #[must_use]
    pub fn group(&self, stage: &str) -> String {
        format!("{}-{stage}", self.prefix)
    }

    /// Waits until everything that is committed in PostgreSQL now is written by `capture`, and committed by the group
    /// `index`, whose workers are still alive then.
    ///
    /// # Errors
    /// If a process ends, or [`wait::LIMIT`] passes.
    pub async fn indexed(
        &self,
        context: &TestContext,
        capture: &mut Walvec,
        workers: &mut [&mut Walvec],
    ) -> Result<()> {
        capture.caught_up(context).await?;
        self.read("index", workers).await
    }

    /// Waits until the group of a stage has committed everything that its topics hold.
    ///
    /// # Errors
    /// If a process ends, or [`wait::LIMIT`] passes.
    pub async fn read(&self, stage: &str, workers: &mut [&mut Walvec]) -> Result<()> {
        let mut last = None;
        let what = format!("the group {} had read everything", self.group(stage));
        let waited = wait::until(&what, async || {
            workers.iter_mut().try_for_each(|worker| worker.is_alive())?;
            // A broker that is busy, or has just created the group, may answer late or with an error.
            let offsets = self.offsets(stage).await;
            let is_read = offsets.as_ref().is_ok_and(|offsets| offsets.iter().all(|at| at.committed == at.end));
            last = Some(offsets);
            Ok(is_read.then_some(()))
        });
        waited.await.map_err(|error| anyhow!("{error:#}; the last look: {last:?}"))
    }

    /// Returns how far the group of a stage has come in each partition of its topics.
    ///
    /// # Errors
    /// If the broker does not answer, or has none of the topics.
    pub async fn offsets(&self, stage: &str) -> Result<Vec<Progress>> {
        let (bootstrap, group, prefix) = (self.broker.bootstrap(), self.group(stage), self.prefix.clone());
        let vectors = stage == "sink";
        tokio::task::spawn_blocking(move || {
            // This client never joins the group, so it does not affect the members.
            let client: BaseConsumer =
                ClientConfig::new().set("bootstrap.servers", bootstrap).set("group.id", group).create()?;
            progress(&client, &|topic| match topic.strip_prefix(&prefix) {
                Some(".vectors") => vectors,
                Some(rest) => rest.starts_with('.') && rest != ".dead-letters" && !vectors,
                None => false,
            })
        })
        .await?
    }
}

/// How far a group has come in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset before which the group has processed every record.
    pub committed: i64,
    /// The offset after the last record.
    pub end: i64,
}

fn progress(client: &BaseConsumer, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Progress>> {
    let metadata = client.fetch_metadata(None, ANSWER)?;
    let mut list = TopicPartitionList::new();
    for topic in metadata.topics().iter().filter(|topic| wanted(topic.name())) {
        for partition in topic.partitions() {
            list.add_partition(topic.name(), partition.id());
        }
    }
    anyhow::ensure!(list.count() > 0, "the broker has no such topics");
    let committed = client.committed_offsets(list, ANSWER)?;
    committed
        .elements()
        .iter()
        .map(|element| {
            let (topic, partition) = (element.topic().to_owned(), element.partition());
            let (_, end) = client.fetch_watermarks(&topic, partition, ANSWER).context("where a partition ends")?;
            let committed = match element.offset() {
                Offset::Offset(offset) => offset,
                _ => 0,
            };
            Ok(Progress { topic, partition, committed, end })
        })
        .collect()
}
