//! Follows the stream, transaction by transaction.
//!
//! `select!` only decides what happened; [`Pending`] decides what follows from it. While a batch is embedded and written
//! the stream's own task keeps reading ahead, within bounds, so that the next batch is as large as the backlog allows:
//! a single row goes through at once, a flood goes through in full batches.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use tokio::time::Instant;
use tracing::Instrument as _;
use walvec_capture::{CaptureError, ChangeStream, Source};
use walvec_model::{Change, Lsn, Op, StreamEvent, TableName};

use crate::batch::coalesce;
use crate::checkpoint::Checkpointer;
use crate::error::PipelineError;
use crate::related::{Affected, Gathered};
use crate::reread::{Active, Job, Order, Turn};
use crate::start::Refusal;
use crate::status::Phase;
use crate::supervisor::Run;
use crate::telemetry::count_changes;
use crate::trace;
use crate::writer::all;

/// How many more reads may join a batch before the checkpoint and a wish to stop get their turn.
const READ_AHEAD: usize = 16;

/// A batch with this many bytes of values is written before it has all its rows, so that large rows cannot fill the memory.
pub(crate) const BATCH_BYTES: usize = 8 << 20;

/// Changes that have been read and not written yet.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    changes: Vec<Change>,
    /// Changes of looked-up tables.
    related: Gathered,
    /// The weight of the rows in `changes`.
    bytes: usize,
    /// When the oldest of `changes` has to be written, complete transaction or not.
    due: Option<Instant>,
    /// Transactions whose end has been read: their rows are in `changes` or already written.
    commits: Vec<Commit>,
    /// Rows of the transaction whose end has not been read yet, including those already written.
    open_rows: usize,
}

#[derive(Debug, PartialEq)]
struct Commit {
    end_lsn: Lsn,
    at: SystemTime,
    rows: usize,
}

/// What an event demands.
#[derive(Debug, PartialEq)]
pub(crate) enum Demand {
    /// Go on reading.
    Nothing,
    /// Write what is pending.
    Flush,
    /// Write what is pending, then empty this table.
    Truncate(TableName),
    /// Nothing is in flight; everything up to here is durable.
    Durable(Lsn),
}

impl Pending {
    /// Takes in one event.
    pub(crate) fn push(&mut self, event: StreamEvent, max_rows: usize, wait: Duration) -> Demand {
        match event {
            StreamEvent::Change(change) if change.op == Op::Truncate => {
                self.open_rows += 1;
                self.related.reach(change.position);
                Demand::Truncate(change.table.name.clone())
            }
            StreamEvent::Change(change) => {
                self.open_rows += 1;
                self.due.get_or_insert_with(|| Instant::now() + wait);
                self.bytes += weight(&change.op);
                self.related.reach(change.position);
                self.changes.push(change);
                self.flush_if_full(max_rows)
            }
            StreamEvent::LookedUp(change) => {
                self.open_rows += 1;
                self.due.get_or_insert_with(|| Instant::now() + wait);
                self.related.note(&change);
                self.flush_if_full(max_rows)
            }
            StreamEvent::Commit { end_lsn, at } => {
                let rows = std::mem::take(&mut self.open_rows);
                self.commits.push(Commit { end_lsn, at, rows });
                Demand::Nothing
            }
            StreamEvent::Begin { xid, .. } => {
                self.related.begin(xid);
                Demand::Nothing
            }
            StreamEvent::Idle { wal_end } if self.is_empty() => Demand::Durable(wal_end),
            StreamEvent::Idle { wal_end } => {
                // Nothing is missing between the last transaction and here: the server may not say so again for half a minute.
                if let Some(last) = self.commits.last_mut().filter(|_| self.open_rows == 0) {
                    last.end_lsn = last.end_lsn.max(wal_end);
                }
                Demand::Nothing
            }
        }
    }

    fn flush_if_full(&self, max_rows: usize) -> Demand {
        let full = self.changes.len() + self.related.len() >= max_rows || self.bytes >= BATCH_BYTES;
        if full { Demand::Flush } else { Demand::Nothing }
    }

    fn take_changes(&mut self) -> Vec<Change> {
        self.due = None;
        self.bytes = 0;
        std::mem::take(&mut self.changes)
    }

    /// Whether nothing waits to be written or confirmed.
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.related.is_empty() && self.commits.is_empty() && self.open_rows == 0
    }

    /// Whether a transaction has ended and no other has begun: what is pending is worth writing at once.
    fn is_complete(&self) -> bool {
        self.open_rows == 0 && !self.commits.is_empty()
    }

    fn oldest_commit(&self) -> Option<SystemTime> {
        self.commits.iter().filter(|commit| commit.rows > 0).map(|commit| commit.at).min()
    }
}

pub(crate) fn weight(op: &Op) -> usize {
    match op {
        Op::Insert { new } | Op::Update { new, .. } => new.weight(),
        Op::Delete { .. } | Op::Truncate => 0,
    }
}

enum Step {
    Events(Result<Vec<StreamEvent>, CaptureError>),
    Flush,
    Checkpoint,
    Begin(Order),
    Reread(Turn),
    Stop,
}

/// Follows `stream` until it fails or the pipeline is asked to stop. A job that this interrupts begins again with the next
/// stream.
pub(crate) async fn follow(
    run: &mut Run,
    source: &Arc<Source>,
    stream: ChangeStream,
    checkpointer: Checkpointer,
) -> Result<(), PipelineError> {
    let mut active = match run.interrupted.take() {
        Some(order) => begin(run, source, order).await?,
        None => None,
    };
    let outcome = follow_with(run, source, stream, checkpointer, &mut active).await;
    let order = active.map(Active::into_order);
    match (&outcome, order) {
        (Ok(()), Some(order)) => order.end(Err(&PipelineError::Stopped)),
        (Err(_), order) => run.interrupted = order,
        (Ok(()), None) => {}
    }
    outcome
}

async fn follow_with(
    run: &mut Run,
    source: &Arc<Source>,
    mut stream: ChangeStream,
    mut checkpointer: Checkpointer,
    active: &mut Option<Active>,
) -> Result<(), PipelineError> {
    let mut pending = Pending { related: Gathered::new(&run.lookups()), ..Pending::default() };
    loop {
        let step = next_step(run, &mut stream, &pending, &checkpointer, active).await;
        match step {
            Step::Events(events) => {
                take_in(run, source, events?, &mut pending, &mut checkpointer, active).await?;
                // More may already be here: then a larger batch is cheaper than two.
                for _ in 0..READ_AHEAD {
                    let Some(events) = stream.next().now_or_never() else { break };
                    take_in(run, source, events?, &mut pending, &mut checkpointer, active).await?;
                }
                if pending.is_complete() {
                    flush(run, source, &mut pending, &mut checkpointer).await?;
                }
                reread_a_piece(run, source, active).await?;
            }
            Step::Flush => flush(run, source, &mut pending, &mut checkpointer).await?,
            Step::Checkpoint => confirm(run, &stream, &mut checkpointer)?,
            Step::Begin(order) => *active = begin(run, source, order).await?,
            Step::Reread(turn) => reread(run, source, turn, active).await?,
            Step::Stop => {
                run.shared.telemetry.phase(Phase::Stopping);
                flush(run, source, &mut pending, &mut checkpointer).await?;
                confirm(run, &stream, &mut checkpointer)?;
                stream.close().await?;
                return Ok(());
            }
        }
    }
}

async fn next_step(
    run: &mut Run,
    stream: &mut ChangeStream,
    pending: &Pending,
    checkpointer: &Checkpointer,
    active: &mut Option<Active>,
) -> Step {
    let is_free = active.is_none();
    tokio::select! {
        biased;
        () = run.shared.stop.cancelled() => Step::Stop,
        () = until(pending.due) => Step::Flush,
        () = until(checkpointer.due()) => Step::Checkpoint,
        events = stream.next() => Step::Events(events),
        turn = turn_of(active) => Step::Reread(turn),
        Some(order) = run.orders.recv(), if is_free => Step::Begin(order),
    }
}

pub(crate) async fn turn_of(active: &mut Option<Active>) -> Turn {
    match active {
        Some(active) => active.turn().await,
        None => std::future::pending().await,
    }
}

/// Begins a job; one that cannot be done ends at once.
async fn begin(run: &mut Run, source: &Arc<Source>, order: Order) -> Result<Option<Active>, PipelineError> {
    let table = match &order.job {
        Job::Backfill { table, .. } => Some(table.clone()).filter(|table| !run.writers_of(table).is_empty()),
        Job::Repair { collection, points, .. } => match run.writer_of(collection) {
            Some(writer) => {
                writer.remove(points).await?;
                Some(writer.collection.table.clone())
            }
            None => None,
        },
    };
    match table {
        Some(table) => Ok(Some(Active::begin(source, &run.shared, order, table))),
        None => {
            let refusal = Refusal {
                code: "E_TABLE",
                what: "it is not part of the configuration that is running".to_owned(),
                remedy: "name a table or a collection of the configuration".to_owned(),
            };
            order.end(Err(&refusal.into()));
            Ok(None)
        }
    }
}

/// The stream goes first, but one that never pauses must not keep a job waiting for ever: it has a turn after each batch.
async fn reread_a_piece(run: &mut Run, source: &Arc<Source>, active: &mut Option<Active>) -> Result<(), PipelineError> {
    if active.is_none()
        && let Ok(order) = run.orders.try_recv()
    {
        *active = begin(run, source, order).await?;
    }
    match active.as_mut().and_then(Active::turn_now) {
        Some(turn) => reread(run, source, turn, active).await,
        None => Ok(()),
    }
}

/// Writes what a job has read.
async fn reread(run: &mut Run, source: &Source, turn: Turn, active: &mut Option<Active>) -> Result<(), PipelineError> {
    let Some(job) = active else { return Ok(()) };
    match (turn, &job.order().job) {
        (Turn::Write(rows), Job::Backfill { .. }) => {
            let dealt = run.by_writer(rows);
            all(dealt, |writer, rows| writer.write(source, coalesce(rows))).await?;
        }
        (Turn::Write(rows), Job::Repair { collection, .. }) => {
            let dealt = run.writer_of(collection).map(|writer| (writer, rows));
            all(dealt, |writer, rows| writer.rewrite(source, coalesce(rows))).await?;
        }
        (Turn::Ended(result), _) => {
            job.order().end(result.as_ref().copied());
            *active = None;
        }
    }
    Ok(())
}

pub(crate) async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn take_in(
    run: &mut Run,
    source: &Arc<Source>,
    events: Vec<StreamEvent>,
    pending: &mut Pending,
    checkpointer: &mut Checkpointer,
    active: &mut Option<Active>,
) -> Result<(), PipelineError> {
    for event in events {
        match &event {
            StreamEvent::Change(change) => {
                run.refuse_altered(&change.table)?;
                if let Some(active) = active {
                    active.note(change);
                }
            }
            StreamEvent::LookedUp(change) => run.refuse_altered(&change.table)?,
            StreamEvent::Begin { .. } | StreamEvent::Commit { .. } | StreamEvent::Idle { .. } => {}
        }
        match pending.push(event, run.batch_rows, run.batch_wait) {
            Demand::Nothing => {}
            Demand::Flush => {
                flush(run, source, pending, checkpointer).await?;
                reread_a_piece(run, source, active).await?;
            }
            Demand::Truncate(table) => {
                flush(run, source, pending, checkpointer).await?;
                for index in run.writers_of(&table) {
                    run.writers[index].truncate().await?;
                }
            }
            Demand::Durable(lsn) => note_durable(run, lsn, checkpointer),
        }
    }
    run.shared.telemetry.waiting_since(pending.oldest_commit());
    Ok(())
}

/// Writes what is pending; afterwards every transaction whose end was read is durable.
async fn flush(
    run: &mut Run,
    source: &Source,
    pending: &mut Pending,
    checkpointer: &mut Checkpointer,
) -> Result<(), PipelineError> {
    let changes = pending.take_changes();
    // Before anything of the batch is rendered: what it looks up has to be visible.
    let affected = pending.related.take(source, &run.tables, &run.shared).await?;
    if !changes.is_empty() {
        count_changes(&changes);
        let span = trace::writing(changes.len(), []);
        let dealt = run.by_writer(changes);
        let written = all(dealt, |writer, changes| writer.write(source, coalesce(changes)));
        written.instrument(span).await?;
    }
    refresh(run, source, affected).await?;
    for commit in std::mem::take(&mut pending.commits) {
        run.shared.telemetry.searchable(commit.at, commit.rows);
        note_durable(run, commit.end_lsn, checkpointer);
    }
    run.shared.telemetry.waiting_since(None);
    Ok(())
}

/// Renders the rows again that look something up in what has changed. There may be very many of them: whoever wants to stop
/// need not wait for the last one, because nothing of the batch is confirmed before.
///
/// A job that reads rows again does not hear of them. It may write a row as it was before: the row's own change is known to the
/// job already, or still to come, and whoever renders a row sees what it looks up as it is now.
async fn refresh(run: &mut Run, source: &Source, mut affected: Affected) -> Result<(), PipelineError> {
    let mut is_first = true;
    while let Some(rows) = affected.next(source, run.batch_rows).await? {
        if run.shared.stop.is_cancelled() && !is_first {
            return Err(PipelineError::Stopped);
        }
        is_first = false;
        let dealt = run.by_writer(rows);
        all(dealt, |writer, rows| writer.refresh(source, coalesce(rows))).await?;
    }
    Ok(())
}

fn note_durable(run: &Run, lsn: Lsn, checkpointer: &mut Checkpointer) {
    checkpointer.durable(lsn);
    run.shared.telemetry.applied(checkpointer.reached());
}

fn confirm(run: &Run, stream: &ChangeStream, checkpointer: &mut Checkpointer) -> Result<(), PipelineError> {
    let confirmed = checkpointer.store(stream)?;
    run.shared.telemetry.confirmed(confirmed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use walvec_model::{Cell, Position, Row, RowKey, Table};

    use super::*;

    const WAIT: Duration = Duration::from_millis(5);

    fn change(op: Op) -> StreamEvent {
        let table = Table { name: TableName::new("public", "books"), columns: Vec::new(), key: Vec::new() };
        StreamEvent::Change(Change { table: Arc::new(table), position: Position::default(), op })
    }

    fn delete() -> StreamEvent {
        change(Op::Delete { key: RowKey::new(vec![json!(1)]) })
    }

    const fn commit(end_lsn: u64) -> StreamEvent {
        StreamEvent::Commit { end_lsn: Lsn(end_lsn), at: SystemTime::UNIX_EPOCH }
    }

    const fn idle(wal_end: u64) -> StreamEvent {
        StreamEvent::Idle { wal_end: Lsn(wal_end) }
    }

    #[tokio::test]
    async fn an_idle_server_is_confirmed_only_when_nothing_is_in_flight() {
        let mut pending = Pending::default();
        assert_eq!(pending.push(idle(10), 256, WAIT), Demand::Durable(Lsn(10)));
        pending.push(delete(), 256, WAIT);
        assert_eq!(pending.push(idle(20), 256, WAIT), Demand::Nothing, "inside a transaction");
        pending.push(commit(15), 256, WAIT);
        assert_eq!(pending.push(idle(20), 256, WAIT), Demand::Nothing, "read but not written");
        let ends: Vec<Lsn> = pending.commits.iter().map(|commit| commit.end_lsn).collect();
        assert_eq!(ends, [Lsn(20)], "confirmed with the transaction before it");
    }

    #[tokio::test]
    async fn a_large_transaction_is_written_in_bounded_batches() {
        let mut pending = Pending::default();
        assert_eq!(pending.push(delete(), 2, WAIT), Demand::Nothing);
        assert_eq!(pending.push(delete(), 2, WAIT), Demand::Flush);
        assert!(!pending.is_complete(), "nothing may be confirmed before its end");
    }

    #[tokio::test]
    async fn large_rows_make_small_batches() {
        let insert = |length| {
            let text = json!("x".repeat(length));
            change(Op::Insert { new: Row(vec![Cell::Value(text)]) })
        };
        let mut pending = Pending::default();
        assert_eq!(pending.push(insert(BATCH_BYTES / 2), 256, WAIT), Demand::Nothing);
        assert_eq!(pending.push(insert(BATCH_BYTES / 2), 256, WAIT), Demand::Flush);
        assert_eq!(pending.take_changes().len(), 2);
        assert_eq!(pending.push(insert(1), 256, WAIT), Demand::Nothing);
    }

    #[tokio::test]
    async fn a_transaction_is_complete_when_its_end_has_been_read() {
        let mut pending = Pending::default();
        pending.push(delete(), 256, WAIT);
        assert!(!pending.is_complete());
        pending.push(commit(15), 256, WAIT);
        assert!(pending.is_complete());
        assert_eq!(pending.commits, [Commit { end_lsn: Lsn(15), at: SystemTime::UNIX_EPOCH, rows: 1 }]);
    }

    #[tokio::test]
    async fn a_truncate_is_a_barrier() {
        let mut pending = Pending::default();
        let table = TableName::new("public", "books");
        assert_eq!(pending.push(change(Op::Truncate), 256, WAIT), Demand::Truncate(table));
    }
}
