//! The engine and its files: opening, closing, reopening; its panics become errors; room on the disk.

use std::any::Any;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use qdrant_edge::{
    CreateIndex, Distance, EdgeConfig, EdgeOptimizersConfig, EdgeShard, EdgeSparseVectorParams, EdgeVectorParams,
    FieldIndexOperations, HnswIndexConfig, JsonPath, Modifier, PayloadFieldSchema, UpdateOperation, WalOptions,
};

use super::convert::change_error;
use super::data_dir::LockFile;
use super::journal::{self, JournalMember};
use super::manifest::{Manifest, sync_parent};
use super::paths::{build_mark, collection_directory, io_error, shard_directory};
use super::read::{ReadTarget, VectorNames};
use super::steps::{self, EngineStep};
use super::{duplicates, engine_log, indexes, legacy};
use crate::{CollectionId, CollectionSpec, SinkError};

/// Free space that no change may use. The engine writes through memory maps, and a page that finds no room on the disk kills the process. Other
/// programs and the engine's bookkeeping need a little between the check and the write, so 64 MiB are kept free.
const DISK_RESERVE: u64 = 64 << 20;

/// How many times its size a batch may take on the disk. It is stored three times: in the engine's log (5 bytes per number), in its segments (4
/// bytes), and as a record (4 bytes).
const DISK_FACTOR: u64 = 4;

/// Size of the engine's log at which a new one is begun: about 250,000 points of 384 dimensions. Until then it only takes room. Beginning a new
/// one blocks readers for as long as loading takes.
const LOG_LIMIT: u64 = 512 << 20;

/// Size of a file of the engine's log. The files are sparse, so a small collection takes little room; a batch that is larger makes a larger file.
const LOG_SEGMENT: usize = 4 << 20;

/// How many points may lie in a segment without an index: comparing them one by one takes about a millisecond.
pub(super) const UNINDEXED_POINTS: u64 = 10_000;

/// How many segments a collection has before small ones are merged. Each has an index of its own, and a search asks them all. Merging two means
/// indexing the points of both again.
const SEGMENTS: usize = 16;

/// How many points a segment may have. While it takes points, and while its index is built, each point takes about a kilobyte of memory.
pub(super) const SEGMENT_POINTS: u64 = 150_000;

/// A collection's engine. Readers and the writer share it; reopening and closing exclude them.
#[derive(Debug)]
pub(super) struct EngineStore {
    directory: PathBuf,
    target: ReadTarget,
    indexes: Vec<(JsonPath, PayloadFieldSchema)>,
    manifest: Mutex<Manifest>,
    journal: JournalMember,
    slot: RwLock<EngineSlot>,
    /// Read-locked by searches, and write-locked by a change while the engine applies it. The engine searches its segments one after the other
    /// and looks the payloads up afterwards. In the middle of a change it would miss points that move or are deleted meanwhile, and return fewer
    /// hits than there are.
    applying: RwLock<()>,
    _lock: LockFile,
}

#[derive(Debug)]
enum EngineSlot {
    Open(Box<EdgeShard>),
    /// The engine was dropped after a failure and could not be loaded again; the next change tries once more.
    Broken(String),
    Closed,
}

impl EngineStore {
    pub(super) fn open(root: &Path, spec: CollectionSpec) -> Result<Self, SinkError> {
        let directory = collection_directory(root, &spec.name)?;
        let lock = LockFile::acquire(&directory)?;
        let manifest = Manifest::open(&directory, &spec)?;
        let journal = JournalMember::join(root, manifest.uuid(), manifest.flushes())?;
        let manifest = Mutex::new(manifest);
        let slot = RwLock::new(EngineSlot::Closed);
        let indexes = indexes::of(&spec)?;
        let dense = spec.vector.unwrap_or_else(|| qdrant_edge::DEFAULT_VECTOR_NAME.to_owned());
        let vectors = VectorNames { dense, keywords: spec.keywords };
        let target = ReadTarget { dimension: spec.dimension, vectors, nesting: spec.nesting };
        let store =
            Self { directory, target, indexes, manifest, journal, slot, applying: RwLock::default(), _lock: lock };
        store.reopen().map_err(|error| match error {
            SinkError::Engine(reason) => {
                SinkError::Corrupt { collection: spec.name, path: store.directory.clone(), reason }
            }
            other => other,
        })?;
        Ok(store)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) const fn journal(&self) -> &JournalMember {
        &self.journal
    }

    pub(super) fn id(&self) -> CollectionId {
        self.manifest.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    pub(super) const fn target(&self) -> &ReadTarget {
        &self.target
    }

    /// Runs `work` on the engine, concurrently with other work on it.
    pub(super) fn with_shard<T>(&self, work: impl FnOnce(&EdgeShard) -> Result<T, SinkError>) -> Result<T, SinkError> {
        let slot = self.slot.read().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            EngineSlot::Open(shard) => guarded(|| work(shard)),
            EngineSlot::Broken(reason) => Err(SinkError::Engine(reason.clone())),
            EngineSlot::Closed => Err(SinkError::Closed),
        }
    }

    /// Runs a search between two changes.
    pub(super) fn search<T>(&self, search: impl FnOnce(&EdgeShard) -> Result<T, SinkError>) -> Result<T, SinkError> {
        let _between = self.applying.read().unwrap_or_else(PoisonError::into_inner);
        self.with_shard(search)
    }

    /// Applies a change, which searches see whole or not at all. Searches do not wait for changes that may concern a whole table. Returns how
    /// many points its sweeps removed.
    pub(super) fn apply(&self, shard: &EdgeShard, steps: Vec<EngineStep>) -> Result<u64, SinkError> {
        let is_short = !steps::concern_table(&steps);
        let _alone = is_short.then(|| self.applying.write().unwrap_or_else(PoisonError::into_inner));
        steps::apply_all(shard, &self.target.vectors, steps)
    }

    /// Makes all changes durable in the engine, and forgets their records. No change may be made meanwhile.
    pub(super) fn flush(&self) -> Result<(), SinkError> {
        self.with_shard(|shard| {
            shard.flush();
            Ok(())
        })?;
        self.flushed(&mut self.manifest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Forgets the records of all changes, which are durable in the engine now.
    fn flushed(&self, manifest: &mut Manifest) -> Result<(), SinkError> {
        if self.journal.bytes() > 0 {
            self.journal.flushed(manifest.count_flush(&self.directory)?);
        }
        Ok(())
    }

    /// Returns how many points there are, and how many of them an index covers.
    pub(super) fn indexed(&self) -> Result<(u64, u64), SinkError> {
        self.with_shard(|shard| {
            let info = shard.info();
            let (points, mut indexed) = (info.points_count as u64, info.indexed_vectors_count as u64);
            if self.target.vectors.keywords.is_some() {
                // The engine counts the sparse vectors too, and they always have an index.
                indexed = indexed.saturating_sub(points);
            }
            Ok((points, indexed.min(points)))
        })
    }

    /// Builds indexes until no segment without one has `enough` points.
    pub(super) fn build_indexes(&self, enough: u64) -> Result<(), SinkError> {
        self.with_shard(|shard| {
            shard.set_optimizers_config(optimizers(self.target.dimension, enough)).map_err(change_error)?;
            shard.optimize().map(drop).map_err(change_error)
        })
    }

    /// Records, durably, that an index build is running: if it is cut short, it may leave points twice.
    pub(super) fn begin_build(&self) -> Result<(), SinkError> {
        let mark = build_mark(&self.directory);
        let begun = File::create(&mark).and_then(|file| file.sync_all()).and_then(|()| sync_parent(&mark));
        begun.map_err(io_error(&mark))
    }

    /// Records that the index build has ended and that its result is durable.
    pub(super) fn end_build(&self) -> Result<(), SinkError> {
        let mark = build_mark(&self.directory);
        match std::fs::remove_file(&mark) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| sync_parent(&mark)).map_err(io_error(&mark)),
        }
    }

    /// Drops the engine and loads it again from its files: the last durable state, and then the journal's changes.
    pub(super) fn reopen(&self) -> Result<(), SinkError> {
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        // An error does not matter: what the engine cannot write is in the journal.
        discard(std::mem::replace(&mut *slot, EngineSlot::Closed)).ok();
        match self.load() {
            Ok(shard) => {
                *slot = EngineSlot::Open(Box::new(shard));
                Ok(())
            }
            Err(error) => {
                *slot = EngineSlot::Broken(error.to_string());
                Err(error)
            }
        }
    }

    /// Flushes the engine, and refuses every further call.
    pub(super) fn close(&self) -> Result<(), SinkError> {
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        discard(std::mem::replace(&mut *slot, EngineSlot::Closed))
    }

    /// Records, before the first point is written, that there are vectors to protect.
    pub(super) fn will_hold_points(&self) -> Result<(), SinkError> {
        self.manifest.lock().unwrap_or_else(PoisonError::into_inner).set_written(&self.directory)
    }

    pub(super) fn log_is_long(&self) -> bool {
        // A log that cannot be read counts as short: a fresh start would not help.
        engine_log::closed_bytes(&shard_directory(&self.directory)).is_ok_and(|bytes| bytes > LOG_LIMIT)
    }

    /// Refuses a change of `bytes` bytes that could fill the disk.
    pub(super) fn check_room(&self, bytes: u64) -> Result<(), SinkError> {
        let failed = io_error(&self.directory);
        let available = fs4::available_space(&self.directory).map_err(&failed)?;
        let needed = DISK_RESERVE.saturating_add(bytes.saturating_mul(DISK_FACTOR));
        if available >= needed {
            return Ok(());
        }
        let mib = |bytes: u64| bytes >> 20;
        let message = format!("{} MiB are free, walvec stops writing below {} MiB", mib(available), mib(needed));
        Err(failed(io::Error::new(io::ErrorKind::StorageFull, message)))
    }

    fn load(&self) -> Result<EdgeShard, SinkError> {
        self.check_room(0)?;
        let mut manifest = self.manifest.lock().unwrap_or_else(PoisonError::into_inner);
        let shard_directory = shard_directory(&self.directory);
        if manifest.is_created() && !has_segments(&shard_directory) {
            // Without segments the engine would begin an empty collection.
            return Err(SinkError::Engine(format!("{} holds no segments any more", shard_directory.display())));
        }
        let opening = manifest.count_open(&self.directory)?;
        engine_log::renew(&shard_directory, opening).map_err(io_error(&shard_directory))?;
        let config = engine_config(&self.target);
        let shard = guarded(|| EdgeShard::load(&shard_directory, Some(config)).map_err(change_error))?;
        let prepared =
            guarded(|| self.prepare(&shard, &mut manifest)).and_then(|()| manifest.set_created(&self.directory));
        if let Err(error) = prepared {
            // If closing fails too, that adds nothing to the first error.
            discard(EngineSlot::Open(Box::new(shard))).ok();
            return Err(error);
        }
        Ok(shard)
    }

    /// Creates missing files, and makes changes again that were cut short.
    fn prepare(&self, shard: &EdgeShard, manifest: &mut Manifest) -> Result<(), SinkError> {
        for (field_name, schema) in &self.indexes {
            let index = CreateIndex { field_name: field_name.clone(), field_schema: Some(schema.clone()) };
            let operation = UpdateOperation::FieldIndexOperation(FieldIndexOperations::CreateIndex(index));
            shard.update(operation).map_err(change_error)?;
        }
        let was_cut_short = build_mark(&self.directory).exists() || legacy::build_was_cut_short(&self.directory);
        self.repeat(shard)?;
        if was_cut_short {
            duplicates::remove(shard, &self.target.vectors, &self.journal)?;
        }
        shard.flush();
        let failed = io_error(&self.directory);
        legacy::forget(&self.directory).map_err(&failed)?;
        journal::forget_handed_out(&self.directory).map_err(&failed)?;
        self.flushed(manifest)?;
        self.end_build()
    }

    /// Makes the changes again that may have been cut short, in their order.
    fn repeat(&self, shard: &EdgeShard) -> Result<(), SinkError> {
        let failed = io_error(&self.directory);
        let mut changes = legacy::changes(&self.directory).map_err(&failed)?;
        changes.extend(journal::handed_out(&self.directory).map_err(&failed)?);
        changes.extend(self.journal.changes().map_err(&failed)?);
        let count = changes.len();
        for (number, change) in changes.into_iter().enumerate() {
            match self.repeat_change(shard, change) {
                // Only the last change can have failed when it was first made. It must not make the collection unreadable.
                Err(SinkError::Engine(reason)) if number + 1 == count => {
                    tracing::warn!(reason, "a change that the engine could not make was left out");
                }
                repeated => repeated?,
            }
        }
        if count > 0 {
            tracing::debug!(changes = count, directory = %self.directory.display(), "changes that were cut short were made again");
        }
        Ok(())
    }

    fn repeat_change(&self, shard: &EdgeShard, change: Vec<EngineStep>) -> Result<(), SinkError> {
        for step in change {
            match guarded(|| steps::apply(shard, &self.target.vectors, step)) {
                // The point existed when the change was first made, and a later change that is already durable removed it. Or the engine refused
                // the change then, and it could not be withdrawn.
                Ok(_) | Err(SinkError::BadPoint { .. } | SinkError::BadRequest(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Runs the engine's code; a panic in it becomes an error.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, SinkError>) -> Result<T, SinkError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(SinkError::Engine(panic_message(&*panic))))
}

pub(super) fn has_segments(shard: &Path) -> bool {
    std::fs::read_dir(shard.join("segments")).is_ok_and(|mut segments| segments.next().is_some())
}

fn engine_config(target: &ReadTarget) -> EdgeConfig {
    let dimension = target.dimension;
    // On disk means memory-mapped: vectors that are searched often stay in the page cache, and the rest takes no memory.
    let vectors = EdgeVectorParams::builder(dimension, Distance::Cosine).on_disk(true).build();
    let mut config = EdgeConfig::builder().vector(&target.vectors.dense, vectors);
    if let Some(name) = &target.vectors.keywords {
        let sparse = EdgeSparseVectorParams::builder().modifier(Modifier::Idf).on_disk(true).build();
        config = config.sparse_vector(name, sparse);
    }
    config
        .on_disk_payload(true)
        .hnsw_config(HnswIndexConfig {
            max_indexing_threads: cores(),
            on_disk: Some(true),
            ..HnswIndexConfig::default()
        })
        .optimizers(optimizers(dimension, UNINDEXED_POINTS))
        .wal_options(WalOptions { segment_capacity: LOG_SEGMENT, ..WalOptions::default() })
        .build()
}

/// Configures when indexes are built and segments merged. `enough`: how many points without an index one is built for.
fn optimizers(dimension: usize, enough: u64) -> EdgeOptimizersConfig {
    let kibibytes = |points: u64| {
        let points = usize::try_from(points).unwrap_or(usize::MAX);
        points.saturating_mul(dimension * size_of::<f32>()).div_ceil(1024)
    };
    EdgeOptimizersConfig {
        indexing_threshold: Some(kibibytes(enough)),
        default_segment_number: Some(SEGMENTS),
        max_segment_size: Some(kibibytes(SEGMENT_POINTS)),
        ..EdgeOptimizersConfig::default()
    }
}

/// Returns the number of threads of an index build. The engine gives them the lowest priority, so they take idle time only.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(16))
}

/// Drops the engine. Its drop flushes, and panics if that fails.
fn discard(slot: EngineSlot) -> Result<(), SinkError> {
    guarded(|| {
        drop(slot);
        Ok(())
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it stopped without a word").to_owned()
}
