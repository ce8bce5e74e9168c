//! What a later start has to know: what the served collections were made with, and whether a reindex has not ended.
//!
//! Until a reindex has ended, walvec.yaml may already describe the new collections. A start in between continues with the
//! configuration of the served ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use serde::{Deserialize, Serialize};
use walvec_pipeline::state::records::{Checkpoint, SnapshotState, SourceIdentity};
use walvec_pipeline::{PipelineError, Store};
use walvec_sink::embedded::create_private_dir;

use crate::config::{CollectionConfig, Config, EmbeddingSettings};
use crate::failure::Failure;
use crate::private_file;

/// The configuration that the served collections were made with, all references to variables resolved. It has no key of a
/// provider, because that must not be stored.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Served {
    collections: Vec<CollectionConfig>,
    embedding: EmbeddingSettings,
}

/// The state of a reindex that has begun, until nothing of it is left but the collections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnfinishedReindex {
    /// Whether it goes back to kept collections.
    pub(crate) rollback: bool,
    /// The own names of the collections that are to take over, in the order of the configuration.
    pub(crate) names: Vec<String>,
    /// Whether it has succeeded or failed, and only its slot may be left.
    pub(crate) is_over: bool,
}

/// Returns the directory of what a reindex needs until it has ended.
pub(super) fn directory(config: &Config) -> PathBuf {
    config.sink.directory().join("reindex")
}

fn unfinished_file(config: &Config) -> PathBuf {
    directory(config).join("under-way.json")
}

fn served_file(config: &Config) -> PathBuf {
    config.sink.directory().join("served.json")
}

/// Stores what the served collections were made with.
pub(crate) fn store_served(config: &Config) -> io::Result<()> {
    let served = Served { collections: config.collections.clone(), embedding: config.embedding.clone() };
    private_file::write(&served_file(config), &serde_json::to_vec_pretty(&served)?)
}

/// Stores the state of a reindex.
pub(super) fn store_unfinished(config: &Config, unfinished: &UnfinishedReindex) -> io::Result<()> {
    create_private_dir(&directory(config))?;
    private_file::write(&unfinished_file(config), &serde_json::to_vec(unfinished)?)
}

/// Returns the stored state of a reindex.
pub(crate) fn unfinished(config: &Config) -> Option<UnfinishedReindex> {
    serde_json::from_slice(&fs::read(unfinished_file(config)).ok()?).ok()
}

/// Returns whether a reindex has begun and neither ended nor been given up.
pub(crate) fn is_unfinished(config: &Config) -> bool {
    unfinished(config).is_some_and(|unfinished| !unfinished.is_over)
}

/// Returns `config` with the stored collections and model: what is served.
pub(crate) fn served(config: &Config) -> Option<Config> {
    let Served { collections, mut embedding } = serde_json::from_slice(&fs::read(served_file(config)).ok()?).ok()?;
    embedding.take_key_of(&config.embedding);
    Some(Config { collections, embedding, ..config.clone() })
}

/// Prepares the state of the second pipeline. It begins with a snapshot, unless an earlier attempt has come further.
pub(super) fn seed(directory: &Path, checkpoint: &Checkpoint, slot: &str) -> Result<Arc<Store>, Failure> {
    let store = Store::open(directory).map_err(PipelineError::from)?;
    if store.checkpoint().map_err(PipelineError::from)?.is_none() {
        let source = SourceIdentity { slot: slot.to_owned(), ..checkpoint.source.clone() };
        let checkpoint = Checkpoint {
            source,
            snapshot: SnapshotState::Wanted,
            resync: None,
            sweep_waits: false,
            ..checkpoint.clone()
        };
        store.save_checkpoint(&checkpoint).map_err(PipelineError::from)?;
    }
    Ok(Arc::new(store))
}
