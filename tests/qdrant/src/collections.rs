//! The calls about collections and aliases.

use std::sync::PoisonError;

use qdrant_client::qdrant::collections_server::Collections;
use qdrant_client::qdrant::vectors_config::Config;
use qdrant_client::qdrant::{
    ChangeAliases, CollectionClusterInfoRequest, CollectionClusterInfoResponse, CollectionConfig,
    CollectionDescription, CollectionExists, CollectionExistsRequest, CollectionExistsResponse, CollectionInfo,
    CollectionOperationResponse, CollectionParams, CollectionStatus, CreateCollection, CreateShardKeyRequest,
    CreateShardKeyResponse, DeleteCollection, DeleteShardKeyRequest, DeleteShardKeyResponse, GetCollectionInfoRequest,
    GetCollectionInfoResponse, HnswConfigDiff, ListAliasesRequest, ListAliasesResponse, ListCollectionAliasesRequest,
    ListCollectionsRequest, ListCollectionsResponse, ListShardKeysRequest, ListShardKeysResponse, LocalShardInfo,
    OptimizerStatus, OptimizersConfigDiff, UpdateCollection, UpdateCollectionClusterSetupRequest,
    UpdateCollectionClusterSetupResponse, WalConfigDiff,
};
use qdrant_edge::{CountRequest, EdgeShard};
use tonic::{Request, Response, Status};

use crate::Call;
use crate::convert::{invalid, schema_info, status};
use crate::limits::RateLimits;
use crate::service::{Service, not_implemented};
use crate::sharding::Sharding;

/// The duration that every answer reports, in seconds; no test uses it.
const TIME: f64 = 0.001;

#[tonic::async_trait]
impl Collections for Service {
    async fn get(
        &self,
        request: Request<GetCollectionInfoRequest>,
    ) -> Result<Response<GetCollectionInfoResponse>, Status> {
        let call = self.begin(Call::CollectionInfo, &request).await?;
        let collection = self.registry.find(&request.get_ref().collection_name)?;
        let config = collection.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let result = collection.run(|shard| info(shard, config)).await?;
        call.answer(GetCollectionInfoResponse { result: Some(result), time: TIME })
    }

    async fn list(
        &self,
        request: Request<ListCollectionsRequest>,
    ) -> Result<Response<ListCollectionsResponse>, Status> {
        let call = self.begin(Call::ListCollections, &request).await?;
        let collections = self.registry.list().into_iter().map(|name| CollectionDescription { name }).collect();
        call.answer(ListCollectionsResponse { collections, time: TIME })
    }

    async fn create(
        &self,
        request: Request<CreateCollection>,
    ) -> Result<Response<CollectionOperationResponse>, Status> {
        let call = self.begin(Call::CreateCollection, &request).await?;
        let request = request.into_inner();
        let vector = match request.vectors_config.as_ref().and_then(|vectors| vectors.config.clone()) {
            Some(Config::Params(vector)) => Some((String::new(), vector)),
            Some(Config::ParamsMap(vectors)) if vectors.map.len() == 1 => vectors.map.into_iter().next(),
            _ => None,
        };
        let vector = vector.ok_or_else(|| invalid("the test server takes collections with one kind of vectors"))?;
        let sparse = request.sparse_vectors_config.clone().unwrap_or_default().map;
        if sparse.len() > 1 {
            return Err(invalid("the test server takes collections with one kind of sparse vectors"));
        }
        let (name, registry) = (request.collection_name.clone(), self.registry.clone());
        let config = config(request);
        let create = move || registry.create(&name, vector, sparse.into_iter().next(), config);
        let created = tokio::task::spawn_blocking(create);
        created.await.unwrap_or_else(|panic| Err(Status::internal(panic.to_string())))?;
        call.answer(CollectionOperationResponse { result: true, time: TIME })
    }

    async fn update(
        &self,
        request: Request<UpdateCollection>,
    ) -> Result<Response<CollectionOperationResponse>, Status> {
        let call = self.begin(Call::UpdateCollection, &request).await?;
        let UpdateCollection { collection_name, metadata, strict_mode_config, .. } = request.into_inner();
        let collection = self.registry.find(&collection_name)?;
        let mut config = collection.config.lock().unwrap_or_else(PoisonError::into_inner);
        config.metadata.extend(metadata);
        if let Some(strict_mode) = strict_mode_config {
            collection.limiters.set(RateLimits::from(&strict_mode));
            config.strict_mode_config = Some(strict_mode);
        }
        drop(config);
        call.answer(CollectionOperationResponse { result: true, time: TIME })
    }

    async fn delete(
        &self,
        request: Request<DeleteCollection>,
    ) -> Result<Response<CollectionOperationResponse>, Status> {
        let call = self.begin(Call::DeleteCollection, &request).await?;
        let result = self.registry.delete(&request.get_ref().collection_name);
        call.answer(CollectionOperationResponse { result, time: TIME })
    }

    async fn update_aliases(
        &self,
        request: Request<ChangeAliases>,
    ) -> Result<Response<CollectionOperationResponse>, Status> {
        let call = self.begin(Call::UpdateAliases, &request).await?;
        self.registry.change_aliases(request.into_inner().actions)?;
        call.answer(CollectionOperationResponse { result: true, time: TIME })
    }

    async fn list_collection_aliases(
        &self,
        request: Request<ListCollectionAliasesRequest>,
    ) -> Result<Response<ListAliasesResponse>, Status> {
        let call = self.begin(Call::ListAliases, &request).await?;
        let aliases = self.registry.aliases(Some(&request.get_ref().collection_name));
        call.answer(ListAliasesResponse { aliases, time: TIME })
    }

    async fn list_aliases(
        &self,
        request: Request<ListAliasesRequest>,
    ) -> Result<Response<ListAliasesResponse>, Status> {
        let call = self.begin(Call::ListAliases, &request).await?;
        call.answer(ListAliasesResponse { aliases: self.registry.aliases(None), time: TIME })
    }

    async fn collection_exists(
        &self,
        request: Request<CollectionExistsRequest>,
    ) -> Result<Response<CollectionExistsResponse>, Status> {
        let call = self.begin(Call::CollectionExists, &request).await?;
        let exists = self.registry.find(&request.get_ref().collection_name).is_ok();
        call.answer(CollectionExistsResponse { result: Some(CollectionExists { exists }), time: TIME })
    }

    async fn collection_cluster_info(
        &self,
        request: Request<CollectionClusterInfoRequest>,
    ) -> Result<Response<CollectionClusterInfoResponse>, Status> {
        let call = self.begin(Call::ClusterInfo, &request).await?;
        let collection = self.registry.find(&request.get_ref().collection_name)?;
        let keys = collection.sharding.as_ref().map(Sharding::keys).unwrap_or_default();
        let shard = |shard_key| LocalShardInfo { shard_key: Some(shard_key), ..LocalShardInfo::default() };
        let local_shards = keys.into_iter().map(shard).collect();
        call.answer(CollectionClusterInfoResponse { local_shards, ..CollectionClusterInfoResponse::default() })
    }

    async fn create_shard_key(
        &self,
        request: Request<CreateShardKeyRequest>,
    ) -> Result<Response<CreateShardKeyResponse>, Status> {
        let call = self.begin(Call::CreateShardKey, &request).await?;
        let CreateShardKeyRequest { collection_name, request, .. } = request.into_inner();
        let collection = self.registry.find(&collection_name)?;
        let sharding = collection.sharding.as_ref();
        let sharding = sharding.ok_or_else(|| invalid("Shard Key cannot be created with Auto sharding method"))?;
        sharding.create(request.and_then(|request| request.shard_key))?;
        call.answer(CreateShardKeyResponse { result: true, time: TIME })
    }

    not_implemented! {
        update_collection_cluster_setup(UpdateCollectionClusterSetupRequest) -> UpdateCollectionClusterSetupResponse;
        delete_shard_key(DeleteShardKeyRequest) -> DeleteShardKeyResponse;
        list_shard_keys(ListShardKeysRequest) -> ListShardKeysResponse;
    }
}

/// Returns the settings of a request that are stored, so that a test can read them; the engine does not use most of
/// them.
#[expect(deprecated, reason = "walvec does not set it, and others may")]
fn config(request: CreateCollection) -> CollectionConfig {
    let params = CollectionParams {
        shard_number: request.shard_number.unwrap_or(1),
        on_disk_payload: request.on_disk_payload.unwrap_or(true),
        vectors_config: request.vectors_config,
        replication_factor: Some(request.replication_factor.unwrap_or(1)),
        write_consistency_factor: Some(request.write_consistency_factor.unwrap_or(1)),
        sharding_method: request.sharding_method,
        sparse_vectors_config: request.sparse_vectors_config,
        payload: request.payload,
        id_tracker: request.id_tracker,
        ..CollectionParams::default()
    };
    CollectionConfig {
        params: Some(params),
        hnsw_config: Some(request.hnsw_config.unwrap_or_else(hnsw)),
        optimizer_config: Some(request.optimizers_config.unwrap_or_else(optimizers)),
        wal_config: Some(request.wal_config.unwrap_or_else(wal)),
        quantization_config: request.quantization_config,
        strict_mode_config: request.strict_mode_config,
        metadata: request.metadata,
    }
}

/// Returns the server's own settings, which every description of a collection has: Qdrant's Python client requires
/// them.
fn hnsw() -> HnswConfigDiff {
    HnswConfigDiff {
        m: Some(16),
        ef_construct: Some(100),
        full_scan_threshold: Some(10_000),
        ..HnswConfigDiff::default()
    }
}

fn optimizers() -> OptimizersConfigDiff {
    OptimizersConfigDiff {
        deleted_threshold: Some(0.2),
        vacuum_min_vector_number: Some(1000),
        default_segment_number: Some(0),
        flush_interval_sec: Some(5),
        ..OptimizersConfigDiff::default()
    }
}

fn wal() -> WalConfigDiff {
    WalConfigDiff { wal_capacity_mb: Some(32), wal_segments_ahead: Some(0), ..WalConfigDiff::default() }
}

fn info(shard: &EdgeShard, config: CollectionConfig) -> Result<CollectionInfo, Status> {
    let info = shard.info();
    let points = shard.count(CountRequest { filter: None, exact: true }).map_err(status)?;
    let indexes = info.payload_schema.iter();
    Ok(CollectionInfo {
        status: CollectionStatus::Green.into(),
        optimizer_status: Some(OptimizerStatus { ok: true, error: String::new() }),
        segments_count: info.segments_count as u64,
        config: Some(config),
        payload_schema: indexes.map(|(path, index)| (path.to_string(), schema_info(index))).collect(),
        points_count: Some(points as u64),
        indexed_vectors_count: Some(info.indexed_vectors_count as u64),
        ..CollectionInfo::default()
    })
}
