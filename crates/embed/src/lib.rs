//! Text to vector.
//!
//! - [`Embedder`]: the contract
//! - [`open`]: from a configured name to an embedder; [`load`]: from a name to an embedder that needs no network
//! - [`onnx`]: BERT-style models in ONNX form, run in this process
//! - [`model2vec`]: static models, a table of vectors: much faster, not as good
//! - [`hash`]: a lexical stand-in that needs no model
//! - [`model_dir`]: where models live, what a model directory must hold
//! - [`hub`]: fetching a model from a model hub
//! - [`provider`]: models behind an HTTP interface
//! - [`reads`]: how much of a text a model reads
//! - [`prefixed`]: words before queries and documents, as some models want them
//! - `coalescing`: texts of several callers in one call
//! - `local`: what all models in this process have in common
//! - `http`: HTTP clients
//! - [`EmbedError`] (`error`): what can go wrong, and whether trying again helps

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod coalescing;
mod error;
pub mod hash;
mod http;
pub mod hub;
#[cfg(feature = "local-models")]
mod local;
pub mod model2vec;
pub mod model_dir;
#[cfg(feature = "local-models")]
pub mod onnx;
pub mod prefixed;
pub mod provider;
pub mod reads;

use std::{path::Path, sync::Arc};

pub use error::EmbedError;
pub use futures::future::BoxFuture;
pub use provider::{ProviderEmbedder, ProviderOptions, ProviderProtocol};
pub use reads::Reads;
use walvec_model::Vector;

/// What identifies an embedder: everything apart from the text that decides the vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbedderInfo {
    /// The name that users know the model by, e.g. `sentence-transformers/all-MiniLM-L6-v2`.
    pub model: String,
    /// A digest of the model's and tokenizer's files, or the provider's revision.
    pub revision: String,
    /// Dimension of its vectors.
    pub dimension: usize,
    /// The longest input in tokens, special tokens included; the rest of a longer text is cut off.
    pub max_tokens: usize,
    /// How token vectors become one: `mean`, `cls`, `network` when the network does it itself, `sum` when there is no network.
    pub pooling: String,
}

/// Turns texts into vectors.
///
/// # Contract
/// - The answer has one result per text, in the order of the texts.
/// - A vector has [`EmbedderInfo::dimension`] finite numbers and length 1 (L2), within rounding.
/// - A text that cannot be embedded gets its own `Err` and does not affect the other texts.
/// - The outer `Err` concerns the whole call.
/// - Same text, same vector, within rounding, whatever else is in the batch.
pub trait Embedder: Send + Sync {
    /// Returns the embedder's identity.
    fn info(&self) -> &EmbedderInfo;

    /// Returns how many tokens the text has for this model, without the special ones and without its limit.
    fn count_tokens(&self, text: &str) -> usize;

    /// Returns how much of a text the model reads. `None` if that is not known, or if the model reads all of any text.
    fn reads(&self) -> Option<Reads> {
        None
    }

    /// Returns whether the model reads only the beginning of `text`, as far as that can be told without running it.
    fn is_too_long(&self, text: &str) -> bool {
        let _ = text;
        false
    }

    /// Embeds `texts`. The model reads the beginning of a text that is too long for it.
    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>>;

    /// Embeds the query of a search. Its vector is near those that [`embed`](Self::embed) returns for similar texts.
    fn embed_query(&self, text: String) -> BoxFuture<'_, Result<Vector, EmbedError>> {
        Box::pin(async move { only(self.embed(vec![text]).await?) })
    }

    /// Embeds `texts`, and answers [`EmbedError::TooLong`] for a text that the model does not read to its end.
    fn embed_whole(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>> {
        self.embed(texts)
    }

    /// Embeds the query of a search, and answers [`EmbedError::TooLong`] if the model does not read it to its end.
    fn embed_query_whole(&self, text: String) -> BoxFuture<'_, Result<Vector, EmbedError>> {
        self.embed_query(text)
    }

    /// Returns the vector of a fixed text, by which the caller notices that another model answers to the same name; `None` where
    /// [`EmbedderInfo::revision`] tells. Each call asks for it again, at the price of one text. Only the first call may return
    /// the vector that was asked for to learn the dimension.
    fn sample(&self) -> BoxFuture<'_, Result<Option<Vector>, EmbedError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Returns how many texts a call should have. Smaller calls are slower per text; larger ones only delay the first vector.
    fn texts_per_call(&self) -> usize {
        TEXTS_PER_CALL
    }

    /// Returns how many full calls in flight keep this embedder busy. One that computes in this process needs a second one to
    /// prepare.
    fn calls_at_once(&self) -> usize {
        CALLS_AT_ONCE
    }

    /// Returns whether a call costs only time of this machine, so that one which turns out to be needless may be worth its while.
    fn is_local(&self) -> bool {
        false
    }
}

/// Small enough that progress shows and a fresh row is not held up for seconds, large enough that sorting by length pays.
const TEXTS_PER_CALL: usize = 128;

/// One call computes while the next is being prepared.
const CALLS_AT_ONCE: usize = 2;

/// Returns the vector of a call with a single text.
fn only(mut answers: Vec<Result<Vector, EmbedError>>) -> Result<Vector, EmbedError> {
    answers.pop().unwrap_or_else(|| Err(EmbedError::Failed("one text was given, no vector came back".to_owned())))
}

/// What a configuration says about the model, apart from its name.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How to reach a provider; not used for models that run in this process.
    pub provider: ProviderOptions,
    /// Put before each query.
    pub query_prefix: String,
    /// Put before each text.
    pub document_prefix: String,
}

/// Makes the embedder that a configuration calls `name`: a model behind an HTTP interface ([`ProviderProtocol`]), or one that [`load`]
/// finds. A provider is asked for one vector if the dimension is not given.
///
/// # Errors
/// Those of [`load`] and [`ProviderEmbedder::open`].
pub async fn open(name: &str, root: &Path, options: Options) -> Result<Arc<dyn Embedder>, EmbedError> {
    let embedder: Arc<dyn Embedder> = if ProviderProtocol::of(name).is_some() {
        Arc::new(ProviderEmbedder::open(name, options.provider).await?)
    } else {
        let (name, root) = (name.to_owned(), root.to_owned());
        tokio::task::spawn_blocking(move || load(&name, &root))
            .await
            .map_err(|panic| EmbedError::Failed(format!("loading the model ended: {panic}")))??
    };
    Ok(coalescing::wrap(prefixed::wrap(embedder, options.query_prefix, options.document_prefix)))
}

/// Loads the embedder that a configuration calls `name`: `hash/<dimension>` or `hash/<dimension>/wait/<ms>`, a model
/// installed under the models root `root`, or a directory (see [`model_dir::resolve`]). Blocks for a fraction of a second.
///
/// # Errors
/// [`EmbedError::ModelName`], [`EmbedError::ModelMissing`], [`EmbedError::Model`], [`EmbedError::Io`] or
/// [`EmbedError::NotBuilt`].
pub fn load(name: &str, root: &Path) -> Result<Arc<dyn Embedder>, EmbedError> {
    if name.starts_with(hash::PREFIX) {
        return Ok(Arc::new(hash::HashEmbedder::from_name(name)?));
    }
    check_built(name)?;
    let dir = model_dir::resolve(name, root)?;
    // A model under the root keeps the name that it was installed under; another directory is named after itself.
    let installed = dir.strip_prefix(root).ok().map(|name| name.to_string_lossy().into_owned());
    load_dir(&dir, installed)
}

/// Refuses models that run in this process, where they were left out of the build. `model` is the name that was asked for.
fn check_built(model: &str) -> Result<(), EmbedError> {
    if cfg!(feature = "local-models") { Ok(()) } else { Err(EmbedError::NotBuilt { model: model.to_owned() }) }
}

/// Loads the model in `dir`, static or ONNX.
#[cfg(not(feature = "local-models"))]
fn load_dir(dir: &Path, name: Option<String>) -> Result<Arc<dyn Embedder>, EmbedError> {
    Err(EmbedError::NotBuilt { model: name.unwrap_or_else(|| dir.display().to_string()) })
}

/// Loads the model in `dir`, static or ONNX.
#[cfg(feature = "local-models")]
fn load_dir(dir: &Path, name: Option<String>) -> Result<Arc<dyn Embedder>, EmbedError> {
    Ok(match model_dir::static_files::find(dir)? {
        Some(files) => Arc::new(model2vec::StaticEmbedder::load(dir, files, name)?),
        None => Arc::new(onnx::OnnxEmbedder::load(dir, onnx::OnnxOptions { name })?),
    })
}

/// Scales `vector` to length 1 (L2). Returns false, and leaves an unusable vector, when it is zero or not finite.
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
