//! Paths of the files of a collection, and errors about them.

use std::io;
use std::path::{Path, PathBuf};

use crate::SinkError;

/// Makes an error about `path`.
pub(super) fn io_error(path: &Path) -> impl Fn(io::Error) -> SinkError + use<> {
    let path = path.to_owned();
    move |source| SinkError::Io { path: path.clone(), source }
}

/// Returns the directory of the engine's own files of a collection.
pub(super) fn shard_directory(collection: &Path) -> PathBuf {
    collection.join("shard")
}

/// Returns the path of a file that exists while an index is being built.
#[cfg(feature = "embedded")]
pub(super) fn build_mark(collection: &Path) -> PathBuf {
    collection.join("building")
}

/// Returns the directory of a collection in the data directory `root`.
pub(super) fn collection_directory(root: &Path, name: &str) -> Result<PathBuf, SinkError> {
    let collections = root.join("collections");
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
    if plain {
        return Ok(collections.join(name));
    }
    let message = format!("the collection name {name:?} cannot be a directory's");
    Err(io_error(&collections)(io::Error::new(io::ErrorKind::InvalidInput, message)))
}
