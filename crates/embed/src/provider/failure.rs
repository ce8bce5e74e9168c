//! What a request that failed means.

use std::time::Duration;

use crate::EmbedError;

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
            Self::Request(reason) => EmbedError::Text { bytes: text.len(), reason: format!("{at}: {reason}") },
            other => other.error(at),
        }
    }
}
