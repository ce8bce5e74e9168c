//! The kinds of failed requests.

use std::time::Duration;

use crate::EmbedError;
use crate::error::CHUNK;

/// Why there are no vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RequestFailure {
    /// A temporary failure: the provider is away, fails, or refuses requests for the moment.
    Later {
        reason: String,
        /// How long to wait before the next request, if the provider says so.
        after: Option<Duration>,
    },
    /// The provider fails over this request: it is unwell, or one of the texts is too much for it.
    Failing(String),
    /// The answer does not hold the vectors that were asked for.
    Answer(String),
    /// Vectors of another dimension came back.
    Dimension { expected: usize, found: usize },
    /// The provider does not accept this request: if it has several texts, one of them may be to blame.
    Request(String),
    /// The provider accepts no request until the user changes something.
    Definite { reason: String, remedy: String },
}

impl RequestFailure {
    /// Returns whether the same request may succeed later.
    pub(super) const fn is_worth_repeating(&self) -> bool {
        match self {
            // The answer may come from a router in front of several servers, of which one differs from the others.
            Self::Later { .. } | Self::Failing(_) | Self::Answer(_) | Self::Dimension { .. } => true,
            Self::Request(_) | Self::Definite { .. } => false,
        }
    }

    /// Returns whether a text may be to blame although the provider does not say so: it is, if the provider does
    /// not fail over others.
    pub(super) const fn may_be_a_texts(&self) -> bool {
        match self {
            Self::Failing(_) | Self::Answer(_) => true,
            Self::Later { .. } | Self::Dimension { .. } | Self::Request(_) | Self::Definite { .. } => false,
        }
    }

    /// Describes the failure for the log.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Later { reason, .. } | Self::Failing(reason) | Self::Answer(reason) | Self::Request(reason) => {
                reason.clone()
            }
            Self::Definite { reason, .. } => reason.clone(),
            Self::Dimension { expected, found } => format!("vectors of {found} numbers came back, not of {expected}"),
        }
    }

    /// Makes the error of a whole call.
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

    /// Makes the error of one text.
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

/// A text with fewer bytes than this fits every model that is in use.
const SHORT: usize = 1000;

/// How providers say that a text is too long: vLLM and OpenAI (400), Ollama (400), Text Embeddings Inference (413).
const TOO_LONG: [&str; 5] = ["413", "context length", "too long", "too large", "must have less than"];

/// Returns whether a provider's message is about a text that is too long.
pub(super) fn says_too_long(reason: &str) -> bool {
    let reason = reason.to_lowercase();
    TOO_LONG.iter().any(|words| reason.contains(words))
}

/// Says what to do about a text that was refused, if it is or may be too long. The row is parked with this hint.
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
            RequestFailure::Request(reason.to_owned()).error_of_text("p", &"x".repeat(bytes)).to_string()
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
