//! Payload fields in the form that their indexes need.

use serde_json::Number;
use walvec_model::types::IndexType;
use walvec_model::{Payload, Value};

/// Stores fields that are indexed as numbers as numbers. A value that is not a number (`NaN`, for example) stays a text.
pub(crate) fn store_numbers(indexes: &[(String, IndexType)], fields: &mut Payload) {
    for (name, index) in indexes.iter().filter(|(_, index)| index.is_number()) {
        if let Some(field) = fields.get_mut(name) {
            store_number(field, *index);
        }
    }
}

fn store_number(value: &mut Value, index: IndexType) {
    match value {
        Value::String(text) => {
            let whole = if index == IndexType::Integer { text.parse::<i64>().ok().map(Number::from) } else { None };
            if let Some(number) = whole.or_else(|| Number::from_f64(text.parse().ok()?)) {
                *value = Value::Number(number);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| store_number(item, index)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {}
    }
}
