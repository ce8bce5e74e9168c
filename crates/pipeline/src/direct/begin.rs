//! Begins a session: continues the stream, or takes a snapshot first.

use std::collections::HashMap;
use std::sync::Arc;

use futures::FutureExt as _;
use walvec_capture::Source;
use walvec_model::{Generation, Lsn, TableName};

use super::follow::follow;
use super::{Run, snapshot};
use crate::error::{PipelineError, Resync};
use crate::observe::status::{Phase, ReadAgain};
use crate::port::SourcePort;
use crate::retry::Retry;
use crate::rounds::answers;
use crate::source::replay::Replay;
use crate::source::start::{Facts, Slot, Start, decide};
use crate::source::{anew, filled_from, gap};
use crate::state::checkpoint::Checkpointer;
use crate::state::records::{Baseline, Checkpoint, TablesByCollection};
use crate::state::store::Store;
use crate::upkeep::count_points;
use crate::writer::Writer;

/// Follows the tables from where the stored state left off, or from a new snapshot.
pub(super) async fn work(
    run: &mut Run,
    source: &Arc<Source>,
    stored: Option<Checkpoint>,
    facts: Facts,
    retry: &mut Retry,
) -> Result<(), PipelineError> {
    run.collections.writers.iter().for_each(Writer::watch_late_writes);
    let start = decide(stored.as_ref(), &facts, run.on_gap)?;
    let former = stored.as_ref().map(|stored| &stored.source);
    let shared = run.shared.clone();
    shared.or_stop(filled_from::record(&run.collections.writers, &facts.source, former)).await?;
    stored.iter().for_each(|stored| say_what_stays(stored, &facts));
    let (checkpoint, replay) = match start {
        Start::Resume { checkpoint, anew } => {
            if stored.as_ref().is_some_and(|stored| stored.resync != checkpoint.resync) {
                gap::announce(checkpoint.resync.as_ref(), &run.shared.telemetry);
            }
            let checkpoint = anew::adopt(source, &run.store, *checkpoint, &facts, anew).await?;
            let replay = resume(run, &checkpoint, &facts);
            (checkpoint, replay)
        }
        Start::Snapshot { generation, why, drop_slot, resync } => {
            let found = shared.or_stop(FoundPoints::look(&run.collections.writers)).await?;
            let generation = generation.max(found.newest.next());
            let resync = resync.or_else(|| found.resync().filter(|_| stored.is_none()));
            gap::announce(resync.as_ref(), &run.shared.telemetry);
            tracing::info!(generation = generation.0, "taking a snapshot: {why}");
            let tables = run.collections.tables_of(stored.as_ref(), found.tables);
            let checkpoint = Checkpoint {
                resync,
                // Points that wait for an operator's decision go on waiting.
                sweep_waits: stored.as_ref().is_some_and(|stored| stored.sweep_waits),
                tables,
                ..facts.first_checkpoint(generation)
            };
            (copy(run, source, checkpoint, drop_slot).await?, Replay::default())
        }
    };
    show_owed(source, run)?;
    let followed = run.collections.followed();
    run.held = if checkpoint.sweep_waits { gap::still_held(&followed, &checkpoint.tables).await? } else { None };
    let on_gap = run.on_gap;
    let found_in = |error: PipelineError| gap::found_in(error, on_gap);
    let passed = passed(source, &run.store).await?;
    let stream = source.open_stream_passing(passed).await.map_err(|error| found_in(error.into()))?;
    run.shared.telemetry.phase(Phase::Streaming);
    retry.succeeded();
    tracing::info!(applied = %checkpoint.applied, "following the stream");
    let port: Arc<dyn SourcePort> = Arc::<Source>::clone(source);
    let checkpointer = Checkpointer::open(Arc::clone(&run.store), Arc::clone(&port), checkpoint)?;
    follow(run, &port, Box::new(stream), checkpointer, replay).await.map_err(found_in)
}

/// Continues from a stored checkpoint. Returns what the stream has to replay.
fn resume(run: &mut Run, checkpoint: &Checkpoint, facts: &Facts) -> Replay {
    run.begin_generation(checkpoint.generation);
    for writer in &run.collections.writers {
        writer.remember(checkpoint.witnesses.get(&writer.collection.name).cloned().unwrap_or_default());
    }
    run.shared.telemetry.resync(checkpoint.resync.as_ref());
    let Slot::Ready { confirmed } = facts.slot else { return Replay::default() };
    // The stream replays everything after this position. Until then, rows may be back whose deletion is still to come.
    run.shared.telemetry.applied(confirmed);
    run.shared.telemetry.confirmed(confirmed);
    Replay::new(confirmed, checkpoint.last_commit)
}

/// Takes a snapshot. Returns the checkpoint at which the stream continues.
async fn copy(
    run: &mut Run,
    source: &Source,
    checkpoint: Checkpoint,
    drop_slot: bool,
) -> Result<Checkpoint, PipelineError> {
    let checkpoint = snapshot::take(run, source, checkpoint, drop_slot).await?;
    // Count before the phase says that the rows are there.
    let sinks = run.collections.sinks();
    count_points(&sinks, 0..sinks.len(), &run.shared.telemetry).await?;
    run.collections.writers.iter().for_each(Writer::wrote_everything);
    Ok(checkpoint)
}

/// Shows which tables are to be read again, before the phase says that the stream is followed.
fn show_owed(source: &Source, run: &Run) -> Result<(), PipelineError> {
    let Baseline { owed, anew, .. } = run.store.baseline()?.unwrap_or_default();
    let tables: Vec<TableName> = owed.union(&anew).flat_map(|table| source.dependents(table)).collect();
    let is_owed = |name: &str| tables.iter().any(|table| table.to_string() == name);
    run.shared.telemetry.read_again(|table| is_owed(table).then(ReadAgain::default));
    Ok(())
}

/// Returns, by table, the position before which changes are passed over: the table was read whole since then, or will
/// be.
async fn passed(source: &Source, store: &Store) -> Result<HashMap<TableName, Lsn>, PipelineError> {
    let Baseline { floors, anew, .. } = store.baseline()?.unwrap_or_default();
    let now = source.server_position().await?.flushed;
    let floors = floors.into_iter().map(|(table, position)| (table, position.commit_lsn));
    Ok(floors.chain(anew.into_iter().map(|table| (table, now))).collect())
}

/// Logs what happens to the points of collections that are not configured any more.
fn say_what_stays(stored: &Checkpoint, facts: &Facts) {
    for collection in stored.collections.keys().filter(|name| !facts.collections.contains_key(*name)) {
        tracing::warn!(
            collection,
            "the collection is not configured any more; its points stay as they were. To remove it: on a Qdrant server, delete it there; \
             in a data directory, delete collections/{collection}__<number> while walvec is stopped"
        );
    }
}

/// The newest generation and the tables found in the collections before a snapshot. The state file may know less: it
/// may have been lost, or be an old copy.
struct FoundPoints {
    newest: Generation,
    tables: TablesByCollection,
}

impl FoundPoints {
    /// Reads all collections.
    async fn look(writers: &[Writer]) -> Result<Self, PipelineError> {
        let mut found = Self { newest: Generation::default(), tables: TablesByCollection::new() };
        let stored = answers(writers.iter().map(|writer| writer.stored().boxed()).collect()).await?;
        for (writer, (newest, tables)) in writers.iter().zip(stored) {
            found.newest = found.newest.max(newest);
            found.tables.insert(writer.collection.name.clone(), tables);
        }
        Ok(found)
    }

    /// Returns the resync that explains a first snapshot into collections that have points already. The points may be
    /// of another database.
    fn resync(&self) -> Option<Resync> {
        (self.newest > Generation::default()).then(Resync::of_lost_state)
    }
}
