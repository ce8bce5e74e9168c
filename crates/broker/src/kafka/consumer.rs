//! Reads topics as a member of a consumer group.
//!
//! ```text
//! library ──▶ own thread (poll) ──▶ bounded channel ──▶ Consumer::next
//!    ▲ callbacks: partitions come and go                     │
//!    └───────────────────── commit ◀── after the sink has it ┘
//! ```

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::connection::{BrokerConnection, LastClientError};
use super::ownership::PartitionOwnership;
use super::poll::{self, ConsumerClient, MemberContext};
use super::recency::{Mark, Recency, deletes_gone};
pub use super::settings::{GroupSharing, Membership, Offsets, Polled};
use super::statistics::ConsumerState;
use super::topics::{ANSWER, blocking};
use crate::classify::is_fenced;
use crate::error::BrokerError;
use crate::record::Partition;

/// The maximum number of chunks that wait for the worker.
const WAITING_CHUNKS: usize = 2;

/// The reading half of a group's member.
pub struct Consumer {
    polled: mpsc::Receiver<Polled>,
    member: Arc<Member>,
    reading: watch::Receiver<ConsumerState>,
    stop: CancellationToken,
    thread: std::thread::JoinHandle<()>,
}

/// The half of a group's member that commits, pauses and asks the broker.
pub struct Member {
    about: String,
    client: Arc<ConsumerClient>,
    ownership: Arc<PartitionOwnership>,
    recency: Arc<Recency>,
    trouble: LastClientError,
}

impl Consumer {
    /// Joins the group, in the background.
    ///
    /// # Errors
    /// Returns [`BrokerError::Settings`] if the library does not accept the settings.
    pub fn join(connection: &BrokerConnection, membership: &Membership) -> Result<Self, BrokerError> {
        let trouble = LastClientError::new(connection);
        let ownership = Arc::new(PartitionOwnership::default());
        let recency = Arc::new(Recency::of(&membership.deletes_kept));
        let (outbox, polled) = mpsc::channel(WAITING_CHUNKS);
        let (reading_in, reading) = watch::channel(ConsumerState::default());
        let context = MemberContext {
            trouble: trouble.clone(),
            ownership: Arc::clone(&ownership),
            outbox,
            reading: reading_in,
            about: membership.about.clone(),
            recency: Arc::clone(&recency),
            group: membership.group.clone(),
            instance: membership.instance.clone(),
        };
        let failed = |error: &rdkafka::error::KafkaError| trouble.classify("joining the group", error);
        let client: ConsumerClient =
            settings(connection, membership).create_with_context(context).map_err(|error| failed(&error))?;
        let topics: Vec<&str> = membership.topics.iter().map(String::as_str).collect();
        client.subscribe(&topics).map_err(|error| failed(&error))?;
        let client = Arc::new(client);
        let stop = CancellationToken::new();
        let thread = {
            let (client, stop) = (Arc::clone(&client), stop.clone());
            std::thread::Builder::new()
                .name("walvec-consumer".to_owned())
                .spawn(move || poll::run(client, &stop))
                .map_err(|error| BrokerError::Failed {
                    doing: "starting a thread".to_owned(),
                    reason: error.to_string(),
                })?
        };
        Ok(Self {
            polled,
            member: Arc::new(Member { about: membership.about.clone(), client, ownership, recency, trouble }),
            reading,
            stop,
            thread,
        })
    }

    /// Waits for the next event. Cancellation safe: dropping the future loses no event.
    pub async fn next(&mut self) -> Polled {
        self.polled.recv().await.unwrap_or(Polled::Failed(BrokerError::Closed))
    }

    /// Returns an event that has already happened, without waiting.
    pub fn next_now(&mut self) -> Option<Polled> {
        self.polled.try_recv().ok()
    }

    /// Returns the half that talks to the broker. Drop it before calling [`close`](Self::close).
    #[must_use]
    pub fn member(&self) -> Arc<Member> {
        Arc::clone(&self.member)
    }

    /// Returns how far each partition was read, updated once a second.
    #[must_use]
    pub fn reading(&self) -> watch::Receiver<ConsumerState> {
        self.reading.clone()
    }

    /// Leaves the group. What was not committed is read again by the next member that gets the partitions.
    pub async fn close(self) {
        let Self { polled, member, stop, thread, .. } = self;
        stop.cancel();
        drop(member);
        drop(polled);
        if let Err(error) = blocking(move || thread.join().is_ok()).await {
            tracing::debug!(%error, "closing the consumer");
        }
    }
}

impl Member {
    /// Returns whether the worker still owns the partition, in the assignment in which a record was read.
    #[must_use]
    pub fn owns(&self, partition: &Partition, assignment: u64) -> bool {
        self.ownership.assignment(partition) == Some(assignment)
    }

    /// Makes sure that the group still counts on this worker, so that no other worker writes the same records. Costs a
    /// round trip if the last commit was more than some seconds ago, nothing otherwise.
    ///
    /// # Errors
    /// Returns [`BrokerError::Fenced`] if other workers have taken over, and an error if the broker cannot be asked.
    pub async fn prove(&self, reached: &Offsets) -> Result<(), BrokerError> {
        if self.ownership.is_proved() || reached.is_empty() {
            return Ok(());
        }
        self.commit(reached).await
    }

    /// Commits offsets to the group: everything before them is durable. Leaves out partitions that this worker no longer owns.
    ///
    /// # Errors
    /// Returns [`BrokerError::Fenced`] if other workers have taken over, and an error if the broker cannot be asked.
    pub async fn commit(&self, offsets: &Offsets) -> Result<(), BrokerError> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            if self.ownership.assignment(partition).is_some() {
                let as_of = self.recency.as_of(partition, *offset).unwrap_or_else(SystemTime::now);
                let mark = Mark::write(&self.about, as_of);
                let added = list.add_partition_offset(&partition.topic, partition.number, Offset::Offset(*offset));
                added.map_err(|error| self.trouble.classify("committing offsets", &error))?;
                if let Some(mut element) = list.find_partition(&partition.topic, partition.number) {
                    element.set_metadata(&mark);
                }
            }
        }
        self.commit_list(list).await
    }

    /// Commits the current offsets of this worker's partitions again, with a newer time. The time shows whether a
    /// compacted topic may have forgotten deletes that were not read yet.
    ///
    /// # Errors
    /// Returns [`BrokerError::DeletesGone`] if deletes may have been forgotten already, and the errors of
    /// [`commit`](Self::commit).
    pub async fn renew(&self) -> Result<(), BrokerError> {
        let partitions = self.ownership.partitions();
        for partition in &partitions {
            if let Some((behind, kept)) = self.recency.too_far_behind(partition, SystemTime::now()) {
                return Err(deletes_gone(partition, behind, kept));
            }
        }
        let mut list = TopicPartitionList::new();
        for partition in &partitions {
            list.add_partition(&partition.topic, partition.number);
        }
        let client = Arc::clone(&self.client);
        let found = blocking(move || client.committed_offsets(list, ANSWER)).await?;
        let found = found.map_err(|error| self.trouble.classify("asking how far the group is", &error))?;
        let place = |partition: &Partition| {
            let offset = found.find_partition(&partition.topic, partition.number)?.offset().to_raw()?;
            (offset >= 0).then(|| (partition.clone(), offset))
        };
        self.commit(&partitions.iter().filter_map(place).collect()).await
    }

    async fn commit_list(&self, list: TopicPartitionList) -> Result<(), BrokerError> {
        if list.count() == 0 {
            return Ok(());
        }
        let (client, sent) = (Arc::clone(&self.client), Instant::now());
        let outcome = blocking(move || client.commit(&list, CommitMode::Sync)).await?;
        match outcome {
            Ok(()) => {
                self.ownership.prove(sent);
                Ok(())
            }
            Err(error) => {
                if error.rdkafka_error_code().is_some_and(|code| is_fenced(code) || code == RDKafkaErrorCode::NoOffset)
                {
                    self.ownership.remove(&self.ownership.partitions());
                }
                Err(self.trouble.classify("committing offsets", &error))
            }
        }
    }

    /// Returns for each partition the offset that the whole group has committed; 0 if it has none.
    ///
    /// # Errors
    /// Fails if the broker cannot be asked.
    pub async fn committed(&self, topic: &str, partitions: usize) -> Result<Vec<i64>, BrokerError> {
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition(topic, i32::try_from(partition).unwrap_or(i32::MAX));
        }
        let client = Arc::clone(&self.client);
        let committed = blocking(move || client.committed_offsets(list, ANSWER)).await?;
        let committed = committed.map_err(|error| self.trouble.classify("asking how far the group is", &error))?;
        Ok(committed.elements().iter().map(|element| element.offset().to_raw().unwrap_or(0).max(0)).collect())
    }

    /// Stops reading a partition until [`resume`](Self::resume) is called.
    ///
    /// # Errors
    /// Fails if the partition is not owned by this worker.
    pub fn pause(&self, partition: &Partition) -> Result<(), BrokerError> {
        self.ownership.pause(partition, true);
        let paused = self.client.pause(&list_of(partition));
        paused.map_err(|error| self.trouble.classify("pausing a partition", &error))
    }

    /// Reads a paused partition again, starting at the offset `from`.
    ///
    /// # Errors
    /// Fails if the partition is not owned by this worker.
    pub async fn resume(&self, partition: &Partition, from: i64) -> Result<(), BrokerError> {
        let (client, ownership, partition) = (Arc::clone(&self.client), Arc::clone(&self.ownership), partition.clone());
        let resumed = blocking(move || {
            client.seek(&partition.topic, partition.number, Offset::Offset(from), ANSWER)?;
            // Records that were polled before the seek and are still in the channel must not be processed: a new
            // assignment number tells them apart.
            ownership.renew(&partition);
            client.resume(&list_of(&partition))?;
            // The order matters. If the polling thread could resume the partition earlier, it could read a record
            // between the seek and the renewal, and that record would be dropped as one from before the seek.
            ownership.pause(&partition, false);
            Ok(())
        });
        resumed.await?.map_err(|error| self.trouble.classify("resuming a partition", &error))
    }

    /// Returns the errors that the library has reported outside of requests.
    #[must_use]
    pub fn trouble(&self) -> &LastClientError {
        &self.trouble
    }
}

fn list_of(partition: &Partition) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    list.add_partition(&partition.topic, partition.number);
    list
}

fn settings(connection: &BrokerConnection, membership: &Membership) -> rdkafka::ClientConfig {
    let mut config = connection.client();
    config
        .set("group.id", &membership.group)
        .set("group.instance.id", &membership.instance)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // `poll` decides what happens without an offset and with records that are gone. The library would skip them silently.
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        .set("max.poll.interval.ms", "300000")
        // Hand a record over as soon as it is there.
        .set("fetch.wait.max.ms", "500")
        .set("fetch.min.bytes", "1")
        // Limit the memory that the library's own queue takes.
        .set("queued.max.messages.kbytes", "16384")
        .set("queued.min.messages", "2000")
        .set("statistics.interval.ms", "1000");
    match membership.protocol {
        GroupSharing::Consumer => config.set("group.protocol", "consumer"),
        GroupSharing::Classic => config
            .set("group.protocol", "classic")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", membership.session_timeout.as_millis().to_string())
            .set("heartbeat.interval.ms", (membership.session_timeout.as_millis() / 4).to_string()),
    };
    config
}
