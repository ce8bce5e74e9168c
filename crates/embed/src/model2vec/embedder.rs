//! Static models: from texts to vectors.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde::Deserialize;
use tokenizers::Tokenizer;
use walvec_model::Vector;

use super::table::VectorTable;
use crate::{
    BoxFuture, EmbedError, Embedder, EmbedderInfo, Reads,
    local::{caught, own_name, unit},
    model_dir::static_files::Files,
};

/// How many bytes of a text are read at most: the mean over a megabyte of words says nothing about any of them.
const MOST_BYTES: usize = 1 << 20;

/// A static model. It is cheap to share: one instance serves all callers.
pub struct StaticEmbedder {
    info: EmbedderInfo,
    engine: Arc<StaticEngine>,
}

/// The part that runs on the blocking threads.
struct StaticEngine {
    table: VectorTable,
    tokenizer: Tokenizer,
    /// The token that stands for words the tokenizer does not know. It has no meaning, so it is left out of the vectors.
    unknown: Option<u32>,
}

impl StaticEmbedder {
    /// Loads the model in `dir`, which has these `files`, under `name`, or the name of the directory if that is `None`.
    /// Blocks for a fraction of a second.
    ///
    /// # Errors
    /// [`EmbedError::Model`] for files that are broken or do not belong together, [`EmbedError::Io`].
    pub(crate) fn load(dir: &Path, files: Files, name: Option<String>) -> Result<Self, EmbedError> {
        let bad = |path: &Path, reason: String| EmbedError::Model { path: path.to_owned(), reason };
        let read = |path: &Path| std::fs::read(path).map_err(EmbedError::io(path));
        let (table_file, tokenizer_file) = (read(&files.table)?, read(&files.tokenizer)?);
        let tokenizer = tokenizer(&tokenizer_file).map_err(|reason| bad(&files.tokenizer, reason))?;
        let unknown = unknown(&tokenizer_file, &tokenizer).map_err(|reason| bad(&files.tokenizer, reason))?;
        let table = VectorTable::read(&table_file).map_err(|reason| bad(&files.table, reason))?;
        check_rows(&table, &tokenizer).map_err(|reason| bad(&files.table, reason))?;
        let mut digest = blake3::Hasher::new();
        digest.update(&table_file).update(&tokenizer_file).update(b"static");
        let info = EmbedderInfo {
            model: name.unwrap_or_else(|| own_name(dir)),
            revision: digest.finalize().to_hex()[..32].to_owned(),
            dimension: table.dimension(),
            max_tokens: usize::MAX,
            pooling: "mean".to_owned(),
        };
        let engine = StaticEngine { table, tokenizer, unknown };
        // Embed a word, so that a tokenizer that cannot work at all fails now and not at the first row.
        caught(|| engine.sum("walvec")).and_then(|sum| sum.map(drop)).map_err(|reason| bad(dir, reason))?;
        tracing::info!(model = info.model, dimension = info.dimension, "static model loaded");
        Ok(Self { info, engine: Arc::new(engine) })
    }
}

impl Embedder for StaticEmbedder {
    fn info(&self) -> &EmbedderInfo {
        &self.info
    }

    fn count_tokens(&self, text: &str) -> usize {
        // A text that cannot be tokenized is parked when it is embedded; until then its bytes count as tokens.
        self.engine.tokenizer.encode_fast(text, false).map_or(text.len(), |encoding| encoding.len())
    }

    fn reads(&self) -> Option<Reads> {
        Some(Reads::Bytes(MOST_BYTES))
    }

    fn is_too_long(&self, text: &str) -> bool {
        text.len() > MOST_BYTES
    }

    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>> {
        let engine = Arc::clone(&self.engine);
        Box::pin(async move {
            let work = tokio::task::spawn_blocking(move || engine.embed(&texts));
            work.await.map_err(|error| EmbedError::Failed(format!("the model's thread ended: {error}")))
        })
    }

    fn embed_whole(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>> {
        Box::pin(async move {
            let bytes: Vec<usize> = texts.iter().map(String::len).collect();
            let refused = |bytes: usize| {
                (bytes > MOST_BYTES).then_some(EmbedError::TooLong { bytes, reads: Some(Reads::Bytes(MOST_BYTES)) })
            };
            let answers = self.embed(texts).await?.into_iter().zip(bytes);
            Ok(answers.map(|(answer, bytes)| refused(bytes).map_or(answer, Err)).collect())
        })
    }

    fn embed_query_whole(&self, text: String) -> BoxFuture<'_, Result<Vector, EmbedError>> {
        Box::pin(async move { crate::only(self.embed_whole(vec![text]).await?) })
    }

    fn is_local(&self) -> bool {
        true
    }
}

impl StaticEngine {
    /// Returns one result per text, in order. Uses all cores.
    fn embed(&self, texts: &[String]) -> Vec<Result<Vector, EmbedError>> {
        let failed = |text: &str, reason: String| EmbedError::Text { bytes: text.len(), reason };
        texts.par_iter().map(|text| self.vector(text).map_err(|reason| failed(text, reason))).collect()
    }

    fn vector(&self, text: &str) -> Result<Vector, String> {
        let sum = caught(|| self.sum(&text[..text.floor_char_boundary(MOST_BYTES)]))??;
        if sum.iter().all(|&x| x == 0.0) {
            return Err("the model knows none of its words, so that it has no vector".to_owned());
        }
        unit(sum)
    }

    /// Returns the sum of the vectors of the text's tokens. It has the direction of their mean, and its length becomes 1
    /// anyway.
    fn sum(&self, text: &str) -> Result<Vector, String> {
        let tokens = self.tokenizer.encode_fast(text, false).map_err(|error| format!("tokenizer: {error}"))?;
        let mut sum = vec![0.0; self.table.dimension()];
        for &token in tokens.get_ids().iter().filter(|&&token| Some(token) != self.unknown) {
            self.table.add_to(&mut sum, token);
        }
        Ok(sum)
    }
}

/// Loads the tokenizer without truncation and padding, which are defaults of other tools.
fn tokenizer(file: &[u8]) -> Result<Tokenizer, String> {
    let mut tokenizer = Tokenizer::from_bytes(file).map_err(|error| format!("it is not a tokenizer: {error}"))?;
    tokenizer.with_padding(None).with_truncation(None).map_err(|error| error.to_string())?;
    Ok(tokenizer)
}

/// Returns the id of the unknown token. It is read from the file, because the tokenizer keeps it private for some kinds of
/// models.
fn unknown(file: &[u8], tokenizer: &Tokenizer) -> Result<Option<u32>, String> {
    #[derive(Deserialize)]
    struct File {
        model: Model,
    }
    #[derive(Deserialize)]
    struct Model {
        unk_token: Option<String>,
        unk_id: Option<u32>,
    }
    let file: File = serde_json::from_slice(file).map_err(|error| format!("it is not a tokenizer: {error}"))?;
    Ok(file.model.unk_id.or_else(|| tokenizer.token_to_id(&file.model.unk_token?)))
}

/// Checks that the table has a row for every token. With the tokenizer of another model, vectors would be meaningless or
/// missing.
fn check_rows(table: &VectorTable, tokenizer: &Tokenizer) -> Result<(), String> {
    let highest = tokenizer.get_vocab(false).into_values().max().unwrap_or(0);
    if table.tokens() <= highest as usize {
        return Err(format!(
            "it has vectors for {} tokens, and the tokenizer beside it numbers them up to {highest}: they are not of one model",
            table.tokens()
        ));
    }
    Ok(())
}
