//! Ids, vectors, payloads and errors: the protocol's terms in the engine's, and back.

use std::collections::{HashMap, HashSet};

use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_client::qdrant::with_payload_selector::SelectorOptions;
use qdrant_client::qdrant::{
    DenseVector, Direction, Distance, FieldType, NamedVectorsOutput, OrderBy, OrderValue, PayloadSchemaInfo, PointId,
    PointStruct, RetrievedPoint, ScoredPoint, SparseVector, Timestamp, Value, Vector, VectorOutput, VectorsOutput,
    WithPayloadSelector, WithVectorsSelector, order_value, start_from, vector, vector_output, vectors, vectors_output,
    with_vectors_selector,
};
use qdrant_edge::{
    DateTimeWrapper, JsonPath, OperationError, OrderByInterface, PayloadSchemaType, PointStructPersisted, Record,
    VectorInternal, VectorPersisted, VectorStructInternal, VectorStructPersisted, WithPayloadInterface, WithVector,
};
use serde_json::json;
use tonic::Status;

use crate::registry::VectorSpec;
use crate::sharding::Sharding;

type Payload = HashMap<String, Value>;

pub(crate) fn invalid(reason: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("Wrong input: {reason}"))
}

/// Returns an engine's error in the server's words.
pub(crate) fn status(error: OperationError) -> Status {
    match error {
        OperationError::PointIdError { missed_point_id } => {
            Status::not_found(format!("Not found: No point with id {missed_point_id} found"))
        }
        OperationError::ServiceError { .. }
        | OperationError::InconsistentStorage { .. }
        | OperationError::OutOfMemory { .. } => Status::internal(format!("Service internal error: {error}")),
        other => invalid(other),
    }
}

pub(crate) fn check_dimension(vector: &[f32], expected: usize) -> Result<(), Status> {
    if vector.len() == expected {
        return Ok(());
    }
    Err(invalid(format_args!("Vector dimension error: expected dim: {expected}, got {}", vector.len())))
}

pub(crate) fn edge_id(id: PointId) -> Result<qdrant_edge::PointId, Status> {
    match id.point_id_options {
        Some(PointIdOptions::Num(number)) => Ok(qdrant_edge::PointId::NumId(number)),
        Some(PointIdOptions::Uuid(text)) => {
            let uuid = text.parse().map_err(|_| Status::invalid_argument(format!("Unable to parse UUID: {text}")))?;
            Ok(qdrant_edge::PointId::Uuid(uuid))
        }
        None => Err(Status::invalid_argument("No ID options provided")),
    }
}

pub(crate) fn edge_ids(ids: Vec<PointId>) -> Result<Vec<qdrant_edge::PointId>, Status> {
    ids.into_iter().map(edge_id).collect()
}

pub(crate) fn client_id(id: qdrant_edge::PointId) -> PointId {
    let options = match id {
        qdrant_edge::PointId::NumId(number) => PointIdOptions::Num(number),
        qdrant_edge::PointId::Uuid(uuid) => PointIdOptions::Uuid(uuid.to_string()),
    };
    PointId { point_id_options: Some(options) }
}

/// Returns an id as text, which is the same for every spelling of a UUID.
pub(crate) fn id_text(id: &PointId) -> String {
    match &id.point_id_options {
        Some(PointIdOptions::Num(number)) => number.to_string(),
        Some(PointIdOptions::Uuid(text)) => {
            text.parse::<uuid::Uuid>().map_or_else(|_| text.clone(), |uuid| uuid.to_string())
        }
        None => String::new(),
    }
}

pub(crate) fn edge_payload(payload: Payload) -> qdrant_edge::Payload {
    qdrant_edge::Payload(payload.into_iter().map(|(name, value)| (name, value.into())).collect())
}

fn client_payload(payload: Option<qdrant_edge::Payload>) -> Payload {
    let fields = payload.map(|payload| payload.0).unwrap_or_default();
    fields.into_iter().map(|(name, value)| (name, value.into())).collect()
}

pub(crate) fn edge_point(point: PointStruct, spec: &VectorSpec) -> Result<PointStructPersisted, Status> {
    let id = edge_id(point.id.ok_or_else(|| Status::invalid_argument("Empty ID is not allowed"))?)?;
    let vectors = match point.vectors.and_then(|vectors| vectors.vectors_options) {
        Some(vectors::VectorsOptions::Vector(vector)) => HashMap::from([(String::new(), vector)]),
        Some(vectors::VectorsOptions::Vectors(named)) => named.vectors,
        None => return Err(invalid("a point without vectors")),
    };
    let mut persisted = HashMap::new();
    for (name, vector) in vectors {
        let vector = if spec.sparse.as_ref() == Some(&name) {
            VectorPersisted::Sparse(sparse(vector)?)
        } else {
            check_name(&name, spec)?;
            let vector = dense(vector)?;
            check_dimension(&vector, spec.dimension)?;
            VectorPersisted::Dense(vector)
        };
        persisted.insert(name, vector);
    }
    let payload = Some(edge_payload(point.payload));
    Ok(PointStructPersisted { id, vector: VectorStructPersisted::Named(persisted), payload })
}

/// Refuses any name but that of the collection's dense vectors.
pub(crate) fn check_name(name: &str, spec: &VectorSpec) -> Result<(), Status> {
    if name == spec.name {
        return Ok(());
    }
    Err(invalid(format_args!("Not existing vector name error: {name}")))
}

#[expect(deprecated, reason = "clients before 1.16 send it")]
fn dense(vector: Vector) -> Result<Vec<f32>, Status> {
    match vector.vector {
        Some(vector::Vector::Dense(dense)) => Ok(dense.data),
        None if vector.indices.is_none() && vector.vectors_count.is_none() => Ok(vector.data),
        other => Err(invalid(format_args!("the test server takes dense vectors, not {other:?}"))),
    }
}

fn sparse(vector: Vector) -> Result<qdrant_edge::SparseVector, Status> {
    match vector.vector {
        Some(vector::Vector::Sparse(SparseVector { indices, values })) => {
            let distinct: HashSet<u32> = indices.iter().copied().collect();
            if indices.len() != values.len() || distinct.len() != indices.len() {
                return Err(invalid("indices and values of a sparse vector must be as many, and indices unique"));
            }
            Ok(qdrant_edge::SparseVector { indices, values })
        }
        other => Err(invalid(format_args!("a sparse vector is expected, not {other:?}"))),
    }
}

pub(crate) fn retrieved(record: Record, sharding: Option<&Sharding>) -> RetrievedPoint {
    RetrievedPoint {
        shard_key: sharding.and_then(|sharding| sharding.shard_of(record.id)),
        id: Some(client_id(record.id)),
        payload: client_payload(record.payload),
        vectors: client_vector(record.vector),
        order_value: record.order_value.map(client_order_value),
    }
}

fn client_order_value(value: qdrant_edge::OrderValue) -> OrderValue {
    let variant = match value {
        qdrant_edge::OrderValue::Int(whole) => order_value::Variant::Int(whole),
        qdrant_edge::OrderValue::Float(number) => order_value::Variant::Float(number),
    };
    OrderValue { variant: Some(variant) }
}

/// Returns the order of a scroll in the engine's terms.
pub(crate) fn order_by(order: OrderBy) -> Result<OrderByInterface, Status> {
    let direction = match order.direction() {
        Direction::Asc => qdrant_edge::Direction::Asc,
        Direction::Desc => qdrant_edge::Direction::Desc,
    };
    let start_from = match order.start_from.and_then(|start| start.value) {
        None => None,
        Some(start_from::Value::Float(number)) => Some(qdrant_edge::StartFrom::Float(number)),
        Some(start_from::Value::Integer(whole)) => Some(qdrant_edge::StartFrom::Integer(whole)),
        Some(start_from::Value::Timestamp(start)) => {
            let start = moment(start).ok_or_else(|| invalid("a moment that no calendar has"))?;
            Some(qdrant_edge::StartFrom::Datetime(start))
        }
        Some(start_from::Value::Datetime(text)) => {
            let start = text.parse().map_err(|_| invalid(format_args!("{text:?} is no moment")))?;
            Some(qdrant_edge::StartFrom::Datetime(start))
        }
    };
    let key = json_path(&order.key)?;
    Ok(OrderByInterface::Struct(qdrant_edge::OrderBy { key, direction: Some(direction), start_from }))
}

/// Returns a moment in the engine's terms; `None` if it is outside their range.
pub(crate) fn moment(Timestamp { seconds, nanos }: Timestamp) -> Option<DateTimeWrapper> {
    let micros = seconds.checked_mul(1_000_000)?.checked_add(i64::from(nanos) / 1_000)?;
    DateTimeWrapper::from_timestamp(micros)
}

pub(crate) fn scored(point: qdrant_edge::ScoredPoint) -> ScoredPoint {
    ScoredPoint {
        id: Some(client_id(point.id)),
        payload: client_payload(point.payload),
        score: point.score,
        version: point.version,
        vectors: client_vector(point.vector),
        ..ScoredPoint::default()
    }
}

fn client_vector(vector: Option<VectorStructInternal>) -> Option<VectorsOutput> {
    let options = match vector? {
        VectorStructInternal::Single(data) => vectors_output::VectorsOptions::Vector(dense_output(data)),
        VectorStructInternal::Named(vectors) => {
            let vectors = vectors.into_iter().filter_map(|(name, vector)| match vector {
                VectorInternal::Dense(data) => Some((name, dense_output(data))),
                VectorInternal::Sparse(sparse) => Some((name, sparse_output(sparse))),
                // Collections of this server have no such vectors.
                VectorInternal::MultiDense(_) => None,
            });
            vectors_output::VectorsOptions::Vectors(NamedVectorsOutput { vectors: vectors.collect() })
        }
        VectorStructInternal::MultiDense(_) => return None,
    };
    Some(VectorsOutput { vectors_options: Some(options) })
}

fn dense_output(data: Vec<f32>) -> VectorOutput {
    let dense = vector_output::Vector::Dense(DenseVector { data });
    VectorOutput { vector: Some(dense), ..VectorOutput::default() }
}

fn sparse_output(sparse: qdrant_edge::SparseVector) -> VectorOutput {
    let qdrant_edge::SparseVector { indices, values } = sparse;
    let sparse = vector_output::Vector::Sparse(SparseVector { indices, values });
    VectorOutput { vector: Some(sparse), ..VectorOutput::default() }
}

/// Returns which payload fields a request asks for; `default` if it does not say.
pub(crate) fn with_payload(
    selector: Option<WithPayloadSelector>,
    default: bool,
) -> Result<WithPayloadInterface, Status> {
    let json = match selector.and_then(|selector| selector.selector_options) {
        None => return Ok(WithPayloadInterface::Bool(default)),
        Some(SelectorOptions::Enable(flag)) => return Ok(WithPayloadInterface::Bool(flag)),
        Some(SelectorOptions::Include(fields)) => json!({ "include": fields.fields }),
        Some(SelectorOptions::Exclude(fields)) => json!({ "exclude": fields.fields }),
    };
    serde_json::from_value(json).map_err(invalid)
}

pub(crate) fn with_vector(selector: Option<WithVectorsSelector>) -> Result<WithVector, Status> {
    match selector.and_then(|selector| selector.selector_options) {
        None => Ok(WithVector::Bool(false)),
        Some(with_vectors_selector::SelectorOptions::Enable(flag)) => Ok(WithVector::Bool(flag)),
        Some(with_vectors_selector::SelectorOptions::Include(names)) => Ok(WithVector::Selector(names.names)),
    }
}

pub(crate) fn json_path(path: &str) -> Result<JsonPath, Status> {
    path.parse().map_err(|()| invalid(format_args!("{path:?} is not a path")))
}

pub(crate) fn distance(distance: Distance) -> Result<qdrant_edge::Distance, Status> {
    match distance {
        Distance::Cosine => Ok(qdrant_edge::Distance::Cosine),
        Distance::Euclid => Ok(qdrant_edge::Distance::Euclid),
        Distance::Dot => Ok(qdrant_edge::Distance::Dot),
        Distance::Manhattan => Ok(qdrant_edge::Distance::Manhattan),
        Distance::UnknownDistance => Err(invalid("unknown distance")),
    }
}

pub(crate) const fn schema(field: FieldType) -> PayloadSchemaType {
    match field {
        FieldType::Keyword => PayloadSchemaType::Keyword,
        FieldType::Integer => PayloadSchemaType::Integer,
        FieldType::Float => PayloadSchemaType::Float,
        FieldType::Geo => PayloadSchemaType::Geo,
        FieldType::Text => PayloadSchemaType::Text,
        FieldType::Bool => PayloadSchemaType::Bool,
        FieldType::Datetime => PayloadSchemaType::Datetime,
        FieldType::Uuid => PayloadSchemaType::Uuid,
    }
}

pub(crate) fn schema_info(index: &qdrant_edge::PayloadIndexInfo) -> PayloadSchemaInfo {
    use qdrant_client::qdrant::PayloadSchemaType as Client;
    let data_type = match index.data_type {
        PayloadSchemaType::Keyword => Client::Keyword,
        PayloadSchemaType::Integer => Client::Integer,
        PayloadSchemaType::Float => Client::Float,
        PayloadSchemaType::Geo => Client::Geo,
        PayloadSchemaType::Text => Client::Text,
        PayloadSchemaType::Bool => Client::Bool,
        PayloadSchemaType::Datetime => Client::Datetime,
        PayloadSchemaType::Uuid => Client::Uuid,
    };
    PayloadSchemaInfo { data_type: data_type.into(), params: None, points: Some(index.points as u64) }
}
