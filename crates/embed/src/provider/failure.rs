//! What a request that failed means.

use std::time::Duration;

use crate::EmbedError;
use crate::error::CHUNK;

/// Why there are no vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Not now: the provider is away, fails, or has had enough for the moment.
    Later {
        reason: String,
        /// When it wants to be asked again.
        after: Option<Duration>,
    },
    /// The provider fails over this request: it is unwell, or one of the texts is more than it can take.
    Failing(String),
    /// What came back are not the vectors of what was asked.
    Answer(String),
    /// Vectors of another dimension came back.
    Dimension { expected: usize, found: usize },
    /// This request is not accepted: of several texts one may be to blame.
    Request(String),
    /// No request is accepted until somebody changes something.
    Definite { reason: String, remedy: String },
}

impl Failure {
    /// Whether the same request may succeed.
    pub(super) const fn is_worth_repeating(&self) -> bool {
        match self {
            // A router with several servers behind it, one of which is not like the others.
            Self::Later { .. } | Self::Failing(_) | Self::Answer(_) | Self::Dimension { .. } => true,
            Self::Request(_) | Self::Definite { .. } => false,
        }
    }

    /// Whether a text may be to blame, although nothing says so: the provider does not fail over others.
    pub(super) const fn may_be_a_texts(&self) -> bool {
        match self {
            Self::Failing(_) | Self::Answer(_) => true,
            Self::Later { .. } | Self::Dimension { .. } | Self::Request(_) | Self::Definite { .. } => false,
        }
    }

    /// In words, for the log.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Later { reason, .. } | Self::Failing(reason) | Self::Answer(reason) | Self::Request(reason) => {
                reason.clone()
            }
            Self::Definite { reason, .. } => reason.clone(),
            Self::Dimension { expected, found } => format!("vectors of {found} numbers came back, not of {expected}"),
        }
    }

    /// The failure of a whole call.
    pub(super) fn error(self, at: &str) -> EmbedError {
        let at = at.to_owned();
        match self {
            Self::Later { reason, after } => EmbedError::ProviderUnavailable { at, reason, after },
            Self::Failing(reason) => EmbedError::ProviderUnavailable { at, reason, after: None },
            Self::Answer(reason) => EmbedError::ProviderAnswer { at, reason },
            Self::Dimension { expected, found } => EmbedError::ProviderDimension { at, expected, found },
            Self::Request(reason) => EmbedError::ProviderRefused {
                at,
                reason: format!("it refuses any text: {reason}"),
                remedy: "look at embedding.model and embedding.dimensions: the provider may not know the model, or give it no \
                         other dimension than its own"
                    .to_owned(),
            },
            Self::Definite { reason, remedy } => EmbedError::ProviderRefused { at, reason, remedy },
        }
    }

    /// The failure of one text.
    pub(super) fn error_of_text(self, at: &str, text: &str) -> EmbedError {
        match self {
            Self::Request(reason) => {
                let hint = hint(&reason, text);
                EmbedError::Text { bytes: text.len(), reason: format!("{at}: {reason}{hint}") }
            }
            other => other.error(at),
        }
    }
}

/// A text below so many bytes fits every model that is in use.
const SHORT: usize = 1000;

/// How providers say that a text is too long: vLLM and OpenAI (400), Ollama (400), Text Embeddings Inference (413).
const TOO_LONG: [&str; 5] = ["413", "context length", "too long", "too large", "must have less than"];

/// Whether a provider's words are about a text that is too long.
pub(super) fn says_too_long(reason: &str) -> bool {
    let reason = reason.to_lowercase();
    TOO_LONG.iter().any(|words| reason.contains(words))
}

/// What to do about a text that was refused, if it is or may be too long. The row is parked with it.
fn hint(reason: &str, text: &str) -> String {
    match () {
        () if says_too_long(reason) => format!("; the model does not read so much: {CHUNK}"),
        () if text.len() >= SHORT => format!("; if it is too long for the model, {CHUNK}"),
        () => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_leads_to_chunks_in_every_providers_words() {
        let told = |reason: &str, bytes: usize| {
            Failure::Request(reason.to_owned()).error_of_text("p", &"x".repeat(bytes)).to_string()
        };
        for reason in [
            "400 Bad Request: This model's maximum context length is 512 tokens. However, you requested 2048 tokens",
            "400 Bad Request: the input length exceeds the context length",
            "413 Payload Too Large: Input validation error: `inputs` must have less than 512 tokens. Given: 2048",
            "413 Payload Too Large",
        ] {
            assert!(told(reason, 10).contains("the model does not read so much: let `chunk` cut"), "{reason}");
        }
        assert!(told("400 Bad Request", 5000).contains("if it is too long for the model, let `chunk`"));
        assert!(!told("400 Bad Request: no", 10).contains("chunk"));
    }
}
