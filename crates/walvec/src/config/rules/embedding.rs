//! Rules for the embedding model and its provider.

use secrecy::ExposeSecret as _;
use walvec_embed::{ProviderProtocol, provider};

use super::{Violation, in_range, violation};
use crate::config::Config;
use crate::config::schema::embedding::EmbeddingSettings;

/// The largest dimension that a Qdrant collection accepts.
const MAX_DIMENSION: u64 = 65_536;

/// OpenAI's limit; no provider takes more.
const MAX_BATCH_ITEMS: u64 = 2048;

/// The largest limit: beyond it there is no limit in effect.
const MAX_PER_MINUTE: u64 = 1_000_000_000_000;

pub(super) fn check_embedding(config: &Config) -> Result<(), Violation> {
    let embedding = &config.embedding;
    let model = &embedding.model;
    if model.trim().is_empty() {
        return violation("embedding.model", "empty; `walvec model list` shows what is installed");
    }
    match ProviderProtocol::of(model) {
        Some((protocol, name)) => check_provider(embedding, protocol, name),
        None => check_local(embedding),
    }
}

/// Refuses the keys of providers for a model that runs in this process, because they would have no
/// effect.
fn check_local(embedding: &EmbeddingSettings) -> Result<(), Violation> {
    let given = [
        ("url", embedding.url.is_some()),
        ("api_key", embedding.api_key.is_some()),
        ("dimensions", embedding.dimensions.is_some()),
        ("batch_items", embedding.batch_items.is_some()),
        ("batch_tokens", embedding.batch_tokens.is_some()),
        ("concurrency", embedding.concurrency.is_some()),
        ("requests_per_minute", embedding.requests_per_minute.is_some()),
        ("tokens_per_minute", embedding.tokens_per_minute.is_some()),
        ("timeout_ms", embedding.timeout_ms.is_some()),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((key, _)) => violation(
            format!("embedding.{key}"),
            format!(
                "of no use: {} runs in this process; remove it, or let embedding.model begin with openai/, ollama/ or tei/",
                embedding.model
            ),
        ),
        None => Ok(()),
    }
}

fn check_provider(embedding: &EmbeddingSettings, protocol: ProviderProtocol, name: &str) -> Result<(), Violation> {
    if name.trim().is_empty() {
        let reason = format!("which model? write for example {}/{}", protocol.name(), example(protocol));
        return violation("embedding.model", reason);
    }
    match embedding.address() {
        Some(url) => provider::check_url(url).or_else(|reason| violation("embedding.url", reason))?,
        None => {
            let reason = format!(
                "missing; write where the server of {}/ is, for example http://localhost:8080",
                protocol.name()
            );
            return violation("embedding.url", reason);
        }
    }
    match embedding.api_key.as_ref().map(|key| key.expose_secret()) {
        Some(key) if key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic()) => {
            let reason = "must not be empty, and must hold only visible ASCII characters: it travels in a header";
            return violation("embedding.api_key", reason);
        }
        None if protocol == ProviderProtocol::OpenAi && embedding.url.is_none() => {
            let reason = "missing; OpenAI asks for one, write api_key: ${OPENAI_API_KEY}, or the url of another server";
            return violation("embedding.api_key", reason);
        }
        Some(_) | None => {}
    }
    let count = |count: Option<usize>| count.map(|count| count as u64);
    let ranges = [
        ("embedding.dimensions", count(embedding.dimensions), 1..=MAX_DIMENSION),
        ("embedding.batch_items", count(embedding.batch_items), 1..=MAX_BATCH_ITEMS),
        ("embedding.batch_tokens", embedding.batch_tokens, 1..=MAX_PER_MINUTE),
        ("embedding.concurrency", count(embedding.concurrency), 1..=256),
        ("embedding.requests_per_minute", embedding.requests_per_minute, 1..=MAX_PER_MINUTE),
        ("embedding.tokens_per_minute", embedding.tokens_per_minute, 1..=MAX_PER_MINUTE),
        ("embedding.timeout_ms", embedding.timeout_ms, 100..=3_600_000),
    ];
    ranges.into_iter().try_for_each(|(key, value, range)| value.map_or(Ok(()), |value| in_range(key, value, range)))
}

const fn example(protocol: ProviderProtocol) -> &'static str {
    match protocol {
        ProviderProtocol::OpenAi => "text-embedding-3-small",
        ProviderProtocol::Ollama => "nomic-embed-text",
        ProviderProtocol::Tei => "BAAI/bge-small-en-v1.5",
    }
}
