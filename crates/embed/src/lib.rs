//! Text to vector.
//!
//! - [`Embedder`]: the contract
//! - [`onnx`]: BERT-style models in ONNX form, run in this process
//! - [`model_dir`]: where models live, what a model directory must hold
//! - [`hub`]: fetching a model from a model hub
//! - [`error`]: what can go wrong, and whether trying again helps

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod error;
pub mod hub;
pub mod model_dir;
pub mod onnx;

pub use error::EmbedError;
use walvec_model::Vector;

/// A boxed future, so that the trait can be used as an object.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What identifies an embedder: everything besides the text that decides the vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbedderInfo {
    /// The name people know the model by, e.g. `sentence-transformers/all-MiniLM-L6-v2`.
    pub model: String,
    /// A digest of the model's and tokenizer's files, or the provider's revision.
    pub revision: String,
    /// Dimension of its vectors.
    pub dimension: usize,
    /// The longest input in tokens, special tokens included; what is longer is cut.
    pub max_tokens: usize,
    /// `mean` or `cls`.
    pub pooling: String,
}

/// Turns texts into vectors.
///
/// # Contract
/// - The answer has one result per text, in the order of the texts.
/// - A vector has [`EmbedderInfo::dimension`] finite numbers and length 1 (L2), within rounding.
/// - A text that cannot be embedded gets its own `Err`; it never spoils its neighbours.
/// - The outer `Err` concerns the whole call.
/// - Same text, same vector, within rounding, whatever else is in the batch.
pub trait Embedder: Send + Sync {
    /// What this embedder is.
    fn info(&self) -> &EmbedderInfo;

    /// Embeds `texts`.
    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>>;
}
