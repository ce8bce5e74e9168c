//! One file of the journal.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::record::{self, JournalRecord, RecordKind};
use crate::embedded::manifest::sync_parent;

/// The file before another one. Its length, recorded in the next file, shows whether it is whole.
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
    /// Length in bytes of its records. Zeros follow them.
    pub(super) length: u64,
    /// How many of these bytes are durable.
    pub(super) synced: u64,
}

impl LogFile {
    /// Creates a file with room for `bytes`; it is durable when this returns.
    pub(super) fn create(directory: &Path, number: u64, previous: Option<Previous>, bytes: usize) -> io::Result<Self> {
        let path = path_of(directory, number);
        let beginning = record::record(RecordKind::Begin, (Uuid::nil(), 0), &serde_json::to_vec(&previous)?)?;
        let mut file = File::create(&path)?;
        file.write_all(&beginning)?;
        // Fill the file with zeros, which do not read as a record. Writing over them changes neither the length nor the allocation, so
        // `fdatasync` waits for the data alone. Without them it takes longer.
        if file.write_all(&vec![0; bytes.saturating_sub(beginning.len())]).is_err() {
            file.set_len(beginning.len() as u64)?;
        }
        file.sync_all()?;
        sync_parent(&path)?;
        let length = beginning.len() as u64;
        Ok(Self { number, path, file: Arc::new(file), length, synced: length })
    }

    /// Appends records, all of them or none. They are not durable yet.
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

    /// Removes the records that are not durable.
    pub(super) fn cut(&mut self) -> io::Result<()> {
        self.length = self.synced;
        self.file.set_len(self.length)
    }

    /// Describes this file for the first record of the next one.
    pub(super) const fn as_previous(&self) -> Previous {
        Previous { number: self.number, length: self.length }
    }
}

/// Returns the path of the file with this number.
fn path_of(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:010}.log"))
}

/// Lists the files in `directory`, the oldest first.
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

/// Returns what the first record of a file says about the file before it; the outer `None` means that the file has no first record.
pub(super) fn previous(records: &[JournalRecord<'_>]) -> io::Result<Option<Option<Previous>>> {
    match records.first() {
        Some(JournalRecord { kind: RecordKind::Begin, content, .. }) => Ok(Some(serde_json::from_slice(content)?)),
        _ => Ok(None),
    }
}
