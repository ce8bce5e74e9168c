//! The task that reads the stream and reports to the server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::{self, Permit};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};
use walvec_model::{Lsn, StreamEvent};

use super::passed::Passed;
use super::patience::Patience;
use super::relation::Relations;
use crate::CaptureError;
use crate::assemble::{Assembler, FollowedTable};
use crate::connect::Replication;
use crate::pgoutput::{self, Frame, RelationMessage, ReplicationMessage};

/// The number of events at which a batch is full.
const BATCH_EVENTS: usize = 1000;
/// The number of bytes of messages at which a batch is full.
const BATCH_BYTES: usize = 1 << 20;
/// How long to wait for the server's answer at the end.
const GOODBYE: Duration = Duration::from_secs(3);

pub(super) type EventBatch = Result<Vec<StreamEvent>, CaptureError>;

/// What has woken the task.
enum Wake<'a> {
    Stop,
    Confirmed,
    StatusDue,
    Deliver(Permit<'a, EventBatch>),
    Frame(Result<Bytes, CaptureError>),
    Looked { is_at_work: bool },
}

/// The task's state.
pub(super) struct StreamReader {
    replication: Replication,
    relations: Arc<Relations>,
    passed: Passed,
    /// The commit position of the transaction that is being read.
    commit_lsn: Lsn,
    assembler: Assembler,
    confirmed: watch::Receiver<Lsn>,
    batches: mpsc::Sender<EventBatch>,
    /// The highest position that the server has sent.
    received: Lsn,
    batch: Vec<StreamEvent>,
    batch_bytes: usize,
    /// Whether the server has requested feedback.
    reply_due: bool,
    /// When the server last sent something, or when walvec was last not listening.
    heard: Instant,
    /// When the server was last found to be at work in silence.
    looked: Instant,
    patience: Patience,
    /// When the next feedback is due.
    status: Interval,
    /// A running question whether the server is at work.
    inquiry: Option<AbortOnDropHandle<bool>>,
    stop: CancellationToken,
}

async fn answer_of(inquiry: &mut Option<AbortOnDropHandle<bool>>) -> bool {
    match inquiry {
        Some(inquiry) => inquiry.await.unwrap_or(false),
        None => std::future::pending().await,
    }
}

/// What the reader has in common with the consumer of the stream.
pub(super) struct ConsumerEnds {
    /// The position that the consumer has confirmed.
    pub(super) confirmed: watch::Receiver<Lsn>,
    pub(super) batches: mpsc::Sender<EventBatch>,
    pub(super) stop: CancellationToken,
}

impl StreamReader {
    pub(super) fn new(
        replication: Replication,
        relations: Arc<Relations>,
        passed: Passed,
        consumer: ConsumerEnds,
        patience: Patience,
    ) -> Self {
        let ConsumerEnds { confirmed, batches, stop } = consumer;
        let interval = patience.status_interval;
        let mut status = tokio::time::interval_at(Instant::now() + interval, interval);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let received = *confirmed.borrow();
        Self {
            replication,
            relations,
            passed,
            commit_lsn: Lsn::ZERO,
            assembler: Assembler::default(),
            confirmed,
            batches,
            received,
            batch: Vec::new(),
            batch_bytes: 0,
            reply_due: false,
            heard: Instant::now(),
            looked: Instant::now(),
            patience,
            status,
            inquiry: None,
            stop,
        }
    }

    /// Reads until told to stop, or until an error, which the consumer gets after everything that came before it.
    pub(super) async fn run(mut self) -> Result<(), CaptureError> {
        let stop = self.stop.clone();
        match self.read(&stop).await {
            Ok(()) => self.say_goodbye().await,
            Err(_) if stop.is_cancelled() => self.say_goodbye().await,
            Err(error) => {
                let rest = std::mem::take(&mut self.batch);
                let report = async {
                    if !rest.is_empty() {
                        let _ = self.batches.send(Ok(rest)).await;
                    }
                    let _ = self.batches.send(Err(error)).await;
                };
                tokio::select! {
                    () = report => {}
                    () = stop.cancelled() => {}
                }
                Err(CaptureError::Closed)
            }
        }
    }

    async fn read(&mut self, stop: &CancellationToken) -> Result<(), CaptureError> {
        let batches = self.batches.clone();
        loop {
            while !self.is_full()
                && let Some(frame) = self.replication.next_now()
            {
                self.take(&frame?).await?;
            }
            if std::mem::take(&mut self.reply_due) {
                self.send_status(false).await?;
            }
            let (full, deliverable) = (self.is_full(), self.is_deliverable());
            let wake = tokio::select! {
                biased;
                () = stop.cancelled() => Wake::Stop,
                changed = self.confirmed.changed() => if changed.is_ok() { Wake::Confirmed } else { Wake::Stop },
                _ = self.status.tick() => Wake::StatusDue,
                is_at_work = answer_of(&mut self.inquiry) => Wake::Looked { is_at_work },
                permit = batches.reserve(), if deliverable => permit.map_or(Wake::Stop, Wake::Deliver),
                frame = self.replication.next(), if !full => Wake::Frame(frame),
            };
            match wake {
                Wake::Stop => return Ok(()),
                Wake::Confirmed => self.send_status(false).await?,
                Wake::StatusDue => self.check_silence(full).await?,
                Wake::Looked { is_at_work } => self.judge_silence(is_at_work)?,
                Wake::Deliver(permit) => permit.send(Ok(self.take_batch())),
                Wake::Frame(frame) => self.take(&frame?).await?,
            }
        }
    }

    /// Sends feedback. Requests an answer if there was none for a while, and checks the server after too long a silence.
    async fn check_silence(&mut self, full: bool) -> Result<(), CaptureError> {
        if full {
            // While the channel is full, walvec does not listen.
            self.heard = Instant::now();
        }
        let silence = self.heard.max(self.looked).elapsed();
        if silence > self.patience.silence && self.inquiry.is_none() {
            self.inquiry = Some(AbortOnDropHandle::new(tokio::spawn(self.replication.is_at_work())));
        }
        self.send_status(self.heard.elapsed() > self.patience.silence / 2).await
    }

    /// Decides about a silent server. One that is at work is left alone: it may be decoding a large transaction of
    /// which nothing is published, and would start again with it for a new session.
    fn judge_silence(&mut self, is_at_work: bool) -> Result<(), CaptureError> {
        self.inquiry = None;
        let silence = self.heard.elapsed();
        if silence <= self.patience.silence {
            return Ok(());
        }
        if !is_at_work {
            return Err(self.replication.silent(silence));
        }
        warn!(seconds = silence.as_secs(), "the server is silent and at work, on a large transaction perhaps; waiting");
        self.looked = Instant::now();
        Ok(())
    }

    fn is_full(&self) -> bool {
        // Messages of tables that are not followed count as bytes and give no events, so an empty batch is never full.
        self.batch.len() >= BATCH_EVENTS || (self.batch_bytes >= BATCH_BYTES && !self.batch.is_empty())
    }

    /// Returns whether the batch can be handed over. Nothing can be confirmed before the commit, and the server sends a
    /// transaction in one go, so waiting for its end costs nothing and avoids many small batches.
    fn is_deliverable(&self) -> bool {
        !self.batch.is_empty() && (self.is_full() || !self.assembler.in_transaction())
    }

    fn take_batch(&mut self) -> Vec<StreamEvent> {
        self.batch_bytes = 0;
        // Expect the next batch to have about this size. A single row must not reserve room for a thousand.
        let next = Vec::with_capacity(self.batch.len());
        std::mem::replace(&mut self.batch, next)
    }

    async fn take(&mut self, frame: &[u8]) -> Result<(), CaptureError> {
        self.heard = Instant::now();
        let malformed = |error: pgoutput::BadMessage| CaptureError::Protocol { reason: error.to_string() };
        match pgoutput::frame(frame).map_err(malformed)? {
            Frame::Data { start, payload } => {
                self.received = self.received.max(start);
                self.batch_bytes += payload.len();
                let message = pgoutput::message(payload).map_err(malformed)?;
                match message {
                    ReplicationMessage::Relation(relation) => {
                        let known = self.relations.name_of(relation.oid);
                        if self.passed.holds(&relation, known, self.commit_lsn) {
                            self.assembler.set_relation(relation.oid, None);
                        } else {
                            self.follow(&relation).await?;
                        }
                    }
                    ReplicationMessage::Begin { commit_lsn, .. } => {
                        self.commit_lsn = commit_lsn;
                        for relation in self.passed.over(commit_lsn) {
                            self.follow(&relation).await?;
                        }
                        self.apply(message)?;
                    }
                    message => self.apply(message)?,
                }
            }
            Frame::Keepalive { wal_end, reply_requested } => {
                self.received = self.received.max(wal_end);
                self.reply_due |= reply_requested;
                if !self.assembler.in_transaction() {
                    if let Some(StreamEvent::Idle { .. }) = self.batch.last() {
                        self.batch.pop();
                    }
                    self.batch.push(StreamEvent::Idle { wal_end });
                }
            }
        }
        Ok(())
    }

    /// Sets how the rows of a relation are read from now on, by the message and the catalogue.
    async fn follow(&mut self, relation: &RelationMessage) -> Result<(), CaptureError> {
        let followed = self.described(relation).await?;
        debug!(schema = relation.schema, table = relation.name, followed = followed.is_some(), "relation");
        self.assembler.set_relation(relation.oid, followed);
        Ok(())
    }

    /// Asks the catalogue about a table. The answer may wait for a lock; the server gets feedback in the meantime.
    async fn described(&mut self, relation: &RelationMessage) -> Result<Option<FollowedTable>, CaptureError> {
        let relations = Arc::clone(&self.relations);
        let mut describing = std::pin::pin!(relations.describe(relation));
        let stop = self.stop.clone();
        loop {
            tokio::select! {
                followed = &mut describing => return followed,
                _ = self.status.tick() => self.send_status(false).await?,
                () = stop.cancelled() => return Err(CaptureError::Closed),
            }
        }
    }

    fn apply(&mut self, message: ReplicationMessage<'_>) -> Result<(), CaptureError> {
        if let ReplicationMessage::Commit { end_lsn, .. } = message {
            self.received = self.received.max(end_lsn);
        }
        self.assembler.apply(message, &mut self.batch)
    }

    async fn send_status(&mut self, reply: bool) -> Result<(), CaptureError> {
        // A position beyond what was received can only be a mistake, and would make the server skip changes.
        let confirmed = (*self.confirmed.borrow_and_update()).min(self.received);
        self.replication.send_status(self.received, confirmed, reply).await
    }

    /// Reports the last confirmed position and ends the stream. A server in the middle of a large transaction may take
    /// long to notice; in that case the connection is just closed.
    async fn say_goodbye(mut self) -> Result<(), CaptureError> {
        let goodbye = async {
            self.send_status(false).await?;
            self.replication.finish().await
        };
        let said = tokio::time::timeout(GOODBYE, goodbye).await;
        self.replication.close().await;
        said.unwrap_or(Ok(()))
    }
}
