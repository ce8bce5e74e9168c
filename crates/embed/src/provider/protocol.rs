//! What the three protocols have in common, and where they differ.

use std::time::Duration;

use serde_json::Value;

use super::{ollama, openai, tei};

/// How to talk to a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OpenAI's `/v1/embeddings`, which many servers speak.
    OpenAi,
    /// Ollama's `/api/embed`.
    Ollama,
    /// Text Embeddings Inference's `/embed`.
    Tei,
}

/// A request, before it is text.
pub(crate) struct Question<'a> {
    pub(crate) model: &'a str,
    pub(crate) dimensions: Option<usize>,
    pub(crate) texts: &'a [String],
    /// Whether vectors may come as base64, which is a quarter of the size.
    pub(crate) base64: bool,
    /// Whether a text that is too long shall be cut. Else it is refused.
    pub(crate) truncate: bool,
}

impl Protocol {
    /// Enough to hide a network's latency, few enough for a provider's smallest plan.
    pub const CONCURRENCY: usize = 4;

    /// Every protocol.
    pub const ALL: [Self; 3] = [Self::OpenAi, Self::Ollama, Self::Tei];

    /// The protocol that a model's name begins with, and the name behind it.
    #[must_use]
    pub fn of(name: &str) -> Option<(Self, &str)> {
        let behind = |protocol: Self| name.strip_prefix(protocol.name())?.strip_prefix('/');
        Self::ALL.into_iter().find_map(|protocol| Some((protocol, behind(protocol)?)))
    }

    /// What a model's name begins with.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Ollama => "ollama",
            Self::Tei => "tei",
        }
    }

    /// Where it is if nothing else is said. Text Embeddings Inference has no usual place.
    #[must_use]
    pub const fn default_url(self) -> Option<&'static str> {
        match self {
            Self::OpenAi => Some("https://api.openai.com/v1"),
            Self::Ollama => Some("http://localhost:11434"),
            Self::Tei => None,
        }
    }

    /// Texts of a request. OpenAI takes 2048, but smaller requests that go side by side are answered sooner; Text Embeddings
    /// Inference takes 32 unless told otherwise.
    #[must_use]
    pub const fn batch_items(self) -> usize {
        match self {
            Self::OpenAi => 64,
            Self::Ollama | Self::Tei => 32,
        }
    }

    /// Estimated tokens of a request. OpenAI takes 300,000; the others have no limit that is known, and are slow.
    #[must_use]
    pub const fn batch_tokens(self) -> u64 {
        match self {
            Self::OpenAi => 300_000,
            Self::Ollama | Self::Tei => 65_536,
        }
    }

    /// How long a request may take. Ollama may have to load the model first.
    #[must_use]
    pub const fn timeout(self) -> Duration {
        match self {
            Self::OpenAi | Self::Tei => Duration::from_secs(60),
            Self::Ollama => Duration::from_secs(300),
        }
    }

    /// Whether a request says what becomes of a text that is too long. OpenAI refuses it.
    pub(crate) const fn can_truncate(self) -> bool {
        match self {
            Self::OpenAi => false,
            Self::Ollama | Self::Tei => true,
        }
    }

    /// What comes behind the configured address.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::OpenAi => "embeddings",
            Self::Ollama => "api/embed",
            Self::Tei => "embed",
        }
    }

    /// The body of a request.
    pub(crate) fn request(self, question: &Question<'_>) -> Value {
        match self {
            Self::OpenAi => openai::request(question),
            Self::Ollama => ollama::request(question),
            Self::Tei => tei::request(question),
        }
    }

    /// The vectors of an answer, in the order of the texts. A number that is missing is NaN.
    pub(crate) fn vectors(self, body: &[u8]) -> Result<Vec<Vec<f32>>, String> {
        match self {
            Self::OpenAi => openai::vectors(body),
            Self::Ollama => ollama::vectors(body),
            Self::Tei => tei::vectors(body),
        }
    }
}

/// Numbers of a JSON array; `null` is how JSON writes a number that is none.
pub(super) fn numbers(written: Vec<Option<f32>>) -> Vec<f32> {
    written.into_iter().map(|number| number.unwrap_or(f32::NAN)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_begins_with_its_protocol() {
        assert_eq!(Protocol::of("openai/text-embedding-3-small"), Some((Protocol::OpenAi, "text-embedding-3-small")));
        assert_eq!(Protocol::of("ollama/bge-m3:567m"), Some((Protocol::Ollama, "bge-m3:567m")));
        assert_eq!(Protocol::of("tei/BAAI/bge-small"), Some((Protocol::Tei, "BAAI/bge-small")));
        assert_eq!(Protocol::of("openai"), None);
        assert_eq!(Protocol::of("BAAI/bge-small-en-v1.5"), None);
    }
}
