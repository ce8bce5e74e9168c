//! Which of a model's files are fetched.

use super::client::Listing;
use crate::model_dir::{self, static_files};

/// A file to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantedFile {
    /// Its path in the repository.
    pub(super) path: String,
    /// Whether the model cannot be used without it.
    pub(super) required: bool,
}

/// Chooses the files of `listing` to fetch.
///
/// # Errors
/// Why the model cannot be run here.
pub(super) fn wanted_of(listing: &Listing) -> Result<Vec<WantedFile>, String> {
    let files: Vec<String> = listing.siblings.iter().map(|file| file.rfilename.clone()).collect();
    let is_static = listing.library_name.as_deref() == Some(static_files::LIBRARY)
        || listing.tags.iter().any(|tag| tag == static_files::LIBRARY);
    wanted(&files, is_static)
}

/// Chooses among a model's files: one network with its weights, or the table of a static model; the tokenizer; the
/// configuration. A static model may also have an ONNX export, which is not needed.
fn wanted(listing: &[String], is_static: bool) -> Result<Vec<WantedFile>, String> {
    let has = |file: &str| listing.iter().any(|listed| listed == file);
    let table = static_files::TABLE_FILES.into_iter().find(|file| has(file));
    let required = match (table, model_dir::ONNX_FILES.into_iter().find(|file| has(file))) {
        // The table's file name shows that the model is static, whatever the hub says about it.
        (Some(table), _) if is_static || table != static_files::TABLE_FILES[0] => {
            vec![static_files::tokenizer_of(table), table.to_owned()]
        }
        (_, Some(network)) => {
            let weights = listing.iter().filter(|file| model_dir::is_weights_of(file, network)).cloned();
            [model_dir::TOKENIZER_FILE, network].into_iter().map(str::to_owned).chain(weights).collect()
        }
        (_, None) => {
            return Err(format!(
                "it has no ONNX export ({}), and is no static model",
                model_dir::ONNX_FILES.join(", ")
            ));
        }
    };
    if let Some(missing) = required.iter().find(|file| !has(file)) {
        return Err(format!("it has no {missing}"));
    }
    // The small files come first, so that a mistake in them shows before the large ones are fetched.
    let optional = model_dir::CONFIG_FILES.into_iter().map(str::to_owned).filter(|file| has(file));
    let file = |required: bool| move |path: String| WantedFile { path, required };
    Ok(optional.map(file(false)).chain(required.into_iter().map(file(true))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(listing: &[&str]) -> Result<Vec<String>, String> {
        paths_if(listing, false)
    }

    fn paths_if(listing: &[&str], is_static: bool) -> Result<Vec<String>, String> {
        let listing: Vec<_> = listing.iter().map(|file| (*file).to_owned()).collect();
        wanted(&listing, is_static).map(|files| files.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn only_the_files_of_one_network_are_fetched() {
        let listing = [
            "README.md",
            "config.json",
            "model.safetensors",
            "onnx/model.onnx",
            "onnx/model.onnx_data",
            "onnx/model_quantized.onnx",
            "tokenizer.json",
        ];
        let expected = ["config.json", "tokenizer.json", "onnx/model.onnx", "onnx/model.onnx_data"];
        assert_eq!(paths(&listing).unwrap(), expected);
    }

    #[test]
    fn a_name_of_weights_cannot_lead_out_of_the_model() {
        for weights in ["model.onnx_data/../../../.profile", "model.onnx.data/x", "model.onnx_data?raw"] {
            let listing = ["model.onnx", "tokenizer.json", weights];
            assert_eq!(paths(&listing).unwrap(), ["tokenizer.json", "model.onnx"], "{weights}");
        }
    }

    #[test]
    fn of_a_static_model_the_table_is_fetched_and_not_its_onnx_export() {
        let listing = ["config.json", "model.safetensors", "onnx/model.onnx", "tokenizer.json"];
        assert_eq!(paths_if(&listing, true).unwrap(), ["config.json", "tokenizer.json", "model.safetensors"]);
        let folder = ["modules.json", "0_StaticEmbedding/model.safetensors", "0_StaticEmbedding/tokenizer.json"];
        assert_eq!(paths(&folder).unwrap(), ["modules.json", folder[2], folder[1]]);
        assert!(paths(&folder[..2]).unwrap_err().contains("0_StaticEmbedding/tokenizer.json"));
    }

    #[test]
    fn a_model_without_an_onnx_export_or_a_tokenizer_is_refused_before_anything_is_fetched() {
        assert!(paths(&["model.safetensors", "tokenizer.json"]).unwrap_err().contains("ONNX"));
        assert!(paths(&["model.onnx", "vocab.txt"]).unwrap_err().contains("tokenizer.json"));
    }
}
