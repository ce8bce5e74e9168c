//! Opens a collection where the configuration says it lives.

use std::sync::Arc;

use walvec_model::Fingerprint;
use walvec_pipeline::PipelineError;
use walvec_sink::embedded::Embedded;
use walvec_sink::qdrant::{Layout, Remote, Server};
use walvec_sink::{CollectionSpec, Search, Sink, SinkError};

use crate::cli::Failure;
use crate::config::{CollectionConfig, Config, QdrantSettings};

/// A collection that can be written and searched.
pub(crate) enum Opened {
    /// In the data directory.
    Embedded(Embedded),
    /// On a server.
    Remote(Remote),
}

impl Opened {
    /// Opens a collection. In the data directory that creates it if it is missing; a server is not asked anything yet.
    pub(crate) fn open(
        config: &Config,
        collection: &CollectionConfig,
        dimension: usize,
        fingerprint: &Fingerprint,
    ) -> Result<Self, Failure> {
        let spec = CollectionSpec {
            name: collection.name.clone(),
            dimension,
            fingerprint: fingerprint.clone(),
            indexes: collection.index.iter().map(|(field, kind)| (field.clone(), (*kind).into())).collect(),
        };
        let opened = match &config.sink.qdrant {
            Some(qdrant) => Remote::new(server(qdrant), spec).map(Self::Remote),
            None => Embedded::open(config.sink.directory(), spec).map(Self::Embedded),
        };
        opened.map_err(|error| failure(collection, error))
    }

    /// Opens a collection if it is there, with vectors that fit the configuration. Creates nothing.
    pub(crate) async fn find(
        config: &Config,
        collection: &CollectionConfig,
        dimension: usize,
        fingerprint: &Fingerprint,
    ) -> Result<Option<Self>, Failure> {
        if config.sink.qdrant.is_none() && !Embedded::exists(config.sink.directory(), &collection.name) {
            return Ok(None);
        }
        let opened = Self::open(config, collection, dimension, fingerprint)?;
        let exists = match &opened {
            Self::Remote(remote) => remote.inspect().await.map_err(|error| failure(collection, error))?,
            Self::Embedded(_) => true,
        };
        Ok(exists.then_some(opened))
    }

    pub(crate) fn sink(&self) -> Arc<dyn Sink> {
        match self {
            Self::Embedded(embedded) => Arc::new(embedded.clone()),
            Self::Remote(remote) => Arc::new(remote.clone()),
        }
    }

    pub(crate) fn search(&self) -> Arc<dyn Search> {
        match self {
            Self::Embedded(embedded) => Arc::new(embedded.clone()),
            Self::Remote(remote) => Arc::new(remote.clone()),
        }
    }

    /// Gives back what this process holds of it.
    pub(crate) async fn close(self) -> Result<(), SinkError> {
        match self {
            Self::Embedded(embedded) => embedded.close().await,
            Self::Remote(_) => Ok(()),
        }
    }
}

/// Removes a collection from the server.
pub(crate) async fn purge(qdrant: &QdrantSettings, name: &str) -> Result<(), SinkError> {
    Remote::purge(server(qdrant), name).await
}

fn server(qdrant: &QdrantSettings) -> Server {
    Server {
        url: qdrant.url.clone(),
        api_key: qdrant.api_key.clone(),
        layout: Layout {
            on_disk: qdrant.on_disk,
            quantization: qdrant.quantization.map(Into::into),
            shards: qdrant.shard_number,
            replicas: qdrant.replication_factor,
            write_consistency: qdrant.write_consistency_factor,
        },
    }
}

fn failure(collection: &CollectionConfig, source: SinkError) -> Failure {
    PipelineError::Sink { collection: collection.name.clone(), source }.into()
}
