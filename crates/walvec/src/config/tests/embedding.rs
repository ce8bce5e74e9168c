//! The embedding model and its provider.

use super::*;

fn embedding(fields: &str) -> Config {
    load(&format!("{COLLECTION}embedding: {{ {fields} }}\n"))
}

#[test]
fn a_provider_needs_its_models_name_and_little_else() {
    let openai = embedding("model: openai/text-embedding-3-small, api_key: k").embedding;
    assert_eq!(openai.address(), Some("https://api.openai.com/v1"));
    assert_eq!(embedding("model: ollama/bge-m3").embedding.address(), Some("http://localhost:11434"));
    assert_eq!(
        embedding("model: tei/m, url: 'http://10.0.0.1:8080'").embedding.address(),
        Some("http://10.0.0.1:8080")
    );
    assert_eq!(embedding("model: hash/64").embedding.address(), None);
    // A server that is compatible with OpenAI may need no key.
    assert!(embedding("model: openai/m, url: 'http://localhost:8000/v1'").embedding.api_key.is_none());
}

#[test]
fn what_a_provider_cannot_use_names_the_key_and_what_to_write() {
    for (fields, expected) in [
        ("model: openai/", "embedding.model: which model? write for example openai/text-embedding-3-small"),
        ("model: openai/m", "embedding.api_key: missing; OpenAI asks for one, write api_key: ${OPENAI_API_KEY}"),
        ("model: tei/m", "embedding.url: missing; write where the server"),
        ("model: tei/m, url: 'localhost:8080'", "embedding.url: not an address"),
        ("model: tei/m, url: 'http://169.254.169.254'", "embedding.url: 169.254.169.254 is a link-local address"),
        ("model: openai/m, api_key: ''", "embedding.api_key: must not be empty"),
        ("model: ollama/m, dimensions: 0", "embedding.dimensions: 0 is out of range; 1 to 65536"),
        ("model: ollama/m, batch_items: 2049", "embedding.batch_items: 2049 is out of range; 1 to 2048"),
        ("model: ollama/m, concurrency: 0", "embedding.concurrency: 0 is out of range; 1 to 256"),
        ("model: ollama/m, requests_per_minute: 0", "embedding.requests_per_minute: 0 is out of range"),
        ("model: ollama/m, timeout_ms: 5", "embedding.timeout_ms: 5 is out of range; 100 to 3600000"),
    ] {
        let message = refusal(&format!("{COLLECTION}embedding: {{ {fields} }}\n"));
        assert!(message.contains(expected), "{fields}: {message}");
    }
}

#[test]
fn a_key_for_providers_is_refused_beside_a_model_that_runs_here_and_a_prefix_is_not() {
    for field in
        ["url: 'http://a'", "api_key: k", "dimensions: 4", "batch_items: 4", "concurrency: 4", "timeout_ms: 400"]
    {
        let message = refusal(&format!("{COLLECTION}embedding: {{ model: BAAI/m, {field} }}\n"));
        let key = field.split(':').next().unwrap();
        assert!(message.contains(&format!("embedding.{key}: of no use: BAAI/m runs in this process")), "{message}");
    }
    let prefixed = embedding("model: BAAI/m, query_prefix: 'query: ', document_prefix: 'passage: '").embedding;
    assert_eq!((prefixed.query_prefix.as_str(), prefixed.document_prefix.as_str()), ("query: ", "passage: "));
}

#[test]
fn the_key_is_remembered_nowhere_and_goes_to_its_own_provider_only() {
    let now = embedding("model: openai/new, api_key: s3cret").embedding;
    assert!(!format!("{now:?}").contains("s3cret"));
    let written = serde_json::to_string(&now).unwrap();
    assert!(!written.contains("s3cret"), "{written}");
    let remembered = |text: &str| serde_json::from_str::<EmbeddingSettings>(text).unwrap();
    let mut same = remembered(&written);
    assert!(same != now);
    same.take_key_of(&now);
    assert!(same == now && same.is_used_as(&now));
    for other in
        [r#"{"model":"ollama/m"}"#, r#"{"model":"openai/m","url":"https://elsewhere/v1"}"#, r#"{"model":"hash/64"}"#]
    {
        let mut other = remembered(other);
        other.take_key_of(&now);
        assert!(other.api_key.is_none());
    }
    assert_eq!(serde_json::to_string(&EmbeddingSettings::default()).unwrap(), r#"{"model":"BAAI/bge-small-en-v1.5"}"#);
}

#[test]
fn a_key_that_travels_unencrypted_is_noticed() {
    for (url, shows) in [
        ("http://host/v1", true),
        ("http://10.0.0.1:80/v1", true),
        ("http://localhost:80/v1", false),
        ("http://[::1]:80", false),
        ("http://127.0.0.1", false),
        ("https://host/v1", false),
    ] {
        let settings = embedding(&format!("model: openai/m, api_key: k, url: '{url}'")).embedding;
        assert_eq!(settings.shows_its_key(), shows, "{url}");
    }
    assert!(!embedding("model: openai/m, url: 'http://host/v1'").embedding.shows_its_key());
}
