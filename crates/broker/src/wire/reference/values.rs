//! Single values as wal2json writes them: numbers, booleans and null as JSON, everything else as PostgreSQL's text.
//!
//! The format itself has limits. Arrays are read as their literals (`{1,2}`), because a type's name does not show the
//! form of its elements. A domain is only known by its own name, so a domain over json is read as text. A numeric that
//! another program wrote as a JSON number has lost its trailing zeros.

use serde::de::IgnoredAny;
use serde_json::Value;
use walvec_model::exact_json;

use super::super::{json, shapes};

/// Appends `value` of a column whose type is called `type_name`.
pub(super) fn write(out: &mut Vec<u8>, type_name: &str, value: &Value) {
    match value {
        Value::Null => json::raw(out, "null"),
        Value::String(text) if is_json(type_name) => json::value(out, &document(text)),
        value if is_json(type_name) => json::value(out, &value.to_string()),
        Value::String(text) if type_name == "bytea" => json::value(out, text.strip_prefix("\\x").unwrap_or(text)),
        Value::Array(items) => json::value(out, &literal(items, type_name.starts_with("json"))),
        Value::Object(_) => json::value(out, &value.to_string()),
        scalar => json::value(out, scalar),
    }
}

/// Reads a value that [`write()`] or wal2json wrote.
pub(super) fn read(type_name: &str, value: Value) -> Value {
    match value {
        Value::String(text) if is_json(type_name) => exact_json::document(&text),
        Value::String(text) if type_name == "bytea" && !text.starts_with("\\x") => Value::String(format!("\\x{text}")),
        Value::Number(number) if type_name.starts_with("numeric") => Value::String(number.to_string()),
        other => other,
    }
}

/// Returns the `pg_type.oid` of the types that point ids depend on, by the names that `format_type` gives them.
pub(super) fn oid(type_name: &str) -> u32 {
    match type_name {
        "bigint" => shapes::INT8,
        "integer" => shapes::INT4,
        "smallint" => shapes::INT2,
        "uuid" => shapes::UUID,
        _ => shapes::TEXT,
    }
}

fn is_json(type_name: &str) -> bool {
    matches!(type_name, "json" | "jsonb")
}

/// Returns the document for a text in a json column, usually as a JSON string. A document with a number that JSON
/// readers would round is kept as text by capture; that text is the document.
fn document(text: &str) -> String {
    let is_kept =
        || serde_json::from_str::<IgnoredAny>(text).is_ok() && exact_json::key_document(text).as_str() == Some(text);
    if is_kept() { text.to_owned() } else { Value::from(text).to_string() }
}

/// Formats an array as `array_out` does.
fn literal(items: &[Value], of_json: bool) -> String {
    let element = |item: &Value| match item {
        Value::Null => "NULL".to_owned(),
        Value::Array(items) if !of_json => literal(items, of_json),
        Value::Bool(flag) if !of_json => if *flag { "t" } else { "f" }.to_owned(),
        Value::String(text) if of_json => quoted(&document(text)),
        Value::String(text) => quoted(text),
        other => quoted(&other.to_string()),
    };
    format!("{{{}}}", items.iter().map(element).collect::<Vec<_>>().join(","))
}

fn quoted(text: &str) -> String {
    let is_special =
        |character: char| matches!(character, '{' | '}' | ',' | '"' | '\\') || character.is_ascii_whitespace();
    if text.is_empty() || text.eq_ignore_ascii_case("null") || text.contains(is_special) {
        return format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(type_name: &str, value: &Value) -> Value {
        let mut out = Vec::new();
        write(&mut out, type_name, value);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn values_are_written_as_wal2json_writes_them() {
        for (type_name, value, expected) in [
            ("integer", json!(7), json!(7)),
            ("boolean", json!(true), json!(true)),
            ("numeric(9,2)", json!("1.50"), json!("1.50")),
            ("bytea", json!("\\x00ff"), json!("00ff")),
            ("jsonb", json!({"a": [1]}), json!(r#"{"a":[1]}"#)),
            ("jsonb", json!("a"), json!("\"a\"")),
            ("integer[]", json!([[1, null], [2, 3]]), json!("{{1,NULL},{2,3}}")),
            ("text[]", json!(["a b", "null", "", "c", "d\"\\"]), json!(r#"{"a b","null","",c,"d\"\\"}"#)),
            ("boolean[]", json!([true, false]), json!("{t,f}")),
            ("jsonb[]", json!([{"a": 1}, [1, 2], "x", true]), json!(r#"{"{\"a\":1}","[1,2]","\"x\"",true}"#)),
        ] {
            assert_eq!(written(type_name, &value), expected, "{type_name}");
            if !type_name.ends_with("[]") {
                assert_eq!(read(type_name, expected), value, "{type_name}");
            }
        }
    }

    #[test]
    fn the_text_of_a_document_in_a_key_is_the_document() {
        assert_eq!(written("jsonb", &json!("[18446744073709551616]")), json!("[18446744073709551616]"));
        assert_eq!(read("jsonb", json!("[18446744073709551616]")), json!(["18446744073709551616"]));
    }

    #[test]
    fn what_wal2json_writes_by_itself_reads_as_capture_reads_it() {
        assert_eq!(read("numeric", json!(12.5)), json!("12.5"));
        assert_eq!(read("json", json!(r#"{ "a" : null }"#)), json!({"a": null}));
        assert_eq!(read("integer[]", json!("{1,2}")), json!("{1,2}"));
    }
}
