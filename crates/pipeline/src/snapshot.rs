//! Copies the rows that were there before the slot, as one generation.
//!
//! The slot exports the snapshot at which its stream begins, so the copy and the stream meet without gap or overlap. If
//! the copy dies, the exported snapshot is gone with its connection: the next attempt takes a new slot and a new
//! generation. Nothing is confirmed before the copy is complete.

use tracing::Span;
use walvec_capture::{Snapshot, Source};
use walvec_model::{Change, Generation, Lsn};

use crate::error::PipelineError;
use crate::gap;
use crate::line::{Line, Note};
use crate::refetch::Seeing;
use crate::status::Phase;
use crate::store::{Checkpoint, SnapshotState};
use crate::supervisor::Run;
use crate::telemetry::count_changes;
use crate::unseen::Unseen;
use crate::writer::Purpose;

/// Takes a whole snapshot and returns the checkpoint at which the stream continues.
pub(crate) async fn take(
    run: &mut Run,
    source: &Source,
    mut checkpoint: Checkpoint,
    drop_slot: bool,
) -> Result<Checkpoint, PipelineError> {
    // Stored before the slot is created: a slot without this note would look like somebody else's.
    checkpoint.snapshot = SnapshotState::Copying;
    run.store.save_checkpoint(&checkpoint)?;
    if drop_slot {
        source.drop_slot().await?;
    }
    source.ensure_publication().await?;
    checkpoint.publication = source.publication_identity().await?.unwrap_or_default();
    prepare_status(run, source, checkpoint.generation).await?;

    let mut snapshot = begin(run, source).await?;
    let position = snapshot.position();
    tracing::info!(generation = checkpoint.generation.0, at = %position.commit_lsn, "snapshot begins");
    let mut line = Line::new(run.shared.stop.clone());
    let copied = copy(run, source, &mut snapshot, &mut line).await;
    let copied = line.close(&mut run.writers, copied).await;
    let closed = snapshot.close().await;
    if let Err(error) = copied {
        // Without its snapshot the slot is of no use, and would keep WAL for as long as nobody looks.
        if let Err(also) = source.drop_slot().await {
            tracing::warn!("the slot of the failed snapshot stays until the next start: {also}");
        }
        return Err(error);
    }
    closed?;

    let may_sweep_most = checkpoint.resync.as_ref().is_none_or(|resync| resync.may_sweep_most);
    let held = if may_sweep_most { None } else { gap::most_would_go(&run.writers).await? };
    checkpoint.sweep_waits = held.is_some();
    if held.is_none() {
        for writer in &mut run.writers {
            let swept = writer.finish_generation().await?;
            tracing::info!(collection = writer.collection.name, swept, "snapshot complete");
        }
    }
    checkpoint.snapshot = SnapshotState::Done;
    checkpoint.applied = position.commit_lsn;
    checkpoint.last_commit = Lsn::ZERO;
    run.store.save_checkpoint(&checkpoint)?;
    run.shared.telemetry.applied(checkpoint.applied);
    Ok(checkpoint)
}

/// Creates the slot. PostgreSQL first waits for every open transaction, which may take as long as it likes.
async fn begin(run: &Run, source: &Source) -> Result<Snapshot, PipelineError> {
    tokio::select! {
        snapshot = source.begin_snapshot() => Ok(snapshot?),
        () = run.shared.stop.cancelled() => Err(PipelineError::Stopped),
    }
}

/// How many rows of a table have been copied for these collections.
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
) -> Result<(), PipelineError> {
    loop {
        tokio::select! {
            biased;
            Some(answer) = line.next() => line.write(&mut run.writers, answer).await?,
            rows = next_rows(run, snapshot) => match rows? {
                Some(rows) => write_rows(run, source, rows, line).await?,
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

async fn prepare_status(run: &mut Run, source: &Source, generation: Generation) -> Result<(), PipelineError> {
    let estimates = source.estimate_rows().await?;
    run.shared.telemetry.phase(Phase::Snapshot);
    run.shared.telemetry.all_well();
    run.begin_generation(generation);
    for (index, writer) in run.writers.iter().enumerate() {
        let estimate = estimates.iter().find(|(table, _)| *table == writer.collection.table);
        let rows = estimate.map_or(0, |(_, rows)| *rows);
        run.shared.telemetry.collection(index, |status| {
            status.snapshot_rows_estimated = rows;
            status.snapshot_rows_copied = 0;
        });
    }
    Ok(())
}

async fn next_rows(run: &Run, snapshot: &mut Snapshot) -> Result<Option<Vec<Change>>, PipelineError> {
    tokio::select! {
        rows = snapshot.next() => Ok(rows?),
        () = run.shared.stop.cancelled() => Err(PipelineError::Stopped),
    }
}

async fn write_rows(
    run: &mut Run,
    source: &Source,
    rows: Vec<Change>,
    line: &mut Line<Copied>,
) -> Result<(), PipelineError> {
    count_changes(&rows);
    // The slot's snapshot is as old as everything that it is read with: nothing has been streamed yet.
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
