//! Reads single records, and the offsets of groups without members.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::connection::{BrokerConnection, LastClientError, Listener};
use super::poll::to_record;
use super::topics::{ANSWER, blocking};
use super::watermarks::watermarks;
use crate::classify::is_out_of_reach;
use crate::error::BrokerError;
use crate::record::{Partition, Record};

/// The time limit of one poll.
const POLL: Duration = Duration::from_millis(100);

/// Returns the record at `offset`; `None` if it is gone.
///
/// # Errors
/// Fails if the broker cannot be asked.
pub async fn record(
    connection: &BrokerConnection,
    partition: Partition,
    offset: i64,
) -> Result<Option<Record>, BrokerError> {
    // If the record was compacted away, the first one found has a higher offset.
    Ok(next(connection, partition, offset).await?.filter(|record| record.offset == offset))
}

/// Returns the first record at `offset` or after it; `None` at the end of the partition. Transaction markers are not records.
///
/// # Errors
/// Fails if the broker cannot be asked.
pub async fn next(
    connection: &BrokerConnection,
    partition: Partition,
    offset: i64,
) -> Result<Option<Record>, BrokerError> {
    let (client, trouble) = client(connection, "walvec-none")?;
    let read = move || {
        let (first, end) = watermarks(client.client(), &partition.topic, partition.number)?;
        let from = offset.max(first);
        if from >= end {
            return Ok(None);
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&partition.topic, partition.number, Offset::Offset(from))?;
        client.assign(&list)?;
        let begun = Instant::now();
        while begun.elapsed() < ANSWER {
            match client.poll(POLL) {
                Some(Ok(message)) => return Ok(Some(to_record(&message, &partition))),
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
                // One of several brokers may be away. The library asks the others.
                Some(Err(error)) if error.rdkafka_error_code().is_some_and(is_out_of_reach) => {}
                Some(Err(error)) => return Err(error),
                None => {}
            }
        }
        Err(KafkaError::MessageConsumption(rdkafka::error::RDKafkaErrorCode::OperationTimedOut))
    };
    let found: Result<Option<Record>, KafkaError> = blocking(read).await?;
    found.map_err(|error| trouble.classify("reading a record", &error))
}

/// Resets a group to the oldest records there are. The group must have no members.
///
/// # Errors
/// Returns [`BrokerError::Fenced`] if the group has members, and an error if the broker cannot be asked.
pub async fn rewind(connection: &BrokerConnection, group: &str, topics: &[(String, i32)]) -> Result<(), BrokerError> {
    let (client, trouble) = client(connection, group)?;
    let topics = topics.to_vec();
    let rewind = move || {
        let mut list = TopicPartitionList::new();
        for (topic, partitions) in &topics {
            for partition in 0..*partitions {
                let (first, _) = watermarks(client.client(), topic, partition)?;
                list.add_partition_offset(topic, partition, Offset::Offset(first))?;
            }
        }
        client.commit(&list, CommitMode::Sync)
    };
    let done: Result<(), KafkaError> = blocking(rewind).await?;
    done.map_err(|error| trouble.classify(&format!("setting the offsets of group \"{group}\""), &error))
}

/// Returns for each partition the offset that a group reads next, and the offset at which the partition ends.
///
/// # Errors
/// Fails if the broker cannot be asked.
pub async fn committed(
    connection: &BrokerConnection,
    group: &str,
    topics: &[(String, i32)],
) -> Result<Vec<(Partition, i64, i64)>, BrokerError> {
    let (client, trouble) = client(connection, group)?;
    let topics = topics.to_vec();
    let ask = move || {
        let mut list = TopicPartitionList::new();
        for (topic, partitions) in &topics {
            list.add_partition_range(topic, 0, *partitions - 1);
        }
        let committed = client.committed_offsets(list, ANSWER)?;
        let mut found = Vec::with_capacity(committed.count());
        for element in committed.elements() {
            let (_, end) = watermarks(client.client(), element.topic(), element.partition())?;
            let partition = Partition { topic: element.topic().into(), number: element.partition() };
            found.push((partition, element.offset().to_raw().unwrap_or(0).max(0), end));
        }
        Ok(found)
    };
    let found: Result<_, KafkaError> = blocking(ask).await?;
    found.map_err(|error| trouble.classify(&format!("asking how far group \"{group}\" is"), &error))
}

fn client(
    connection: &BrokerConnection,
    group: &str,
) -> Result<(Arc<BaseConsumer<Listener>>, LastClientError), BrokerError> {
    let trouble = LastClientError::new(connection);
    let mut config = connection.client();
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false");
    let client = config.create_with_context(Listener(trouble.clone()));
    let client = client.map_err(|error| trouble.classify("making a client", &error))?;
    Ok((Arc::new(client), trouble))
}
