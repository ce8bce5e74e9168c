//! The checks that do not need PostgreSQL.

use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt as _, stream};
use serde_json::json;
use tokio::net::TcpListener;
use walvec_broker::kafka::topics::Topics;
use walvec_embed::Embedder;
use walvec_pipeline::PipelineError;
use walvec_sink::qdrant;

use super::report::CheckReport;
use crate::assembly::collection::OpenCollection;
use crate::assembly::{self, broker, transform};
use crate::config::{CollectionConfig, Config, KafkaSettings, QdrantSettings};
use crate::failure::Failure;
use crate::reindex::state;

/// How many collections are checked concurrently.
const CONCURRENT: usize = 16;

/// Checks model, port, data directory and collections. Returns the model, if it could be loaded, and the name of a collection that was
/// never filled or is gone.
pub(super) async fn check(
    config: &Config,
    is_running: bool,
    report: &mut CheckReport,
) -> (Option<String>, Option<Arc<dyn Embedder>>) {
    let embedder = match model(config).await {
        Ok((embedder, detail)) => {
            report.ok("model", detail);
            Some(embedder)
        }
        Err(failure) => {
            report.error("model", &failure);
            None
        }
    };
    unencrypted_keys(config, report);
    if let Some(message) = config.server.weak_token() {
        let remedy = "openssl rand -hex 32";
        report.warning("token", json!({"code": "E_TOKEN", "message": message, "remedy": remedy}));
    }
    let missing = storage(config, is_running, embedder.as_deref(), report).await;
    (missing, embedder)
}

/// Checks port, data directory and collections.
async fn storage(
    config: &Config,
    is_running: bool,
    embedder: Option<&dyn Embedder>,
    report: &mut CheckReport,
) -> Option<String> {
    let directory = config.sink.directory();
    if is_running {
        report.ok("data directory", format!("{} is in use by a running walvec", directory.display()));
        return collections(config, embedder, is_running, report).await;
    }
    let listener = TcpListener::bind(config.server.listen).await;
    let listener = listener.map_err(|error| Failure::definite("E_LISTEN", error));
    report.result("listen address", listener.map(|_| config.server.listen.to_string()));
    // A directory that does not exist yet is created by `run`, not by a check.
    let data_dir = match directory.exists().then(|| assembly::lock(directory)).transpose() {
        Ok(data_dir) => data_dir,
        Err(failure) => {
            report.error("data directory", &failure);
            return None;
        }
    };
    if data_dir.is_none() {
        report.ok("data directory", format!("{} will be created", directory.display()));
    }
    if config.sink.qdrant.is_none()
        && let Some(version) = qdrant::local_version().await
    {
        let detail = format!("version {version} answers at {}; `sink.qdrant.url` would use it", qdrant::LOCAL);
        report.ok("Qdrant", detail);
    }
    let missing = collections(config, embedder, is_running, report).await;
    drop(data_dir);
    missing
}

fn unencrypted_keys(config: &Config, report: &mut CheckReport) {
    let mut warn = |subject, message, key| {
        let remedy = format!("let `{key}` begin with https://");
        report.warning(subject, json!({"code": "E_TLS", "message": message, "remedy": remedy}));
    };
    if config.embedding.shows_its_key() {
        let message = "the provider's key and every text travel unencrypted: whoever listens can read both";
        warn("model", message, "embedding.url");
    }
    if config.sink.qdrant.as_ref().is_some_and(QdrantSettings::shows_its_key) {
        let message = "the API key travels unencrypted, and with it whoever listens can read and delete everything";
        warn("Qdrant", message, "sink.qdrant.url");
    }
}

/// Loads the model and describes it. A provider is asked for a vector, even if its dimension is configured.
async fn model(config: &Config) -> Result<(Arc<dyn Embedder>, String), Failure> {
    let embedder = assembly::load_embedder(config).await?;
    let info = embedder.info();
    let mut detail = format!("{}, {} dimensions", info.model, info.dimension);
    if let Some(address) = config.embedding.address() {
        let asked = Instant::now();
        embedder.embed_query("walvec".to_owned()).await.map_err(PipelineError::from)?;
        detail.push_str(&format!(", {address} answers in {} ms", asked.elapsed().as_millis()));
    }
    Ok((embedder, detail))
}

/// Checks that the broker answers and accepts our login, and describes the topics that exist.
pub(super) async fn broker(config: &Config, kafka: &KafkaSettings) -> Result<String, Failure> {
    let topics = Topics::new(&broker::connection(kafka)).map_err(PipelineError::from)?;
    let there = topics.partitions().await.map_err(PipelineError::from)?;
    let mut topics: Vec<String> = config.collections.iter().map(|collection| kafka.topic_of(collection)).collect();
    topics.dedup();
    let described = topics.iter().map(|topic| match there.get(topic) {
        Some(partitions) => format!("topic {topic} has {partitions} partitions"),
        None => format!("topic {topic} will be created by capture with {} partitions", kafka.partitions()),
    });
    Ok(format!("{} answers; {}", kafka.bootstrap, described.collect::<Vec<_>>().join(", ")))
}

/// Checks every collection, and returns one that does not exist.
async fn collections(
    config: &Config,
    embedder: Option<&dyn Embedder>,
    is_running: bool,
    report: &mut CheckReport,
) -> Option<String> {
    // Until a reindex has ended, `run` serves the former collections and continues the reindex.
    if state::unfinished(config).is_some_and(|under_way| !under_way.is_over) {
        report.ok("collections", "a reindex is not finished; `walvec run` continues it");
        return None;
    }
    let mut missing = None;
    let stored = stream::iter(&config.collections)
        .map(|collection| async move { (collection, stored(config, collection, embedder, is_running).await) });
    let mut stored = std::pin::pin!(stored.buffered(CONCURRENT));
    while let Some((collection, stored)) = stored.next().await {
        let subject = format!("collection {}", collection.name);
        match stored {
            Ok(StoredState::Unknown) => report.ok(subject, "templates are valid"),
            Ok(StoredState::Nothing) => {
                report.ok(subject, "templates are valid; nothing is stored yet");
                missing.get_or_insert_with(|| collection.name.clone());
            }
            Ok(StoredState::Fits) => report.ok(subject, "templates and stored vectors fit the configuration"),
            Err(failure) => report.error(subject, &failure),
        }
    }
    missing
}

/// The state of a stored collection.
enum StoredState {
    /// It cannot be determined without the model.
    Unknown,
    Nothing,
    Fits,
}

/// Checks the templates, and the stored collection if the model that it must fit is known.
async fn stored(
    config: &Config,
    collection: &CollectionConfig,
    embedder: Option<&dyn Embedder>,
    is_running: bool,
) -> Result<StoredState, Failure> {
    transform::compile(collection, Arc::new(str::len))?;
    let Some(embedder) = embedder else { return Ok(StoredState::Unknown) };
    transform::check_chunks(collection, embedder)?;
    let (dimension, fingerprint) = (embedder.info().dimension, transform::fingerprint(embedder, collection));
    if is_running {
        let is_there = OpenCollection::inspect(config, collection, dimension, &fingerprint).await?;
        return Ok(if is_there { StoredState::Fits } else { StoredState::Nothing });
    }
    let Some(opened) = OpenCollection::find(config, collection, dimension, &fingerprint).await? else {
        return Ok(StoredState::Nothing);
    };
    opened.close().await.map_err(|error| Failure::definite("E_SINK", error))?;
    Ok(StoredState::Fits)
}
