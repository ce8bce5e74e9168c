//! Where models live, and what a model directory must hold.
//!
//! A models root holds one directory per model, named as the hub names it: `<root>/BAAI/bge-small-en-v1.5/`. Such a
//! directory holds an ONNX file ([`ONNX_FILES`]), [`TOKENIZER_FILE`] and those of the configuration files in
//! [`CONFIG_FILES`] that the model has. A static model has its table of vectors in place of the ONNX file (see
//! `static_files`). Nothing here reads the environment: callers pass the root.
//!
//! Models are fetched into the user's own models root. Packages that were installed with the program have further ones:
//!
//! | Installed by | The program | The models |
//! |---|---|---|
//! | pip, pipx, uv, apt, an archive | `<prefix>/bin/walvec` | `<prefix>/share/walvec/models` |
//! | npm, pnpm | `.../node_modules/@walvec/<platform>/bin/walvec` | `.../node_modules/@walvec/<package>/models` |

pub(crate) mod static_files;

use std::{
    ffi::OsString,
    path::{Component, Path, PathBuf},
};

use serde_json::Value;

use crate::EmbedError;

/// The model of the demo and of the tests; `make model` installs it without a hub.
pub const DEMO_MODEL: &str = "sentence-transformers/all-MiniLM-L6-v2";

/// The paths of the network in a model directory or on a hub; the first that exists is used: full precision before
/// quantised.
pub const ONNX_FILES: [&str; 4] =
    ["model.onnx", "onnx/model.onnx", "model_optimized.onnx", "onnx/model_quantized.onnx"];

/// The tokenizer, complete with normalisation and special tokens.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// Files that are read when present: limits and pooling, as sentence-transformers lays them out.
pub const CONFIG_FILES: [&str; 6] = [
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "sentence_bert_config.json",
    "modules.json",
    "1_Pooling/config.json",
];

/// A model found under a models root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledModel {
    /// The name to use in a configuration.
    pub name: String,
    /// The model's directory.
    pub path: PathBuf,
}

/// Returns the models root for an environment with these variables: `WALVEC_MODELS`, else
/// `$XDG_CACHE_HOME/walvec/models`, else `$HOME/.cache/walvec/models`. Empty values count as unset; `None` when none is
/// set.
#[must_use]
pub fn root_from(
    walvec_models: Option<OsString>,
    xdg_cache_home: Option<OsString>,
    home: Option<OsString>,
) -> Option<PathBuf> {
    let set = |value: Option<OsString>| value.filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || set(xdg_cache_home).or_else(|| set(home).map(|home| home.join(".cache")));
    set(walvec_models).or_else(|| cache().map(|cache| cache.join("walvec").join("models")))
}

/// Returns the models roots, as far as they exist, of packages that were installed with the program at this path (with
/// symbolic links resolved).
#[must_use]
pub fn packaged_roots(program: &Path) -> Vec<PathBuf> {
    let prefix = program.parent().and_then(Path::parent);
    let share = prefix.map(|prefix| prefix.join("share/walvec/models"));
    let packages = program.ancestors().filter(|above| above.ends_with("node_modules")).flat_map(|modules| {
        let entries = std::fs::read_dir(modules.join("@walvec")).into_iter().flatten().flatten();
        entries.map(|package| package.path().join("models"))
    });
    share.into_iter().chain(packages).filter(|root| root.is_dir()).collect()
}

/// Returns the first of `roots` that has a directory for the model `name`.
#[must_use]
pub fn root_of<'a>(name: &str, roots: &'a [PathBuf]) -> Option<&'a Path> {
    let is_name = !is_directory(name) && check_name(name).is_ok();
    roots.iter().find(|root| is_name && root.join(name).is_dir()).map(PathBuf::as_path)
}

/// Returns the directory of the model `name_or_dir`, after checking that it has the files without which it cannot be
/// loaded.
///
/// A path that is absolute, starts with `./` or `../`, or has more than two parts is a directory; anything else is a
/// name below `root`.
///
/// # Errors
/// [`EmbedError::ModelName`], [`EmbedError::ModelMissing`], or [`EmbedError::Model`] when a file is missing.
pub fn resolve(name_or_dir: &str, root: &Path) -> Result<PathBuf, EmbedError> {
    let path = if is_directory(name_or_dir) {
        PathBuf::from(name_or_dir)
    } else {
        check_name(name_or_dir)?;
        root.join(name_or_dir)
    };
    if !path.is_dir() {
        return Err(EmbedError::ModelMissing { name: name_or_dir.to_owned(), path });
    }
    if static_files::find(&path)?.is_some() {
        return Ok(path);
    }
    onnx_file(&path)?;
    if !path.join(TOKENIZER_FILE).is_file() {
        return Err(EmbedError::Model { path, reason: format!("it has no {TOKENIZER_FILE}") });
    }
    Ok(path)
}

/// Lists the models installed under `root`, by name. A root that does not exist has none.
///
/// # Errors
/// [`EmbedError::Io`] when a directory cannot be read.
pub fn list(root: &Path) -> Result<Vec<InstalledModel>, EmbedError> {
    let mut found = Vec::new();
    for (name, path) in subdirectories(root)? {
        if is_complete(&path) {
            found.push(InstalledModel { name, path });
            continue;
        }
        for (child, path) in subdirectories(&path)? {
            if is_complete(&path) {
                found.push(InstalledModel { name: format!("{name}/{child}"), path });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Finds the ONNX file of a model directory.
pub(crate) fn onnx_file(dir: &Path) -> Result<PathBuf, EmbedError> {
    ONNX_FILES.iter().map(|file| dir.join(file)).find(|path| path.is_file()).ok_or_else(|| EmbedError::Model {
        path: dir.to_owned(),
        reason: format!("it has neither an ONNX file ({}) nor a static model's table", ONNX_FILES.join(", ")),
    })
}

/// Returns whether `file` holds weights of the ONNX file `onnx` in the same directory, by the names that exporters give:
/// `model.onnx_data`, `model.onnx.data`, `model.onnx_data_1`. The names come from a hub, so none may lead out of the
/// directory.
pub(crate) fn is_weights_of(file: &str, onnx: &str) -> bool {
    let is_plain = |rest: &str| rest.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    file.strip_prefix(onnx)
        .is_some_and(|rest| (rest.starts_with("_data") || rest.starts_with(".data")) && is_plain(rest))
}

/// Reads the JSON file; `null` when there is no such file.
pub(crate) fn read_json(path: &Path) -> Result<Value, EmbedError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Value::Null),
        Err(error) => return Err(EmbedError::io(path)(error)),
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| EmbedError::Model { path: path.to_owned(), reason: format!("it is not valid JSON: {error}") })
}

/// Accepts `name` and `owner/name` in the characters that hubs allow, so that a name can neither leave the models root
/// nor name a hidden directory.
pub(crate) fn check_name(name: &str) -> Result<(), EmbedError> {
    let bad = |reason| Err(EmbedError::ModelName { name: name.to_owned(), reason });
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    for part in name.split('/') {
        if part.is_empty() {
            return bad("a part of it is empty");
        }
        if part.starts_with('.') {
            return bad("a part of it starts with a dot");
        }
        if !part.chars().all(allowed) {
            return bad("only letters, digits, '-', '_' and '.' are allowed");
        }
    }
    if name.split('/').count() > 2 {
        return bad("it has more than two parts");
    }
    Ok(())
}

/// Returns whether `text` means a directory rather than a name below the root.
fn is_directory(text: &str) -> bool {
    let path = Path::new(text);
    path.is_absolute()
        || matches!(path.components().next(), Some(Component::CurDir | Component::ParentDir))
        || path.components().count() > 2
}

fn is_complete(dir: &Path) -> bool {
    match static_files::find(dir) {
        Ok(Some(_)) => true,
        Ok(None) => onnx_file(dir).is_ok() && dir.join(TOKENIZER_FILE).is_file(),
        Err(_) => false,
    }
}

/// Returns names and paths of the directories in `dir`, without hidden ones: those are unfinished downloads.
fn subdirectories(dir: &Path) -> Result<Vec<(String, PathBuf)>, EmbedError> {
    let failed = |error| EmbedError::io(dir)(error);
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() && !name.starts_with('.') {
            found.push((name, path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install(root: &Path, name: &str, files: &[&str]) {
        for file in files {
            let path = root.join(name).join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
    }

    #[test]
    fn the_most_specific_variable_decides_where_models_live() {
        let some = |text: &str| Some(OsString::from(text));
        assert_eq!(root_from(some("/m"), some("/x"), some("/h")), Some(PathBuf::from("/m")));
        assert_eq!(root_from(some(""), some("/x"), some("/h")), Some(PathBuf::from("/x/walvec/models")));
        assert_eq!(root_from(None, None, some("/h")), Some(PathBuf::from("/h/.cache/walvec/models")));
        assert_eq!(root_from(None, None, None), None);
    }

    #[test]
    fn models_of_packages_are_found_from_the_place_of_the_program() {
        let directory = tempfile::tempdir().unwrap();
        let share = directory.path().join("share/walvec/models");
        install(&share, "a/b", &["model.onnx", "tokenizer.json"]);
        assert_eq!(packaged_roots(&directory.path().join("bin/walvec")), std::slice::from_ref(&share));
        assert_eq!(root_of("a/b", std::slice::from_ref(&share)), Some(&*share));
        assert_eq!(root_of("a/c", std::slice::from_ref(&share)), None);
        assert_eq!(root_of("../models/a/b", &[share]), None, "a path is no name");

        let node = directory.path().join("node_modules/@walvec/model-a/models");
        install(&node, "a/b", &["model.onnx", "tokenizer.json"]);
        assert_eq!(packaged_roots(&directory.path().join("node_modules/@walvec/linux-x64/bin/walvec")), [node]);
        assert_eq!(packaged_roots(&directory.path().join("target/debug/walvec")), [] as [PathBuf; 0]);
    }

    #[test]
    fn a_name_is_looked_up_below_the_root_and_a_path_is_taken_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        install(root.path(), "BAAI/bge", &["onnx/model.onnx", "tokenizer.json"]);
        let expected = root.path().join("BAAI/bge");
        assert_eq!(resolve("BAAI/bge", root.path()).unwrap(), expected);
        assert_eq!(resolve(expected.to_str().unwrap(), Path::new("/elsewhere")).unwrap(), expected);
    }

    #[test]
    fn a_missing_model_and_an_incomplete_one_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        install(root.path(), "a/no-tokenizer", &["model.onnx"]);
        install(root.path(), "a/no-network", &["tokenizer.json"]);
        let code = |name| resolve(name, root.path()).unwrap_err().code();
        assert_eq!(code("a/b"), "E_MODEL_MISSING");
        assert_eq!(code("a/no-tokenizer"), "E_MODEL");
        assert_eq!(code("a/no-network"), "E_MODEL");
    }

    #[test]
    fn a_name_cannot_leave_the_models_root() {
        for name in ["a/..", "a//b", "", "a/.hidden", "a b", "a\\..\\b"] {
            let error = resolve(name, Path::new("/m")).unwrap_err();
            assert_eq!(error.code(), "E_MODEL_NAME", "{name}");
        }
    }

    #[test]
    fn the_list_shows_complete_models_only() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(list(&root.path().join("none")).unwrap(), []);
        install(root.path(), "b/two", &["model.onnx", "tokenizer.json"]);
        install(root.path(), "alone", &["model.onnx", "tokenizer.json"]);
        install(root.path(), "b/half", &["model.onnx"]);
        install(root.path(), ".pull-1", &["model.onnx", "tokenizer.json"]);
        let names: Vec<_> = list(root.path()).unwrap().into_iter().map(|model| model.name).collect();
        assert_eq!(names, ["alone", "b/two"]);
    }
}
