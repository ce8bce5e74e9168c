//! Values of columns: the SQL that reads them as text, and what points hold instead of that text.
//!
//! PostgreSQL makes the JSON of booleans, whole numbers and arrays; any other type is its own text.

use serde_json::{Number, Value};

use crate::table::{SentColumn, TextForm};

/// Returns the SQL that reads a column as text.
pub(crate) fn expression(name: &str, column: &SentColumn) -> String {
    match &column.kind {
        TextForm::Unused => "NULL::text".to_owned(),
        TextForm::Plain => format!("to_json({name})::text"),
        TextForm::Oid => format!("to_json({name}::bigint)::text"),
        TextForm::Float | TextForm::Numeric | TextForm::Document | TextForm::KeyDocument | TextForm::Text => {
            format!("{name}::text")
        }
        // `IS NOT NULL` would be false for a composite value with a NULL part.
        TextForm::Printed => format!("CASE WHEN {name} IS DISTINCT FROM NULL THEN format('%s', {name}) END"),
        // JSON cannot express an array with bounds of its own, as in [0:1]={a,b}.
        TextForm::Array(_) => format!(
            "CASE WHEN left({name}::text, 1) = '[' THEN to_json({name}::text) ELSE to_json({name}::text::text[]) END::text"
        ),
    }
}

/// Converts the text of a column to the value that points hold.
pub(crate) fn value(text: Option<&str>, kind: &TextForm) -> Value {
    let Some(text) = text else { return Value::Null };
    match kind {
        TextForm::Unused => Value::Null,
        TextForm::Text | TextForm::Numeric | TextForm::Printed => text.into(),
        TextForm::Plain | TextForm::Oid => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        TextForm::Float => text.parse().ok().and_then(Number::from_f64).map_or_else(|| text.into(), Value::Number),
        TextForm::Document => document(text),
        TextForm::KeyDocument => key_document(text),
        TextForm::Array(element) => {
            serde_json::from_str(text).map_or_else(|_| text.into(), |array| elements(array, element))
        }
    }
}

/// Converts the texts in an array by the kind of its elements. An array with bounds of its own is one text.
fn elements(array: Value, kind: &TextForm) -> Value {
    match array {
        Value::Array(items) => items.into_iter().map(|item| element(item, kind)).collect(),
        other => other,
    }
}

fn element(item: Value, kind: &TextForm) -> Value {
    match (item, kind) {
        (Value::String(text), TextForm::Plain) if text == "t" || text == "f" => (text == "t").into(),
        (Value::String(text), kind) => value(Some(&text), kind),
        (nested, kind) => elements(nested, kind),
    }
}

/// Parses a document; a number that would be rounded becomes a text of its digits.
fn document(text: &str) -> Value {
    let mut with_texts = String::new();
    let mut rest = text;
    for number in numbers(text).filter(|number| !survives(number)) {
        let Some((before, after)) = split_at_slice(rest, number) else { continue };
        with_texts.push_str(&format!("{before}\"{number}\""));
        rest = after;
    }
    with_texts.push_str(rest);
    serde_json::from_str(&with_texts).unwrap_or_else(|_| text.into())
}

/// Returns what precedes and follows `part`, which is a slice of `text`.
fn split_at_slice<'a>(text: &'a str, part: &str) -> Option<(&'a str, &'a str)> {
    let start = (part.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    Some((text.get(..start)?, text.get(start + part.len()..)?))
}

/// Parses a document if none of its numbers would be rounded; otherwise returns its text.
fn key_document(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(document) if numbers(text).all(survives) => document,
        _ => text.into(),
    }
}

/// Returns the numbers in a JSON text.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let mut in_string = false;
    let mut escaped = false;
    let outside = text.split(move |character: char| {
        if in_string {
            in_string = escaped || character != '"';
            escaped = character == '\\' && !escaped;
            return true;
        }
        in_string = character == '"';
        !(character.is_ascii_digit() || matches!(character, '+' | '-' | '.' | 'e' | 'E'))
    });
    // Parts without a digit are empty, or the letter `e` of `true` and `false`.
    outside.filter(|part| part.contains(|character: char| character.is_ascii_digit()))
}

/// Returns whether a number keeps its digits when it is parsed.
fn survives(number: &str) -> bool {
    if !number.contains(['.', 'e', 'E']) {
        return number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
    }
    // Printed as the JSON of points is: if two shortest texts are equally near, libraries choose differently.
    let read = serde_json::from_str::<f64>(number).ok().and_then(Number::from_f64);
    read.is_some_and(|read| digits(&read.to_string()) == digits(number))
}

/// Returns the sign, the digits without leading and trailing zeros, and the power of ten behind the last digit.
fn digits(number: &str) -> Option<(bool, String, i64)> {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let negative = mantissa.starts_with('-');
    let unsigned = mantissa.trim_start_matches('-');
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let exponent = exponent.parse::<i64>().ok()? - i64::try_from(fraction.len()).ok()?;
    let all = format!("{whole}{fraction}");
    let significant = all.trim_end_matches('0');
    let zeros = i64::try_from(all.len() - significant.len()).ok()?;
    let significant = significant.trim_start_matches('0').to_owned();
    let exponent = if significant.is_empty() { 0 } else { exponent + zeros };
    Some((negative, significant, exponent))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_json_cannot_hold_is_text() {
        for (text, kind, expected) in [
            ("true", TextForm::Plain, json!(true)),
            ("-9223372036854775808", TextForm::Plain, json!(i64::MIN)),
            ("0.1", TextForm::Float, json!(0.1)),
            ("1e+300", TextForm::Float, json!(1e300)),
            ("NaN", TextForm::Float, json!("NaN")),
            ("-Infinity", TextForm::Float, json!("-Infinity")),
            (r#"{"b": [1, null], "a": 2.50}"#, TextForm::Document, json!({"b": [1, null], "a": 2.5})),
            (
                r#"{"n": 18446744073709551615, "s": "\"18446744073709551616"}"#,
                TextForm::Document,
                json!({"n": u64::MAX, "s": "\"18446744073709551616"}),
            ),
            (r#"{"n": 18446744073709551616}"#, TextForm::KeyDocument, json!(r#"{"n": 18446744073709551616}"#)),
            (r#"{"n": 18446744073709551616}"#, TextForm::Document, json!({"n": "18446744073709551616"})),
            (r#"[0.12345678901234567890, 1]"#, TextForm::Document, json!(["0.12345678901234567890", 1])),
            (r#"[1e400]"#, TextForm::KeyDocument, json!("[1e400]")),
            (r#"[1e300, -0.0, 100, 1.5E3, true]"#, TextForm::Document, json!([1e300, -0.0, 100, 1500.0, true])),
            (r#"["t",null,"f"]"#, TextForm::Array(Box::new(TextForm::Plain)), json!([true, null, false])),
            (r#"[["1","2"],["3",null]]"#, TextForm::Array(Box::new(TextForm::Plain)), json!([[1, 2], [3, null]])),
            (r#"["0.5","NaN"]"#, TextForm::Array(Box::new(TextForm::Float)), json!([0.5, "NaN"])),
            (r#"["{\"a\": 1}"]"#, TextForm::Array(Box::new(TextForm::Document)), json!([{"a": 1}])),
            (r#""[0:1]={1,2}""#, TextForm::Array(Box::new(TextForm::Plain)), json!("[0:1]={1,2}")),
        ] {
            assert_eq!(value(Some(text), &kind), expected, "{text}");
        }
        assert_eq!(value(None, &TextForm::Text), json!(null));
    }

    proptest! {
        #[test]
        fn every_float_that_serde_reads_back_survives(float in any::<f64>().prop_filter("finite", |f| f.is_finite())) {
            let text = format!("{float:e}");
            let read: f64 = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(survives(&text), read == float, "{}", text);
        }
    }
}
