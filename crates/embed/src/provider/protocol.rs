//! What the three protocols have in common, and where they differ.

use std::time::Duration;

use serde_json::Value;

use super::{ollama, openai, tei};

/// How to talk to a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderProtocol {
    /// OpenAI's `/v1/embeddings`, which many servers speak.
    OpenAi,
    /// Ollama's `/api/embed`.
    Ollama,
    /// Text Embeddings Inference's `/embed`.
    Tei,
}

/// A request before it is written as JSON.
pub(crate) struct ProviderQuestion<'a> {
    pub(crate) model: &'a str,
    pub(crate) dimensions: Option<usize>,
    pub(crate) texts: &'a [String],
    /// Whether the answer may hold vectors as base64, which takes a quarter of the size.
    pub(crate) base64: bool,
    /// Whether a text that is too long shall be cut. Otherwise it is refused.
    pub(crate) truncate: bool,
}

impl ProviderProtocol {
    /// The default of requests in flight: enough to hide a network's latency, few enough for a provider's smallest plan.
    pub const CONCURRENCY: usize = 4;

    /// Every protocol.
    pub const ALL: [Self; 3] = [Self::OpenAi, Self::Ollama, Self::Tei];

    /// Returns the protocol that a model's name begins with, and the rest of the name.
    #[must_use]
    pub fn of(name: &str) -> Option<(Self, &str)> {
        let behind = |protocol: Self| name.strip_prefix(protocol.name())?.strip_prefix('/');
        Self::ALL.into_iter().find_map(|protocol| Some((protocol, behind(protocol)?)))
    }

    /// Returns the first part of the names of its models.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Ollama => "ollama",
            Self::Tei => "tei",
        }
    }

    /// Returns the default address. Text Embeddings Inference has no usual one.
    #[must_use]
    pub const fn default_url(self) -> Option<&'static str> {
        match self {
            Self::OpenAi => Some("https://api.openai.com/v1"),
            Self::Ollama => Some("http://localhost:11434"),
            Self::Tei => None,
        }
    }

    /// Returns the default of texts per request. OpenAI takes 2048, but smaller concurrent requests are answered sooner;
    /// Text Embeddings Inference takes 32 unless configured otherwise.
    #[must_use]
    pub const fn batch_items(self) -> usize {
        match self {
            Self::OpenAi => 64,
            Self::Ollama | Self::Tei => 32,
        }
    }

    /// Returns the default of estimated tokens per request. OpenAI takes 300,000; the others have no known limit, and are
    /// slow.
    #[must_use]
    pub const fn batch_tokens(self) -> u64 {
        match self {
            Self::OpenAi => 300_000,
            Self::Ollama | Self::Tei => 65_536,
        }
    }

    /// Returns how long a request may take. Ollama may have to load the model first.
    #[must_use]
    pub const fn timeout(self) -> Duration {
        match self {
            Self::OpenAi | Self::Tei => Duration::from_secs(60),
            Self::Ollama => Duration::from_secs(300),
        }
    }

    /// Returns whether a request can say that a text that is too long shall be cut. OpenAI refuses such a text.
    pub(crate) const fn can_truncate(self) -> bool {
        match self {
            Self::OpenAi => false,
            Self::Ollama | Self::Tei => true,
        }
    }

    /// Returns the path that follows the configured address.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::OpenAi => "embeddings",
            Self::Ollama => "api/embed",
            Self::Tei => "embed",
        }
    }

    /// Builds the body of a request.
    pub(crate) fn request(self, question: &ProviderQuestion<'_>) -> Value {
        match self {
            Self::OpenAi => openai::request(question),
            Self::Ollama => ollama::request(question),
            Self::Tei => tei::request(question),
        }
    }

    /// Reads the vectors of an answer, in the order of the texts. A missing number becomes NaN.
    pub(crate) fn vectors(self, body: &[u8]) -> Result<Vec<Vec<f32>>, String> {
        match self {
            Self::OpenAi => openai::vectors(body),
            Self::Ollama => ollama::vectors(body),
            Self::Tei => tei::vectors(body),
        }
    }
}

/// Reads the numbers of a JSON array, where `null` stands for a number that JSON cannot write.
pub(super) fn numbers(written: Vec<Option<f32>>) -> Vec<f32> {
    written.into_iter().map(|number| number.unwrap_or(f32::NAN)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_begins_with_its_protocol() {
        assert_eq!(
            ProviderProtocol::of("openai/text-embedding-3-small"),
            Some((ProviderProtocol::OpenAi, "text-embedding-3-small"))
        );
        assert_eq!(ProviderProtocol::of("ollama/bge-m3:567m"), Some((ProviderProtocol::Ollama, "bge-m3:567m")));
        assert_eq!(ProviderProtocol::of("tei/BAAI/bge-small"), Some((ProviderProtocol::Tei, "BAAI/bge-small")));
        assert_eq!(ProviderProtocol::of("openai"), None);
        assert_eq!(ProviderProtocol::of("BAAI/bge-small-en-v1.5"), None);
    }
}
