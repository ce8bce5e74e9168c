//! Conversion of ids, payloads and filters to the client's types and back.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use qdrant_client::qdrant::order_value::Variant;
use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_client::qdrant::{
    Condition as ClientCondition, DatetimeRange, Direction, FieldType, Filter as ClientFilter, OrderBy, OrderValue,
    PointId as ClientId, Range, StartFrom, Timestamp, Vector as ClientVector, Vectors, start_from,
};
use walvec_model::point::raw_payload;
use walvec_model::{Generation, Payload, PointId, Position, Provenance, RESERVED_KEY, SparseVector, Value, Vector};

use crate::filter::{Bounds, Condition, Datetime, FieldPath, Filter, PathStep, comparable_end, too_far};
use crate::ordered::SortStart;
use crate::{CollectionSpec, IndexType, SinkError, SortRequest, SortValue, SortedBy};

type ClientPayload = HashMap<String, qdrant_client::qdrant::Value>;

pub(super) fn client_id(id: PointId) -> ClientId {
    let options = match id {
        PointId::Num(number) => PointIdOptions::Num(number),
        PointId::Uuid(uuid) => PointIdOptions::Uuid(uuid.to_string()),
    };
    ClientId { point_id_options: Some(options) }
}

pub(super) fn client_ids(ids: &[PointId]) -> Vec<ClientId> {
    ids.iter().copied().map(client_id).collect()
}

pub(super) fn point_id(id: Option<ClientId>) -> Result<PointId, SinkError> {
    match id.and_then(|id| id.point_id_options) {
        Some(PointIdOptions::Num(number)) => Ok(PointId::Num(number)),
        Some(PointIdOptions::Uuid(text)) => text
            .parse()
            .map(PointId::Uuid)
            .map_err(|_| SinkError::Engine(format!("the server sent a point whose id {text:?} is not a UUID"))),
        None => Err(SinkError::Engine("the server sent a point without an id".to_owned())),
    }
}

/// Returns a point's vectors under their names. A sparse vector without tokens is left out, because no search finds it.
pub(super) fn client_vectors(spec: &CollectionSpec, vector: Vector, keywords: Option<SparseVector>) -> Vectors {
    let keywords = spec.keywords.as_ref().zip(keywords.filter(|keywords| !keywords.is_empty()));
    match (&spec.vector, keywords) {
        (None, None) => vector.into(),
        (dense, keywords) => {
            // Next to other vectors, one without a name is called "".
            let dense = (dense.clone().unwrap_or_default(), ClientVector::from(vector));
            let keywords = keywords.map(|(name, SparseVector { indices, values })| {
                (name.clone(), ClientVector::new_sparse(indices, values))
            });
            HashMap::from_iter(std::iter::once(dense).chain(keywords)).into()
        }
    }
}

/// Converts a payload to its stored form.
pub(super) fn client_payload(
    id: PointId,
    payload: &Payload,
    provenance: &Provenance,
) -> Result<ClientPayload, SinkError> {
    let refused = |reason: String| SinkError::BadPoint { id, reason };
    let raw = raw_payload(payload.clone(), provenance).map_err(|error| refused(error.to_string()))?;
    Ok(raw.into_iter().map(|(name, value)| (name, value.into())).collect())
}

/// Converts a stored payload. Its fields are in alphabetical order, because the server keeps no other.
pub(super) fn payload(stored: ClientPayload) -> Payload {
    let mut fields: Vec<(String, Value)> = stored.into_iter().map(|(name, value)| (name, value.into())).collect();
    fields.sort_by(|(left, _), (right, _)| left.cmp(right));
    fields.into_iter().collect()
}

/// Returns the path of a part of walvec's own field.
pub(super) fn provenance_path(part: &str) -> String {
    format!("{RESERVED_KEY}.{part}")
}

/// Returns the path of a user's field, quoted where its name is not a plain word.
pub(super) fn field_path(nesting: Option<&str>, field: &FieldPath) -> Result<String, SinkError> {
    let name = key(&field.name)?;
    let mut path = match nesting {
        None => name,
        Some(nesting) => format!("{nesting}.{name}"),
    };
    for step in &field.steps {
        match step {
            PathStep::Key(name) => path.push_str(&format!(".{}", key(name)?)),
            PathStep::Index(index) => path.push_str(&format!("[{index}]")),
            PathStep::Each => path.push_str("[]"),
        }
    }
    Ok(path)
}

fn key(name: &str) -> Result<String, SinkError> {
    let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-');
    if !name.is_empty() && name.chars().all(plain) {
        return Ok(name.to_owned());
    }
    // The server's grammar has no escape for these two.
    if name.is_empty() || name.contains(['"', '\\']) {
        return Err(SinkError::BadRequest(format!("the field {name:?} cannot be searched")));
    }
    Ok(format!("\"{name}\""))
}

/// Matches the points that came from a table.
pub(super) fn of_table(tag: &str) -> ClientFilter {
    ClientFilter::must([ClientCondition::matches(provenance_path("t"), tag.to_owned())])
}

/// Matches the points of a table that are older than the snapshot `current`.
pub(super) fn older_than(tag: &str, current: Generation) -> ClientFilter {
    // Generations count snapshots: far below 2^53, up to which an f64 is exact.
    #[expect(clippy::cast_precision_loss, reason = "generations stay far below 2^53")]
    let range = Range { lt: Some(current.0 as f64), ..Range::default() };
    let mut filter = of_table(tag);
    filter.must.push(ClientCondition::range(provenance_path("g"), range));
    filter
}

/// Matches these points as long as they have these versions. A version that another worker writes meanwhile is newer than all
/// of them, so that point does not match.
pub(super) fn with_versions(points: &[(PointId, Position)]) -> ClientFilter {
    let ids = points.iter().map(|(id, _)| client_id(*id));
    let versions: Vec<String> = points.iter().map(|(_, version)| version.to_string()).collect();
    ClientFilter::must([ClientCondition::has_id(ids), ClientCondition::matches(provenance_path("v"), versions)])
}

/// Matches those of these points that match `filter`.
pub(super) fn among(filter: &ClientFilter, ids: &[PointId]) -> ClientFilter {
    let mut filter = filter.clone();
    filter.must.push(ClientCondition::has_id(client_ids(ids)));
    filter
}

/// Converts the filter of a search; `None` where everything matches.
pub(super) fn client_filter(nesting: Option<&str>, filter: &Filter) -> Result<Option<ClientFilter>, SinkError> {
    if filter.0.is_empty() {
        return Ok(None);
    }
    let conditions = filter.0.iter().map(|it| condition(nesting, it)).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(ClientFilter::must(conditions)))
}

fn condition(nesting: Option<&str>, wanted: &Condition) -> Result<ClientCondition, SinkError> {
    match wanted {
        Condition::Equals { field, value } => equals(field, field_path(nesting, field)?, value),
        Condition::Range { field, bounds } => {
            let Bounds { gt, gte, lt, lte } = bounds.try_map(|end| comparable_end(field, end))?;
            Ok(ClientCondition::range(field_path(nesting, field)?, Range { lt, gt, gte, lte }))
        }
        Condition::DatetimeRange { field, bounds } => {
            let Bounds { gt, gte, lt, lte } = bounds.try_map(|end| timestamp(end).ok_or_else(|| too_far(field)))?;
            Ok(ClientCondition::datetime_range(field_path(nesting, field)?, DatetimeRange { lt, gt, gte, lte }))
        }
        Condition::Null { field } => {
            let path = field_path(nesting, field)?;
            // A missing member of JSON counts as null. A column is never missing, and its empty array is not NULL.
            Ok(match field.steps.is_empty() {
                true => ClientCondition::is_null(path),
                false => ClientCondition::is_empty(path),
            })
        }
        Condition::AnyOf(conditions) => {
            let any = conditions.iter().map(|it| condition(nesting, it)).collect::<Result<Vec<_>, _>>()?;
            Ok(ClientFilter::should(any).into())
        }
        Condition::Not(inner) => Ok(ClientFilter::must_not([condition(nesting, inner)?]).into()),
    }
}

/// The seconds of the years that the protocol can represent, 1 to 9999 (`google.protobuf.Timestamp`).
const CALENDAR: RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Converts a moment to the protocol's form: seconds since 1970, and the nanoseconds after them; `None` if it is outside
/// those years.
fn timestamp(Datetime(micros): Datetime) -> Option<Timestamp> {
    let seconds = Some(micros.div_euclid(1_000_000)).filter(|seconds| CALENDAR.contains(seconds))?;
    Some(Timestamp { seconds, nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1_000).ok()? })
}

fn equals(field: &FieldPath, path: String, value: &Value) -> Result<ClientCondition, SinkError> {
    let refused = || {
        let rule = "equality works for strings, whole numbers up to 2^63-1 and booleans";
        SinkError::BadRequest(format!("\"{field}\" cannot be compared with {value}: {rule}"))
    };
    match value {
        Value::String(text) => Ok(ClientCondition::matches(path, text.clone())),
        Value::Bool(flag) => Ok(ClientCondition::matches(path, *flag)),
        Value::Number(number) => {
            number.as_i64().map(|number| ClientCondition::matches(path, number)).ok_or_else(refused)
        }
        Value::Null | Value::Array(_) | Value::Object(_) => Err(refused()),
    }
}

/// Converts the order of a request.
pub(super) fn order_by(nesting: Option<&str>, request: &SortRequest) -> Result<OrderBy, SinkError> {
    let field = &request.order.field;
    let start_from = match request.start() {
        None => None,
        Some(SortStart::Number(number)) => Some(start_from::Value::Float(number)),
        Some(SortStart::Moment(moment)) => {
            Some(start_from::Value::Timestamp(timestamp(moment).ok_or_else(|| too_far(field))?))
        }
    };
    let direction = if request.order.descending { Direction::Desc } else { Direction::Asc };
    Ok(OrderBy {
        key: field_path(nesting, field)?,
        direction: Some(direction.into()),
        start_from: start_from.map(|value| StartFrom { value: Some(value) }),
    })
}

/// Converts the value that the server has sorted by; `None` if its index is of another type.
pub(super) const fn sort_value(by: SortedBy, value: Option<OrderValue>) -> Option<SortValue> {
    let Some(OrderValue { variant: Some(value) }) = value else { return None };
    match (by, value) {
        (SortedBy::Whole, Variant::Int(whole)) => Some(SortValue::Whole(whole)),
        (SortedBy::Moment, Variant::Int(micros)) => Some(SortValue::Moment(Datetime(micros))),
        (SortedBy::Number, Variant::Float(number)) => Some(SortValue::Number(number)),
        _ => None,
    }
}

pub(super) const fn field_type(index: IndexType) -> FieldType {
    match index {
        IndexType::Keyword => FieldType::Keyword,
        IndexType::Integer => FieldType::Integer,
        IndexType::Float => FieldType::Float,
        IndexType::Bool => FieldType::Bool,
        IndexType::Text => FieldType::Text,
        IndexType::Datetime => FieldType::Datetime,
        IndexType::Uuid => FieldType::Uuid,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_come_back_as_they_were() {
        for id in [PointId::Num(u64::MAX), PointId::Uuid(uuid::Uuid::from_u128(7))] {
            assert_eq!(point_id(Some(client_id(id))).unwrap(), id);
        }
        assert!(point_id(None).is_err());
    }

    #[test]
    fn a_payload_comes_back_as_it_was() {
        let fields =
            json!({"big": i64::MAX, "small": i64::MIN, "float": 0.1, "null": null, "list": [1, "a", {"b": []}]});
        let Value::Object(fields) = fields else { unreachable!() };
        let stored: ClientPayload = fields.clone().into_iter().map(|(name, value)| (name, value.into())).collect();
        assert_eq!(payload(stored), fields);
    }

    #[test]
    fn the_name_of_a_field_is_not_parsed_as_a_path() {
        let path = |nesting, name: &str| field_path(nesting, &name.into());
        assert_eq!(path(None, "year").unwrap(), "year");
        assert_eq!(path(None, "a.b[0]").unwrap(), "\"a.b[0]\"");
        assert_eq!(path(Some("metadata"), "year").unwrap(), "metadata.year");
        assert_eq!(path(Some("metadata"), "a.b").unwrap(), "metadata.\"a.b\"");
        assert!(path(None, "a\"b").is_err());
        let member = FieldPath::parse("meta.\"a b\"[].c[1]").unwrap();
        assert_eq!(field_path(Some("metadata"), &member).unwrap(), "metadata.meta.\"a b\"[].c[1]");
    }
}
