//! The engine and its files: opening, closing, reopening; its panics become errors; room on the disk.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use qdrant_edge::{
    CreateIndex, Distance, EdgeConfig, EdgeOptimizersConfig, EdgeShard, EdgeSparseVectorParams, EdgeVectorParams,
    FieldIndexOperations, HnswIndexConfig, JsonPath, Modifier, PayloadFieldSchema, PayloadSchemaType, UpdateOperation,
};
use walvec_model::RESERVED_KEY;

use super::convert::{change_error, field_path, provenance_path, schema};
use super::data_dir::LockFile;
use super::journal::{self, Kind};
use super::manifest::Manifest;
use super::paths::{collection_directory, io_error, shard_directory};
use super::read::{Target, VectorNames};
use super::steps::{self, Step};
use super::{duplicates, engine_log};
use crate::{CollectionId, CollectionSpec, SinkError};

/// The engine writes through memory maps, and a page that finds no room on the disk kills the process. So the last
/// 64 MiB are left alone: other programs and the engine's bookkeeping need a little between the check and the write.
const DISK_RESERVE: u64 = 64 << 20;

/// A batch is stored three times, in the engine's log (5 bytes a number), in its segments (4 bytes), and as a record (11 bytes).
const DISK_FACTOR: u64 = 5;

/// Size of the engine's log at which it is started afresh: about 250,000 points of 384 dimensions. Until then it only
/// takes room; starting afresh holds readers up for as long as loading takes.
const LOG_LIMIT: u64 = 512 << 20;

/// How many points may lie in a segment without an index: comparing them one by one takes about a millisecond.
const UNINDEXED_POINTS: usize = 10_000;

/// A collection's engine. Readers and the writer share it; reopening and closing exclude them.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    target: Target,
    indexes: Vec<(JsonPath, PayloadSchemaType)>,
    manifest: Mutex<Manifest>,
    slot: RwLock<Slot>,
    /// Held by searches, and alone by a change while the engine applies it. The engine searches its segments one after the
    /// other and looks the payloads up afterwards: in the middle of a change it would miss points that move or go meanwhile,
    /// and answer fewer than there are.
    applying: RwLock<()>,
    _lock: LockFile,
}

#[derive(Debug)]
enum Slot {
    Open(Box<EdgeShard>),
    /// The engine had to be given up and could not be loaded again; the next change tries once more.
    Broken(String),
    Closed,
}

impl Store {
    pub(super) fn open(root: &Path, spec: CollectionSpec) -> Result<Self, SinkError> {
        let directory = collection_directory(root, &spec.name)?;
        let lock = LockFile::acquire(&directory)?;
        let manifest = Mutex::new(Manifest::open(&directory, &spec)?);
        let slot = RwLock::new(Slot::Closed);
        let indexes = index_list(&spec)?;
        let dense = spec.vector.unwrap_or_else(|| qdrant_edge::DEFAULT_VECTOR_NAME.to_owned());
        let vectors = VectorNames { dense, keywords: spec.keywords };
        let target = Target { dimension: spec.dimension, vectors, nesting: spec.nesting };
        let store = Self { directory, target, indexes, manifest, slot, applying: RwLock::default(), _lock: lock };
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

    pub(super) fn id(&self) -> CollectionId {
        self.manifest.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    pub(super) const fn target(&self) -> &Target {
        &self.target
    }

    /// Runs `work` on the engine, beside whatever else runs on it.
    pub(super) fn with_shard<T>(&self, work: impl FnOnce(&EdgeShard) -> Result<T, SinkError>) -> Result<T, SinkError> {
        let slot = self.slot.read().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Slot::Open(shard) => guarded(|| work(shard)),
            Slot::Broken(reason) => Err(SinkError::Engine(reason.clone())),
            Slot::Closed => Err(SinkError::Closed),
        }
    }

    /// Searches, between two changes.
    pub(super) fn search<T>(&self, search: impl FnOnce(&EdgeShard) -> Result<T, SinkError>) -> Result<T, SinkError> {
        let _between = self.applying.read().unwrap_or_else(PoisonError::into_inner);
        self.with_shard(search)
    }

    /// Applies a change, which searches see whole or not at all; those that may concern a whole table they do not wait for.
    /// Returns how many points its sweeps removed.
    pub(super) fn apply(&self, shard: &EdgeShard, steps: Vec<Step>) -> Result<u64, SinkError> {
        let is_short = !steps.iter().any(|step| matches!(step, Step::DeleteTable { .. } | Step::Sweep { .. }));
        let _alone = is_short.then(|| self.applying.write().unwrap_or_else(PoisonError::into_inner));
        steps::apply_all(shard, &self.target.vectors, steps)
    }

    /// Gives the engine up and loads it again from its files: the last durable state, and the journals' changes.
    pub(super) fn reopen(&self) -> Result<(), SinkError> {
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        // What it cannot write was never answered, or is in a journal.
        discard(std::mem::replace(&mut *slot, Slot::Closed)).ok();
        match self.load() {
            Ok(shard) => {
                *slot = Slot::Open(Box::new(shard));
                Ok(())
            }
            Err(error) => {
                *slot = Slot::Broken(error.to_string());
                Err(error)
            }
        }
    }

    /// Lets the engine write its last words, and refuses every further call.
    pub(super) fn close(&self) -> Result<(), SinkError> {
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        discard(std::mem::replace(&mut *slot, Slot::Closed))
    }

    /// Remembers, before the first point is written, that there are vectors to protect.
    pub(super) fn will_hold_points(&self) -> Result<(), SinkError> {
        self.manifest.lock().unwrap_or_else(PoisonError::into_inner).set_written(&self.directory)
    }

    pub(super) fn log_is_long(&self) -> bool {
        // Unreadable: nothing that a fresh start would make better.
        engine_log::closed_bytes(&shard_directory(&self.directory)).is_ok_and(|bytes| bytes > LOG_LIMIT)
    }

    /// Refuses a change of `bytes` bytes before it could fill the disk.
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
            // The engine would begin an empty collection.
            return Err(SinkError::Engine(format!("{} holds no segments any more", shard_directory.display())));
        }
        let opening = manifest.count_open(&self.directory)?;
        engine_log::renew(&shard_directory, opening).map_err(io_error(&shard_directory))?;
        let config = engine_config(&self.target);
        let shard = guarded(|| EdgeShard::load(&shard_directory, Some(config)).map_err(change_error))?;
        let prepared = guarded(|| self.prepare(&shard)).and_then(|()| manifest.set_created(&self.directory));
        if let Err(error) = prepared {
            // If closing fails too, that says nothing new.
            discard(Slot::Open(Box::new(shard))).ok();
            return Err(error);
        }
        Ok(shard)
    }

    /// Creates what the files lack, and makes again what was cut short.
    fn prepare(&self, shard: &EdgeShard) -> Result<(), SinkError> {
        for (field_name, schema) in &self.indexes {
            let index = CreateIndex {
                field_name: field_name.clone(),
                field_schema: Some(PayloadFieldSchema::FieldType(*schema)),
            };
            let operation = UpdateOperation::FieldIndexOperation(FieldIndexOperations::CreateIndex(index));
            shard.update(operation).map_err(change_error)?;
        }
        self.repeat(shard)?;
        shard.flush();
        Ok(())
    }

    /// Makes the changes again that may have been cut short.
    fn repeat(&self, shard: &EdgeShard) -> Result<(), SinkError> {
        let failed = io_error(&self.directory);
        for kind in [Kind::LastChange, Kind::Build] {
            let Some((mut journal, changes)) = journal::left_behind(&self.directory, kind).map_err(&failed)? else {
                continue;
            };
            let count = changes.len();
            for (number, change) in changes.into_iter().enumerate() {
                match self.repeat_change(shard, change) {
                    // Only the last one can have failed when it was made. It must not make the collection unreadable.
                    Err(SinkError::Engine(reason)) if number + 1 == count => {
                        tracing::warn!(reason, "a change that the engine could not make was left out");
                        journal.take_back().map_err(&failed)?;
                    }
                    repeated => repeated?,
                }
            }
            if kind == Kind::Build {
                duplicates::remove(shard, &self.target.vectors, &mut journal)?;
            }
            shard.flush();
            journal.remove().map_err(&failed)?;
        }
        Ok(())
    }

    fn repeat_change(&self, shard: &EdgeShard, change: Vec<Step>) -> Result<(), SinkError> {
        for step in change {
            match guarded(|| steps::apply(shard, &self.target.vectors, step)) {
                // Its point was there when the change was made; that it is gone comes from a later change, durable already.
                Ok(_) | Err(SinkError::BadPoint { .. }) => {}
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

fn index_list(spec: &CollectionSpec) -> Result<Vec<(JsonPath, PayloadSchemaType)>, SinkError> {
    let mut indexes = vec![(provenance_path("t")?, PayloadSchemaType::Keyword)];
    for (field, index) in &spec.indexes {
        // The engine stores index names as paths, and its grammar has no escape for these two.
        let name = &field.name;
        if name.is_empty() || name == RESERVED_KEY || name.contains(['"', '\\']) {
            return Err(SinkError::BadRequest(format!("the field {name:?} cannot be indexed")));
        }
        indexes.push((field_path(spec.nesting.as_deref(), field), schema(*index)));
    }
    Ok(indexes)
}

fn engine_config(target: &Target) -> EdgeConfig {
    let dimension = target.dimension;
    // On disk means memory-mapped: what is searched often stays in the page cache, and the rest costs no memory.
    let vectors = EdgeVectorParams::builder(dimension, Distance::Cosine).on_disk(true).build();
    let unindexed_kib = (UNINDEXED_POINTS * dimension * size_of::<f32>()).div_ceil(1024);
    let mut config = EdgeConfig::builder().vector(&target.vectors.dense, vectors);
    if let Some(name) = &target.vectors.keywords {
        let sparse = EdgeSparseVectorParams::builder().modifier(Modifier::Idf).on_disk(true).build();
        config = config.sparse_vector(name, sparse);
    }
    config
        .on_disk_payload(true)
        .hnsw_config(HnswIndexConfig { max_indexing_threads: indexing_threads(), ..HnswIndexConfig::default() })
        .optimizers(EdgeOptimizersConfig { indexing_threshold: Some(unindexed_kib), ..EdgeOptimizersConfig::default() })
        .build()
}

/// Half of the cores: searches and embedding go on during an index build.
fn indexing_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

/// Drops the engine, whose drop flushes, and panics where that fails.
fn discard(slot: Slot) -> Result<(), SinkError> {
    guarded(|| {
        drop(slot);
        Ok(())
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it stopped without a word").to_owned()
}
