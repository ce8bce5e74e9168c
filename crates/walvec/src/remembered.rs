//! What a later start has to know: the configuration that the served collections were made with, and whether a reindex
//! was under way.
//!
//! Until a reindex has ended, walvec.yaml may already say what the new collections are to be. A start in between goes on
//! with what the served ones are.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};

use crate::app;
use crate::cli::Failure;
use crate::collection::{E_FINGERPRINT, Opened};
use crate::config::{Config, Environment, Overrides};

/// A reindex that has begun and not ended.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnderWay {
    /// Whether it goes back to the kept collections.
    pub(crate) rollback: bool,
}

/// The directory of what a reindex needs until it has ended.
pub(crate) fn reindex_directory(config: &Config) -> PathBuf {
    config.sink.directory().join("reindex")
}

fn under_way_file(config: &Config) -> PathBuf {
    reindex_directory(config).join("under-way.json")
}

fn served_file(config: &Config) -> PathBuf {
    config.sink.directory().join("served.yaml")
}

/// Remembers the configuration of the collections that are served. One that came from variables alone is not remembered.
pub(crate) fn store(config: &Config) -> io::Result<()> {
    match &config.text {
        Some(text) => write_private(&served_file(config), text.expose_secret().as_bytes()),
        None => match fs::remove_file(served_file(config)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

/// Notes that a reindex has begun.
pub(crate) fn begin(config: &Config, under_way: &UnderWay) -> io::Result<()> {
    fs::create_dir_all(reindex_directory(config))?;
    write_private(&under_way_file(config), &serde_json::to_vec(under_way)?)
}

fn under_way(config: &Config) -> Option<UnderWay> {
    serde_json::from_slice(&fs::read(under_way_file(config)).ok()?).ok()
}

/// `config` with the collections and the model that were remembered: what is served.
pub(crate) fn served(config: &Config) -> Option<Config> {
    let text = fs::read_to_string(served_file(config)).ok()?;
    let served = Config::from_text(&text, &Environment::of_process(), Overrides::default());
    let served = served.inspect_err(|error| tracing::warn!("the remembered configuration cannot be used: {error}"));
    let Config { collections, embedding, text, .. } = served.ok()?;
    Some(Config { collections, embedding, text, ..config.clone() })
}

/// The configuration to start with, and the reindex to go on with.
pub(crate) async fn at_start(config: Config) -> Result<(Config, Option<UnderWay>), Failure> {
    let Some(under_way) = under_way(&config) else { return Ok((config, None)) };
    if fits(&config).await? {
        // It came as far as the switch, or the configuration was put back.
        crate::reindex::forget(&config).await;
        return Ok((config, None));
    }
    match served(&config) {
        Some(served) if fits(&served).await? => {
            tracing::info!("a reindex was under way: searches are answered as before, and it goes on");
            Ok((served, Some(under_way)))
        }
        _ => Ok((config, None)),
    }
}

/// Whether the collections that are served are those of `config`.
async fn fits(config: &Config) -> Result<bool, Failure> {
    let embedder = app::load_embedder(config).await?;
    for collection in &config.collections {
        let fingerprint = app::fingerprint(embedder.as_ref(), &app::transform(collection)?);
        match Opened::find(config, collection, embedder.info().dimension, &fingerprint).await {
            Ok(Some(opened)) => opened.close().await.map_err(|error| Failure::definite("E_SINK", error))?,
            Ok(None) => return Ok(false),
            Err(failure) if failure.code() == E_FINGERPRINT => return Ok(false),
            Err(failure) => return Err(failure),
        }
    }
    Ok(true)
}

/// Writes a file for its owner only, so that a crash leaves either the old content or the new.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}
