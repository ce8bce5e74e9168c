//! What a model directory says about pooling, limits and casing, in the files that sentence-transformers writes.

use std::path::Path;

use serde_json::Value;

use super::pooling::Pooling;
use crate::{EmbedError, model_dir::read_json};

/// The longest input in tokens, whatever the model allows: attention memory grows with the square of the length, and
/// 2,048 tokens in 12 heads already take 200 MB. Long texts are searched better in chunks anyway.
const LONGEST_INPUT: usize = 2_048;

/// BERT's own limit, for a directory that names no limit.
const USUAL_LIMIT: usize = 512;

/// The settings that the configuration files of a model directory decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelSettings {
    /// How to pool, or why the model's way of pooling is not supported. Only needed when the network does not pool
    /// itself.
    pub(super) pooling: Result<Pooling, String>,
    /// The longest input in tokens, special tokens included.
    pub(super) max_tokens: usize,
    /// Whether texts are lower-cased before the tokenizer sees them.
    pub(super) lowercase: bool,
}

impl ModelSettings {
    /// Reads the files in `dir`; each may be absent.
    pub(super) fn read(dir: &Path) -> Result<Self, EmbedError> {
        let config = read_json(&dir.join("config.json"))?;
        let tokenizer = read_json(&dir.join("tokenizer_config.json"))?;
        let sentence = read_json(&dir.join("sentence_bert_config.json"))?;
        Ok(Self {
            pooling: pooling(dir)?,
            max_tokens: max_tokens(&sentence, &tokenizer, &config),
            lowercase: sentence.get("do_lower_case").and_then(Value::as_bool).unwrap_or(false),
        })
    }
}

/// Returns the smallest of the limits that the files name.
fn max_tokens(sentence: &Value, tokenizer: &Value, config: &Value) -> usize {
    let limit = |file: &Value, key: &str| {
        // These files write "no limit" as 1e30, which is not an integer.
        file.get(key).and_then(Value::as_u64).and_then(|limit| usize::try_from(limit).ok()).filter(|&limit| limit > 0)
    };
    let positions = limit(config, "max_position_embeddings").map(|all| all.saturating_sub(reserved_positions(config)));
    [limit(sentence, "max_seq_length"), limit(tokenizer, "model_max_length"), positions]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(USUAL_LIMIT)
        .min(LONGEST_INPUT)
}

/// Returns how many positions are not for tokens. RoBERTa and its relatives count positions from the padding token's
/// id plus one: 514 positions hold 512 tokens.
fn reserved_positions(config: &Value) -> usize {
    let kind = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    if !matches!(kind, "roberta" | "xlm-roberta" | "camembert" | "mpnet") {
        return 0;
    }
    let padding = config.get("pad_token_id").and_then(Value::as_u64).unwrap_or(1);
    usize::try_from(padding).unwrap_or(1) + 1
}

/// Reads the pooling from `modules.json` and the pooling module's own file. A directory without either gets the mean,
/// as sentence-transformers does with a bare network.
fn pooling(dir: &Path) -> Result<Result<Pooling, String>, EmbedError> {
    let modules = read_json(&dir.join("modules.json"))?;
    let mut folder = "1_Pooling";
    for module in modules.as_array().into_iter().flatten() {
        let kind = module.get("type").and_then(Value::as_str).unwrap_or_default();
        match kind.rsplit('.').next() {
            Some("Pooling") => folder = module.get("path").and_then(Value::as_str).unwrap_or(folder),
            Some("Transformer" | "Normalize") => {}
            _ => return Ok(Err(format!("its module {kind} is not part of the network, and cannot be run here"))),
        }
    }
    let file = dir.join(folder).join("config.json");
    if !file.is_file() {
        tracing::warn!(model = %dir.display(), "the model does not say how to pool; the mean over its tokens is taken");
        return Ok(Ok(Pooling::Mean));
    }
    Ok(pooling_mode(&read_json(&file)?))
}

/// Reads the two ways of writing a pooling mode: one flag per mode, or, in newer files, one name.
fn pooling_mode(config: &Value) -> Result<Pooling, String> {
    let mut modes: Vec<&str> = Vec::new();
    for (key, value) in config.as_object().into_iter().flatten() {
        match (key.as_str(), value) {
            ("pooling_mode", Value::String(mode)) => modes.push(mode),
            (flag, Value::Bool(true)) => modes.extend(flag.strip_prefix("pooling_mode_")),
            _ => {}
        }
    }
    match modes[..] {
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["cls_token" | "cls"] => Ok(Pooling::Cls),
        _ => Err(format!("its pooling [{}] is neither mean nor cls", modes.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(files: &[(&str, Value)]) -> ModelSettings {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content.to_string()).unwrap();
        }
        ModelSettings::read(dir.path()).unwrap()
    }

    #[test]
    fn the_smallest_limit_that_a_file_names_holds() {
        let limit = |files: &[(&str, Value)]| read(files).max_tokens;
        let config = ("config.json", json!({"max_position_embeddings": 512}));
        let tokenizer = ("tokenizer_config.json", json!({"model_max_length": 400}));
        let sentence = ("sentence_bert_config.json", json!({"max_seq_length": 256}));
        assert_eq!(limit(&[config.clone(), tokenizer.clone(), sentence]), 256);
        assert_eq!(limit(&[config.clone(), tokenizer]), 400);
        assert_eq!(limit(&[config, ("tokenizer_config.json", json!({"model_max_length": 1e30}))]), 512);
        assert_eq!(limit(&[]), USUAL_LIMIT);
    }

    #[test]
    fn a_limit_that_would_exhaust_memory_is_lowered() {
        assert_eq!(read(&[("config.json", json!({"max_position_embeddings": 8192}))]).max_tokens, LONGEST_INPUT);
    }

    #[test]
    fn positions_that_roberta_reserves_are_not_counted() {
        let config = json!({"model_type": "xlm-roberta", "pad_token_id": 1, "max_position_embeddings": 514});
        assert_eq!(read(&[("config.json", config)]).max_tokens, 512);
    }

    #[test]
    fn pooling_is_read_from_the_module_that_the_model_names() {
        let modules = json!([
            {"type": "sentence_transformers.models.Transformer", "path": ""},
            {"type": "sentence_transformers.models.Pooling", "path": "my_pooling"},
            {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"},
        ]);
        let cls = json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false, "include_prompt": true});
        let settings = read(&[("modules.json", modules), ("my_pooling/config.json", cls)]);
        assert_eq!(settings.pooling, Ok(Pooling::Cls));
        assert_eq!(read(&[("1_Pooling/config.json", json!({"pooling_mode": "mean"}))]).pooling, Ok(Pooling::Mean));
        assert_eq!(read(&[]).pooling, Ok(Pooling::Mean));
    }

    #[test]
    fn what_cannot_be_computed_here_is_refused_by_name() {
        let both = json!({"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true});
        let refused = read(&[("1_Pooling/config.json", both)]).pooling.unwrap_err();
        assert!(refused.contains("cls_token, max_tokens"), "{refused}");
        let dense = json!([{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]);
        assert!(read(&[("modules.json", dense)]).pooling.unwrap_err().contains("Dense"));
    }

    #[test]
    fn a_broken_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "{").unwrap();
        let error = ModelSettings::read(dir.path()).unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
    }
}
