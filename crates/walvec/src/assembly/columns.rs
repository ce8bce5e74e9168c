//! The columns of the tables as they were last read, kept for searches before PostgreSQL is asked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{fs, io};

use walvec_model::Type;

use crate::config::Config;
use crate::private_file;

/// The columns of the collections' tables, with their types, by the names of the collections.
pub(crate) type SeenColumns = BTreeMap<String, Vec<(String, Type)>>;

fn file(config: &Config) -> PathBuf {
    config.sink.directory().join("columns.json")
}

/// Stores the columns of the tables, so that searches know the fields before PostgreSQL is asked.
pub(crate) fn store(config: &Config, columns: &SeenColumns) -> io::Result<()> {
    if columns.is_empty() || *columns == load(config) {
        return Ok(());
    }
    private_file::write(&file(config), &serde_json::to_vec_pretty(columns)?)
}

/// Returns the stored columns; none if they cannot be read.
pub(crate) fn load(config: &Config) -> SeenColumns {
    let stored = fs::read(file(config)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    stored.unwrap_or_default()
}
