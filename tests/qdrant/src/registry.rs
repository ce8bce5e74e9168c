//! Collections, aliases, and their engines on disk.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use qdrant_client::qdrant::{
    AliasDescription, AliasOperations, CollectionConfig, Modifier, ShardingMethod, SparseVectorParams, VectorParams,
    alias_operations::Action,
};
use qdrant_edge::{EdgeConfig, EdgeShard, EdgeSparseVectorParams, EdgeVectorParams, WithPayloadInterface, WithVector};
use tempfile::TempDir;
use tonic::Status;

use crate::convert;
use crate::limits::{Limiters, RateLimits};
use crate::sharding::Sharding;

/// All collections of a server.
#[derive(Debug)]
pub(crate) struct Registry {
    names: Mutex<Names>,
    directories: AtomicU64,
    // This field is dropped last.
    root: TempDir,
}

#[derive(Debug, Default)]
struct Names {
    collections: BTreeMap<String, Arc<Collection>>,
    aliases: BTreeMap<String, String>,
}

/// The vectors of a collection: dense ones, and perhaps sparse ones.
#[derive(Clone, Debug)]
pub(crate) struct VectorSpec {
    /// The name of the dense vectors; empty if they have none.
    pub(crate) name: String,
    pub(crate) dimension: usize,
    /// The name of the sparse vectors.
    pub(crate) sparse: Option<String>,
}

/// One collection.
pub(crate) struct Collection {
    /// The vectors that its points have.
    pub(crate) vector: VectorSpec,
    /// The shards, if they are selected by a key.
    pub(crate) sharding: Option<Sharding>,
    /// The settings with which it was created, and its metadata.
    pub(crate) config: Mutex<CollectionConfig>,
    /// The rate limits.
    pub(crate) limiters: Limiters,
    directory: PathBuf,
    operations: AtomicU64,
    /// `None` only if it could not be loaded again.
    shard: Mutex<Option<EdgeShard>>,
}

impl Registry {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let root = TempDir::with_prefix("walvec-test-qdrant-").context("a directory for the server's data")?;
        Ok(Self { names: Mutex::default(), directories: AtomicU64::new(0), root })
    }

    /// Returns a collection by its name or an alias.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Collection>, Status> {
        let names = self.lock();
        let name = names.aliases.get(name).map_or(name, String::as_str);
        names.collections.get(name).cloned().ok_or_else(|| missing(name))
    }

    pub(crate) fn create(
        &self,
        name: &str,
        (vector_name, params): (String, VectorParams),
        sparse: Option<(String, SparseVectorParams)>,
        config: CollectionConfig,
    ) -> Result<(), Status> {
        let dimension = usize::try_from(params.size).unwrap_or(0);
        if dimension == 0 || name.is_empty() {
            return Err(Status::invalid_argument("Wrong input: a collection needs a name and a size of its vectors"));
        }
        let mut names = self.lock();
        if names.collections.contains_key(name) || names.aliases.contains_key(name) {
            return Err(exists(name));
        }
        // A directory is never used twice: a deleted collection may still be open in a call that is ending.
        let directory = self.root.path().join(self.directories.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir(&directory)?;
        let vector = VectorSpec { name: vector_name, dimension, sparse: sparse.as_ref().map(|(name, _)| name.clone()) };
        let shard = EdgeShard::new(&directory, edge_config(&vector, &params, sparse)?).map_err(convert::status)?;
        let method = config.params.as_ref().and_then(|params| params.sharding_method);
        let limiters = Limiters::default();
        limiters.set(config.strict_mode_config.as_ref().map(RateLimits::from).unwrap_or_default());
        let collection = Collection {
            vector,
            sharding: (method == Some(ShardingMethod::Custom.into())).then(Sharding::default),
            config: Mutex::new(config),
            limiters,
            directory,
            operations: AtomicU64::new(0),
            shard: Mutex::new(Some(shard)),
        };
        names.collections.insert(name.to_owned(), Arc::new(collection));
        Ok(())
    }

    /// Deletes a collection, and returns whether it existed.
    pub(crate) fn delete(&self, name: &str) -> bool {
        let mut names = self.lock();
        names.aliases.retain(|_, collection| collection != name);
        names.collections.remove(name).is_some()
    }

    pub(crate) fn list(&self) -> Vec<String> {
        self.lock().collections.keys().cloned().collect()
    }

    /// Makes all changes, or none if one of them is not possible.
    pub(crate) fn change_aliases(&self, changes: Vec<AliasOperations>) -> Result<(), Status> {
        let mut names = self.lock();
        let mut aliases = names.aliases.clone();
        for change in changes {
            match change.action {
                Some(Action::CreateAlias(create)) => {
                    if !names.collections.contains_key(&create.collection_name) {
                        return Err(missing(&create.collection_name));
                    }
                    if names.collections.contains_key(&create.alias_name) {
                        return Err(exists(&create.alias_name));
                    }
                    aliases.insert(create.alias_name, create.collection_name);
                }
                Some(Action::RenameAlias(rename)) => {
                    let lost =
                        || Status::not_found(format!("Not found: Alias {} does not exists!", rename.old_alias_name));
                    let collection = aliases.remove(&rename.old_alias_name).ok_or_else(lost)?;
                    aliases.insert(rename.new_alias_name, collection);
                }
                Some(Action::DeleteAlias(delete)) => {
                    aliases.remove(&delete.alias_name);
                }
                None => return Err(Status::invalid_argument("Malformed AliasOperation type")),
            }
        }
        names.aliases = aliases;
        Ok(())
    }

    /// Returns the aliases of a collection, or all aliases.
    pub(crate) fn aliases(&self, of: Option<&str>) -> Vec<AliasDescription> {
        let names = self.lock();
        let wanted = names.aliases.iter().filter(|(_, collection)| of.is_none_or(|of| of == *collection));
        wanted
            .map(|(alias, collection)| AliasDescription {
                alias_name: alias.clone(),
                collection_name: collection.clone(),
            })
            .collect()
    }

    /// Closes every engine and loads it again from its files.
    pub(crate) fn reload(&self) -> anyhow::Result<()> {
        let collections: Vec<_> = self.lock().collections.values().cloned().collect();
        for collection in collections {
            let mut shard = collection.shard();
            // Dropping the engine writes its data to its files.
            drop(shard.take());
            *shard = Some(load(&collection.directory)?);
        }
        Ok(())
    }

    pub(crate) fn clear(&self) {
        *self.lock() = Names::default();
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collection {
    /// Runs `work` on the engine, alone and away from the runtime's threads.
    pub(crate) async fn run<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&EdgeShard) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let done = tokio::task::spawn_blocking(move || {
            let shard = self.shard();
            let shard = shard.as_ref().ok_or_else(|| Status::internal("the collection could not be loaded again"))?;
            work(shard)
        });
        done.await.unwrap_or_else(|panic| Err(Status::internal(format!("Service internal error: {panic}"))))
    }

    /// Removes points from the `Book` of the shards that the engine no longer holds.
    pub(crate) fn forget_deleted(&self, shard: &EdgeShard) {
        let Some(sharding) = &self.sharding else { return };
        sharding.forget(|ids| {
            let nothing = (Some(WithPayloadInterface::Bool(false)), Some(WithVector::Bool(false)));
            let found = shard.retrieve(ids, nothing.0, nothing.1).unwrap_or_default();
            found.into_iter().map(|record| record.id).collect()
        });
    }

    /// Returns the number of the next operation.
    pub(crate) fn next_operation(&self) -> u64 {
        self.operations.fetch_add(1, Ordering::Relaxed)
    }

    fn shard(&self) -> MutexGuard<'_, Option<EdgeShard>> {
        self.shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Collection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Collection").field("directory", &self.directory).finish_non_exhaustive()
    }
}

fn load(directory: &Path) -> anyhow::Result<EdgeShard> {
    EdgeShard::load(directory, None).with_context(|| format!("load the collection in {}", directory.display()))
}

fn edge_config(
    vector: &VectorSpec,
    params: &VectorParams,
    sparse: Option<(String, SparseVectorParams)>,
) -> Result<EdgeConfig, Status> {
    let vectors = EdgeVectorParams::builder(vector.dimension, convert::distance(params.distance())?).build();
    let config = EdgeConfig::builder().vector(&vector.name, vectors);
    Ok(match sparse {
        None => config.build(),
        Some((name, params)) => {
            let modifier = match params.modifier() {
                Modifier::Idf => qdrant_edge::Modifier::Idf,
                Modifier::None => qdrant_edge::Modifier::None,
            };
            config.sparse_vector(name, EdgeSparseVectorParams::builder().modifier(modifier).build()).build()
        }
    })
}

fn missing(name: &str) -> Status {
    Status::not_found(format!("Not found: Collection `{name}` doesn't exist!"))
}

fn exists(name: &str) -> Status {
    Status::already_exists(format!("Wrong input: Collection `{name}` already exists!"))
}
