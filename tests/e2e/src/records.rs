//! Records of topics, written and read as another program would do it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use walvec_test_kafka::TestBroker;

/// How long one request to the broker may take.
const ANSWER: Duration = Duration::from_secs(10);

/// A record of a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its partition.
    pub partition: i32,
    /// Its offset in the partition.
    pub offset: i64,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Option<Vec<u8>>,
    /// The names of its headers, and their values as far as they are text.
    pub headers: Vec<(String, String)>,
}

impl Found {
    /// Returns the value as JSON; null if there is no value, or if it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        self.value.as_deref().and_then(|value| serde_json::from_slice(value).ok()).unwrap_or_default()
    }
}

/// Returns the settings of the administrator's client, which needs no login and has all rights.
fn client(broker: &TestBroker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.admin_bootstrap());
    config
}

/// Creates a topic.
///
/// # Errors
/// The broker's.
pub async fn make_topic(broker: &TestBroker, topic: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client(broker).create()?;
    let wanted = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let wanted = settings.iter().fold(wanted, |wanted, (name, value)| wanted.set(name, value));
    for made in admin.create_topics([&wanted], &AdminOptions::new()).await? {
        made.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
    }
    Ok(())
}

/// Gives a topic more partitions, `count` altogether.
///
/// # Errors
/// The broker's.
pub async fn add_partitions(broker: &TestBroker, topic: &str, count: usize) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client(broker).create()?;
    for made in admin.create_partitions([&NewPartitions::new(topic, count)], &AdminOptions::new()).await? {
        made.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
    }
    Ok(())
}

/// Writes a record, with a key and a value, either of which may be missing, and returns its partition and offset.
///
/// # Errors
/// The broker's.
pub async fn write(broker: &TestBroker, topic: &str, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(i32, i64)> {
    send(broker, topic, None, key, value).await
}

/// Writes a record into a given partition of a topic, independently of its key.
///
/// # Errors
/// The broker's.
pub async fn write_into(
    broker: &TestBroker,
    (topic, partition): (&str, i32),
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> Result<()> {
    send(broker, topic, Some(partition), key, value).await.map(drop)
}

async fn send(
    broker: &TestBroker,
    topic: &str,
    partition: Option<i32>,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> Result<(i32, i64)> {
    let (client, topic) = (client(broker), topic.to_owned());
    let (key, value) = (key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec));
    tokio::task::spawn_blocking(move || {
        let reader: BaseConsumer = client.clone().set("group.id", "walvec-none").create()?;
        let before = ends(&reader, &topic)?;
        let producer: BaseProducer = client.clone().set("partitioner", "murmur2_random").create()?;
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&topic);
        record.partition = partition;
        if let Some(key) = &key {
            record = record.key(key);
        }
        if let Some(value) = &value {
            record = record.payload(value);
        }
        producer.send(record).map_err(|(error, _)| error)?;
        producer.flush(ANSWER)?;
        let after = ends(&reader, &topic)?;
        let place = before.iter().zip(&after).find(|(before, after)| before < after);
        place.map(|((partition, offset), _)| (*partition, *offset)).context("the record was not written")
    })
    .await?
}

/// Returns the offset that a group has committed in partition 0 of a topic, and the metadata stored with it.
///
/// # Errors
/// The broker's.
pub async fn committed(broker: &TestBroker, group: &str, topic: &str) -> Result<(i64, String)> {
    let (mut client, group, topic) = (client(broker), group.to_owned(), topic.to_owned());
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = client.set("group.id", &group).create()?;
        let mut list = TopicPartitionList::new();
        list.add_partition(&topic, 0);
        let found = consumer.committed_offsets(list, ANSWER)?;
        let found = found.find_partition(&topic, 0).context("no such partition")?;
        Ok((found.offset().to_raw().unwrap_or(-1), found.metadata().to_owned()))
    })
    .await?
}

/// Commits an offset of partition 0, with metadata, for a group that has no members.
///
/// # Errors
/// The broker's, for example if the group has a member.
pub async fn commit(broker: &TestBroker, group: &str, topic: &str, offset: i64, remembered: &str) -> Result<()> {
    let (mut client, group, topic) = (client(broker), group.to_owned(), topic.to_owned());
    let remembered = remembered.to_owned();
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = client.set("group.id", &group).create()?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Offset(offset))?;
        list.find_partition(&topic, 0).context("no such partition")?.set_metadata(&remembered);
        Ok(consumer.commit(&list, CommitMode::Sync)?)
    })
    .await?
}

fn ends(reader: &BaseConsumer, topic: &str) -> Result<Vec<(i32, i64)>> {
    let metadata = reader.fetch_metadata(Some(topic), ANSWER)?;
    let found = metadata.topics().first().context("no such topic")?;
    if let Some(error) = found.error() {
        bail!("topic {topic}: {error:?}");
    }
    let mut partitions: Vec<i32> = found.partitions().iter().map(|partition| partition.id()).collect();
    partitions.sort_unstable();
    let end = |partition: i32| Ok((partition, reader.fetch_watermarks(topic, partition, ANSWER)?.1));
    partitions.into_iter().map(end).collect()
}

/// Returns all records that a topic holds now, partition by partition; none if the topic does not exist.
///
/// # Errors
/// If the broker does not answer.
pub async fn all(broker: &TestBroker, topic: &str) -> Result<Vec<Found>> {
    let (client, topic) = (client(broker), topic.to_owned());
    tokio::task::spawn_blocking(move || {
        let reader: BaseConsumer = client
            .clone()
            .set("group.id", "walvec-none")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .create()?;
        let Ok(ends) = ends(&reader, &topic) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for (partition, end) in ends {
            let (first, _) = reader.fetch_watermarks(&topic, partition, ANSWER)?;
            if first == end {
                continue;
            }
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&topic, partition, Offset::Offset(first))?;
            reader.assign(&list)?;
            loop {
                let message = reader.poll(ANSWER).context("the broker gives no record")??;
                ensure!(message.partition() == partition, "a record of another partition");
                let last = message.offset() + 1 >= end;
                found.push(to_found(&message));
                if last {
                    break;
                }
            }
        }
        Ok(found)
    })
    .await?
}

fn to_found(message: &rdkafka::message::BorrowedMessage<'_>) -> Found {
    let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Found {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.map(|header| (header.key.to_owned(), text(header.value))).collect(),
    }
}
