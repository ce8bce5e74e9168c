//! Text to vector.
//!
//! - [`Embedder`]: the contract
//! - [`load`]: from a configured name to an embedder
//! - [`onnx`]: BERT-style models in ONNX form, run in this process
//! - [`hash`]: a lexical stand-in that needs no model
//! - [`model_dir`]: where models live, what a model directory must hold
//! - [`hub`]: fetching a model from a model hub
//! - [`EmbedError`]: what can go wrong, and whether trying again helps

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod error;
pub mod hash;
pub mod hub;
pub mod model_dir;
pub mod onnx;

use std::{path::Path, sync::Arc};

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
    /// How token vectors become one: `mean`, `cls`, `network` when the network does it itself, `sum` when there is none.
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

    /// How many tokens the model reads of a text, without the special ones around it, if it read all of it.
    fn count_tokens(&self, text: &str) -> usize;

    /// Embeds `texts`.
    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>>;
}

/// Loads the embedder that a configuration calls `name`: `hash/<dimension>` or `hash/<dimension>/wait/<ms>`, a model
/// installed under the models root `root`, or a directory (see [`model_dir::resolve`]). Blocks for a fraction of a second.
///
/// # Errors
/// [`EmbedError::ModelName`], [`EmbedError::ModelMissing`], [`EmbedError::Model`] or [`EmbedError::Io`].
pub fn load(name: &str, root: &Path) -> Result<Arc<dyn Embedder>, EmbedError> {
    if name.starts_with(hash::PREFIX) {
        return Ok(Arc::new(hash::HashEmbedder::from_name(name)?));
    }
    let dir = model_dir::resolve(name, root)?;
    // Files under the root are known by the name they were installed under; a directory goes by its own.
    let installed = dir.strip_prefix(root).ok().map(|name| name.to_string_lossy().into_owned());
    Ok(Arc::new(onnx::OnnxEmbedder::load(&dir, onnx::OnnxOptions { name: installed })?))
}

/// Brings `vector` to length 1 (L2). False, and the vector is of no use, when it is zero or not finite.
fn normalize(vector: &mut Vector) -> bool {
    let length = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if !length.is_normal() {
        return false;
    }
    for x in vector.iter_mut() {
        #[expect(clippy::cast_possible_truncation, reason = "a number of at most 1 loses digits only")]
        let scaled = (f64::from(*x) / length) as f32;
        *x = scaled;
    }
    true
}
