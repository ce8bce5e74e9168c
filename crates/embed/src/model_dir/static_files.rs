//! Where the files of a static model lie, and how its directory is told apart from others.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::read_json;
use crate::{EmbedError, model_dir};

/// The name of static models in `config.json` and on a hub, after the library that makes them.
pub(crate) const LIBRARY: &str = "model2vec";

/// Where the table of vectors lies on a hub: as model2vec writes it, and as sentence-transformers does.
pub(crate) const TABLE_FILES: [&str; 2] = ["model.safetensors", "0_StaticEmbedding/model.safetensors"];

/// The name of the table inside its file.
const TABLE: &str = "embeddings";

/// Upper limit for the description of the tensors in a file. A table's file has one to three tensors, so its description
/// is shorter.
const LONGEST_HEADER: u64 = 1 << 20;

/// The files that decide vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    /// The table of vectors, one row per token.
    pub(crate) table: PathBuf,
    /// Text to token ids.
    pub(crate) tokenizer: PathBuf,
}

/// Returns the path on a hub of the tokenizer that belongs to `table`.
pub(crate) fn tokenizer_of(table: &str) -> String {
    let folder = table.rsplit_once('/').map(|(folder, _)| format!("{folder}/")).unwrap_or_default();
    folder + model_dir::TOKENIZER_FILE
}

/// Returns the files of the static model in `dir`; `None` if the directory holds something else.
///
/// A model is static if `config.json` or `modules.json` says so, even with an ONNX file next to the table, as some have.
/// Older models say nothing: they have a table and no ONNX file.
pub(crate) fn find(dir: &Path) -> Result<Option<Files>, EmbedError> {
    let bad = |reason: String| EmbedError::Model { path: dir.to_owned(), reason };
    let config = read_json(&dir.join("config.json"))?;
    let folder = folder(&read_json(&dir.join("modules.json"))?).map_err(bad)?;
    let is_declared = folder.is_some() || config.get("model_type").and_then(Value::as_str) == Some(LIBRARY);
    let folder = dir.join(folder.unwrap_or_default());
    let files = Files { table: folder.join(TABLE_FILES[0]), tokenizer: folder.join(model_dir::TOKENIZER_FILE) };
    if !is_declared && (model_dir::onnx_file(dir).is_ok() || !has_table(&files.table)) {
        return Ok(None);
    }
    for file in [&files.table, &files.tokenizer] {
        if !file.is_file() {
            return Err(bad(format!("it is a static model and has no {}", file.display())));
        }
    }
    Ok(Some(files))
}

/// Returns the folder of the static model if it is the first module of `modules.json`, and `None` if another kind of
/// module is.
fn folder(modules: &Value) -> Result<Option<String>, String> {
    let kind = |module: &Value| {
        let kind = module.get("type").and_then(Value::as_str).unwrap_or_default();
        kind.rsplit('.').next().unwrap_or_default().to_owned()
    };
    let mut modules = modules.as_array().into_iter().flatten();
    let Some(first) = modules.next().filter(|first| kind(first) == "StaticEmbedding") else { return Ok(None) };
    // A `Normalize` module changes nothing: vectors are scaled to length 1 in any case.
    if let Some(other) = modules.map(kind).find(|kind| kind != "Normalize") {
        return Err(format!("its module {other} comes after the static model, and cannot be run here"));
    }
    Ok(Some(first.get("path").and_then(Value::as_str).unwrap_or_default().to_owned()))
}

/// Returns whether the file holds a table. The weights of other models have names like
/// `embeddings.word_embeddings.weight`.
fn has_table(file: &Path) -> bool {
    header(file).is_ok_and(|header| header.get(TABLE).is_some())
}

/// Reads the file's description of its tensors by name: JSON at its beginning, after its length. The rest of the file may
/// be large.
fn header(file: &Path) -> std::io::Result<Value> {
    use std::io::Read as _;
    let mut file = std::fs::File::open(file)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length).min(LONGEST_HEADER)).read_to_end(&mut header)?;
    Ok(serde_json::from_slice(&header)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const STATIC: &str = "sentence_transformers.models.StaticEmbedding";

    /// Returns the table that is found in a directory with these files.
    fn found(files: &[(&str, &[u8])]) -> Result<Option<PathBuf>, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let relative = |files: Files| files.table.strip_prefix(dir.path()).unwrap().to_owned();
        find(dir.path()).map(|files| files.map(relative)).map_err(|error| error.to_string())
    }

    fn table(name: &str) -> Vec<u8> {
        let data = [0_u8; 4];
        let tensor = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1, 1], &data).unwrap();
        safetensors::serialize([(name, tensor)], &None).unwrap()
    }

    #[test]
    fn a_static_model_is_recognised_by_what_it_says_of_itself() {
        let config = json!({"model_type": "model2vec", "normalize": true}).to_string();
        let (config, table, tokenizer) =
            (("config.json", config.as_bytes()), ("model.safetensors", &b""[..]), ("tokenizer.json", &b""[..]));
        let expected = Ok(Some(PathBuf::from("model.safetensors")));
        assert_eq!(found(&[config, table, tokenizer]), expected);
        assert_eq!(found(&[config, table, tokenizer, ("onnx/model.onnx", b"")]), expected);
        assert!(found(&[config, tokenizer]).unwrap_err().contains("model.safetensors"));
        assert!(found(&[config, table]).unwrap_err().contains("tokenizer.json"));
    }

    #[test]
    fn a_static_model_of_sentence_transformers_lies_where_its_modules_say() {
        let modules = |second: &str| {
            let second = json!({"path": "1", "type": format!("sentence_transformers.models.{second}")});
            json!([{"path": "0_StaticEmbedding", "type": STATIC}, second]).to_string()
        };
        let files = |modules: &str| {
            let files: [(&str, &[u8]); 3] = [
                ("modules.json", modules.as_bytes()),
                ("0_StaticEmbedding/model.safetensors", b""),
                ("0_StaticEmbedding/tokenizer.json", b""),
            ];
            found(&files)
        };
        assert_eq!(files(&modules("Normalize")), Ok(Some(PathBuf::from(TABLE_FILES[1]))));
        assert!(files(&modules("Dense")).unwrap_err().contains("Dense"));
    }

    #[test]
    fn an_older_static_model_is_recognised_by_its_table_and_other_models_are_not() {
        let tokenizer = ("tokenizer.json", &b""[..]);
        let (ours, others) = (table("embeddings"), table("embeddings.word_embeddings.weight"));
        assert_eq!(found(&[("model.safetensors", &ours), tokenizer]), Ok(Some(PathBuf::from("model.safetensors"))));
        assert_eq!(found(&[("model.safetensors", &others), tokenizer]), Ok(None));
        assert_eq!(found(&[("model.safetensors", b"cut"), tokenizer]), Ok(None));
        assert_eq!(found(&[("model.safetensors", &ours), ("model.onnx", b""), tokenizer]), Ok(None));
    }
}
