//! Copies the rows that existed before the slot, as one generation.
//!
//! The slot exports the snapshot at which its stream begins, so the copy and the stream meet without gap or overlap. If
//! the copy fails, the exported snapshot is gone with its connection, and the next attempt takes a new slot and a new
//! generation. Nothing is confirmed before the copy is complete.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use futures::FutureExt as _;
use tracing::Span;
use walvec_capture::{Snapshot, Source};
use walvec_model::{Change, Generation, Lsn, Op, Position, TableName};
use walvec_sink::Generations;

use crate::error::PipelineError;
use crate::gap;
use crate::line::{Line, Note};
use crate::refetch::Seeing;
use crate::rounds::outcomes;
use crate::status::Phase;
use crate::store::{Checkpoint, SnapshotState, Store, Tables};
use crate::supervisor::Run;
use crate::telemetry::count_changes;
use crate::unseen::Unseen;
use crate::watch;
use crate::witness::Witnesses;
use crate::writer::{Collection, Purpose, Writer, first_error};

/// How long PostgreSQL may take to drop a useless slot.
const GOODBYE: Duration = Duration::from_secs(3);

/// Tables that were rewritten while they were copied, with the position as of which they were read again.
type ReadAgain = BTreeMap<TableName, Position>;

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
    let mut line = Line::new(run.shared.stop.clone());
    let mut read_again = BTreeMap::new();
    let copied = copy(run, source, &mut snapshot, &mut line, &mut read_again).await;
    let copied = line.close(&mut run.writers, copied).await;
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
        (false, true) => shared.or_stop(gap::still_held(&run.followed(), &checkpoint.tables)).await?,
        (false, false) => shared.or_stop(gap::most_would_go(&run.followed(), &checkpoint.tables)).await?,
    };
    checkpoint.sweep_waits = held.is_some();
    if held.is_none() {
        let (of, read_again) = (Generation::default()..=checkpoint.generation, &read_again);
        let finishing = run.followed().into_iter().map(|writer| finish(writer, of.clone(), read_again).boxed());
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
async fn finish(writer: &mut Writer, of: Generations, read_again: &ReadAgain) -> Result<(), PipelineError> {
    let swept = writer.finish_generation().await?;
    if let Some(position) = read_again.get(&writer.collection.table) {
        writer.sweep_before(*position, of).await?;
    }
    tracing::info!(collection = writer.collection.name, swept, "snapshot complete");
    Ok(())
}

/// Removes the rows of other tables from the collections, because a collection belongs to one table. The table was
/// renamed, or another one was configured.
async fn remove_former_tables(run: &mut Run, known: &mut Tables) -> Result<(), PipelineError> {
    for writer in run.followed() {
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
    run.writers.iter().map(|writer| (writer.collection.name.clone(), writer.to_remember())).collect()
}

/// Drops the slot of a snapshot that failed: it is useless, and would keep WAL indefinitely. If the server does not
/// answer in time, perhaps because of a lock, the next start drops the slot.
pub(crate) async fn abandon_slot(source: &Source) {
    match tokio::time::timeout(GOODBYE, source.drop_slot()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("the slot of the failed snapshot stays until the next start: {error}"),
        Err(_) => {
            tracing::warn!("the slot of the failed snapshot stays until the next start: PostgreSQL does not answer")
        }
    }
}

/// Prepares the server for a new slot. Returns the version of the publication.
pub(crate) async fn prepare_source(source: &Source, store: &Store, drop_slot: bool) -> Result<String, PipelineError> {
    if drop_slot {
        source.drop_slot().await?;
    }
    source.ensure_publication().await?;
    watch::begin(source, store).await
}

/// How many rows of a table have been copied, and for which collections.
struct Copied {
    collections: Vec<usize>,
    rows: usize,
}

impl Note for Copied {
    fn join(&mut self, later: Self) -> Option<Self> {
        Some(later)
    }
}

async fn copy(
    run: &mut Run,
    source: &Source,
    snapshot: &mut Snapshot,
    line: &mut Line<Copied>,
    read_again: &mut ReadAgain,
) -> Result<(), PipelineError> {
    let shared = run.shared.clone();
    shared.or_stop(watch::begun(source, &run.store, snapshot.position())).await?;
    loop {
        tokio::select! {
            biased;
            Some(answer) = line.next() => line.write(&mut run.writers, answer).await?,
            rows = shared.or_stop(async { Ok(snapshot.next().await?) }) => match rows? {
                Some(rows) => match rows.as_slice() {
                    [Change { table, position, op: Op::Truncate }] => {
                        read_again.insert(table.name.clone(), *position);
                    }
                    _ => write_rows(run, source, rows, line).await?,
                },
                None => break,
            },
        }
        report(run, line);
    }
    line.drain(&mut run.writers).await?;
    report(run, line);
    Ok(())
}

fn report(run: &Run, line: &mut Line<Copied>) {
    for Copied { collections, rows } in line.durable() {
        collections.into_iter().for_each(|index| run.writers[index].report_snapshot(rows));
    }
}

fn prepare_status(run: &mut Run, estimates: &[(TableName, u64)], generation: Generation) {
    run.shared.telemetry.phase(Phase::Snapshot);
    run.shared.telemetry.all_well();
    run.begin_generation(generation);
    let estimates: HashMap<_, _> = estimates.iter().map(|(table, rows)| (table, *rows)).collect();
    for (index, writer) in run.writers.iter().enumerate() {
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
    line: &mut Line<Copied>,
) -> Result<(), PipelineError> {
    count_changes(&rows);
    // Nothing has been streamed yet, so the slot's snapshot includes every transaction that the rows depend on.
    let unseen = Unseen::default();
    let mut rest = rows;
    while !rest.is_empty() {
        let later = rest.split_off(rest.len().min(run.batch_rows));
        let piece = std::mem::replace(&mut rest, later);
        let rows = piece.len();
        let batches = run.batches(piece, Purpose::Change);
        let collections = batches.iter().map(|(index, _)| *index).collect();
        let source = &Seeing { source, unseen: &unseen, shared: &run.shared };
        line.begin(&mut run.writers, source, batches, Span::none()).await?;
        line.note(Copied { collections, rows });
        report(run, line);
    }
    Ok(())
}
