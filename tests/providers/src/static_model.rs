//! A static model on disk.

use std::path::Path;

use anyhow::Result;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};
use walvec_embed::Embedder as _;
use walvec_embed::hash::HashEmbedder;

use crate::DIMENSION;

/// The token for words that the model does not know.
const UNKNOWN: &str = "[UNK]";

/// Writes a model2vec directory that knows `words`, in lower case. A text of those words has the vector of `hash/64`.
///
/// # Errors
/// The file system's.
pub async fn write_static_model(directory: &Path, words: &[&str]) -> Result<()> {
    let vectors = HashEmbedder::new(DIMENSION)?.embed(words.iter().map(|&word| word.to_owned()).collect()).await?;
    // The unknown token has a vector like any other, so a test notices an embedder that uses it.
    let mut table = vec![1.0_f32; DIMENSION];
    for vector in vectors {
        table.extend(vector?);
    }
    let table: Vec<u8> = table.into_iter().flat_map(f32::to_le_bytes).collect();
    let table = TensorView::new(Dtype::F32, vec![words.len() + 1, DIMENSION], &table)?;
    let tokens = std::iter::once(UNKNOWN).chain(words.iter().copied()).enumerate();
    let vocabulary: Map<String, Value> = tokens.map(|(id, token)| (token.to_owned(), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [{ "id": 0, "content": UNKNOWN, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true }],
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": null,
        "decoder": null,
        "model": { "type": "WordPiece", "unk_token": UNKNOWN, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary },
    });
    let config = json!({ "model_type": "model2vec", "architectures": ["StaticModel"], "normalize": true });
    std::fs::create_dir_all(directory)?;
    std::fs::write(directory.join("config.json"), config.to_string())?;
    std::fs::write(directory.join("tokenizer.json"), tokenizer.to_string())?;
    std::fs::write(directory.join("model.safetensors"), safetensors::serialize([("embeddings", table)], &None)?)?;
    Ok(())
}
