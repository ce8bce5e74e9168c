//! One file of the journal.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::record::{self, Kind, Record};
use crate::embedded::manifest::sync_parent;

/// The file before another one: how long it was says whether it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Previous {
    pub(super) number: u64,
    /// Length in bytes of its records.
    pub(super) length: u64,
}

/// A file that this process writes, or has written.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    /// Length in bytes of its records. Behind them are zeros.
    pub(super) length: u64,
    /// How much of that is durable.
    pub(super) synced: u64,
}

impl LogFile {
    /// Begins a file with room for `bytes`; durable when it returns.
    pub(super) fn create(directory: &Path, number: u64, previous: Option<Previous>, bytes: usize) -> io::Result<Self> {
        let path = path_of(directory, number);
        let beginning = record::record(Kind::Begin, (Uuid::nil(), 0), &serde_json::to_vec(&previous)?)?;
        let mut file = File::create(&path)?;
        file.write_all(&beginning)?;
        // Zeros, which are no record. What is written over them changes no length and takes no room, so that its `fdatasync` waits for the data
        // alone. Without them it takes longer.
        if file.write_all(&vec![0; bytes.saturating_sub(beginning.len())]).is_err() {
            file.set_len(beginning.len() as u64)?;
        }
        file.sync_all()?;
        sync_parent(&path)?;
        let length = beginning.len() as u64;
        Ok(Self { number, path, file: Arc::new(file), length, synced: length })
    }

    /// Appends records, which are not durable yet. All of them or nothing.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut file = &*self.file;
        let written = file.seek(SeekFrom::Start(self.length)).and_then(|_| file.write_all(bytes));
        if written.is_err() {
            file.set_len(self.length)?;
        }
        written?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Forgets the records that are not durable.
    pub(super) fn cut(&mut self) -> io::Result<()> {
        self.length = self.synced;
        self.file.set_len(self.length)
    }

    /// How the next file describes this one.
    pub(super) const fn as_previous(&self) -> Previous {
        Previous { number: self.number, length: self.length }
    }
}

/// Where the file with this number lies.
fn path_of(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:010}.log"))
}

/// The files in `directory`, the oldest first.
pub(super) fn list(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".log"));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// What the first record of a file says about the one before; `None` if the file was not begun.
pub(super) fn previous(records: &[Record<'_>]) -> io::Result<Option<Option<Previous>>> {
    match records.first() {
        Some(Record { kind: Kind::Begin, content, .. }) => Ok(Some(serde_json::from_slice(content)?)),
        _ => Ok(None),
    }
}
