//! From a configuration to the parts that run.
//!
//! Everything that can be wrong without asking PostgreSQL (the data directory, the model, the stored collections, the templates) is found here,
//! before anything connects.
//!
//! - [`collection`]: opens a collection where the configuration says it lives
//! - [`transform`]: templates, chunks, keywords, and the fingerprint of them
//! - [`source`]: the tables to read, their columns, lookups
//! - [`digest`]: digests of a configuration
//! - [`fields`], [`columns`], [`enum_labels`]: the payload fields of a collection, from the columns that were read
//! - [`broker`]: the stages of a process that works through a broker
//! - [`running`]: a pipeline that runs

pub(crate) mod broker;
pub(crate) mod collection;
pub(crate) mod columns;
pub(crate) mod digest;
mod enum_labels;
pub(crate) mod fields;
pub(crate) mod running;
pub(crate) mod source;
pub(crate) mod transform;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio_util::sync::CancellationToken;
use walvec_embed::Embedder;
use walvec_model::TableName;
use walvec_pipeline::{Collection, Pipeline, PipelineConfig, PipelineError};
use walvec_sink::SinkError;
use walvec_sink::embedded::DataDir;

use self::collection::{CollectionRef, OpenCollection};
use self::digest::config_digests;
use self::enum_labels::EnumLabels;
use self::fields::TableFields;
use self::running::PipelineSetup;
use self::transform::{check_chunks, compile, fingerprint, keywords, token_counter};
use crate::config::{CollectionConfig, Config};
use crate::failure::Failure;
use crate::search::description::CollectionDescription;
use crate::search::serving::{Searchable, Serving};

/// How many collections are opened concurrently. Half of the time is spent waiting for the disk.
const CONCURRENT_OPENS: usize = 8;

/// How long closing the collections may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// The stages of a configuration, ready to be run.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) embedder: Arc<dyn Embedder>,
    collections: Vec<Collection>,
    opened: Vec<OpenCollection>,
}

impl Parts {
    /// Opens the collections, after the caller has locked the data directory: those that are served, or else those with these own names.
    pub(crate) async fn assemble(
        config: Config,
        embedder: Arc<dyn Embedder>,
        own_names: Option<&[String]>,
    ) -> Result<Self, Failure> {
        let mut transforms = Vec::with_capacity(config.collections.len());
        for collection in &config.collections {
            check_chunks(collection, embedder.as_ref())?;
            transforms.push(Arc::new(compile(collection, token_counter(&embedder))?));
        }
        let opened = open_all(&config, embedder.as_ref(), own_names).await?;
        let written = config.collections.iter().zip(transforms).zip(&opened);
        let written = written.map(|((collection, transform), opened)| Collection {
            name: collection.name.clone(),
            table: collection.table.clone(),
            transform,
            embedder: Arc::clone(&embedder),
            keywords: keywords(collection),
            on_long: collection.on_long.into(),
            sink: opened.sink(),
            fingerprint: fingerprint(embedder.as_ref(), collection),
        });
        let collections = written.collect();
        Ok(Self { config, embedder, collections, opened })
    }

    /// Makes a pipeline of these parts.
    fn pipeline(&self, setup: PipelineSetup<'_>, stop: CancellationToken) -> Result<Pipeline, PipelineError> {
        let PipelineSetup { source, store, reports, before } = setup;
        let config = PipelineConfig {
            source,
            batch_rows: self.config.pipeline.batch_rows,
            batch_wait: self.config.pipeline.batch_wait(),
            config_digest: config_digests(&self.config),
            on_gap: self.config.source.on_gap.into(),
            reports,
        };
        let pipeline = Pipeline::new(config, self.collections.clone(), Arc::clone(store), stop)?;
        Ok(match before {
            Some(before) => pipeline.counting_on(before),
            None => pipeline,
        })
    }

    /// Returns the collections, as a pipeline writes them.
    pub(crate) fn collections(&self) -> Vec<Collection> {
        self.collections.clone()
    }

    /// Returns what searches need of the collections.
    pub(crate) fn serving(&self) -> Serving {
        let stored_columns = columns::load(&self.config);
        let opened = self.config.collections.iter().zip(&self.collections).zip(&self.opened);
        let searchable =
            |((collection, written), opened): ((&CollectionConfig, &Collection), &OpenCollection)| Searchable {
                name: collection.name.clone(),
                layout: collection.layout(),
                keywords: written.keywords.clone(),
                is_chunked: collection.chunk.is_some(),
                description: Arc::new(CollectionDescription::new(collection, Arc::clone(&written.transform))),
                fields: Arc::new(TableFields {
                    transform: Arc::clone(&written.transform),
                    stored_columns: stored_columns.get(&collection.name).cloned(),
                    labels: self.labels(&collection.table),
                }),
                search: opened.search(),
            };
        Serving { collections: opened.map(searchable).collect(), embedder: Arc::clone(&self.embedder) }
    }

    /// Returns the source of the labels of a table's enums. `None` for records of a broker, which do not say which columns are enums.
    fn labels(&self, table: &TableName) -> Option<EnumLabels> {
        let source = self.config.broker.is_none().then_some(&self.config.source)?;
        Some(EnumLabels::new(source.url.clone(), table.clone()))
    }

    /// Moves the collections to the names that they have taken over.
    pub(crate) fn served(mut self) -> Result<Self, SinkError> {
        for ((opened, collection), config) in
            self.opened.iter_mut().zip(&mut self.collections).zip(&self.config.collections)
        {
            opened.serve(&self.config, &config.name)?;
            collection.sink = opened.sink();
        }
        Ok(self)
    }

    /// Stores the columns of the tables that were read.
    pub(crate) fn remember_columns(&self) {
        let seen = |collection: &Collection| Some((collection.name.clone(), collection.transform.columns_seen()?));
        let columns = self.collections.iter().filter_map(seen).collect();
        if let Err(error) = columns::store(&self.config, &columns) {
            tracing::warn!("the columns of the tables could not be remembered: {error}");
        }
    }

    /// Closes the collections when the process exits: all concurrently, and only for a limited time. Everything that was confirmed is durable, and
    /// a service manager does not wait for long.
    pub(crate) async fn close(self) {
        self.remember_columns();
        let closing = join_all(self.opened.into_iter().map(OpenCollection::leave));
        let Ok(closed) = tokio::time::timeout(CLOSE_LIMIT, closing).await else {
            tracing::info!(
                "the collections are left before they are closed; the next start takes a moment longer, nothing is lost"
            );
            return;
        };
        for error in closed.into_iter().filter_map(Result::err) {
            tracing::warn!("a collection was not closed cleanly, nothing confirmed is lost: {error}");
        }
    }
}

/// Locks the data directory for this process.
pub(crate) fn lock(directory: &Path) -> Result<DataDir, Failure> {
    DataDir::lock(directory)
        .map_err(|source| PipelineError::Sink { collection: "*".to_owned(), source })
        .map_err(Failure::from)
}

/// Loads the configured model, or connects to the configured provider.
pub(crate) async fn load_embedder(config: &Config) -> Result<Arc<dyn Embedder>, Failure> {
    let embedding = &config.embedding;
    walvec_embed::open(&embedding.model, &config.models, embedding.options())
        .await
        .map_err(PipelineError::from)
        .map_err(Failure::from)
}

/// Opens the collections, in their order. After an error, none of them stays open.
async fn open_all(
    config: &Config,
    embedder: &dyn Embedder,
    own_names: Option<&[String]>,
) -> Result<Vec<OpenCollection>, Failure> {
    let mut opened = Vec::with_capacity(config.collections.len());
    let which = |index: usize| {
        own_names.and_then(|names| names.get(index)).map_or(CollectionRef::Served, |name| CollectionRef::Own(name))
    };
    let dimension = embedder.info().dimension;
    let open = async |(index, collection): &(usize, &CollectionConfig)| {
        OpenCollection::open(config, collection, which(*index), dimension, &fingerprint(embedder, collection)).await
    };
    let collections: Vec<(usize, &CollectionConfig)> = config.collections.iter().enumerate().collect();
    for some in collections.chunks(CONCURRENT_OPENS) {
        let some: Result<Vec<OpenCollection>, Failure> = join_all(some.iter().map(&open)).await.into_iter().collect();
        opened.extend(some?);
    }
    Ok(opened)
}
