//! The model that turns texts into vectors. The comments on the fields are the manual.

use std::time::Duration;

use schemars::JsonSchema;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use walvec_embed::{Options, ProviderOptions, ProviderProtocol};

use super::values::optional_secret;
use crate::config::names;

/// The model that turns texts into vectors.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EmbeddingSettings {
    /// A model's name, as `walvec model list` shows it, or a directory that holds an ONNX model and its tokenizer, or a static model
    /// (Model2Vec); or a model behind an HTTP interface: `openai/<model>` (OpenAI, and compatible servers), `ollama/<model>`, `tei/<model>`
    /// (Text Embeddings Inference). Collections remember the model they were built with; another one is refused.
    pub(crate) model: String,
    /// Words before each text that is embedded, for models that expect them, e.g. `passage: `. Changing them takes `walvec reindex`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) document_prefix: String,
    /// Words before each query, for models that expect them, e.g. `query: `. May be changed at any time.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) query_prefix: String,
    /// The provider's address, without the protocol's own path. Default: `https://api.openai.com/v1` for `openai/`, `http://localhost:11434` for
    /// `ollama/`; `tei/` has none. This and all following settings are for providers only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
    /// The key, if the provider asks for one. Best written as `${OPENAI_API_KEY}`.
    #[serde(deserialize_with = "optional_secret", skip_serializing)]
    #[schemars(with = "Option<String>")]
    pub(crate) api_key: Option<SecretString>,
    /// The dimension of the vectors, 1 to 65536. Providers that offer a choice are asked for it; answers are checked against it. Default: the
    /// model's own, which a first request at the start finds out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dimensions: Option<usize>,
    /// The maximum number of texts in a request, 1 to 2048. Default: 64 for `openai/`, 32 for the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) batch_items: Option<usize>,
    /// The maximum number of tokens in a request, estimated as a third of the bytes; a longer text is sent alone.
    /// Default: 300000 for `openai/`, 65536 for the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) batch_tokens: Option<u64>,
    /// The maximum number of requests in flight, 1 to 256. Requests that the provider told to wait do not count. Default: 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) concurrency: Option<usize>,
    /// The maximum number of requests per minute, evenly spread. Each process counts its own. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) requests_per_minute: Option<u64>,
    /// The maximum number of tokens per minute, estimated as for `batch_tokens`. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokens_per_minute: Option<u64>,
    /// How long a request may take, in milliseconds, 100 to 3600000. Default: 60000; 300000 for `ollama/`, which may have to
    /// load the model first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_ms: Option<u64>,
}

impl EmbeddingSettings {
    /// Returns the protocol of the provider, if the model is behind one.
    pub(crate) fn protocol(&self) -> Option<ProviderProtocol> {
        ProviderProtocol::of(&self.model).map(|(protocol, _)| protocol)
    }

    /// Returns the address of the provider.
    pub(crate) fn address(&self) -> Option<&str> {
        let protocol = self.protocol()?;
        self.url.as_deref().or(protocol.default_url())
    }

    /// Returns whether the key and the texts go over a network unencrypted.
    pub(crate) fn shows_its_key(&self) -> bool {
        let rest = self.address().and_then(|url| url.strip_prefix("http://"));
        let authority = rest.map(|rest| rest.split('/').next().unwrap_or_default());
        let host = authority.map(|authority| match authority.rsplit_once(':') {
            Some((host, port)) if port.chars().all(|c| c.is_ascii_digit()) => host,
            _ => authority,
        });
        self.api_key.is_some() && host.is_some_and(|host| !names::is_loopback(host))
    }

    /// Returns the options of the embedder, apart from the name.
    pub(crate) fn options(&self) -> Options {
        Options {
            provider: ProviderOptions {
                url: self.url.clone(),
                api_key: self.api_key.clone(),
                dimensions: self.dimensions,
                batch_items: self.batch_items,
                batch_tokens: self.batch_tokens,
                concurrency: self.concurrency,
                requests_per_minute: self.requests_per_minute,
                tokens_per_minute: self.tokens_per_minute,
                timeout: self.timeout_ms.map(Duration::from_millis),
            },
            query_prefix: self.query_prefix.clone(),
            document_prefix: self.document_prefix.clone(),
        }
    }

    /// Returns whether `other` differs at most in the name of the model.
    pub(crate) fn is_used_as(&self, other: &Self) -> bool {
        Self { model: self.model.clone(), ..other.clone() } == *self
    }

    /// Takes over the key of the present configuration if that has the same provider: another provider must not see it.
    pub(crate) fn take_key_of(&mut self, now: &Self) {
        if self.protocol().is_some() && self.protocol() == now.protocol() && self.address() == now.address() {
            self.api_key.clone_from(&now.api_key);
        }
    }
}

impl PartialEq for EmbeddingSettings {
    fn eq(&self, other: &Self) -> bool {
        // Destructured, so that no field can be forgotten.
        let Self {
            model,
            document_prefix,
            query_prefix,
            url,
            api_key,
            dimensions,
            batch_items,
            batch_tokens,
            concurrency,
            requests_per_minute,
            tokens_per_minute,
            timeout_ms,
        } = self;
        let key = |key: &Option<SecretString>| key.as_ref().map(|key| key.expose_secret().to_owned());
        *model == other.model
            && *document_prefix == other.document_prefix
            && *query_prefix == other.query_prefix
            && *url == other.url
            && key(api_key) == key(&other.api_key)
            && *dimensions == other.dimensions
            && *batch_items == other.batch_items
            && *batch_tokens == other.batch_tokens
            && *concurrency == other.concurrency
            && *requests_per_minute == other.requests_per_minute
            && *tokens_per_minute == other.tokens_per_minute
            && *timeout_ms == other.timeout_ms
    }
}

impl Default for EmbeddingSettings {
    fn default() -> Self {
        Self {
            // The model of the tutorial stack that walvec replaces: small, English, under an Apache-compatible licence.
            model: "BAAI/bge-small-en-v1.5".to_owned(),
            document_prefix: String::new(),
            query_prefix: String::new(),
            url: None,
            api_key: None,
            dimensions: None,
            batch_items: None,
            batch_tokens: None,
            concurrency: None,
            requests_per_minute: None,
            tokens_per_minute: None,
            timeout_ms: None,
        }
    }
}
