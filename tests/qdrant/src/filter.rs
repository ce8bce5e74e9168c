//! Filters in the engine's terms.
//!
//! The engine reads the filters of Qdrant's HTTP interface, so a filter goes through that form: its public types cannot
//! be built piece by piece without the collections that they are made of.

use qdrant_client::qdrant::condition::ConditionOneOf;
use qdrant_client::qdrant::r#match::MatchValue;
use qdrant_client::qdrant::{Condition, DatetimeRange, FieldCondition, Filter, Match, Range};
use serde_json::{Map, Value, json};
use tonic::Status;

use crate::convert::{edge_id, moment};

/// Returns a filter in the engine's terms. A filter that is not understood is refused rather than misread.
pub(crate) fn edge_filter(filter: Filter) -> Result<qdrant_edge::Filter, Status> {
    let json = filter_json(filter)?;
    serde_json::from_value(json.clone())
        .map_err(|error| Status::invalid_argument(format!("Wrong input: the filter {json}: {error}")))
}

fn filter_json(filter: Filter) -> Result<Value, Status> {
    let Filter { should, must, must_not, min_should } = filter;
    if min_should.is_some() {
        return Err(unknown("min_should"));
    }
    let mut clauses = Map::new();
    for (name, conditions) in [("should", should), ("must", must), ("must_not", must_not)] {
        if !conditions.is_empty() {
            let conditions: Result<Vec<Value>, Status> = conditions.into_iter().map(condition).collect();
            clauses.insert(name.to_owned(), Value::Array(conditions?));
        }
    }
    Ok(Value::Object(clauses))
}

fn condition(condition: Condition) -> Result<Value, Status> {
    match condition.condition_one_of {
        Some(ConditionOneOf::Field(field)) => field_condition(field),
        Some(ConditionOneOf::IsEmpty(empty)) => Ok(json!({ "is_empty": { "key": empty.key } })),
        Some(ConditionOneOf::IsNull(nothing)) => Ok(json!({ "is_null": { "key": nothing.key } })),
        Some(ConditionOneOf::HasId(ids)) => {
            let ids: Result<Vec<_>, Status> = ids.has_id.into_iter().map(edge_id).collect();
            Ok(json!({ "has_id": ids?.into_iter().map(id_json).collect::<Vec<_>>() }))
        }
        Some(ConditionOneOf::Filter(filter)) => filter_json(filter),
        Some(ConditionOneOf::Nested(_)) => Err(unknown("nested")),
        Some(ConditionOneOf::HasVector(_)) => Err(unknown("has_vector")),
        Some(ConditionOneOf::Slice(_)) => Err(unknown("slice")),
        None => Err(unknown("an empty condition")),
    }
}

fn id_json(id: qdrant_edge::PointId) -> Value {
    match id {
        qdrant_edge::PointId::NumId(number) => json!(number),
        qdrant_edge::PointId::Uuid(uuid) => json!(uuid.to_string()),
    }
}

fn field_condition(condition: FieldCondition) -> Result<Value, Status> {
    let FieldCondition { key, r#match, range, datetime_range, is_empty, is_null, .. } = &condition;
    let others = condition.geo_bounding_box.is_some()
        || condition.geo_radius.is_some()
        || condition.geo_polygon.is_some()
        || condition.values_count.is_some();
    if others {
        return Err(unknown(&format!("{condition:?}")));
    }
    let mut json = Map::new();
    json.insert("key".to_owned(), json!(key));
    if let Some(matches) = r#match {
        json.insert("match".to_owned(), match_json(matches)?);
    }
    if let Some(range) = range {
        json.insert("range".to_owned(), range_json(range)?);
    }
    if let Some(range) = datetime_range {
        json.insert("range".to_owned(), datetime_range_json(range)?);
    }
    for (name, flag) in [("is_empty", is_empty), ("is_null", is_null)] {
        if let Some(flag) = flag {
            json.insert(name.to_owned(), json!(flag));
        }
    }
    if json.len() == 1 { Err(unknown("a field without a condition")) } else { Ok(Value::Object(json)) }
}

fn match_json(matches: &Match) -> Result<Value, Status> {
    Ok(match matches.match_value.as_ref() {
        Some(MatchValue::Keyword(text)) => json!({ "value": text }),
        Some(MatchValue::Integer(number)) => json!({ "value": number }),
        Some(MatchValue::Boolean(flag)) => json!({ "value": flag }),
        Some(MatchValue::Text(text)) => json!({ "text": text }),
        Some(MatchValue::Keywords(texts)) => json!({ "any": texts.strings }),
        Some(MatchValue::Integers(numbers)) => json!({ "any": numbers.integers }),
        Some(MatchValue::ExceptKeywords(texts)) => json!({ "except": texts.strings }),
        Some(MatchValue::ExceptIntegers(numbers)) => json!({ "except": numbers.integers }),
        other => return Err(unknown(&format!("{other:?}"))),
    })
}

fn range_json(range: &Range) -> Result<Value, Status> {
    let Range { lt, gt, gte, lte } = *range;
    let bounds = [("lt", lt), ("gt", gt), ("gte", gte), ("lte", lte)];
    let mut json = Map::new();
    for (name, bound) in bounds {
        // Without this check an infinite bound would become `null`, which changes the range.
        if bound.is_some_and(|bound| !bound.is_finite()) {
            return Err(unknown("a bound that is not finite"));
        }
        json.insert(name.to_owned(), json!(bound));
    }
    Ok(Value::Object(json))
}

fn datetime_range_json(range: &DatetimeRange) -> Result<Value, Status> {
    let DatetimeRange { lt, gt, gte, lte } = *range;
    let mut json = Map::new();
    for (name, bound) in [("lt", lt), ("gt", gt), ("gte", gte), ("lte", lte)] {
        let moment = bound.map(|bound| moment(bound).ok_or_else(|| unknown("a moment that no calendar has")));
        json.insert(name.to_owned(), json!(moment.transpose()?));
    }
    Ok(Value::Object(json))
}

fn unknown(what: &str) -> Status {
    Status::invalid_argument(format!("Wrong input: the test server does not know this filter: {what}"))
}
