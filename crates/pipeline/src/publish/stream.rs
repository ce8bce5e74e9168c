//! Writes everything committed since the snapshot.
//!
//! Records are sent as they come. A transaction is confirmed once the broker has acknowledged all its records, in
//! order.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;
use tracing::Span;
use walvec_broker::wire::{ChangeContext, SnapshotEnd, Sweep};
use walvec_capture::CaptureError;
use walvec_model::{Change, Generation, Op, RowKey, StreamEvent, Table, TableName, Touched};

use super::PublishSession;
use super::topic_writer::Committed;
use crate::error::{PipelineError, Refusal, Resync};
use crate::observe::metrics::count_changes;
use crate::observe::status::Phase;
use crate::observe::trace;
use crate::port::StreamPort;
use crate::retry::until;
use crate::source::gap;
use crate::source::lookup_fanout::{AffectedRows, ChangedLookups};
use crate::source::replay::Replay;
use crate::source::reread::{JobSpec, JobStep, QueuedJob, RunningJob, step_of};
use crate::source::rows::SourceRows;
use crate::source::unseen::Unseen;
use crate::state::checkpoint::Checkpointer;

/// How many rows one statement reads again, because of something that they look up.
const ROWS: usize = 256;

/// The next event of the loop.
enum PublishEvent {
    Events(Result<Vec<StreamEvent>, CaptureError>),
    Acknowledged,
    Checkpoint,
    Begin(QueuedJob),
    Reread(JobStep),
    Stop,
}

/// The transaction that is being read.
struct Transaction {
    context: ChangeContext,
    rows: usize,
    span: Span,
    /// The trace header of its records.
    traceparent: Option<String>,
}

/// What was read from the stream so far.
struct StreamState {
    transaction: Transaction,
    related: ChangedLookups,
    unseen: Unseen,
}

/// Where a session follows the stream from.
pub(super) struct StreamStart {
    pub(super) stream: Box<dyn StreamPort>,
    pub(super) checkpointer: Checkpointer,
    pub(super) replay: Replay,
    pub(super) generation: Generation,
}

/// The jobs of the publisher.
pub(super) struct PublisherJobs<'j> {
    pub(super) orders: &'j mut mpsc::Receiver<QueuedJob>,
    /// The job that an error of the last session interrupted.
    pub(super) interrupted: &'j mut Option<QueuedJob>,
}

impl PublishSession<'_> {
    /// Follows the stream until it fails or the publisher is asked to stop.
    pub(super) async fn follow(
        &mut self,
        start: StreamStart,
        PublisherJobs { orders, interrupted }: PublisherJobs<'_>,
    ) -> Result<(), PipelineError> {
        let mut active = interrupted.take().and_then(|order| self.begin(order));
        let outcome = self.follow_with(start, orders, &mut active).await;
        match (&outcome, active.and_then(RunningJob::into_order)) {
            (Ok(()), Some(order)) => order.end(Err(&PipelineError::Stopped)),
            (Err(_), order) => *interrupted = order,
            (Ok(()), None) => {}
        }
        outcome
    }

    async fn follow_with(
        &mut self,
        StreamStart { mut stream, mut checkpointer, mut replay, generation }: StreamStart,
        orders: &mut mpsc::Receiver<QueuedJob>,
        active: &mut Option<RunningJob>,
    ) -> Result<(), PipelineError> {
        let context = ChangeContext { generation, committed_at: SystemTime::UNIX_EPOCH, xid: None, snapshot: false };
        let transaction = Transaction { context, rows: 0, span: Span::none(), traceparent: None };
        let related = ChangedLookups::new(&self.config.source.lookups);
        let mut state = StreamState { transaction, related, unseen: Unseen::default() };
        let mut progress = self.topic_writer.progress();
        loop {
            let is_free = active.is_none();
            let step = tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => PublishEvent::Stop,
                () = until(checkpointer.due()) => PublishEvent::Checkpoint,
                Ok(()) = progress.changed(), if !self.topic_writer.is_idle() => PublishEvent::Acknowledged,
                events = stream.next() => PublishEvent::Events(events),
                turn = step_of(active) => PublishEvent::Reread(turn),
                Some(order) = orders.recv(), if is_free => PublishEvent::Begin(order),
            };
            match step {
                PublishEvent::Events(events) => {
                    let events = events?;
                    for event in &events {
                        replay.check(event).map_err(|gap| gap::found(gap, self.config.on_gap))?;
                        checkpointer.takes(event);
                    }
                    match self.take_in(events, &mut state, active).await {
                        Err(PipelineError::Stopped) => return self.end(stream, &mut checkpointer).await,
                        taken => taken?,
                    }
                }
                PublishEvent::Acknowledged => {}
                PublishEvent::Checkpoint => self.confirm(stream.as_ref(), &mut checkpointer)?,
                PublishEvent::Begin(order) if matches!(order.job, JobSpec::Resync { .. }) => {
                    // Each worker removes what is gone when it reaches the end of the snapshot.
                    let resync = Resync::asked(true);
                    checkpointer.want(&resync)?;
                    order.end(Ok(()));
                    return Err(PipelineError::Resync(resync));
                }
                PublishEvent::Begin(order) => *active = self.begin(order),
                PublishEvent::Reread(turn) => {
                    self.reread(turn, &state.transaction.context, active, &mut checkpointer).await?
                }
                PublishEvent::Stop => return self.end(stream, &mut checkpointer).await,
            }
            let done = self.topic_writer.acknowledged()?;
            self.note(done, &mut checkpointer);
            self.show_trouble();
        }
    }

    /// Confirms what the broker has, after a short wait for what is in flight. The rest is written again after the next
    /// start.
    async fn end(&mut self, stream: Box<dyn StreamPort>, checkpointer: &mut Checkpointer) -> Result<(), PipelineError> {
        self.shared.telemetry.phase(Phase::Stopping);
        let done = self.topic_writer.acknowledged()?;
        self.note(done, checkpointer);
        if let Ok(done) = tokio::time::timeout(super::GOODBYE, self.topic_writer.drain()).await {
            self.note(done?, checkpointer);
        }
        self.confirm(stream.as_ref(), checkpointer)?;
        Ok(stream.close().await?)
    }

    async fn take_in(
        &mut self,
        events: Vec<StreamEvent>,
        StreamState { transaction, related, unseen }: &mut StreamState,
        active: &mut Option<RunningJob>,
    ) -> Result<(), PipelineError> {
        self.shared.leaves.hear(&events, self.store)?;
        self.gather(&events, related, unseen)?;
        // Wait before anything is written: a worker that renders the rows must see what they look up.
        let affected = related.take(self.source.as_ref(), &self.tables, unseen, self.shared).await?;
        for event in events {
            match event {
                StreamEvent::Begin { at, xid } => {
                    transaction.context.committed_at = at;
                    transaction.context.xid = Some(xid);
                    transaction.span = trace::publishing(xid);
                    transaction.traceparent = trace::traceparent(&transaction.span);
                }
                StreamEvent::Change(change) => {
                    transaction.rows += 1;
                    if self.floors.cover(&change, active.as_ref()) {
                        continue;
                    }
                    self.shared.truncates.hear(&change, transaction.context.xid.unwrap_or_default());
                    if let Some(active) = active {
                        active.note(&change);
                    }
                    let is_reread = active.as_ref().is_some_and(|active| active.concerns(&change.table.name));
                    self.send(change, transaction, unseen, is_reread).await?;
                }
                StreamEvent::LookedUp(change) => {
                    transaction.rows += 1;
                    if change.touched == Touched::All && !self.has_topic(&change.table.name) {
                        let xid = transaction.context.xid.unwrap_or_default();
                        self.shared.truncates.note(&change.table.name, xid);
                    }
                }
                StreamEvent::Commit { end_lsn, at } => {
                    let rows = std::mem::take(&mut transaction.rows);
                    transaction.span = Span::none();
                    self.topic_writer.commit(Committed { end_lsn, at, rows });
                }
                StreamEvent::Idle { wal_end } if transaction.rows == 0 => {
                    // Confirmed after what is in flight: the server may not repeat this position for half a minute.
                    let at = transaction.context.committed_at;
                    self.topic_writer.commit(Committed { end_lsn: wal_end, at, rows: 0 });
                }
                StreamEvent::Partition { .. } | StreamEvent::Idle { .. } => {}
            }
        }
        self.write_again(affected, &transaction.context, active).await?;
        self.topic_writer.cut();
        Ok(())
    }

    /// Notes the changes of looked-up tables among the events.
    fn gather(
        &self,
        events: &[StreamEvent],
        related: &mut ChangedLookups,
        unseen: &Unseen,
    ) -> Result<(), PipelineError> {
        for event in events {
            match event {
                StreamEvent::Begin { xid, .. } => unseen.begin(*xid),
                StreamEvent::Change(change) => related.reach(change.position),
                StreamEvent::LookedUp(change) => {
                    self.refuse_altered(&change.table)?;
                    related.note(change);
                }
                StreamEvent::Partition { .. } | StreamEvent::Commit { .. } | StreamEvent::Idle { .. } => {}
            }
        }
        Ok(())
    }

    /// Writes the rows again that look up something that has changed. They follow the changes of the same events and
    /// get the position of the last of them. A stop does not wait for all of them, because nothing is confirmed before
    /// that.
    async fn write_again(
        &mut self,
        mut affected: AffectedRows,
        context: &ChangeContext,
        active: &mut Option<RunningJob>,
    ) -> Result<(), PipelineError> {
        let source = Arc::clone(&self.source);
        let shared = self.shared.clone();
        // The application may hold a lock for any length of time, so a stop must not wait for it.
        while let Some(mut rows) = shared.or_stop(affected.next(source.as_ref(), ROWS)).await? {
            if self.shared.stop.is_cancelled() {
                return Err(PipelineError::Stopped);
            }
            self.floors.lift(&mut rows, active.as_ref());
            for row in rows {
                if let Some(active) = active {
                    active.note(&row);
                }
                self.put(row, context, None).await?;
            }
        }
        Ok(())
    }

    fn refuse_altered(&self, table: &Arc<Table>) -> Result<(), PipelineError> {
        match self.tables.iter().find(|known| known.name == table.name) {
            Some(known) if known != table => Err(PipelineError::Altered { table: table.name.clone() }),
            _ => Ok(()),
        }
    }

    async fn send(
        &mut self,
        change: Change,
        transaction: &Transaction,
        unseen: &Unseen,
        is_reread: bool,
    ) -> Result<(), PipelineError> {
        self.refuse_altered(&change.table)?;
        count_changes(std::slice::from_ref(&change));
        let change = self.complete(change, unseen, is_reread).await?;
        let Transaction { context, traceparent, .. } = transaction;
        self.put(change, context, traceparent.as_deref()).await
    }

    /// Reads the unsent values of an update from the source, if a worker cannot find them in the collection. There are
    /// three cases:
    ///
    /// - The key has changed: nothing is stored under the new key yet, and another worker may own the old one.
    /// - The record that brought the values was too large.
    /// - The table is being read again: the stored values may be outdated.
    ///
    /// The row that is read may be newer than the change; the changes in between are still to come. If the row is gone,
    /// one of them deletes it.
    async fn complete(&self, mut change: Change, unseen: &Unseen, is_reread: bool) -> Result<Change, PipelineError> {
        let Op::Update { old_key, new } = &change.op else { return Ok(change) };
        let too_large = self.too_large.get(&change.table.name);
        let is_missing = |key: RowKey| too_large.is_some_and(|keys| keys.contains(&key));
        let is_stored = old_key.is_none() && !is_reread && !change.key().is_some_and(is_missing);
        if !new.is_partial() || is_stored {
            return Ok(change);
        }
        let Some(key) = change.key() else { return Ok(change) };
        let source = SourceRows { source: self.source.as_ref(), unseen, shared: self.shared };
        // Boxed because it is large and rarely needed.
        let found = Box::pin(source.fetch(&change.table, std::slice::from_ref(&key))).await?;
        if let (Some((_, found)), Op::Update { new, .. }) = (found.into_iter().next(), &mut change.op) {
            new.fill(found);
        }
        Ok(change)
    }

    fn note(&self, done: Vec<Committed>, checkpointer: &mut Checkpointer) {
        for Committed { end_lsn, at, rows } in done {
            self.shared.telemetry.published(at, rows);
            if rows > 0 {
                checkpointer.committed(end_lsn);
            }
            checkpointer.durable(end_lsn);
            self.shared.telemetry.applied(checkpointer.reached());
        }
    }

    fn confirm(&self, stream: &dyn StreamPort, checkpointer: &mut Checkpointer) -> Result<(), PipelineError> {
        checkpointer.note_written(self.topic_writer.written());
        let confirmed = checkpointer.store(stream)?;
        self.shared.telemetry.confirmed(confirmed);
        Ok(())
    }

    /// Shows problems with the broker in the status: the client library retries by itself, and operators should see
    /// that it does.
    fn show_trouble(&self) {
        let trouble = self.topic_writer.trouble().filter(|_| !self.topic_writer.is_idle());
        self.shared.telemetry.broker_trouble(trouble.as_ref());
    }

    /// Returns whether the rows of a table go to a topic, rather than only being looked up.
    fn has_topic(&self, table: &TableName) -> bool {
        self.config.topics.iter().any(|topic| topic.table == *table)
    }

    /// Begins a backfill. A job that cannot be done ends at once.
    fn begin(&self, order: QueuedJob) -> Option<RunningJob> {
        let refused =
            |what: &str, remedy: &str| Refusal { code: "E_TABLE", what: what.to_owned(), remedy: remedy.to_owned() };
        let refusal = match &order.job {
            JobSpec::Backfill { table, .. } | JobSpec::Altered { table, .. } if self.has_topic(table) => {
                let table = table.clone();
                return Some(RunningJob::begin(&self.port(), self.shared, order, table));
            }
            JobSpec::Backfill { .. } | JobSpec::Altered { .. } => {
                refused("it is not part of the configuration that is running", "name a table of the configuration")
            }
            JobSpec::Repair { .. } | JobSpec::Resync { .. } => refused(
                "capture has no collection to repair: it writes to topics",
                "`walvec backfill --table ...` writes rows to the topics again",
            ),
        };
        order.end(Err(&refusal.into()));
        None
    }

    async fn reread(
        &mut self,
        turn: JobStep,
        context: &ChangeContext,
        active: &mut Option<RunningJob>,
        checkpointer: &mut Checkpointer,
    ) -> Result<(), PipelineError> {
        match turn {
            JobStep::Write(rows) => {
                rows.iter().for_each(|row| checkpointer.takes_as_of(row.position.commit_lsn));
                let context =
                    ChangeContext { committed_at: SystemTime::now(), xid: None, snapshot: true, ..context.clone() };
                self.write_rows(rows, &context).await?;
                self.topic_writer.cut();
            }
            JobStep::Ended(result) => {
                let done = self.topic_writer.drain_or_stop().await?;
                self.note(done, checkpointer);
                if result.is_ok()
                    && let Some(job) = active.as_ref()
                    && let Some((table, position)) = job.supersedes()
                {
                    let (table, generation) = (table.clone(), context.generation);
                    checkpointer.takes_as_of(position.commit_lsn);
                    self.floors.raise(table.clone(), position);
                    job.order().update(|progress| progress.superseded = Some((table.clone(), position)));
                    let end = SnapshotEnd { table, position, generation, sweep: Sweep::Older, barrier: Vec::new() };
                    self.topic_writer.end_snapshot(&end).await?;
                    self.forget_too_large(&end).await?;
                }
                if let Some(job) = active.take() {
                    job.order().end(result.as_ref().copied());
                }
            }
        }
        Ok(())
    }
}
