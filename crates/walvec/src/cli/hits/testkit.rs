//! A configuration of one collection, and hits of it, for tests.

use serde_json::{Value, json};

use crate::config::{CollectionConfig, Config, Environment, Overrides};

/// Makes a configuration of one collection with these further keys, as YAML in one line.
pub(in crate::cli) fn config(keys: &str) -> Config {
    let text = format!(
        "source: {{ url: 'postgres://u@localhost/d' }}\n\
         embedding: {{ model: hash/64 }}\n\
         collections: [{{ name: books, table: public.books, {keys} }}]\n"
    );
    let environment = Environment::of(&[("HOME", "/home/u")]);
    Config::from_text(&text, &environment, Overrides::default()).unwrap()
}

/// Returns the collection of such a configuration.
pub(super) fn collection(keys: &str) -> CollectionConfig {
    config(keys).collections.remove(0)
}

/// Makes a collection of books whose titles are in `name`.
pub(super) fn books() -> CollectionConfig {
    collection("text: '{{ name }} by {{ author }}. {{ description }}'")
}

pub(super) fn hit(id: u64, score: f64, payload: Value) -> Value {
    json!({"id": id, "score": score, "payload": payload})
}
