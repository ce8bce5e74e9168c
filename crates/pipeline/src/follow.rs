//! Follows the stream, transaction by transaction.
//!
//! `select!` only builds an event; [`Pending`] decides what follows from it. While batches are embedded and written,
//! the stream's own task keeps reading ahead, within bounds, so that the next batch is as large as the backlog allows.
//! A single row goes through at once. A flood goes through in full batches, several at a time.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::Instant;
use tracing::Span;
use walvec_capture::{CaptureError, ChangeStream, Source};
use walvec_model::{Generation, Lsn, PointId, Position, StreamEvent, TableName, Touched};

use crate::checkpoint::Checkpointer;
use crate::error::PipelineError;
use crate::gap::{self, Resync};
use crate::line::{Answer, Line};
use crate::pending::{Commit, Demand, Pending};
use crate::refetch::Seeing;
use crate::related::Affected;
use crate::replay::Replay;
use crate::reread::{Active, Floors, Job, Order, Turn};
use crate::rounds::{Rounds, answers};
use crate::start::Refusal;
use crate::status::Phase;
use crate::supervisor::Run;
use crate::telemetry::{count_changes, count_overtaken};
use crate::trace;
use crate::writer::{Batch, Overtaken, Purpose, Writer, first_error};

/// How many more reads may join a batch before the checkpoint and a stop request get their turn.
const READ_AHEAD: usize = 16;

/// How often each collection is checked for writes that it must still have. Very many collections are checked less
/// often.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

enum Step {
    Events(Result<Vec<StreamEvent>, CaptureError>),
    Vectors(Answer),
    Flush,
    Checkpoint,
    Begin(Order),
    Reread(Turn),
    Look,
    Stop,
}

/// Follows `stream` until it fails or the pipeline is asked to stop. A job that an error interrupts begins again with
/// the next stream.
pub(crate) async fn follow(
    run: &mut Run,
    source: &Arc<Source>,
    stream: ChangeStream,
    checkpointer: Checkpointer,
    replay: Replay,
) -> Result<(), PipelineError> {
    let interrupted = run.interrupted.take();
    let baseline = run.store.baseline()?.unwrap_or_default();
    run.shared.leaves.begin(&baseline);
    let floors = Floors::new(baseline.floors);
    let (pending, line, active) = (Pending::new(&run.lookups()), Line::new(run.shared.stop.clone()), None);
    let replayed = source.server_position().await?.flushed;
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
        line,
        active,
        floors,
        xid: 0,
    };
    let outcome = follower.follow(interrupted).await;
    follower.end(outcome).await
}

/// The stream, and the state of everything read from it so far.
struct Follower<'r> {
    run: &'r mut Run,
    source: &'r Arc<Source>,
    stream: ChangeStream,
    checkpointer: Checkpointer,
    replay: Replay,
    /// The server's position when the stream began.
    replayed: Lsn,
    /// When collections are checked next.
    look_at: Instant,
    looks: Rounds,
    /// Which collections' witnesses are noted next.
    notes: Rounds,
    /// Changes that have been read and not begun yet.
    pending: Pending,
    /// Batches that have begun and are not durable yet.
    line: Line<Commit>,
    /// The job that runs concurrently with the stream.
    active: Option<Active>,
    /// The position from which the stream counts, for tables that were altered.
    floors: Floors,
    /// The id of the transaction that is being read.
    xid: u32,
}

impl Follower<'_> {
    async fn follow(&mut self, interrupted: Option<Order>) -> Result<(), PipelineError> {
        if let Some(order) = interrupted {
            self.begin(order).await?;
        }
        loop {
            match self.next_step().await {
                Step::Events(events) => {
                    self.take_in(events?).await?;
                    // More may have arrived already, and one larger batch is cheaper than two.
                    for _ in 0..READ_AHEAD {
                        let Some(events) = self.stream.next().now_or_never() else { break };
                        self.take_in(events?).await?;
                    }
                }
                Step::Vectors(answer) => self.line.write(&mut self.run.writers, answer).await?,
                Step::Flush => {
                    self.flush().await?;
                    self.reread_a_piece().await?;
                }
                Step::Checkpoint => self.confirm()?,
                Step::Look => self.look().await?,
                Step::Begin(order) => self.begin(order).await?,
                Step::Reread(turn) => self.reread(turn).await?,
                Step::Stop => {
                    // Only if nothing is in flight: shutdown completes the oldest batch and gives up later ones.
                    if self.line.is_empty() {
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
        let mut outcome = self.line.close(&mut self.run.writers, outcome).await;
        if self.run.shared.stop.is_cancelled() {
            self.report();
            self.note_witnesses(0..self.run.writers.len());
            outcome = first_error(outcome, self.confirm());
            outcome = first_error(outcome, self.stream.close().await.map_err(Into::into));
        }
        match (&outcome, self.active.and_then(Active::into_order)) {
            (Ok(()), Some(order)) => order.end(Err(&PipelineError::Stopped)),
            (Err(_), Some(order)) => self.run.interrupted = Some(order),
            (_, None) => {}
        }
        outcome
    }

    async fn next_step(&mut self) -> Step {
        let (is_free, flush_at) = (self.active.is_none(), self.flush_at());
        // Do not look before the replay has passed the server's position at the start: until then it may still remove
        // rows that were written last.
        let is_replayed = self.checkpointer.reached() >= self.replayed;
        let has_time = self.line.has_time(&self.run.writers);
        tokio::select! {
            biased;
            () = self.run.shared.stop.cancelled() => Step::Stop,
            () = until(self.checkpointer.due()) => Step::Checkpoint,
            () = tokio::time::sleep_until(self.look_at), if is_replayed => Step::Look,
            Some(answer) = self.line.next() => Step::Vectors(answer),
            () = until(flush_at) => Step::Flush,
            events = self.stream.next() => Step::Events(events),
            turn = turn_of(&mut self.active), if has_time => Step::Reread(turn),
            Some(order) = self.run.orders.recv(), if is_free => Step::Begin(order),
        }
    }

    /// Makes sure that no collection is an older state of itself, and that no write has arrived after newer ones.
    async fn look(&mut self) -> Result<(), PipelineError> {
        let looked = self.look_once().await;
        // Counted from the end of the look, so that the stream has its turn however long the look took.
        self.look_at = Instant::now() + Rounds::pause(self.run.writers.len(), LOOK_INTERVAL);
        looked
    }

    async fn look_once(&mut self) -> Result<(), PipelineError> {
        let turn = self.looks.turn(self.run.writers.len());
        let followed = self.run.writers[turn].iter().filter(|writer| !self.run.is_aside(&writer.collection.table));
        let followed: Vec<&Writer> = followed.collect();
        answers(followed.iter().map(|writer| writer.look().boxed()).collect()).await?;
        if !self.line.is_empty() {
            return Ok(());
        }
        for writer in followed {
            let overtaken = writer.overtaken().await?;
            // Another job goes first. The next look finds the points again.
            if !overtaken.is_empty() && self.active.is_none() {
                let collection = writer.collection.name.clone();
                return self.mend(collection, overtaken).await;
            }
        }
        Ok(())
    }

    /// Repairs what a late request has overwritten: reads the older rows again, and removes the points that it brought
    /// back.
    async fn mend(&mut self, collection: String, Overtaken { rows, points }: Overtaken) -> Result<(), PipelineError> {
        let count = rows.len() + points.len();
        tracing::warn!(collection, count, "a request arrived after newer ones; what it has set back is read again");
        count_overtaken(count);
        let rows = rows.into_iter().collect();
        self.begin(Order::unasked(Job::Repair { collection, rows, points })).await
    }

    /// Returns when the pending rows should begin. They collect until then.
    fn flush_at(&self) -> Option<Instant> {
        let since = self.pending.since()?;
        let due = self.line.due(&self.run.writers, self.pending.rows(), self.run.batch_rows, since)?;
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
                    self.run.refuse_altered(&change.table)?;
                    self.run.shared.truncates.hear(change, self.xid);
                    if let Some(active) = &mut self.active {
                        active.note(change);
                    }
                }
                StreamEvent::LookedUp(change) => {
                    self.run.refuse_altered(&change.table)?;
                    if change.touched == Touched::All && self.run.writers_of(&change.table.name).is_empty() {
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
                    for index in self.run.writers_of(&table) {
                        self.run.writers[index].truncate().await?;
                    }
                }
                Demand::Idle(lsn) => self.line.note(Commit::idle(lsn)),
            }
        }
        Ok(())
    }

    /// Begins to write the pending rows as soon as it may. When they are durable, so is every transaction whose end was
    /// read.
    async fn flush(&mut self) -> Result<(), PipelineError> {
        let changes = self.pending.take_changes();
        // Wait first, before anything of the batch is rendered: its lookups must see the changes read so far.
        let affected = self.affected().await?;
        if !changes.is_empty() {
            count_changes(&changes);
            let span = trace::writing(changes.len(), []);
            let mut batches = self.run.batches(changes, Purpose::Change);
            self.distrust_stored(&mut batches);
            self.begin_batches(batches, span).await?;
        }
        self.refresh(affected).await?;
        self.pending.take_commits().into_iter().for_each(|commit| self.line.note(commit));
        Ok(())
    }

    /// Stops rows of a table that is being read again from being completed from their stored points: the job leaves newer
    /// rows alone, so it would not correct a value that came from an outdated point.
    fn distrust_stored(&self, batches: &mut [(usize, Batch)]) {
        let Some(active) = &self.active else { return };
        let concerned = |index: usize| active.concerns(&self.run.writers[index].collection.table);
        batches.iter_mut().filter(|(index, _)| concerned(*index)).for_each(|(_, batch)| batch.distrust_stored());
    }

    /// Returns the rows that look up something that has changed.
    async fn affected(&mut self) -> Result<Affected, PipelineError> {
        let Pending { related, unseen, .. } = &mut self.pending;
        related.take(self.source, &self.run.tables, unseen, &self.run.shared).await
    }

    /// Renders the rows again that look up something that has changed.
    ///
    /// There may be very many of them. A stop does not wait for the last one, because nothing of the batch is confirmed
    /// before that.
    ///
    /// The active job does not learn of these rows. It may write a row as it was before: the row's own change is known
    /// to the job already, or still to come, and rendering always reads looked-up rows as they are now.
    async fn refresh(&mut self, mut affected: Affected) -> Result<(), PipelineError> {
        let mut is_first = true;
        // The application may hold a lock for any length of time, so a stop must not wait for it.
        let shared = self.run.shared.clone();
        while let Some(mut rows) = shared.or_stop(affected.next(self.source, self.run.batch_rows)).await? {
            if self.run.shared.stop.is_cancelled() && !is_first {
                return Err(PipelineError::Stopped);
            }
            is_first = false;
            let span = trace::writing(rows.len(), []);
            self.floors.lift(&mut rows, self.active.as_ref());
            let batches = self.run.batches(rows, Purpose::Refresh);
            self.begin_batches(batches, span).await?;
        }
        Ok(())
    }

    /// Begins to write rows as soon as they may. Reports and confirms what becomes durable in the meantime.
    async fn begin_batches(&mut self, batches: Vec<(usize, Batch)>, span: Span) -> Result<(), PipelineError> {
        while !self.line.may_begin(&self.run.writers, &batches) && self.make_way().await? {}
        let source = &Seeing { source: self.source, unseen: &self.pending.unseen, shared: &self.run.shared };
        self.line.begin(&mut self.run.writers, source, batches, span).await
    }

    /// Writes everything that is in flight.
    async fn drain(&mut self) -> Result<(), PipelineError> {
        while self.make_way().await? {}
        Ok(())
    }

    /// Waits for the next part that has its vectors, writes it, reports and confirms. Returns false if nothing is in
    /// flight.
    async fn make_way(&mut self) -> Result<bool, PipelineError> {
        let is_under_way = self.line.make_way(&mut self.run.writers).await?;
        self.report();
        if self.checkpointer.due().is_some_and(|due| due <= Instant::now()) {
            self.confirm()?;
        }
        Ok(is_under_way)
    }

    /// Returns the table of a job; `None` for a resync, which reads all tables.
    fn table_of(&self, job: &Job) -> Option<TableName> {
        match job {
            Job::Resync { .. } => None,
            Job::Backfill { table, .. } | Job::Altered { table, .. } => Some(table.clone()),
            Job::Repair { collection, .. } => {
                let index = self.run.writer_of(collection)?;
                Some(self.run.writers[index].collection.table.clone())
            }
        }
    }

    /// Begins a job. A job that cannot be done ends at once.
    async fn begin(&mut self, order: Order) -> Result<(), PipelineError> {
        if let Job::Resync { may_sweep_most } = order.job {
            return self.resync(order, may_sweep_most).await;
        }
        let is_known = |table: &TableName| self.run.is_aside(table) || !self.run.writers_of(table).is_empty();
        let Some(table) = self.table_of(&order.job).filter(is_known) else {
            let what = "it is not part of the configuration that is running".to_owned();
            refuse(order, what, "name a table or a collection of the configuration");
            return Ok(());
        };
        if self.run.is_aside(&table) {
            let what = format!("table {table} is not followed at present; its points stay as they are");
            refuse(order, what, "walvec status");
            return Ok(());
        }
        if let Job::Repair { collection, points, .. } = &order.job
            && !points.is_empty()
            && let Some(index) = self.run.writer_of(collection)
            && let Err(error) = self.remove(index, points).await
        {
            self.run.interrupted = Some(order);
            return Err(error);
        }
        self.active = Some(Active::begin(self.source, &self.run.shared, order, table));
        Ok(())
    }

    /// Has the next session read all tables again. If points of the last snapshot wait for an operator's decision and
    /// `may_sweep_most` gives it, removes those points instead.
    async fn resync(&mut self, order: Order, may_sweep_most: bool) -> Result<(), PipelineError> {
        if !(may_sweep_most && self.checkpointer.sweep_waits()) {
            let resync = Resync::asked(may_sweep_most);
            self.checkpointer.want(&resync)?;
            order.end(Ok(()));
            return Err(PipelineError::Resync(resync));
        }
        self.drain().await?;
        for writer in self.run.followed() {
            let swept = writer.finish_generation().await?;
            writer.remove_other_tables().await?;
            tracing::warn!(
                collection = writer.collection.name,
                swept,
                "points without a row were removed, as was asked for"
            );
            order.update(|progress| progress.rows += swept);
        }
        self.checkpointer.swept()?;
        self.run.held = None;
        order.end(Ok(()));
        Ok(())
    }

    /// Removes points of a collection. First writes everything in flight, which may have been prepared from these
    /// points.
    async fn remove(&mut self, index: usize, points: &[(PointId, Option<Position>)]) -> Result<(), PipelineError> {
        self.drain().await?;
        self.run.writers[index].remove(points).await
    }

    /// Gives a job its turn. The stream goes first, but a stream that never pauses must not block a job for ever: the
    /// job has a turn after each batch.
    async fn reread_a_piece(&mut self) -> Result<(), PipelineError> {
        if self.active.is_none()
            && let Ok(order) = self.run.orders.try_recv()
        {
            self.begin(order).await?;
        }
        match self.active.as_mut().and_then(Active::turn_now) {
            Some(turn) => self.reread(turn).await,
            None => Ok(()),
        }
    }

    /// Begins to write the rows that a job has read. Later changes of these rows in the stream wait until they are
    /// written.
    async fn reread(&mut self, turn: Turn) -> Result<(), PipelineError> {
        let rows = match turn {
            Turn::Write(rows) => rows,
            Turn::Ended(result) => {
                // The job left the pending rows alone. They must not be completed from points that the job was to
                // replace.
                self.flush().await?;
                self.drain().await?;
                if result.is_ok() {
                    self.sweep().await?;
                }
                if let Some(active) = self.active.take() {
                    active.order().end(result.as_ref().copied());
                }
                return Ok(());
            }
        };
        rows.iter().for_each(|row| self.checkpointer.takes_as_of(row.position.commit_lsn));
        let batches = match self.active.as_ref().map(|active| &active.order().job) {
            Some(Job::Altered { partitions: None, .. }) => self.run.batches(rows, Purpose::Reread),
            Some(Job::Backfill { .. } | Job::Altered { .. }) => self.run.batches(rows, Purpose::Change),
            Some(Job::Repair { collection, .. }) => {
                let index = self.run.writer_of(collection);
                index.map(|index| (index, self.run.writers[index].batch(rows, Purpose::Repair))).into_iter().collect()
            }
            Some(Job::Resync { .. }) | None => return Ok(()),
        };
        let rows = batches.iter().map(|(_, batch)| batch.entries.len()).sum();
        self.begin_batches(batches, trace::writing(rows, [])).await
    }

    /// Removes points whose rows an altered table does not have any more. First writes everything pending: it may be
    /// newer versions of rows whose points are older than the position, and which were not read again for that reason.
    async fn sweep(&mut self) -> Result<(), PipelineError> {
        let swept = self.active.as_ref().and_then(Active::supersedes);
        let Some((table, position)) = swept.map(|(table, position)| (table.clone(), position)) else { return Ok(()) };
        self.flush().await?;
        self.drain().await?;
        self.checkpointer.takes_as_of(position.commit_lsn);
        if matches!(
            self.active.as_ref().map(|active| &active.order().job),
            Some(Job::Altered { may_sweep_most: false, .. })
        ) {
            self.refuse_to_sweep_most(&table, position).await?;
        }
        for index in self.run.writers_of(&table) {
            let writer = &mut self.run.writers[index];
            // Stored before the sweep: after a crash, no replay explains why these points are gone.
            writer.forget_witnesses_before(position);
            self.checkpointer.note_witnesses(&writer.collection.name, writer.to_remember());
            self.checkpointer.save()?;
            let newest = writer.generation();
            // Points of former generations may wait for an operator's decision.
            let oldest = if self.checkpointer.sweep_waits() { newest } else { Generation::default() };
            writer.sweep_before(position, oldest..=newest).await?;
        }
        self.floors.raise(table.clone(), position);
        if let Some(active) = &self.active {
            active.order().update(|progress| progress.superseded = Some((table, position)));
        }
        Ok(())
    }

    /// Fails if a table that was read again lacks the rows of more than half of a collection's points. Everything is
    /// then read as a new generation, at whose end an operator decides.
    async fn refuse_to_sweep_most(&self, table: &TableName, position: Position) -> Result<(), PipelineError> {
        for index in self.run.writers_of(table) {
            let writer = &self.run.writers[index];
            let (older, all) = writer.count_before(position).await?;
            if older > all / 2 {
                let gap = gap::most_has_gone(&writer.collection.name, table, older, all);
                return Err(PipelineError::Resync(Resync::of(&gap)));
            }
        }
        Ok(())
    }

    /// Reports what has become durable to the checkpoint and the telemetry.
    fn report(&mut self) {
        let telemetry = &self.run.shared.telemetry;
        for Commit { end_lsn, with_rows, at, rows } in self.line.durable() {
            telemetry.searchable(at, rows);
            self.checkpointer.committed(with_rows);
            self.checkpointer.durable(end_lsn);
            telemetry.applied(self.checkpointer.reached());
        }
        let mut commits = self.line.notes().chain(self.pending.commits());
        telemetry.waiting_since(commits.find(|commit| commit.rows > 0).map(|commit| commit.at));
    }

    /// Notes what these collections must have, to be stored with the position. Witnesses that are older than the
    /// position prove less, but nothing wrong.
    fn note_witnesses(&mut self, places: Range<usize>) {
        for writer in &self.run.writers[places] {
            self.checkpointer.note_witnesses(&writer.collection.name, writer.to_remember());
        }
    }

    fn confirm(&mut self) -> Result<(), PipelineError> {
        let turn = self.notes.turn(self.run.writers.len());
        self.note_witnesses(turn);
        let confirmed = self.checkpointer.store(&self.stream)?;
        self.run.shared.telemetry.confirmed(confirmed);
        Ok(())
    }
}

/// Ends a job that cannot be done, with the reason.
fn refuse(order: Order, what: String, remedy: &str) {
    let refusal = Refusal { code: "E_TABLE", what, remedy: remedy.to_owned() };
    order.end(Err(&refusal.into()));
}

pub(crate) async fn turn_of(active: &mut Option<Active>) -> Turn {
    match active {
        Some(active) => active.turn().await,
        None => std::future::pending().await,
    }
}

pub(crate) async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
