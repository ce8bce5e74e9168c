//! The calls about points.

use std::sync::Arc;

use prost::Message;
use qdrant_client::qdrant::points_server::Points;
use qdrant_client::qdrant::points_update_operation::{self, Operation};
use qdrant_client::qdrant::{
    ClearPayloadPoints, CountPoints, CountResponse, CountResult, CreateFieldIndexCollection, CreateVectorNameRequest,
    DeleteFieldIndexCollection, DeletePayloadPoints, DeletePointVectors, DeletePoints, DeleteVectorNameRequest,
    DiscoverBatchPoints, DiscoverBatchResponse, DiscoverPoints, DiscoverResponse, FacetCounts, FacetResponse,
    FieldType, GetPoints, GetResponse, PointsOperationResponse, QueryBatchPoints, QueryBatchResponse,
    QueryGroupsResponse, QueryPointGroups, QueryPoints, QueryResponse, RecommendBatchPoints, RecommendBatchResponse,
    RecommendGroupsResponse, RecommendPointGroups, RecommendPoints, RecommendResponse, ScrollPoints, ScrollResponse,
    SearchBatchPoints, SearchBatchResponse, SearchGroupsResponse, SearchMatrixOffsetsResponse,
    SearchMatrixPairsResponse, SearchMatrixPoints, SearchPointGroups, SearchPoints, SearchResponse, SetPayloadPoints,
    UpdateBatchPoints, UpdateBatchResponse, UpdatePointVectors, UpdateResult, UpsertPoints,
};
use qdrant_edge::{
    CountRequest, CreateIndex, EdgeShard, FieldIndexOperations, PayloadFieldSchema, ScrollRequest, UpdateOperation,
};
use tonic::{Request, Response, Status};

use crate::Call;
use crate::convert::{
    client_id, edge_id, edge_ids, invalid, json_path, order_by, retrieved, schema, scored, status, with_payload,
    with_vector,
};
use crate::limits::asked;
use crate::query::{DEFAULT_LIMIT, edge_query, searched};
use crate::registry::VectorSpec;
use crate::service::{Service, Started, not_implemented};
use crate::sharding::within;
use crate::strict;
use crate::updates::{apply, edge_operation, named, upsert};

/// The duration that every answer reports, in seconds; no test uses it.
const TIME: f64 = 0.001;

/// Which collection a request writes, and whether it waits until the write is done.
struct WriteTarget<'r> {
    collection: &'r str,
    wait: bool,
}

impl Service {
    /// Counts a write against the limits, checks all of it, and applies it. Returns one result per operation.
    async fn write<T: Message>(
        &self,
        call: Call,
        request: &Request<T>,
        target: WriteTarget<'_>,
        operations: Vec<Operation>,
    ) -> Result<(Started, Vec<UpdateResult>), Status> {
        let WriteTarget { collection, wait } = target;
        let call = self.begin_write(call, request, collection, operations.iter().flat_map(named).collect()).await?;
        let collection = self.registry.find(collection)?;
        // All operations are checked before any has an effect.
        edge_operations(operations.clone(), &collection.vector)?;
        self.check_filters(&collection, strict::changing(&operations)).await?;
        let update_status = call.status(wait);
        let results = operations.iter().map(|_| update_result(collection.next_operation(), update_status)).collect();
        if call.applies() {
            let written = Arc::clone(&collection);
            // The `Book` of the shards and the engine change together.
            let change = move |shard: &EdgeShard| {
                let operations = match &written.sharding {
                    None => operations,
                    Some(sharding) => sharding.route(operations)?,
                };
                let applied = written.limiters.apply(shard, edge_operations(operations, &written.vector)?);
                written.forget_deleted(shard);
                applied
            };
            collection.run(change).await?;
        }
        Ok((call, results))
    }
}

fn edge_operations(operations: Vec<Operation>, vector: &VectorSpec) -> Result<Vec<UpdateOperation>, Status> {
    operations.into_iter().map(|operation| edge_operation(operation, vector)).collect()
}

fn update_result(operation: u64, update_status: qdrant_client::qdrant::UpdateStatus) -> UpdateResult {
    UpdateResult { operation_id: Some(operation), status: update_status.into() }
}

fn written(result: Option<UpdateResult>) -> PointsOperationResponse {
    PointsOperationResponse { result, time: TIME, usage: None }
}

#[tonic::async_trait]
impl Points for Service {
    async fn upsert(&self, request: Request<UpsertPoints>) -> Result<Response<PointsOperationResponse>, Status> {
        let inner = request.get_ref();
        let target = WriteTarget { collection: &inner.collection_name, wait: inner.wait() };
        let (call, results) = self.write(Call::Upsert, &request, target, vec![upsert(inner.clone())]).await?;
        call.answer(written(results.into_iter().next()))
    }

    async fn delete(&self, request: Request<DeletePoints>) -> Result<Response<PointsOperationResponse>, Status> {
        let inner = request.get_ref();
        let target = WriteTarget { collection: &inner.collection_name, wait: inner.wait() };
        let operation = Operation::DeletePoints(points_update_operation::DeletePoints {
            points: inner.points.clone(),
            shard_key_selector: inner.shard_key_selector.clone(),
        });
        let (call, results) = self.write(Call::Delete, &request, target, vec![operation]).await?;
        call.answer(written(results.into_iter().next()))
    }

    async fn update_batch(&self, request: Request<UpdateBatchPoints>) -> Result<Response<UpdateBatchResponse>, Status> {
        let inner = request.get_ref();
        let target = WriteTarget { collection: &inner.collection_name, wait: inner.wait() };
        let operations: Option<_> = inner.operations.iter().map(|operation| operation.operation.clone()).collect();
        let operations = operations.ok_or_else(|| invalid("an operation is missing"))?;
        let (call, result) = self.write(Call::UpdateBatch, &request, target, operations).await?;
        call.answer(UpdateBatchResponse { result, time: TIME, usage: None })
    }

    async fn create_field_index(
        &self,
        request: Request<CreateFieldIndexCollection>,
    ) -> Result<Response<PointsOperationResponse>, Status> {
        let call = self.begin(Call::CreateFieldIndex, &request).await?;
        let inner = request.get_ref();
        let collection = self.registry.find(&inner.collection_name)?;
        let field_type = inner.field_type.and_then(|field_type| FieldType::try_from(field_type).ok());
        let field_type =
            field_type.ok_or_else(|| invalid("the test server wants to know the type of an indexed field"))?;
        let index = CreateIndex {
            field_name: json_path(&inner.field_name)?,
            field_schema: Some(PayloadFieldSchema::FieldType(schema(field_type))),
        };
        let result = update_result(collection.next_operation(), call.status(inner.wait()));
        if call.applies() {
            collection.limiters.write(1)?;
            let operation = UpdateOperation::FieldIndexOperation(FieldIndexOperations::CreateIndex(index));
            collection.run(|shard| apply(shard, vec![operation])).await?;
        }
        call.answer(written(Some(result)))
    }

    async fn get(&self, request: Request<GetPoints>) -> Result<Response<GetResponse>, Status> {
        let call = self.begin(Call::Get, &request).await?;
        let request = request.into_inner();
        let collection = self.registry.find(&request.collection_name)?;
        let ids = edge_ids(request.ids)?;
        collection.limiters.read(ids.len())?;
        let payload = with_payload(request.with_payload, true)?;
        let vector = with_vector(request.with_vectors)?;
        let retrieve = move |shard: &EdgeShard| shard.retrieve(&ids, Some(payload), Some(vector)).map_err(status);
        let found = Arc::clone(&collection).run(retrieve).await?;
        let result = found.into_iter().map(|record| retrieved(record, collection.sharding.as_ref())).collect();
        call.answer(GetResponse { result, time: TIME, usage: None })
    }

    async fn scroll(&self, request: Request<ScrollPoints>) -> Result<Response<ScrollResponse>, Status> {
        let call = self.begin(Call::Scroll, &request).await?;
        let request = request.into_inner();
        let collection = self.registry.find(&request.collection_name)?;
        collection.limiters.read(asked(request.filter.as_ref()))?;
        self.check_filters(&collection, &request.filter).await?;
        if request.order_by.is_some() && request.offset.is_some() {
            return Err(Status::invalid_argument("Bad request: Cannot use an `offset` when using `order_by`"));
        }
        let scroll = ScrollRequest {
            offset: request.offset.map(edge_id).transpose()?,
            limit: Some(request.limit.map_or(DEFAULT_LIMIT, |limit| limit as usize)),
            filter: within(collection.sharding.as_ref(), request.filter, request.shard_key_selector.as_ref())?,
            with_payload: Some(with_payload(request.with_payload, true)?),
            with_vector: with_vector(request.with_vectors)?,
            order_by: request.order_by.map(order_by).transpose()?,
        };
        let (found, next) = Arc::clone(&collection).run(|shard| shard.scroll(scroll).map_err(status)).await?;
        let result = found.into_iter().map(|record| retrieved(record, collection.sharding.as_ref())).collect();
        call.answer(ScrollResponse { next_page_offset: next.map(client_id), result, time: TIME, usage: None })
    }

    async fn count(&self, request: Request<CountPoints>) -> Result<Response<CountResponse>, Status> {
        let call = self.begin(Call::Count, &request).await?;
        let request = request.into_inner();
        let collection = self.registry.find(&request.collection_name)?;
        collection.limiters.read(asked(request.filter.as_ref()))?;
        self.check_filters(&collection, &request.filter).await?;
        let filter = within(collection.sharding.as_ref(), request.filter, request.shard_key_selector.as_ref())?;
        let count = CountRequest { filter, exact: request.exact.unwrap_or(true) };
        let count = collection.run(|shard| shard.count(count).map_err(status)).await?;
        call.answer(CountResponse { result: Some(CountResult { count: count as u64 }), time: TIME, usage: None })
    }

    async fn query(&self, request: Request<QueryPoints>) -> Result<Response<QueryResponse>, Status> {
        let call = self.begin(Call::Query, &request).await?;
        let request = request.into_inner();
        let collection = self.registry.find(&request.collection_name)?;
        collection.limiters.read(searched(&request))?;
        self.check_filters(&collection, strict::searching(&request)).await?;
        let query = edge_query(request, &collection)?;
        let found = collection.run(|shard| shard.query(query).map_err(status)).await?;
        let result = found.into_iter().map(scored).collect();
        call.answer(QueryResponse { result, time: TIME, usage: None })
    }

    not_implemented! {
        update_vectors(UpdatePointVectors) -> PointsOperationResponse;
        delete_vectors(DeletePointVectors) -> PointsOperationResponse;
        set_payload(SetPayloadPoints) -> PointsOperationResponse;
        overwrite_payload(SetPayloadPoints) -> PointsOperationResponse;
        delete_payload(DeletePayloadPoints) -> PointsOperationResponse;
        clear_payload(ClearPayloadPoints) -> PointsOperationResponse;
        delete_field_index(DeleteFieldIndexCollection) -> PointsOperationResponse;
        create_vector_name(CreateVectorNameRequest) -> PointsOperationResponse;
        delete_vector_name(DeleteVectorNameRequest) -> PointsOperationResponse;
        search(SearchPoints) -> SearchResponse;
        search_batch(SearchBatchPoints) -> SearchBatchResponse;
        search_groups(SearchPointGroups) -> SearchGroupsResponse;
        recommend(RecommendPoints) -> RecommendResponse;
        recommend_batch(RecommendBatchPoints) -> RecommendBatchResponse;
        recommend_groups(RecommendPointGroups) -> RecommendGroupsResponse;
        discover(DiscoverPoints) -> DiscoverResponse;
        discover_batch(DiscoverBatchPoints) -> DiscoverBatchResponse;
        query_batch(QueryBatchPoints) -> QueryBatchResponse;
        query_groups(QueryPointGroups) -> QueryGroupsResponse;
        facet(FacetCounts) -> FacetResponse;
        search_matrix_pairs(SearchMatrixPoints) -> SearchMatrixPairsResponse;
        search_matrix_offsets(SearchMatrixPoints) -> SearchMatrixOffsetsResponse;
    }
}
