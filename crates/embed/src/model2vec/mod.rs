//! Static models: a table with one vector per token, made from a larger model by [Model2Vec](https://github.com/MinishLab/model2vec).
//!
//! - `files`: where a model's files lie, and how its directory is told from others
//!
//! A text's vector is the mean of its tokens' vectors. There is no network to run, so that a text takes microseconds instead of
//! milliseconds; and no context, so that a word means the same wherever it stands, and the order of words nothing.
//!
//! There is no limit of tokens either: all of a text counts, up to [`MOST_BYTES`]. The library's own default is to read 512
//! tokens; up to there the vectors are the same, but for their length, which is always 1 here.

pub(crate) mod files;

use std::path::Path;
use std::sync::Arc;

use model2vec_rs::model::StaticModel;
use safetensors::SafeTensors;
use tokenizers_of_model2vec::Tokenizer;
use walvec_model::Vector;

use self::files::Files;
use crate::{
    BoxFuture, EmbedError, Embedder, EmbedderInfo,
    local::{caught, own_name, unit},
};

/// No more of a text than this is ever read: the mean over a megabyte of words says nothing about any of them.
const MOST_BYTES: usize = 1 << 20;

/// A static model. Cheap to share, one instance serves all callers.
pub struct StaticEmbedder {
    info: EmbedderInfo,
    engine: Arc<Engine>,
}

/// What runs on the blocking threads.
struct Engine {
    model: StaticModel,
    /// For counting only: the model has one of its own.
    tokenizer: Tokenizer,
}

impl StaticEmbedder {
    /// Loads the model in `dir`, which has these `files`, under `name` or the directory's own. Blocks for a fraction of a
    /// second.
    ///
    /// # Errors
    /// [`EmbedError::Model`] for files that are broken or do not belong together, [`EmbedError::Io`].
    pub(crate) fn load(dir: &Path, files: Files, name: Option<String>) -> Result<Self, EmbedError> {
        let bad = |path: &Path, reason: String| EmbedError::Model { path: path.to_owned(), reason };
        let read = |path: &Path| std::fs::read(path).map_err(EmbedError::io(path));
        let (table, tokenizer) = (read(&files.table)?, read(&files.tokenizer)?);
        let counting = counting(&tokenizer).map_err(|reason| bad(&files.tokenizer, reason))?;
        check_rows(&table, &counting).map_err(|reason| bad(&files.table, reason))?;
        // Vectors are brought to length 1 here, whatever the configuration says, and nothing else in it decides them.
        let model = caught(|| StaticModel::from_bytes(&tokenizer, &table, "{}", Some(false)));
        let model = model.and_then(|model| model.map_err(|error| format!("{error:#}")));
        let model = model.map_err(|reason| bad(dir, reason))?;
        caught(|| model.encode_single("walvec")).map_err(|reason| bad(dir, reason))?;
        let mut digest = blake3::Hasher::new();
        digest.update(&table).update(&tokenizer).update(b"static");
        let info = EmbedderInfo {
            model: name.unwrap_or_else(|| own_name(dir)),
            revision: digest.finalize().to_hex()[..32].to_owned(),
            dimension: model.dim(),
            max_tokens: usize::MAX,
            pooling: "mean".to_owned(),
        };
        tracing::info!(model = info.model, dimension = info.dimension, "static model loaded");
        Ok(Self { info, engine: Arc::new(Engine { model, tokenizer: counting }) })
    }
}

impl Embedder for StaticEmbedder {
    fn info(&self) -> &EmbedderInfo {
        &self.info
    }

    fn count_tokens(&self, text: &str) -> usize {
        // What cannot be tokenized is parked when it is embedded; until then its bytes count.
        self.engine.tokenizer.encode_fast(text, false).map_or(text.len(), |encoding| encoding.len())
    }

    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>> {
        let engine = Arc::clone(&self.engine);
        Box::pin(async move {
            let work = tokio::task::spawn_blocking(move || engine.embed(texts));
            work.await.map_err(|error| EmbedError::Failed(format!("the model's thread ended: {error}")))
        })
    }
}

impl Engine {
    /// One result per text, in order.
    fn embed(&self, mut texts: Vec<String>) -> Vec<Result<Vector, EmbedError>> {
        let lengths: Vec<usize> = texts.iter().map(String::len).collect();
        texts.iter_mut().for_each(|text| text.truncate(text.floor_char_boundary(MOST_BYTES)));
        let vectors = self.vectors(&texts).into_iter().zip(lengths);
        vectors.map(|(vector, bytes)| vector.map_err(|reason| EmbedError::Text { bytes, reason })).collect()
    }

    /// On all cores. When it fails, each text is tried alone: one of them may be to blame.
    fn vectors(&self, texts: &[String]) -> Vec<Result<Vector, String>> {
        match caught(|| self.model.encode_flat_with_args(texts, None)) {
            Ok(all) => all.chunks(self.model.dim()).map(vector).collect(),
            Err(reason) if texts.len() == 1 => vec![Err(reason)],
            Err(_) => texts.iter().flat_map(|text| self.vectors(std::slice::from_ref(text))).collect(),
        }
    }
}

/// The sum or mean of a text's tokens at length 1.
fn vector(sum: &[f32]) -> Result<Vector, String> {
    if sum.iter().all(|&x| x == 0.0) {
        return Err("the model knows none of its words, so that it has no vector".to_owned());
    }
    unit(sum.to_vec())
}

/// The tokenizer in `file`, without truncation and padding: those are other tools' defaults.
fn counting(file: &[u8]) -> Result<Tokenizer, String> {
    let mut tokenizer = Tokenizer::from_bytes(file).map_err(|error| format!("it is not a tokenizer: {error}"))?;
    tokenizer.with_padding(None).with_truncation(None).map_err(|error| error.to_string())?;
    Ok(tokenizer)
}

/// Whether the table has a row for every token: a tokenizer of another model would make vectors that mean nothing, or none.
fn check_rows(table: &[u8], tokenizer: &Tokenizer) -> Result<(), String> {
    let tensors = SafeTensors::deserialize(table).map_err(|error| format!("it is not in safetensors form: {error}"))?;
    // Tables that were made smaller have fewer rows than tokens, and say which token has which.
    let names = ["mapping", "embeddings", "0", "embedding.weight"];
    let Some(tensor) = names.into_iter().find_map(|name| tensors.tensor(name).ok()) else {
        return Err("it has no table of vectors (\"embeddings\")".to_owned());
    };
    let rows = tensor.shape().first().copied().unwrap_or(0);
    let highest = tokenizer.get_vocab(false).into_values().max().unwrap_or(0);
    if rows <= highest as usize {
        return Err(format!(
            "it has vectors for {rows} tokens, and the tokenizer beside it numbers them up to {highest}: they are not of one model"
        ));
    }
    Ok(())
}
