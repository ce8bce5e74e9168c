//! Follows the stream, transaction by transaction.
//!
//! `select!` only builds an event; [`Pending`] decides what follows from it. While batches are embedded and written,
//! the stream's own task keeps reading ahead, within bounds, so that the next batch is as large as the backlog allows.
//! A single row goes through at once. A flood goes through in full batches, several at a time.

use std::ops::Range;
use std::sync::Arc;

use futures::FutureExt as _;
use tokio::time::Instant;
use tracing::Span;
use walvec_capture::CaptureError;
use walvec_model::{Lsn, StreamEvent, Touched};

use crate::direct::Run;
use crate::direct::pending::{Commit, Demand, Pending};
use crate::error::PipelineError;
use crate::observe::metrics::count_changes;
use crate::observe::status::Phase;
use crate::observe::trace;
use crate::port::{SourcePort, StreamPort};
use crate::retry::until;
use crate::rounds::Rounds;
use crate::sequencer::{EmbeddedPart, Sequencer};
use crate::shared::first_error;
use crate::source::gap;
use crate::source::lookup_fanout::AffectedRows;
use crate::source::replay::Replay;
use crate::source::reread::{Floors, JobStep, QueuedJob, RunningJob, step_of};
use crate::source::rows::SourceRows;
use crate::state::checkpoint::Checkpointer;
use crate::writer::{Batch, Purpose};

/// How many more reads may join a batch before the checkpoint and a stop request get their turn.
const READ_AHEAD: usize = 16;

enum FollowEvent {
    Events(Result<Vec<StreamEvent>, CaptureError>),
    Vectors(EmbeddedPart),
    Flush,
    Checkpoint,
    Begin(QueuedJob),
    Reread(JobStep),
    Look,
    Stop,
}

/// Follows `stream` until it fails or the pipeline is asked to stop. A job that an error interrupts begins again with
/// the next stream.
pub(crate) async fn follow(
    run: &mut Run,
    source: &Arc<dyn SourcePort>,
    stream: Box<dyn StreamPort>,
    checkpointer: Checkpointer,
    replay: Replay,
) -> Result<(), PipelineError> {
    let interrupted = run.interrupted.take();
    let baseline = run.store.baseline()?.unwrap_or_default();
    run.shared.leaves.begin(&baseline);
    let floors = Floors::new(baseline.floors);
    let (pending, sequencer, active) =
        (Pending::new(&run.collections.lookups()), Sequencer::new(run.shared.stop.clone()), None);
    let replayed = source.flushed().await?;
    let look_at = Instant::now();
    let mut follower = Follower {
        run,
        source,
        stream,
        checkpointer,
        replay,
        replayed,
        look_at,
        looks: Rounds::default(),
        notes: Rounds::default(),
        pending,
        sequencer,
        active,
        floors,
        xid: 0,
    };
    let outcome = follower.follow(interrupted).await;
    follower.end(outcome).await
}

/// The stream, and the state of everything read from it so far.
pub(super) struct Follower<'r> {
    pub(super) run: &'r mut Run,
    pub(super) source: &'r Arc<dyn SourcePort>,
    pub(super) stream: Box<dyn StreamPort>,
    pub(super) checkpointer: Checkpointer,
    pub(super) replay: Replay,
    /// The server's position when the stream began.
    pub(super) replayed: Lsn,
    /// When collections are checked next.
    pub(super) look_at: Instant,
    pub(super) looks: Rounds,
    /// Which collections' witnesses are noted next.
    pub(super) notes: Rounds,
    /// Changes that have been read and not begun yet.
    pub(super) pending: Pending,
    /// Batches that have begun and are not durable yet.
    pub(super) sequencer: Sequencer<Commit>,
    /// The job that runs concurrently with the stream.
    pub(super) active: Option<RunningJob>,
    /// The position from which the stream counts, for tables that were altered.
    pub(super) floors: Floors,
    /// The id of the transaction that is being read.
    pub(super) xid: u32,
}

impl Follower<'_> {
    async fn follow(&mut self, interrupted: Option<QueuedJob>) -> Result<(), PipelineError> {
        if let Some(order) = interrupted {
            self.begin(order).await?;
        }
        loop {
            match self.next_event().await {
                FollowEvent::Events(events) => {
                    self.take_in(events?).await?;
                    // More may have arrived already, and one larger batch is cheaper than two.
                    for _ in 0..READ_AHEAD {
                        let Some(events) = self.stream.next().now_or_never() else { break };
                        self.take_in(events?).await?;
                    }
                }
                FollowEvent::Vectors(answer) => self.sequencer.write(&mut self.run.collections.writers, answer).await?,
                FollowEvent::Flush => {
                    self.flush().await?;
                    self.reread_a_piece().await?;
                }
                FollowEvent::Checkpoint => self.confirm()?,
                FollowEvent::Look => self.look().await?,
                FollowEvent::Begin(order) => self.begin(order).await?,
                FollowEvent::Reread(turn) => self.reread(turn).await?,
                FollowEvent::Stop => {
                    // Only if nothing is in flight: shutdown completes the oldest batch and gives up later ones.
                    if self.sequencer.is_empty() {
                        self.flush().await?;
                    }
                    return Ok(());
                }
            }
            if self.flush_at().is_some_and(|at| at <= Instant::now()) {
                self.flush().await?;
                self.reread_a_piece().await?;
            }
            self.report();
        }
    }

    /// Shuts down: writes the parts that are nearly ready, and ends or keeps the active job.
    async fn end(mut self, outcome: Result<(), PipelineError>) -> Result<(), PipelineError> {
        if self.run.shared.stop.is_cancelled() {
            self.run.shared.telemetry.phase(Phase::Stopping);
        }
        let mut outcome = self.sequencer.close(&mut self.run.collections.writers, outcome).await;
        if self.run.shared.stop.is_cancelled() {
            self.report();
            self.note_witnesses(0..self.run.collections.writers.len());
            outcome = first_error(outcome, self.confirm());
            outcome = first_error(outcome, self.stream.close().await.map_err(Into::into));
        }
        match (&outcome, self.active.and_then(RunningJob::into_order)) {
            (Ok(()), Some(order)) => order.end(Err(&PipelineError::Stopped)),
            (Err(_), Some(order)) => self.run.interrupted = Some(order),
            (_, None) => {}
        }
        outcome
    }

    async fn next_event(&mut self) -> FollowEvent {
        let (is_free, flush_at) = (self.active.is_none(), self.flush_at());
        // Do not look before the replay has passed the server's position at the start: until then it may still remove
        // rows that were written last.
        let is_replayed = self.checkpointer.reached() >= self.replayed;
        let has_time = self.sequencer.has_time(&self.run.collections.writers);
        tokio::select! {
            biased;
            () = self.run.shared.stop.cancelled() => FollowEvent::Stop,
            () = until(self.checkpointer.due()) => FollowEvent::Checkpoint,
            () = tokio::time::sleep_until(self.look_at), if is_replayed => FollowEvent::Look,
            Some(answer) = self.sequencer.next() => FollowEvent::Vectors(answer),
            () = until(flush_at) => FollowEvent::Flush,
            events = self.stream.next() => FollowEvent::Events(events),
            turn = step_of(&mut self.active), if has_time => FollowEvent::Reread(turn),
            Some(order) = self.run.orders.recv(), if is_free => FollowEvent::Begin(order),
        }
    }

    /// Returns when the pending rows should begin. They collect until then.
    fn flush_at(&self) -> Option<Instant> {
        let since = self.pending.since()?;
        let due = self.sequencer.due(&self.run.collections.writers, self.pending.rows(), self.run.batch_rows, since)?;
        if self.pending.is_complete() { Some(due) } else { Some(due.max(since + self.run.batch_wait)) }
    }

    async fn take_in(&mut self, events: Vec<StreamEvent>) -> Result<(), PipelineError> {
        self.run.shared.leaves.hear(&events, &self.run.store)?;
        for event in events {
            self.replay.check(&event).map_err(|gap| gap::found(gap, self.run.on_gap))?;
            self.checkpointer.takes(&event);
            match &event {
                StreamEvent::Change(change) => {
                    if self.floors.cover(change, self.active.as_ref()) {
                        continue;
                    }
                    self.run.collections.refuse_altered(&change.table)?;
                    self.run.shared.truncates.hear(change, self.xid);
                    if let Some(active) = &mut self.active {
                        active.note(change);
                    }
                }
                StreamEvent::LookedUp(change) => {
                    self.run.collections.refuse_altered(&change.table)?;
                    if change.touched == Touched::All && self.run.collections.writers_of(&change.table.name).is_empty()
                    {
                        self.run.shared.truncates.note(&change.table.name, self.xid);
                    }
                }
                StreamEvent::Begin { xid, .. } => self.xid = *xid,
                StreamEvent::Partition { .. } | StreamEvent::Commit { .. } | StreamEvent::Idle { .. } => {}
            }
            match self.pending.push(event, self.run.batch_rows) {
                Demand::Nothing => {}
                Demand::Flush => {
                    self.flush().await?;
                    self.reread_a_piece().await?;
                }
                Demand::Truncate(table) => {
                    self.flush().await?;
                    self.drain().await?;
                    for index in self.run.collections.writers_of(&table) {
                        self.run.collections.writers[index].truncate().await?;
                    }
                }
                Demand::Idle(lsn) => self.sequencer.note(Commit::idle(lsn)),
            }
        }
        Ok(())
    }

    /// Begins to write the pending rows as soon as it may. When they are durable, so is every transaction whose end was
    /// read.
    pub(super) async fn flush(&mut self) -> Result<(), PipelineError> {
        let changes = self.pending.take_changes();
        // Wait first, before anything of the batch is rendered: its lookups must see the changes read so far.
        let affected = self.affected().await?;
        if !changes.is_empty() {
            count_changes(&changes);
            let span = trace::writing(changes.len(), []);
            let mut batches = self.run.collections.batches(changes, Purpose::Change);
            self.distrust_stored(&mut batches);
            self.begin_batches(batches, span).await?;
        }
        self.refresh(affected).await?;
        self.pending.take_commits().into_iter().for_each(|commit| self.sequencer.note(commit));
        Ok(())
    }

    /// Returns the rows that look up something that has changed.
    async fn affected(&mut self) -> Result<AffectedRows, PipelineError> {
        let Pending { related, unseen, .. } = &mut self.pending;
        related.take(self.source.as_ref(), self.run.collections.tables(), unseen, &self.run.shared).await
    }

    /// Renders the rows again that look up something that has changed.
    ///
    /// There may be very many of them. A stop does not wait for the last one, because nothing of the batch is confirmed
    /// before that.
    ///
    /// The active job does not learn of these rows. It may write a row as it was before: the row's own change is known
    /// to the job already, or still to come, and rendering always reads looked-up rows as they are now.
    async fn refresh(&mut self, mut affected: AffectedRows) -> Result<(), PipelineError> {
        let mut is_first = true;
        // The application may hold a lock for any length of time, so a stop must not wait for it.
        let shared = self.run.shared.clone();
        while let Some(mut rows) = shared.or_stop(affected.next(self.source.as_ref(), self.run.batch_rows)).await? {
            if self.run.shared.stop.is_cancelled() && !is_first {
                return Err(PipelineError::Stopped);
            }
            is_first = false;
            let span = trace::writing(rows.len(), []);
            self.floors.lift(&mut rows, self.active.as_ref());
            let batches = self.run.collections.batches(rows, Purpose::Refresh);
            self.begin_batches(batches, span).await?;
        }
        Ok(())
    }

    /// Begins to write rows as soon as they may. Reports and confirms what becomes durable in the meantime.
    pub(super) async fn begin_batches(
        &mut self,
        batches: Vec<(usize, Batch)>,
        span: Span,
    ) -> Result<(), PipelineError> {
        while !self.sequencer.may_begin(&self.run.collections.writers, &batches) && self.write_next().await? {}
        let source =
            &SourceRows { source: self.source.as_ref(), unseen: &self.pending.unseen, shared: &self.run.shared };
        self.sequencer.begin(&mut self.run.collections.writers, source, batches, span).await
    }

    /// Writes everything that is in flight.
    pub(super) async fn drain(&mut self) -> Result<(), PipelineError> {
        while self.write_next().await? {}
        Ok(())
    }

    /// Waits for the next part that has its vectors, writes it, reports and confirms. Returns false if nothing is in
    /// flight.
    pub(super) async fn write_next(&mut self) -> Result<bool, PipelineError> {
        let is_under_way = self.sequencer.write_next(&mut self.run.collections.writers).await?;
        self.report();
        if self.checkpointer.due().is_some_and(|due| due <= Instant::now()) {
            self.confirm()?;
        }
        Ok(is_under_way)
    }

    /// Reports what has become durable to the checkpoint and the telemetry.
    fn report(&mut self) {
        let telemetry = &self.run.shared.telemetry;
        for Commit { end_lsn, with_rows, at, rows } in self.sequencer.durable() {
            telemetry.searchable(at, rows);
            self.checkpointer.committed(with_rows);
            self.checkpointer.durable(end_lsn);
            telemetry.applied(self.checkpointer.reached());
        }
        let mut commits = self.sequencer.notes().chain(self.pending.commits());
        telemetry.waiting_since(commits.find(|commit| commit.rows > 0).map(|commit| commit.at));
    }

    /// Notes what these collections must have, to be stored with the position. Witnesses that are older than the
    /// position prove less, but nothing wrong.
    pub(super) fn note_witnesses(&mut self, places: Range<usize>) {
        for writer in &self.run.collections.writers[places] {
            self.checkpointer.note_witnesses(&writer.collection.name, writer.to_remember());
        }
    }

    pub(super) fn confirm(&mut self) -> Result<(), PipelineError> {
        let turn = self.notes.turn(self.run.collections.writers.len());
        self.note_witnesses(turn);
        let confirmed = self.checkpointer.store(self.stream.as_ref())?;
        self.run.shared.telemetry.confirmed(confirmed);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
