//! The example and the schema, from which users learn what can be configured.

use serde_json::Value;

use super::*;

#[test]
fn the_example_is_valid_and_holds_the_defaults() {
    let example = load(EXAMPLE);
    let minimal = load(COLLECTION);
    assert_eq!(url(&example), URL);
    assert_eq!(format!("{:?}", example.pipeline), format!("{:?}", minimal.pipeline));
    assert_eq!(format!("{:?}", example.server), format!("{:?}", minimal.server));
    assert_eq!(example.sink.directory(), minimal.sink.directory());
    assert_eq!(format!("{:?}", example.embedding), format!("{:?}", minimal.embedding));
    assert_eq!(format!("{:?}", example.source), format!("{:?}", minimal.source));
    let books = &example.collections[0];
    assert_eq!(books.table, TableName::new("public", "books"));
    assert_eq!(books.computed["decade"], "{{ year // 10 * 10 }}");
    assert_eq!(books.index["year"], IndexKind::Integer);
}

#[test]
fn what_the_example_has_commented_out_is_valid_too() {
    let is_key = |line: &str| {
        let key = line.trim_start().strip_prefix("# ").and_then(|rest| rest.split_once(": "));
        key.is_some_and(|(key, _)| matches!(key, "where" | "token"))
    };
    let line = |line: &str| if is_key(line) { line.replacen("# ", "", 1) } else { line.to_owned() };
    let uncommented: Vec<String> = EXAMPLE.lines().map(line).collect();
    let environment = with(&[("DATABASE_URL", URL), ("WALVEC_TOKEN", "t")]);
    let config = parse(&uncommented.join("\n"), &environment, Overrides::default()).unwrap();
    assert_eq!(config.collections[0].filter.as_deref(), Some("year >= 1800"));
    assert!(config.server.token.is_some());
}

/// Returns the names of all keys of a schema, with those of the parts that it refers to.
fn keys(schema: &Value) -> Vec<String> {
    let objects = std::iter::once(schema).chain(schema["$defs"].as_object().into_iter().flat_map(|defs| defs.values()));
    let properties = objects.filter_map(|object| object["properties"].as_object());
    properties.flat_map(|properties| properties.keys().cloned()).collect()
}

#[test]
fn every_key_of_the_schema_is_explained_in_the_example() {
    let schema: Value = serde_json::from_str(&schema()).unwrap();
    let keys = keys(&schema);
    assert!(keys.len() >= 20, "{keys:?}");
    let mut previous_is_comment = false;
    let mut explained = Vec::new();
    for line in EXAMPLE.lines().map(str::trim) {
        let code = line.trim_start_matches("# ").trim_start_matches("- ").trim_start_matches("embedded: { ");
        if previous_is_comment {
            explained.extend(code.split_once(':').map(|(key, _)| key.to_owned()));
            explained.extend(line.split_once(": {").map(|(key, _)| key.to_owned()));
        }
        previous_is_comment = line.starts_with('#');
    }
    let sections = ["source", "collections", "embedding", "sink", "server", "pipeline"];
    for key in keys {
        let is_there = if sections.contains(&key.as_str()) {
            EXAMPLE.lines().any(|line| line == format!("{key}:"))
        } else {
            explained.contains(&key)
        };
        assert!(is_there, "{key} is not in walvec.example.yaml, or without a comment");
    }
}

#[test]
fn the_schema_refuses_unknown_keys_and_describes_every_key() {
    let schema: Value = serde_json::from_str(&schema()).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    for (name, part) in schema["$defs"].as_object().unwrap() {
        for (key, property) in part["properties"].as_object().into_iter().flatten() {
            assert!(property["description"].is_string(), "{name}.{key}");
        }
    }
    assert_eq!(schema["required"], serde_json::json!(["collections"]));
}
