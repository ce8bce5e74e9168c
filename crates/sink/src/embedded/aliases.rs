//! The aliases of a data directory: `collections/aliases.json`, next to the collections'
//! directories.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::data_dir::create_private_dir;
use super::manifest::{self, replace_file};
use super::paths::{collection_directory, io_error};
use crate::catalog::{self, Catalog};
use crate::{BoxFuture, SinkError};

/// Name → collection.
type AliasMap = BTreeMap<String, String>;

/// The collections of a data directory. The caller locks the directory before it changes anything
/// here.
#[derive(Clone, Debug)]
pub struct Directory {
    collections: PathBuf,
    root: PathBuf,
}

impl Directory {
    /// Names the collections in `root`, which need not exist yet.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { collections: root.join("collections"), root: root.to_owned() }
    }

    fn file(&self) -> PathBuf {
        self.collections.join("aliases.json")
    }

    fn names(&self) -> Result<AliasMap, SinkError> {
        let path = self.file();
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| SinkError::Corrupt {
                collection: "*".to_owned(),
                path,
                reason: format!("it is not readable: {error}"),
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(AliasMap::new()),
            Err(error) => Err(io_error(&path)(error)),
        }
    }

    fn collections(&self) -> Result<Vec<String>, SinkError> {
        let failed = io_error(&self.collections);
        let entries = match fs::read_dir(&self.collections) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(&failed)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(&failed)?;
            if let Ok(name) = entry.file_name().into_string()
                && manifest::exists(&entry.path())
            {
                found.push(name);
            }
        }
        Ok(found)
    }

    fn store(&self, changes: Vec<(String, String)>) -> Result<(), SinkError> {
        let mut names = self.names()?;
        names.extend(changes);
        let path = self.file();
        let write = || {
            create_private_dir(&self.collections)?;
            replace_file(&path, &serde_json::to_vec_pretty(&names)?)
        };
        write().map_err(io_error(&path))
    }

    fn delete(&self, collection: &str) -> Result<(), SinkError> {
        let directory = collection_directory(&self.root, collection)?;
        // The manifest goes first: if a crash leaves the rest, that is not a collection any more.
        for removed in [fs::remove_file(manifest::path(&directory)), fs::remove_dir_all(&directory)] {
            match removed {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(io_error(&directory)(error)),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Catalog for Directory {
    fn serving<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, SinkError>> {
        Box::pin(async move { Ok(self.names()?.remove(name)) })
    }

    fn numbers<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<u64>, SinkError>> {
        Box::pin(async move { Ok(catalog::numbers(name, self.collections()?)) })
    }

    fn is_taken<'a>(&'a self, collection: &'a str) -> BoxFuture<'a, Result<bool, SinkError>> {
        Box::pin(async move { Ok(collection_directory(&self.root, collection)?.exists()) })
    }

    fn switch(&self, names: Vec<(String, String)>) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async move { self.store(names) })
    }

    fn remove<'a>(&'a self, collection: &'a str) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move { self.delete(collection) })
    }
}
