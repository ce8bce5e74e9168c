//! A walvec.yaml.

use serde_json::{Map, Value, json};

/// The model of most tests: deterministic, by words only, without model files.
pub const MODEL: &str = "hash/64";

/// A collection, and the table it is an image of.
#[derive(Clone, Debug)]
pub struct Collection {
    name: String,
    settings: Map<String, Value>,
}

impl Collection {
    /// Returns the collection `name` of `table` (`schema.table`), whose text is rendered by the template `text`.
    #[must_use]
    pub fn new(name: &str, table: &str, text: &str) -> Self {
        let settings = [("name", name), ("table", table), ("text", text)];
        let settings = settings.map(|(key, value)| (key.to_owned(), json!(value))).into_iter().collect();
        Self { name: name.to_owned(), settings }
    }

    /// Sets any other key of a collection, e.g. `payload` or `where`.
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.settings.insert(key.to_owned(), value);
        self
    }

    /// The collection's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A configuration without the keys that the context fills in: the database, the slot, the data directory.
#[derive(Clone, Debug)]
pub struct Settings {
    collections: Vec<Collection>,
    /// Top-level sections, merged key by key into what the context fills in.
    sections: Map<String, Value>,
}

impl Settings {
    /// Returns a configuration with these collections.
    #[must_use]
    pub fn new(collections: impl IntoIterator<Item = Collection>) -> Self {
        Self { collections: collections.into_iter().collect(), sections: Map::new() }
    }

    /// Sets any other key, e.g. `with("pipeline", json!({"batch_rows": 16}))`. Keys that are already set stay.
    #[must_use]
    pub fn with(mut self, section: &str, value: Value) -> Self {
        merge(self.sections.entry(section).or_insert_with(|| json!({})), value);
        self
    }

    /// Returns whether points go to a Qdrant server instead of the engine inside the process.
    pub(crate) fn has_qdrant_server(&self) -> bool {
        self.sections.get("sink").is_some_and(|sink| sink.get("qdrant").is_some())
    }

    /// Returns the file's text, which is JSON and therefore also YAML.
    pub(crate) fn render(&self, url: &str, slot: &str) -> String {
        let collections: Vec<&Map<String, Value>> = self.collections.iter().map(|c| &c.settings).collect();
        let mut all = json!({
            "source": { "url": url, "slot": slot, "publication": "walvec" },
            "collections": collections,
            "embedding": { "model": MODEL },
            "sink": { "embedded": { "path": "data" } },
            "server": { "listen": "127.0.0.1:0" },
        });
        if self.has_qdrant_server() {
            all["sink"] = json!({ "qdrant": { "state": "data" } });
        }
        merge(&mut all, Value::Object(self.sections.clone()));
        format!("{all:#}\n")
    }
}

/// Merges `new` into `base`, object by object.
fn merge(base: &mut Value, new: Value) {
    match (base, new) {
        (Value::Object(base), Value::Object(new)) => {
            for (key, value) in new {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, new) => *base = new,
    }
}
