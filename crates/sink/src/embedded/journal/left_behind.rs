//! Changes that another process left in the journal.
//!
//! They are handed out to their collections, as a file `changes` in the directory of each, and made again when that collection is opened: not all
//! of them may be opened this time. Changes of a collection that is gone are dropped.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::file;
use super::record::{self, JournalRecord, RecordKind};
use crate::SinkError;
use crate::embedded::manifest::{self, replace_file, sync_parent};
use crate::embedded::paths::io_error;
use crate::embedded::steps::EngineStep;

/// Returns the path of the file with the changes that were handed out to a collection.
fn handed_out_path(collection: &Path) -> PathBuf {
    collection.join("changes")
}

/// Reads the changes that were handed out to the collection in this directory, in their order.
pub(in crate::embedded) fn handed_out(collection: &Path) -> io::Result<Vec<Vec<EngineStep>>> {
    let bytes = read(&handed_out_path(collection))?;
    record::records(&bytes)?.0.iter().map(|record| record::decode(record.content)).collect()
}

/// Removes the changes that were handed out, after the engine has flushed them.
pub(in crate::embedded) fn forget_handed_out(collection: &Path) -> io::Result<()> {
    remove(&handed_out_path(collection))
}

/// Hands out all changes in the journal's directory, and empties it.
pub(super) fn hand_out(root: &Path, directory: &Path) -> Result<(), SinkError> {
    let failed = io_error(directory);
    let paths = file::list(directory).map_err(&failed)?;
    let mut files = Vec::new();
    for (number, path) in &paths {
        files.push((*number, fs::read(path).map_err(io_error(path))?));
    }
    let files = whole(directory, &files)?;
    let owed = changes(&files);
    if !owed.is_empty() {
        let collections = collections(root).map_err(&failed)?;
        for (owner, records) in owed {
            let Some((collection, flushes)) = collections.get(&owner) else { continue };
            if records.iter().any(|record| record.flushes > *flushes) {
                let collection = collection.display();
                tracing::warn!(%collection, "the collection was put back to an older state, which its last changes do not follow; they are left out");
                continue;
            }
            let records = records.iter().filter(|record| record.flushes == *flushes).map(|record| record.bytes);
            let records = records.collect::<Vec<_>>().concat();
            if !records.is_empty() {
                let path = handed_out_path(collection);
                let mut bytes = read(&path).map_err(io_error(&path))?;
                bytes.extend(records);
                replace_file(&path, &bytes).map_err(io_error(&path))?;
            }
        }
    }
    // Remove the oldest first. After a crash, what is left is the end of each history; making it again changes nothing.
    for (_, path) in &paths {
        remove(path).map_err(io_error(path))?;
    }
    Ok(())
}

/// Returns the records of the files, if nothing is missing but the end of the last file, which was being written.
fn whole<'a>(directory: &Path, files: &'a [(u64, Vec<u8>)]) -> Result<Vec<Vec<JournalRecord<'a>>>, SinkError> {
    let mut whole = Vec::new();
    for (index, (number, bytes)) in files.iter().enumerate() {
        let next = files.get(index + 1).map(|(_, bytes)| bytes.as_slice());
        let is_last_but_one = index + 2 == files.len();
        let records = records_before(*number, bytes, next, is_last_but_one);
        whole.push(records.map_err(|error| SinkError::Corrupt {
            collection: "*".to_owned(),
            path: directory.to_owned(),
            reason: format!(
                "file {number} of the journal {error}: changes that were confirmed to PostgreSQL may be missing; put back the data directory \
                 from a backup, or remove the files in {} and let `walvec verify --repair` read the tables",
                directory.display()
            ),
        })?);
    }
    Ok(whole)
}

/// Returns the records of a file, up to the length that the next file records for it.
fn records_before<'a>(
    number: u64,
    bytes: &'a [u8],
    next: Option<&[u8]>,
    is_next_last: bool,
) -> io::Result<Vec<JournalRecord<'a>>> {
    let (mut records, length) = record::records(bytes)?;
    let Some(next) = next else { return Ok(records) };
    match file::previous(&record::records(next)?.0)? {
        // The last file's first record was being written; this file was durable before that.
        None if is_next_last => {}
        Some(Some(said)) if said.number == number => {
            let said = usize::try_from(said.length).unwrap_or(usize::MAX);
            if length < said {
                return Err(record::invalid(format!("can be read up to byte {length} of {said} only")));
            }
            // The bytes beyond that length are changes that failed.
            records = record::records(&bytes[..said])?.0;
        }
        _ => return Err(record::invalid("is not the one that the next file follows")),
    }
    Ok(records)
}

/// Groups the changes by collection, without those that were withdrawn.
fn changes<'a>(files: &[Vec<JournalRecord<'a>>]) -> BTreeMap<Uuid, Vec<JournalRecord<'a>>> {
    let mut changes: BTreeMap<Uuid, Vec<JournalRecord<'_>>> = BTreeMap::new();
    for record in files.iter().flatten() {
        let of_owner = changes.entry(record.owner).or_default();
        match record.kind {
            RecordKind::Change => of_owner.push(*record),
            RecordKind::Withdrawn => drop(of_owner.pop()),
            RecordKind::Begin => {}
        }
    }
    changes.retain(|_, of_owner| !of_owner.is_empty());
    changes
}

/// Finds the collections of a data directory: by id, the directory and how many flushes the manifest counts.
fn collections(root: &Path) -> io::Result<HashMap<Uuid, (PathBuf, u64)>> {
    let mut found = HashMap::new();
    for entry in fs::read_dir(root.join("collections"))? {
        let directory = entry?.path();
        if let Some((id, flushes)) = manifest::state_in(&directory)? {
            found.insert(id, (directory, flushes));
        }
    }
    Ok(found)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| sync_parent(path)),
    }
}
