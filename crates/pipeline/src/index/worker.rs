//! Runs the loop of one worker: records, assigned and revoked partitions, offsets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use walvec_broker::kafka::connection::BrokerConnection;
use walvec_broker::kafka::consumer::{Consumer, Member, Offsets, Polled};
use walvec_broker::kafka::statistics::ConsumerState;
use walvec_broker::wire::{again, header};
use walvec_broker::{BrokerError, Partition, Received, Record};
use walvec_model::Position;

use super::fence::WriteFence;
use super::held::{GroupView, HeldPartition, Waiting};
use crate::error::PipelineError;
use crate::observe::metrics::count_consumed;
use crate::observe::status::{PartitionStatus, Phase};
use crate::retry::{Retry, until};
use crate::shared::{Shared, first_error};

/// How often at most offsets are committed. After a crash at most this much is written again. It also delays records
/// that wait for other partitions.
const COMMIT_INTERVAL: Duration = Duration::from_millis(250);

/// How often to check whether all workers have reached the end of a snapshot.
const BARRIER_INTERVAL: Duration = Duration::from_millis(200);

/// How often the worker notes that it is reading, for topics that forget deletes after a while.
const RENEW_INTERVAL: Duration = Duration::from_secs(20);

/// How many more chunks of records may join a batch before anything else gets its turn.
const READ_AHEAD: usize = 16;

/// Takes records in and writes what they say.
pub(super) trait RecordHandler {
    /// The result of a computation, to be written.
    type EmbeddedPart;

    /// Takes one record in. It begins to be written with the next flush at the latest.
    async fn take(&mut self, record: Record) -> Result<Taken, PipelineError>;

    /// Returns when to flush what was taken in; `None` if there is nothing to flush, or no room before something else
    /// is durable.
    fn due(&self) -> Option<Instant>;

    /// Returns whether that time has come. Returns true if there is nothing to flush, because a flush then costs
    /// nothing.
    fn wants_flush(&self) -> bool;

    /// Returns whether a batch is full, so that it has to be flushed.
    fn is_full(&self) -> bool;

    /// Begins to write what was taken in, which is everything before the offsets `reached`.
    async fn flush(&mut self, reached: Offsets) -> Result<(), PipelineError>;

    /// Waits for the next answer; `None` if nothing is being computed. Dropping the future loses nothing.
    async fn next(&mut self) -> Option<Self::EmbeddedPart>;

    /// Writes an answer durably.
    async fn write(&mut self, answer: Self::EmbeddedPart) -> Result<(), PipelineError>;

    /// Writes everything that was taken in. When this returns, it is durable or parked.
    async fn finish(&mut self) -> Result<(), PipelineError>;

    /// Shuts down because of `outcome`: writes what is nearly ready.
    async fn close(&mut self, outcome: Result<(), PipelineError>) -> Result<(), PipelineError>;

    /// Takes the offsets given to [`flush`](Self::flush) before which everything is durable by now.
    fn durable(&mut self) -> Offsets;

    /// Removes what a waiting record ends, once the group has written everything before that record. Nothing is in
    /// flight at that time.
    async fn end(&mut self, waiting: &Waiting) -> Result<(), PipelineError>;

    /// Returns whether a record is from before `position`, the position of a truncate that waits in the same topic.
    fn is_older(&mut self, record: &Record, position: Position) -> bool;

    /// Loads the dead letters again: partitions may have been assigned whose rows other workers have parked.
    fn reload(&mut self) -> Result<(), PipelineError>;
}

/// What a record requires.
pub(super) enum Taken {
    /// Nothing more: it has joined the batch.
    Joined,
    /// Wait until the group has read the other partitions so far.
    Waits(Waiting),
}

/// A worker during one membership of its group.
pub(super) struct Worker<I> {
    connection: BrokerConnection,
    consumer: Consumer,
    member: Arc<Member>,
    handler: I,
    fence: Arc<WriteFence>,
    shared: Shared,
    /// The offsets behind the records that were taken in, for the next flush.
    reached: Offsets,
    /// Offsets before which everything is durable, and which are not committed yet.
    uncommitted: Offsets,
    commit_due: Option<Instant>,
    held: BTreeMap<Partition, HeldPartition>,
    consumed: u64,
    /// Whether a topic forgets deletes after a while.
    renews: bool,
}

impl<I: RecordHandler> Worker<I> {
    pub(super) fn new(
        connection: BrokerConnection,
        consumer: Consumer,
        handler: I,
        fence: Arc<WriteFence>,
        shared: Shared,
    ) -> Self {
        let member = consumer.member();
        Self {
            connection,
            consumer,
            member,
            handler,
            fence,
            shared,
            reached: Offsets::new(),
            uncommitted: Offsets::new(),
            commit_due: None,
            held: BTreeMap::new(),
            consumed: 0,
            renews: false,
        }
    }

    /// Sets whether a topic forgets deletes after a while.
    pub(super) fn renewing(self, renews: bool) -> Self {
        Self { renews, ..self }
    }

    /// Works until asked to stop, or until the consumer cannot be used any more.
    pub(super) async fn run(&mut self, retry: &mut Retry) -> Result<(), PipelineError> {
        let outcome = self.work(retry).await;
        if self.shared.stop.is_cancelled() {
            self.shared.telemetry.phase(Phase::Stopping);
        }
        let mut outcome = self.handler.close(outcome).await;
        self.settle();
        if self.shared.stop.is_cancelled() {
            outcome = first_error(outcome, self.commit().await);
        }
        outcome
    }

    async fn work(&mut self, retry: &mut Retry) -> Result<(), PipelineError> {
        let mut reading = self.consumer.reading();
        let mut renewal = tokio::time::interval_at(Instant::now() + RENEW_INTERVAL, RENEW_INTERVAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut barrier = tokio::time::interval(BARRIER_INTERVAL);
        barrier.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (is_held, due) = (!self.held.is_empty(), self.handler.due());
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => return Ok(()),
                () = until(self.commit_due) => self.commit().await?,
                Some(answer) = self.handler.next() => {
                    self.handler.write(answer).await?;
                    self.flush_if_wanted().await?;
                }
                () = until(due) => self.flush().await?,
                _ = renewal.tick(), if self.renews => self.renew().await?,
                _ = barrier.tick(), if is_held => self.pass_barriers().await?,
                polled = self.consumer.next() => self.take(polled, retry).await?,
                Ok(()) = reading.changed() => {
                    let reading = reading.borrow_and_update().clone();
                    self.report(&reading);
                }
            }
        }
    }

    /// Leaves the group.
    pub(super) async fn close(self) {
        let Self { consumer, member, handler, .. } = self;
        drop((member, handler));
        consumer.close().await;
    }

    /// Takes in records that have arrived already, too: a single row goes through at once, a backlog in full batches.
    async fn take(&mut self, polled: Polled, retry: &mut Retry) -> Result<(), PipelineError> {
        let mut polled = Some(polled);
        for _ in 0..READ_AHEAD {
            match polled.take() {
                Some(Polled::Records(records)) => self.take_records(records).await?,
                Some(other @ (Polled::Lost(_) | Polled::Failed(_))) => return self.change(other, retry).await,
                Some(other) => {
                    self.finish().await?;
                    return self.change(other, retry).await;
                }
                None => break,
            }
            polled = self.consumer.next_now();
        }
        self.flush_if_wanted().await?;
        match polled {
            Some(Polled::Records(records)) => {
                self.take_records(records).await?;
                self.flush_if_wanted().await
            }
            Some(other) => self.change(other, retry).await,
            None => Ok(()),
        }
    }

    async fn take_records(&mut self, records: Vec<Received>) -> Result<(), PipelineError> {
        for received in records {
            let partition = received.record.partition();
            // Skip records that were read before their partition was revoked, or behind a waiting record. They are read
            // again.
            if !self.member.owns(&partition, received.assignment) || self.held.contains_key(&partition) {
                continue;
            }
            self.fence.add(&received);
            self.consumed += 1;
            count_consumed(&partition.topic);
            let offset = received.record.offset;
            let counts_here = received.record.header(header::TOPIC) == Some(&*partition.topic);
            match self.handler.take(again::unmarked(received.record)).await? {
                Taken::Joined => drop(self.reached.insert(partition, offset + 1)),
                Taken::Waits(Waiting::SnapshotEnd(end)) if !counts_here => {
                    let table = end.table.to_string();
                    tracing::warn!(%partition, offset, table, "the end of a snapshot was copied from another topic: nothing is removed");
                    self.reached.insert(partition, offset + 1);
                }
                Taken::Waits(waiting) => {
                    self.member.pause(&partition)?;
                    self.reached.insert(partition.clone(), offset);
                    self.held.insert(partition, HeldPartition::new(waiting, offset));
                }
            }
            if self.handler.is_full() {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Handles assigned and revoked partitions, and errors of the consumer.
    async fn change(&mut self, polled: Polled, retry: &mut Retry) -> Result<(), PipelineError> {
        match polled {
            Polled::Records(records) => self.take_records(records).await,
            Polled::Assigned(partitions) => {
                tracing::info!(partitions = shown(&partitions), "partitions have come");
                self.shared.telemetry.phase(Phase::Streaming);
                retry.succeeded();
                self.shared.letters.refresh().await?;
                self.handler.reload()
            }
            Polled::Revoked { partitions, done } => {
                self.finish().await?;
                self.commit().await?;
                self.let_go(&partitions);
                tracing::info!(partitions = shown(&partitions), "partitions are given back");
                drop(done);
                Ok(())
            }
            Polled::Lost(partitions) => {
                self.let_go(&partitions);
                let reason = format!("it was silent for too long; {} went to others", shown(&partitions));
                Err(BrokerError::Fenced { reason }.into())
            }
            Polled::Failed(error) => Err(error.into()),
        }
    }

    fn let_go(&mut self, partitions: &[Partition]) {
        self.fence.forget(partitions);
        for partition in partitions {
            self.held.remove(partition);
            self.reached.remove(partition);
            self.uncommitted.remove(partition);
        }
    }

    /// Begins to write what was taken in.
    async fn flush(&mut self) -> Result<(), PipelineError> {
        let reached = std::mem::take(&mut self.reached);
        self.handler.flush(reached).await?;
        self.settle();
        Ok(())
    }

    async fn flush_if_wanted(&mut self) -> Result<(), PipelineError> {
        if self.handler.wants_flush() {
            return self.flush().await;
        }
        self.settle();
        Ok(())
    }

    /// Writes everything that was taken in.
    async fn finish(&mut self) -> Result<(), PipelineError> {
        self.flush().await?;
        self.handler.finish().await?;
        self.settle();
        Ok(())
    }

    /// Notes up to which offsets everything is durable.
    fn settle(&mut self) {
        let mut durable = self.handler.durable();
        if !durable.is_empty() {
            self.fence.durable(&durable);
            self.uncommitted.append(&mut durable);
            self.commit_due.get_or_insert_with(|| Instant::now() + COMMIT_INTERVAL);
        }
    }

    async fn commit(&mut self) -> Result<(), PipelineError> {
        self.commit_due = None;
        self.member.commit(&self.uncommitted).await?;
        self.uncommitted.clear();
        Ok(())
    }

    /// Notes the time as of which this worker has read. Continues if the broker cannot be reached: a worker that reads
    /// nothing does not need the note.
    async fn renew(&mut self) -> Result<(), PipelineError> {
        match self.member.renew().await {
            Err(error @ (BrokerError::Fenced { .. } | BrokerError::DeletesGone { .. })) => Err(error.into()),
            Err(error) => {
                tracing::debug!(%error, "cannot note as of when this worker has read");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Ends the wait of records before which the group has read everything.
    async fn pass_barriers(&mut self) -> Result<(), PipelineError> {
        self.flush_if_wanted().await?;
        self.commit().await?;
        let partitions: Vec<Partition> = self.held.keys().cloned().collect();
        for partition in partitions {
            let Some(held) = self.held.get_mut(&partition) else { continue };
            let is_older = |record: &Record, position| self.handler.is_older(record, position);
            let group = GroupView { member: &self.member, connection: &self.connection };
            if !held.is_over(&partition, group, is_older).await? {
                continue;
            }
            let (waiting, next) = (held.waiting.clone(), held.offset + 1);
            self.finish().await?;
            self.handler.end(&waiting).await?;
            self.held.remove(&partition);
            self.uncommitted.insert(partition.clone(), next);
            self.fence.durable(&self.uncommitted);
            self.commit().await?;
            self.member.resume(&partition, next).await?;
            self.fence.read_anew(&partition);
        }
        Ok(())
    }

    fn report(&self, reading: &ConsumerState) {
        let partitions = reading.partitions.iter().map(|progress| PartitionStatus {
            topic: progress.partition.topic.to_string(),
            partition: progress.partition.number,
            next: progress.next,
            lag: u64::try_from(progress.lag).unwrap_or_default(),
        });
        self.shared.telemetry.reading(partitions.collect(), reading.rebalances, self.consumed);
        self.shared.telemetry.broker_trouble(self.member.trouble().current().as_ref());
    }
}

fn shown(partitions: &[Partition]) -> String {
    partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
