//! The state for a later start: what the served collections were made with, and whether a reindex was running.
//!
//! Until a reindex has ended, walvec.yaml may already describe the new collections. A start in between continues with the
//! configuration of the served ones.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use walvec_model::Type;
use walvec_pipeline::PipelineError;
use walvec_sink::Catalog;
use walvec_sink::embedded::create_private_dir;

use crate::config::{CollectionConfig, Config, EmbeddingSettings};
use crate::failure::Failure;
use crate::{collection, private_file, reindex};

/// The pause before a server that does not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The configuration that the served collections were made with, all references to variables resolved. It has no key of a
/// provider, because that must not be stored.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Served {
    collections: Vec<CollectionConfig>,
    embedding: EmbeddingSettings,
}

/// The state of a reindex that has begun, until nothing of it is left but the collections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnderWay {
    /// Whether it goes back to kept collections.
    pub(crate) rollback: bool,
    /// The own names of the collections that are to take over, in the order of the configuration.
    pub(crate) names: Vec<String>,
    /// Whether it has succeeded or failed, and only its slot may be left.
    pub(crate) is_over: bool,
}

/// Returns the directory of what a reindex needs until it has ended.
pub(crate) fn reindex_directory(config: &Config) -> PathBuf {
    config.sink.directory().join("reindex")
}

fn under_way_file(config: &Config) -> PathBuf {
    reindex_directory(config).join("under-way.json")
}

fn served_file(config: &Config) -> PathBuf {
    config.sink.directory().join("served.json")
}

/// Stores what the served collections were made with.
pub(crate) fn store(config: &Config) -> io::Result<()> {
    let served = Served { collections: config.collections.clone(), embedding: config.embedding.clone() };
    private_file::write(&served_file(config), &serde_json::to_vec_pretty(&served)?)
}

/// The columns of the collections' tables, with their types, by the names of the collections.
pub(crate) type Columns = BTreeMap<String, Vec<(String, Type)>>;

fn columns_file(config: &Config) -> PathBuf {
    config.sink.directory().join("columns.json")
}

/// Stores the columns of the tables, so that searches know the fields before PostgreSQL is asked.
pub(crate) fn store_columns(config: &Config, columns: &Columns) -> io::Result<()> {
    if columns.is_empty() || *columns == self::columns(config) {
        return Ok(());
    }
    private_file::write(&columns_file(config), &serde_json::to_vec_pretty(columns)?)
}

/// Returns the stored columns; none if they cannot be read.
pub(crate) fn columns(config: &Config) -> Columns {
    let stored = fs::read(columns_file(config)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    stored.unwrap_or_default()
}

/// Stores the state of a reindex.
pub(crate) fn note(config: &Config, under_way: &UnderWay) -> io::Result<()> {
    create_private_dir(&reindex_directory(config))?;
    private_file::write(&under_way_file(config), &serde_json::to_vec(under_way)?)
}

/// Returns the stored state of a reindex.
pub(crate) fn under_way(config: &Config) -> Option<UnderWay> {
    serde_json::from_slice(&fs::read(under_way_file(config)).ok()?).ok()
}

/// Returns whether a reindex has begun and neither ended nor been given up.
pub(crate) fn is_under_way(config: &Config) -> bool {
    under_way(config).is_some_and(|under_way| !under_way.is_over)
}

/// Returns `config` with the stored collections and model: what is served.
pub(crate) fn served(config: &Config) -> Option<Config> {
    let Served { collections, mut embedding } = serde_json::from_slice(&fs::read(served_file(config)).ok()?).ok()?;
    embedding.take_key_of(&config.embedding);
    Some(Config { collections, embedding, ..config.clone() })
}

/// Returns the configuration to start with, and the reindex to continue.
pub(crate) async fn at_start(config: Config) -> Result<(Config, Option<UnderWay>), Failure> {
    let Some(under_way) = under_way(&config) else { return Ok((config, None)) };
    let served = served(&config);
    let is_put_back = served
        .as_ref()
        .is_some_and(|served| served.collections == config.collections && served.embedding == config.embedding);
    if under_way.is_over || is_put_back || has_switched(&config, &under_way).await? {
        if let Err(error) = reindex::forget(&config).await {
            tracing::warn!("the slot of the reindex stays and holds back WAL until the next start: {error}");
        }
        return Ok((config, None));
    }
    match served {
        Some(served) => {
            tracing::info!("a reindex was under way: searches are answered as before, and it goes on");
            Ok((served, Some(under_way)))
        }
        None => Ok((config, None)),
    }
}

/// Returns whether the names stand for the new collections. Waits for a server that does not answer.
async fn has_switched(config: &Config, under_way: &UnderWay) -> Result<bool, Failure> {
    let catalog = collection::catalog(config);
    loop {
        match served_names(config, catalog.as_ref()).await {
            Ok(names) => return Ok(names == under_way.names),
            Err(error) if error.is_retryable() => {
                tracing::warn!("what is served cannot be looked up, trying again: {error}");
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Err(source) => return Err(PipelineError::Sink { collection: "*".to_owned(), source }.into()),
        }
    }
}

async fn served_names(config: &Config, catalog: &dyn Catalog) -> Result<Vec<String>, walvec_sink::SinkError> {
    let mut names = Vec::with_capacity(config.collections.len());
    for collection in &config.collections {
        names.extend(catalog.serving(&collection.name).await?);
    }
    Ok(names)
}
