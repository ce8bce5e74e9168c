//! Converts PostgreSQL's text form of a value to a [`Value`].
//!
//! The copy, the stream and the re-select use the same function, so a row is equal whichever way it came.
//!
//! - [`kind`]: the kinds of types, by the meaning of their text form, found in the catalogue
//! - [`array`](mod@array): array literals

mod array;
mod kind;

pub(crate) use kind::{TypeFacts, ValueKind, model_type};
use serde_json::Number;
use walvec_model::{Value, exact_json};

/// Decodes `text`, the output of the type's output function, into the value that [`Value`] documents.
///
/// Never fails: a text that does not have the expected form is kept as text, which loses nothing.
pub(crate) fn decode(text: &str, kind: &ValueKind) -> Value {
    let decoded = match kind {
        ValueKind::Text => None,
        ValueKind::Bool => match text {
            "t" => Some(Value::Bool(true)),
            "f" => Some(Value::Bool(false)),
            _ => None,
        },
        ValueKind::Integer => text.parse::<i64>().ok().map(Value::from),
        // NaN and the infinities are not JSON numbers, so `from_f64` refuses them.
        ValueKind::Float => text.parse::<f64>().ok().and_then(Number::from_f64).map(Value::Number),
        ValueKind::Json => Some(exact_json::document(text)),
        ValueKind::JsonKey => Some(exact_json::key_document(text)),
        ValueKind::Array(element) => array::decode(text, element),
    };
    decoded.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Returns the text that PostgreSQL reads as `value` for a column of this kind. The inverse of [`decode`].
pub(crate) fn encode(value: &Value, kind: &ValueKind) -> String {
    match (kind, value) {
        (ValueKind::Array(element), Value::Array(_)) => array::encode(value, element),
        (_, Value::String(text)) => text.clone(),
        (_, other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_json_holds_exactly_becomes_json() {
        assert_eq!(decode("t", &ValueKind::Bool), json!(true));
        assert_eq!(decode("-9223372036854775808", &ValueKind::Integer), json!(i64::MIN));
        assert_eq!(decode("0.1", &ValueKind::Float), json!(0.1));
        assert_eq!(decode("1e+300", &ValueKind::Float), json!(1e300));
        assert_eq!(decode(r#"{"b": [1, null], "a": 2.5}"#, &ValueKind::Json), json!({"b": [1, null], "a": 2.5}));
    }

    #[test]
    fn what_json_cannot_hold_stays_text() {
        for (text, kind) in [
            ("NaN", ValueKind::Float),
            ("-Infinity", ValueKind::Float),
            (r#"{"n": 123456789012345678901}"#, ValueKind::JsonKey),
            (r#"{"n": 0.12345678901234567890}"#, ValueKind::JsonKey),
            (r#""\ud800""#, ValueKind::Json),
            ("[0:1]={1,2}", ValueKind::Array(Box::new(ValueKind::Integer))),
            ("123.4500", ValueKind::Text),
        ] {
            assert_eq!(decode(text, &kind), json!(text));
        }
    }

    #[test]
    fn a_document_stays_one_around_a_number_that_json_would_round() {
        let digits = "0.1000000000000000055511151231257827";
        let text = format!(r#"{{"a": {digits}, "b": [1, 2.5]}}"#);
        assert_eq!(decode(&text, &ValueKind::Json), json!({"a": digits, "b": [1, 2.5]}));
    }

    #[test]
    fn a_key_value_can_be_sent_back() {
        for (text, kind) in [
            ("42", ValueKind::Integer),
            ("a b", ValueKind::Text),
            ("{1,NULL,3}", ValueKind::Array(Box::new(ValueKind::Integer))),
            (r#"{"a \"b\"","NULL",""}"#, ValueKind::Array(Box::new(ValueKind::Text))),
        ] {
            assert_eq!(decode(&encode(&decode(text, &kind), &kind), &kind), decode(text, &kind), "{text}");
        }
        assert_eq!(encode(&json!(true), &ValueKind::Bool), "true");
    }
}
