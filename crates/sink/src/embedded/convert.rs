//! Conversion of ids, filters and errors to the engine's types and back.

use std::collections::HashMap;

use qdrant_edge::{
    Condition as EdgeCondition, DateTimeWrapper, Direction, FieldCondition, Filter as EdgeFilter, JsonPath, Match,
    OperationError, OrderBy, OrderValue, Range, StartFrom, ValueVariants, VectorInternal, VectorPersisted,
    VectorStructInternal, VectorStructPersisted, external::ordered_float::OrderedFloat,
};
use walvec_model::{Generation, PointId, RESERVED_KEY, SparseVector, Value, Vector};

use super::read::VectorNames;
use crate::filter::{Bounds, Condition, Datetime, FieldPath, Filter, PathStep, comparable_end, too_far};
use crate::ordered::SortStart;
use crate::{SinkError, SortRequest, SortValue, SortedBy};

/// The engine's form of a point's id.
pub(super) type EdgeId = qdrant_edge::PointId;

pub(super) fn edge_id(id: PointId) -> EdgeId {
    match id {
        PointId::Num(number) => qdrant_edge::PointId::NumId(number),
        PointId::Uuid(uuid) => qdrant_edge::PointId::Uuid(uuid),
    }
}

pub(super) const fn point_id(id: qdrant_edge::PointId) -> PointId {
    match id {
        qdrant_edge::PointId::NumId(number) => PointId::Num(number),
        qdrant_edge::PointId::Uuid(uuid) => PointId::Uuid(uuid),
    }
}

/// Returns a point's vectors under their names. A sparse vector without tokens is left out, because no search finds it.
pub(super) fn edge_vectors(
    names: &VectorNames,
    vector: Vector,
    keywords: Option<SparseVector>,
) -> VectorStructPersisted {
    let mut vectors = HashMap::from([(names.dense.clone(), VectorPersisted::Dense(vector))]);
    if let (Some(name), Some(keywords)) = (&names.keywords, keywords.filter(|keywords| !keywords.is_empty())) {
        vectors.insert(name.clone(), VectorPersisted::Sparse(edge_sparse(keywords)));
    }
    VectorStructPersisted::Named(vectors)
}

pub(super) fn edge_sparse(SparseVector { indices, values }: SparseVector) -> qdrant_edge::SparseVector {
    qdrant_edge::SparseVector { indices, values }
}

/// Returns the stored vectors with these names.
pub(super) fn vectors(names: &VectorNames, stored: VectorStructInternal) -> (Option<Vector>, Option<SparseVector>) {
    match stored {
        VectorStructInternal::Single(vector) => (Some(vector), None),
        VectorStructInternal::Named(mut vectors) => {
            let dense = match vectors.remove(names.dense.as_str()) {
                Some(VectorInternal::Dense(vector)) => Some(vector),
                _ => None,
            };
            let keywords = match names.keywords.as_ref().and_then(|name| vectors.remove(name.as_str())) {
                Some(VectorInternal::Sparse(qdrant_edge::SparseVector { indices, values })) => {
                    Some(SparseVector { indices, values })
                }
                _ => None,
            };
            (dense, keywords)
        }
        VectorStructInternal::MultiDense(_) => (None, None),
    }
}

/// Returns the path of a user's field, whatever characters its name has.
pub(super) fn field_path(nesting: Option<&str>, field: &FieldPath) -> JsonPath {
    let step = |step: &PathStep| match step {
        PathStep::Key(key) => format!(".\"{key}\""),
        PathStep::Index(index) => format!("[{index}]"),
        PathStep::Each => "[]".to_owned(),
    };
    // The engine parses the steps of a path, but does not export their type. Keys hold no quotes, because our grammar has
    // none.
    let steps: String = field.steps.iter().map(step).collect();
    let rest = format!("x{steps}").parse().map(|path: JsonPath| path.rest).unwrap_or_default();
    let nesting = nesting.map(|name| JsonPath { first_key: name.to_owned(), rest: Vec::new() });
    let field = JsonPath { first_key: field.name.clone(), rest };
    JsonPath::extend_or_new(nesting.as_ref(), &field)
}

/// Returns the path of a part of walvec's own field.
pub(super) fn provenance_path(part: &str) -> Result<JsonPath, SinkError> {
    let path = format!("{RESERVED_KEY}.{part}");
    path.parse().map_err(|()| SinkError::Engine(format!("\"{path}\" is not a path")))
}

/// Matches the points that came from a table.
pub(super) fn of_table(tag: &str) -> Result<EdgeFilter, SinkError> {
    let matches = Match::new_value(ValueVariants::String(tag.to_owned()));
    Ok(all_of(vec![FieldCondition::new_match(provenance_path("t")?, matches)]))
}

/// Matches the points of a table that are older than the snapshot `current`.
pub(super) fn older_than(tag: &str, current: Generation) -> Result<EdgeFilter, SinkError> {
    // Generations count snapshots: far below 2^53, up to which an f64 is exact.
    #[expect(clippy::cast_precision_loss, reason = "generations stay far below 2^53")]
    let range = Range { lt: Some(OrderedFloat(current.0 as f64)), gt: None, gte: None, lte: None };
    let mut filter = of_table(tag)?;
    let older = EdgeCondition::Field(FieldCondition::new_range(provenance_path("g")?, range));
    filter.must.get_or_insert_default().push(older);
    Ok(filter)
}

/// Converts the filter of a search; `None` where everything matches.
pub(super) fn edge_filter(nesting: Option<&str>, filter: &Filter) -> Result<Option<EdgeFilter>, SinkError> {
    if filter.0.is_empty() {
        return Ok(None);
    }
    let must = filter.0.iter().map(|condition| edge_condition(nesting, condition)).collect::<Result<_, _>>()?;
    Ok(Some(EdgeFilter { must: Some(must), ..EdgeFilter::new() }))
}

fn all_of(conditions: Vec<FieldCondition>) -> EdgeFilter {
    let must = conditions.into_iter().map(EdgeCondition::Field).collect();
    EdgeFilter { must: Some(must), ..EdgeFilter::new() }
}

fn edge_condition(nesting: Option<&str>, condition: &Condition) -> Result<EdgeCondition, SinkError> {
    match condition {
        Condition::Equals { field, value } => {
            let matches = Match::new_value(comparable(field, value)?);
            Ok(EdgeCondition::Field(FieldCondition::new_match(field_path(nesting, field), matches)))
        }
        Condition::Range { field, bounds } => {
            let range = edge_range(bounds.try_map(|end| comparable_end(field, end).map(OrderedFloat))?);
            Ok(EdgeCondition::Field(FieldCondition::new_range(field_path(nesting, field), range)))
        }
        Condition::DatetimeRange { field, bounds } => {
            let moment = |end: Datetime| DateTimeWrapper::from_timestamp(end.0).ok_or_else(|| too_far(field));
            let range = edge_range(bounds.try_map(moment)?);
            Ok(EdgeCondition::Field(FieldCondition::new_datetime_range(field_path(nesting, field), range)))
        }
        Condition::Null { field } => {
            let path = field_path(nesting, field);
            // A missing member of JSON counts as null. A column is never missing, and its empty array is not NULL.
            Ok(match field.steps.is_empty() {
                true => EdgeCondition::IsNull(path.into()),
                false => EdgeCondition::IsEmpty(path.into()),
            })
        }
        Condition::AnyOf(conditions) => {
            let should = conditions.iter().map(|it| edge_condition(nesting, it)).collect::<Result<_, _>>()?;
            Ok(EdgeCondition::Filter(EdgeFilter { should: Some(should), ..EdgeFilter::new() }))
        }
        Condition::Not(condition) => {
            let must_not = vec![edge_condition(nesting, condition)?];
            Ok(EdgeCondition::Filter(EdgeFilter { must_not: Some(must_not), ..EdgeFilter::new() }))
        }
    }
}

fn edge_range<T>(Bounds { gt, gte, lt, lte }: Bounds<T>) -> Range<T> {
    Range { lt, gt, gte, lte }
}

fn comparable(field: &FieldPath, value: &Value) -> Result<ValueVariants, SinkError> {
    let refused = || {
        let rule = "equality works for strings, whole numbers up to 2^63-1 and booleans";
        SinkError::BadRequest(format!("\"{field}\" cannot be compared with {value}: {rule}"))
    };
    match value {
        Value::String(text) => Ok(ValueVariants::String(text.clone())),
        Value::Bool(flag) => Ok(ValueVariants::Bool(*flag)),
        Value::Number(number) => number.as_i64().map(ValueVariants::Integer).ok_or_else(refused),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(refused()),
    }
}

/// Converts the order of a request.
pub(super) fn order_by(nesting: Option<&str>, request: &SortRequest) -> Result<OrderBy, SinkError> {
    let field = &request.order.field;
    let start_from = match request.start() {
        None => None,
        Some(SortStart::Number(number)) => Some(StartFrom::Float(number)),
        Some(SortStart::Moment(moment)) => {
            let moment = DateTimeWrapper::from_timestamp(moment.0).ok_or_else(|| too_far(field))?;
            Some(StartFrom::Datetime(moment))
        }
    };
    let direction = if request.order.descending { Direction::Desc } else { Direction::Asc };
    Ok(OrderBy { key: field_path(nesting, field), direction: Some(direction), start_from })
}

/// Converts the value that the engine has sorted by; `None` if its index is of another type.
pub(super) const fn sort_value(by: SortedBy, value: Option<OrderValue>) -> Option<SortValue> {
    match (by, value) {
        (SortedBy::Whole, Some(OrderValue::Int(whole))) => Some(SortValue::Whole(whole)),
        (SortedBy::Moment, Some(OrderValue::Int(micros))) => Some(SortValue::Moment(Datetime(micros))),
        (SortedBy::Number, Some(OrderValue::Float(number))) => Some(SortValue::Number(number)),
        _ => None,
    }
}

/// Converts an error of a change.
pub(super) fn change_error(error: OperationError) -> SinkError {
    match error {
        OperationError::PointIdError { missed_point_id } => SinkError::BadPoint {
            id: point_id(missed_point_id),
            reason: "only its payload was to be replaced, but the collection does not hold it".to_owned(),
        },
        other => SinkError::Engine(other.to_string()),
    }
}

/// Converts an error of a read.
pub(super) fn read_error(error: OperationError) -> SinkError {
    match error {
        OperationError::WrongVectorDimension { .. } | OperationError::ValidationError { .. } => {
            SinkError::BadRequest(error.to_string())
        }
        other => SinkError::Engine(other.to_string()),
    }
}
