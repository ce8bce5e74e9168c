//! Which stored values come back exactly as they were written.
//!
//! Texts, booleans, NULL and signed 64-bit integers do, and lists of them. Numbers with a fraction may lose their last digit to the
//! JSON readers on the way to the disk and back. A server knows no other integers, and does not keep the order of the fields of an
//! object. A value that is nested as deeply as can be stored may hold texts in place of what lies deeper.

use walvec_model::point::MAX_NESTING;
use walvec_model::{StoredPoint, Value};

/// Removes the fields of a point that may differ from what was written. `nesting`: the payload field that holds the user's fields;
/// `has_order`: whether objects keep the order of their fields.
pub(crate) fn faithful(mut point: StoredPoint, nesting: Option<&str>, has_order: bool) -> StoredPoint {
    let fields = match nesting {
        None => Some(&mut point.payload),
        Some(name) => point.payload.get_mut(name).and_then(Value::as_object_mut),
    };
    if let Some(fields) = fields {
        fields.retain(|_, value| is_faithful(value, has_order, MAX_NESTING));
    }
    point
}

fn is_faithful(value: &Value, has_order: bool, levels: usize) -> bool {
    let is_inside = |inner: &Value| is_faithful(inner, has_order, levels - 1);
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => true,
        Value::Number(number) => number.is_i64(),
        Value::Array(items) => levels > 1 && items.iter().all(is_inside),
        Value::Object(fields) => has_order && levels > 1 && fields.values().all(is_inside),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use walvec_model::{Payload, PointId};

    use super::*;

    fn names(payload: Value, nesting: Option<&str>, has_order: bool) -> Vec<String> {
        let Value::Object(payload) = payload else { return Vec::new() };
        let point = StoredPoint { id: PointId::Num(1), payload, provenance: None };
        let payload: Payload = faithful(point, nesting, has_order).payload;
        let fields = nesting.map_or(Some(&payload), |name| payload.get(name)?.as_object());
        fields.into_iter().flat_map(Payload::keys).cloned().collect()
    }

    #[test]
    fn what_a_server_may_change_is_not_taken_from_it() {
        let deep = (0..MAX_NESTING).fold(json!("x"), |inner, _| json!([inner]));
        let payload = json!({
            "text": "a", "flag": true, "null": null, "least": i64::MIN, "list": ["a", [1, null]],
            "large": u64::MAX, "fraction": 0.1, "fractions": [0.5], "object": {"b": 1, "a": 2}, "deep": deep,
        });
        let exact = ["text", "flag", "null", "least", "list"];
        assert_eq!(names(payload.clone(), None, false), exact);
        assert_eq!(names(json!({"metadata": payload.clone()}), Some("metadata"), false), exact);
        assert_eq!(names(payload, None, true), [exact.as_slice(), &["object"]].concat());
    }
}
