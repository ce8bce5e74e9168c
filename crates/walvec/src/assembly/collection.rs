//! Opens a collection on a server or in the data directory, as the configuration says.

use std::path::Path;
use std::sync::Arc;

use walvec_model::{Fingerprint, MadeWith};
use walvec_pipeline::PipelineError;
use walvec_sink::catalog::numbered;
use walvec_sink::embedded::{Directory, Embedded};
use walvec_sink::qdrant::{Aliases, CollectionLayout, Remote, Server};
use walvec_sink::{Catalog, CollectionSpec, FieldPath, Search, Sink, SinkError};

use crate::config::{CollectionConfig, Config, EmbeddingSettings, QdrantSettings};
use crate::failure::Failure;

/// The code of the error for a collection whose vectors are not those of the configuration.
pub(crate) const E_FINGERPRINT: &str = "E_FINGERPRINT";

/// A collection that can be written and searched.
pub(crate) enum OpenCollection {
    /// In the data directory.
    Embedded(Embedded),
    /// On a server.
    Remote(Remote),
}

/// The collection that is meant by a name.
#[derive(Clone, Copy)]
pub(crate) enum CollectionRef<'a> {
    /// The collection that the name stands for, or the first one if there is none.
    Served,
    /// The collection with this own name, whether an alias leads to it or not.
    Own(&'a str),
}

impl OpenCollection {
    /// Opens a collection. In the data directory it is created if it is missing; a server is not asked yet.
    pub(crate) async fn open(
        config: &Config,
        collection: &CollectionConfig,
        which: CollectionRef<'_>,
        dimension: usize,
        fingerprint: &Fingerprint,
    ) -> Result<Self, Failure> {
        let name = match which {
            CollectionRef::Served => collection.name.as_str(),
            CollectionRef::Own(name) => name,
        };
        let spec = spec(config, collection, name, dimension, fingerprint);
        // Behind a broker several workers may write.
        let remote = |remote: Remote| Self::Remote(remote.alone(config.broker.is_none()));
        let opened = match (&config.sink.qdrant, which) {
            (Some(qdrant), CollectionRef::Served) => Remote::new(server(qdrant), spec).map(remote),
            (Some(qdrant), CollectionRef::Own(_)) => Remote::own(server(qdrant), spec).map(remote),
            (None, CollectionRef::Served) => open_served(config.sink.directory(), spec).await.map(Self::Embedded),
            (None, CollectionRef::Own(_)) => open_own(config.sink.directory(), spec).await.map(Self::Embedded),
        };
        opened.map_err(|error| failure(collection, error))
    }

    /// Opens a collection if it exists with vectors that fit the configuration. Creates nothing.
    pub(crate) async fn find(
        config: &Config,
        collection: &CollectionConfig,
        dimension: usize,
        fingerprint: &Fingerprint,
    ) -> Result<Option<Self>, Failure> {
        let failed = |error| failure(collection, error);
        if config.sink.qdrant.is_none() {
            let directory = config.sink.directory();
            let served = Directory::new(directory).serving(&collection.name).await.map_err(failed)?;
            if !served.is_some_and(|served| Embedded::exists(directory, &served)) {
                return Ok(None);
            }
        }
        let opened = Self::open(config, collection, CollectionRef::Served, dimension, fingerprint).await?;
        let exists = match &opened {
            Self::Remote(remote) => remote.inspect().await.map_err(failed)?,
            Self::Embedded(_) => true,
        };
        Ok(exists.then_some(opened))
    }

    /// Returns whether the collection exists with vectors that fit the configuration. Creates nothing, and may be called
    /// while a walvec runs.
    pub(crate) async fn inspect(
        config: &Config,
        collection: &CollectionConfig,
        dimension: usize,
        fingerprint: &Fingerprint,
    ) -> Result<bool, Failure> {
        let spec = spec(config, collection, &collection.name, dimension, fingerprint);
        let inspected = match &config.sink.qdrant {
            Some(qdrant) => async { Remote::new(server(qdrant), spec)?.inspect().await }.await,
            None => inspect_served(config.sink.directory(), spec).await,
        };
        inspected.map_err(|error| failure(collection, error))
    }

    /// Says why the collection with this own name does not fit the configuration; `None` if it does. Creates nothing.
    pub(crate) async fn misfit(
        config: &Config,
        collection: &CollectionConfig,
        own_name: &str,
        dimension: usize,
        fingerprint: &Fingerprint,
    ) -> Result<Option<String>, Failure> {
        let spec = spec(config, collection, own_name, dimension, fingerprint);
        let inspected = match &config.sink.qdrant {
            Some(qdrant) => async { Remote::own(server(qdrant), spec)?.inspect().await }.await,
            None => Embedded::inspect(config.sink.directory(), &spec),
        };
        match inspected {
            Ok(true) => Ok(None),
            Ok(false) => Ok(Some(format!("there is no collection \"{own_name}\""))),
            Err(error @ (SinkError::Fingerprint { .. } | SinkError::Foreign { .. })) => Ok(Some(error.to_string())),
            Err(error) => Err(failure(collection, error)),
        }
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

    /// Continues under the name that the collection has taken over.
    pub(crate) fn serve(&mut self, config: &Config, name: &str) -> Result<(), SinkError> {
        if let (Self::Remote(remote), Some(qdrant)) = (&*self, &config.sink.qdrant) {
            *self = Self::Remote(remote.served_as(server(qdrant), name)?);
        }
        Ok(())
    }

    /// Closes the collection when the process exits, without waiting for an index build.
    pub(crate) async fn leave(self) -> Result<(), SinkError> {
        match self {
            Self::Embedded(embedded) => embedded.leave().await,
            Self::Remote(_) => Ok(()),
        }
    }

    /// Closes the collection.
    pub(crate) async fn close(self) -> Result<(), SinkError> {
        match self {
            Self::Embedded(embedded) => embedded.close().await,
            Self::Remote(_) => Ok(()),
        }
    }
}

/// Describes the collection called `name`.
fn spec(
    config: &Config,
    collection: &CollectionConfig,
    name: &str,
    dimension: usize,
    fingerprint: &Fingerprint,
) -> CollectionSpec {
    CollectionSpec {
        name: name.to_owned(),
        dimension,
        fingerprint: fingerprint.clone(),
        made_with: made_with(&config.embedding, collection),
        indexes: collection.indexes().into_iter().map(|(field, kind)| (path(collection, &field), kind)).collect(),
        vector: collection.layout().vector_name(&config.embedding.model),
        keywords: collection.keywords_name(),
        nesting: collection.layout().nesting().map(str::to_owned),
    }
}

/// Returns the path of an indexed field. A name with a dot is the path to a member, unless it is a field's whole name.
fn path(collection: &CollectionConfig, field: &str) -> FieldPath {
    let is_field =
        collection.payload.iter().flatten().any(|name| name == field) || collection.computed.contains_key(field);
    let path = FieldPath::parse(field).filter(|_| !is_field);
    path.unwrap_or_else(|| field.into())
}

/// Inspects the collection that a name of the data directory stands for.
async fn inspect_served(root: &Path, spec: CollectionSpec) -> Result<bool, SinkError> {
    match Directory::new(root).serving(&spec.name).await? {
        Some(served) => Embedded::inspect(root, &CollectionSpec { name: served, ..spec }),
        None => Ok(false),
    }
}

/// Returns the parts of the fingerprint that are in the configuration, by their keys there.
pub(crate) fn made_with(embedding: &EmbeddingSettings, collection: &CollectionConfig) -> MadeWith {
    let prefix = Some(&embedding.document_prefix).filter(|prefix| !prefix.is_empty()).cloned();
    let chunk = collection.chunk.as_ref().map(|chunk| chunk.spec().describe());
    let further = [("document_prefix", prefix), ("chunk", chunk), ("hybrid", collection.hybrid.clone())];
    let mut made_with = MadeWith::of(&[("model", embedding.model.clone()), ("text", collection.text.clone())]);
    made_with.0.extend(further.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    let lookups = collection.lookups();
    made_with.0.extend(lookups.iter().map(|lookup| (format!("lookup.{}", lookup.name), lookup.describe())));
    made_with
}

/// Opens the collection that a name of the data directory stands for. A name without a collection gets the newest that fits,
/// or a new one.
async fn open_served(root: &Path, spec: CollectionSpec) -> Result<Embedded, SinkError> {
    let directory = Directory::new(root);
    if let Some(served) = directory.serving(&spec.name).await? {
        return open_own(root, CollectionSpec { name: served, ..spec }).await;
    }
    let numbers = directory.numbers(&spec.name).await?;
    let new = numbers.last().map_or(1, |newest| newest + 1);
    let mut opened = Err(SinkError::Closed);
    for own in numbers.iter().rev().chain([&new]).map(|number| numbered(&spec.name, *number)) {
        opened = open_own(root, CollectionSpec { name: own.clone(), ..spec.clone() }).await;
        if opened.is_ok() {
            directory.switch(vec![(spec.name.clone(), own)]).await?;
        }
        if !matches!(opened, Err(SinkError::Fingerprint { .. })) {
            break;
        }
    }
    opened
}

/// Opens the collection with this own name on the blocking pool, because that reads the collection's files.
async fn open_own(root: &Path, spec: CollectionSpec) -> Result<Embedded, SinkError> {
    let root = root.to_owned();
    let opened = tokio::task::spawn_blocking(move || Embedded::open(&root, spec));
    opened.await.unwrap_or(Err(SinkError::Closed))
}

/// Returns the catalog of the server or the data directory that is configured.
pub(crate) fn catalog(config: &Config) -> Box<dyn Catalog> {
    match &config.sink.qdrant {
        Some(qdrant) => Box::new(Aliases::new(server(qdrant))),
        None => Box::new(Directory::new(config.sink.directory())),
    }
}

/// Removes a collection from the server.
pub(crate) async fn purge(qdrant: &QdrantSettings, name: &str) -> Result<bool, SinkError> {
    Remote::purge(server(qdrant), name).await
}

fn server(qdrant: &QdrantSettings) -> Server {
    Server {
        url: qdrant.url.clone(),
        api_key: qdrant.api_key.clone(),
        layout: CollectionLayout {
            on_disk: qdrant.on_disk,
            quantization: qdrant.quantization.map(Into::into),
            shards: qdrant.shard_number,
            replicas: qdrant.replication_factor,
            write_consistency: qdrant.write_consistency_factor,
            shard_key: qdrant.shard_key.clone(),
        },
        connections: qdrant.connections.clone(),
    }
}

fn failure(collection: &CollectionConfig, source: SinkError) -> Failure {
    PipelineError::Sink { collection: collection.name.clone(), source }.into()
}
