//! Copies the rows that existed before the slot, as one generation.
//!
//! The slot exports the snapshot at which its stream begins, so the copy and the stream meet without gap or overlap. If
//! the copy fails, the exported snapshot is gone with its connection, and the next attempt takes a new slot and a new
//! generation. Nothing is confirmed before the copy is complete.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::FutureExt as _;
use tracing::Span;
use walvec_capture::{Snapshot, Source};
use walvec_model::{Change, Generation, Lsn, Op, Position, TableName};
use walvec_sink::Generations;

use crate::direct::Run;
use crate::error::PipelineError;
use crate::observe::metrics::count_changes;
use crate::observe::status::Phase;
use crate::rounds::outcomes;
use crate::sequencer::{Completion, Sequencer};
use crate::shared::first_error;
use crate::source::rows::SourceRows;
use crate::source::snapshot::{abandon_slot, prepare_source};
use crate::source::unseen::Unseen;
use crate::source::{gap, watch};
use crate::state::records::{Checkpoint, SnapshotState, TablesByCollection};
use crate::state::witness::Witnesses;
use crate::writer::{Collection, Purpose, Writer};

/// Tables that were rewritten while they were copied, with the position as of which they were read again.
type RewrittenTables = BTreeMap<TableName, Position>;

/// Takes a whole snapshot and returns the checkpoint at which the stream continues.
pub(crate) async fn take(
    run: &mut Run,
    source: &Source,
    mut checkpoint: Checkpoint,
    drop_slot: bool,
) -> Result<Checkpoint, PipelineError> {
    // Stored before the slot is created: without this note, the slot would look like that of another walvec.
    checkpoint.snapshot = SnapshotState::Copying;
    run.store.save_checkpoint(&checkpoint)?;
    let shared = run.shared.clone();
    checkpoint.publication = shared.or_stop(prepare_source(source, &run.store, drop_slot)).await?;
    let estimates = shared.or_stop(async { Ok(source.estimate_rows().await?) }).await?;
    prepare_status(run, &estimates, checkpoint.generation);

    // PostgreSQL first waits for every open transaction, however long that takes.
    let mut snapshot = shared.or_stop(async { Ok(source.begin_snapshot().await?) }).await?;
    crash_point!("slot-created");
    let position = snapshot.position();
    tracing::info!(generation = checkpoint.generation.0, at = %position.commit_lsn, "snapshot begins");
    let mut sequencer = Sequencer::new(run.shared.stop.clone());
    let mut read_again = BTreeMap::new();
    let copied = copy(run, source, &mut snapshot, &mut sequencer, &mut read_again).await;
    let copied = sequencer.close(&mut run.collections.writers, copied).await;
    let closed = snapshot.close().await;
    if let Err(error) = copied {
        abandon_slot(source).await;
        return Err(error);
    }
    closed?;
    crash_point!("snapshot-copied");

    let asked = checkpoint.resync.as_ref().map(|resync| resync.may_sweep_most);
    let held = match (asked.unwrap_or(!checkpoint.sweep_waits), checkpoint.sweep_waits) {
        (true, _) => None,
        // Points that wait for an operator's decision go on waiting, even if they are no longer most of the collection.
        (false, true) => shared.or_stop(gap::still_held(&run.collections.followed(), &checkpoint.tables)).await?,
        (false, false) => shared.or_stop(gap::most_would_go(&run.collections.followed(), &checkpoint.tables)).await?,
    };
    checkpoint.sweep_waits = held.is_some();
    if held.is_none() {
        let (of, read_again) = (Generation::default()..=checkpoint.generation, &read_again);
        let finishing =
            run.collections.followed().into_iter().map(|writer| finish(writer, of.clone(), read_again).boxed());
        let finished = outcomes(finishing.collect()).map(|all| all.into_iter().fold(Ok(()), first_error));
        shared.or_stop(finished).await?;
        shared.or_stop(remove_former_tables(run, &mut checkpoint.tables)).await?;
    }
    crash_point!("snapshot-swept");
    checkpoint.snapshot = SnapshotState::Done;
    checkpoint.applied = position.commit_lsn;
    checkpoint.last_commit = Lsn::ZERO;
    let newest = read_again.values().map(|again| again.commit_lsn).fold(position.commit_lsn, Lsn::max);
    checkpoint.witnesses = witnesses(run);
    checkpoint.written_to = Some(newest.max(source.read_as_of()));
    run.store.save_checkpoint(&checkpoint)?;
    run.shared.telemetry.applied(checkpoint.applied);
    Ok(checkpoint)
}

/// Ends the snapshot of one collection: removes points of older generations, and older versions if its table was read
/// again.
async fn finish(writer: &mut Writer, of: Generations, read_again: &RewrittenTables) -> Result<(), PipelineError> {
    let swept = writer.finish_generation().await?;
    if let Some(position) = read_again.get(&writer.collection.table) {
        writer.sweep_before(*position, of).await?;
    }
    tracing::info!(collection = writer.collection.name, swept, "snapshot complete");
    Ok(())
}

/// Removes the rows of other tables from the collections, because a collection belongs to one table. The table was
/// renamed, or another one was configured.
async fn remove_former_tables(run: &mut Run, known: &mut TablesByCollection) -> Result<(), PipelineError> {
    for writer in run.collections.followed() {
        let Collection { name, table, .. } = &writer.collection;
        let tables = known.entry(name.clone()).or_default();
        for former in tables.iter().filter(|former| *former != table) {
            tracing::info!(collection = name, table = %former, "removing the rows of the table that the collection showed before");
            writer.remove_table(former).await?;
        }
        *tables = BTreeSet::from([table.clone()]);
    }
    Ok(())
}

/// Returns the witnesses of what this snapshot has written into each collection.
fn witnesses(run: &Run) -> BTreeMap<String, Witnesses> {
    run.collections.writers.iter().map(|writer| (writer.collection.name.clone(), writer.to_remember())).collect()
}

/// How many rows of a table have been copied, and for which collections.
struct Copied {
    collections: Vec<usize>,
    rows: usize,
}

impl Completion for Copied {
    fn join(&mut self, later: Self) -> Option<Self> {
        Some(later)
    }
}

async fn copy(
    run: &mut Run,
    source: &Source,
    snapshot: &mut Snapshot,
    sequencer: &mut Sequencer<Copied>,
    read_again: &mut RewrittenTables,
) -> Result<(), PipelineError> {
    let shared = run.shared.clone();
    shared.or_stop(watch::begun(source, &run.store, snapshot.position())).await?;
    loop {
        tokio::select! {
            biased;
            Some(answer) = sequencer.next() => sequencer.write(&mut run.collections.writers, answer).await?,
            rows = shared.or_stop(async { Ok(snapshot.next().await?) }) => match rows? {
                Some(rows) => match rows.as_slice() {
                    [Change { table, position, op: Op::Truncate }] => {
                        read_again.insert(table.name.clone(), *position);
                    }
                    _ => write_rows(run, source, rows, sequencer).await?,
                },
                None => break,
            },
        }
        report(run, sequencer);
    }
    sequencer.drain(&mut run.collections.writers).await?;
    report(run, sequencer);
    Ok(())
}

fn report(run: &Run, sequencer: &mut Sequencer<Copied>) {
    for Copied { collections, rows } in sequencer.durable() {
        collections.into_iter().for_each(|index| run.collections.writers[index].report_snapshot(rows));
    }
}

fn prepare_status(run: &mut Run, estimates: &[(TableName, u64)], generation: Generation) {
    run.shared.telemetry.phase(Phase::Snapshot);
    run.shared.telemetry.all_well();
    run.begin_generation(generation);
    let estimates: HashMap<_, _> = estimates.iter().map(|(table, rows)| (table, *rows)).collect();
    for (index, writer) in run.collections.writers.iter().enumerate() {
        let rows = estimates.get(&writer.collection.table).copied().unwrap_or_default();
        run.shared.telemetry.collection(index, |status| {
            status.snapshot_rows_estimated = rows;
            status.snapshot_rows_copied = 0;
        });
    }
}

async fn write_rows(
    run: &mut Run,
    source: &Source,
    rows: Vec<Change>,
    sequencer: &mut Sequencer<Copied>,
) -> Result<(), PipelineError> {
    count_changes(&rows);
    // Nothing has been streamed yet, so the slot's snapshot includes every transaction that the rows depend on.
    let unseen = Unseen::default();
    let mut rest = rows;
    while !rest.is_empty() {
        let later = rest.split_off(rest.len().min(run.batch_rows));
        let piece = std::mem::replace(&mut rest, later);
        let rows = piece.len();
        let batches = run.collections.batches(piece, Purpose::Change);
        let collections = batches.iter().map(|(index, _)| *index).collect();
        let source = &SourceRows { source, unseen: &unseen, shared: &run.shared };
        sequencer.begin(&mut run.collections.writers, source, batches, Span::none()).await?;
        sequencer.note(Copied { collections, rows });
        report(run, sequencer);
    }
    Ok(())
}
