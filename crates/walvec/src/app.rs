//! Puts a pipeline together from a configuration.
//!
//! Everything that can be wrong without asking PostgreSQL (the data directory, the model, the stored collections, the
//! templates) is found here, before anything connects.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use walvec_capture::{SourceConfig, TableSpec};
use walvec_embed::{EmbedError, Embedder};
use walvec_model::Fingerprint;
use walvec_pipeline::{Collection, Pipeline, PipelineConfig, PipelineError, Store};
use walvec_sink::Search;
use walvec_sink::embedded::DataDir;
use walvec_transform::{Transform, TransformError, TransformSpec};

use crate::cli::Failure;
use crate::collection::{Opened, Which};
use crate::config::{CollectionConfig, Config};

/// A pipeline that is ready to run, and what the surface needs of it.
pub(crate) struct App {
    pub(crate) pipeline: Pipeline,
    pub(crate) searches: Vec<(String, Arc<dyn Search>)>,
    pub(crate) embedder: Arc<dyn Embedder>,
    /// Closed after the pipeline has ended.
    pub(crate) opened: Vec<Opened>,
}

impl App {
    /// Loads the model, opens the collections of the data directory, which the caller has locked, and wires the stages.
    pub(crate) async fn assemble(config: &Config, stop: CancellationToken) -> Result<Self, Failure> {
        let directory = config.sink.directory();
        let store = Arc::new(Store::open(directory).map_err(PipelineError::from)?);
        let embedder = load_embedder(config).await?;
        let mut opened = Vec::new();
        let mut collections = Vec::new();
        for collection in &config.collections {
            let transform = Arc::new(transform(collection)?);
            let fingerprint = fingerprint(embedder.as_ref(), &transform);
            let dimension = embedder.info().dimension;
            let shard = Opened::open(config, collection, Which::Served, dimension, &fingerprint).await?;
            collections.push(Collection {
                name: collection.name.clone(),
                table: collection.table.clone(),
                transform,
                embedder: Arc::clone(&embedder),
                sink: shard.sink(),
                fingerprint,
            });
            opened.push(shard);
        }
        let searches = config
            .collections
            .iter()
            .zip(&opened)
            .map(|(collection, opened)| (collection.name.clone(), opened.search()))
            .collect();
        let pipeline = Pipeline::new(pipeline_config(config), collections, store, stop)?;
        Ok(Self { pipeline, searches, embedder, opened })
    }
}

/// Takes the data directory for this process.
pub(crate) fn lock(directory: &Path) -> Result<DataDir, Failure> {
    DataDir::lock(directory)
        .map_err(|source| PipelineError::Sink { collection: "*".to_owned(), source })
        .map_err(Failure::from)
}

/// Loads the configured model.
pub(crate) async fn load_embedder(config: &Config) -> Result<Arc<dyn Embedder>, Failure> {
    let (name, root) = (config.embedding.model.clone(), models_root(config));
    tokio::task::spawn_blocking(move || walvec_embed::load(&name, &root))
        .await
        .unwrap_or_else(|panic| Err(EmbedError::Model { path: PathBuf::new(), reason: panic.to_string() }))
        .map_err(PipelineError::from)
        .map_err(Failure::from)
}

/// Where models are kept.
pub(crate) fn models_root(config: &Config) -> PathBuf {
    config.models.clone()
}

/// Compiles a collection's templates.
pub(crate) fn transform(collection: &CollectionConfig) -> Result<Transform, Failure> {
    let spec = TransformSpec {
        table: collection.table.clone(),
        shared: false,
        text: collection.text.clone(),
        payload: collection.payload.clone(),
        computed: collection.computed.clone().into_iter().collect(),
    };
    Transform::new(spec).map_err(|error: TransformError| {
        Failure::new(2, error.code(), format!("collections.{}: {error}", collection.name))
    })
}

/// What makes the vectors of a collection comparable: the model as it is on disk, and the text template.
pub(crate) fn fingerprint(embedder: &dyn Embedder, transform: &Transform) -> Fingerprint {
    let info = embedder.info();
    Fingerprint::of(&[
        &info.revision,
        &info.dimension.to_string(),
        &info.max_tokens.to_string(),
        &info.pooling,
        &transform.fingerprint_part(),
    ])
}

/// The source part of a configuration.
pub(crate) fn source_config(config: &Config) -> SourceConfig {
    SourceConfig {
        url: config.source.url.clone(),
        slot: config.source.slot.clone(),
        publication: config.source.publication.clone(),
        tables: config
            .collections
            .iter()
            .map(|collection| TableSpec {
                name: collection.table.clone(),
                filter: collection.filter.clone(),
                columns: None,
            })
            .collect(),
        copy_workers: config.source.copy_workers,
    }
}

fn pipeline_config(config: &Config) -> PipelineConfig {
    PipelineConfig {
        source: source_config(config),
        batch_rows: config.pipeline.batch_rows,
        batch_wait: config.pipeline.batch_wait(),
        config_digest: config_digest(&config.collections),
    }
}

/// A digest of what decides which rows and which payloads a collection has. When it changes, tables are read again.
pub(crate) fn config_digest(collections: &[CollectionConfig]) -> String {
    let parts: Vec<String> = collections
        .iter()
        .flat_map(|collection| {
            [
                collection.name.clone(),
                collection.table.to_string(),
                format!("{:?}", collection.filter),
                format!("{:?}", collection.payload),
                format!("{:?}", collection.computed),
            ]
        })
        .collect();
    Fingerprint::of(&parts.iter().map(String::as_str).collect::<Vec<_>>()).to_string()
}
