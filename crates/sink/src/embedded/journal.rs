//! What makes writes durable while an index is being built.
//!
//! During a build the engine keeps deletions from the segments being rebuilt in memory only, and leaves them to a replay
//! of its log, which 0.7.2 does not do: `flush` would promise too much. So each change is also appended here and synced.
//! The file exists exactly while a build runs; found at opening, it means that one was cut short, and is applied again.
//!
//! One record a line: the JSON of the change's steps. A torn last line was never answered, and is ignored.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::manifest::sync_parent;
use super::steps::Step;

/// Length at which a build should come to an end: applying it again takes some ten seconds.
const LIMIT: u64 = 256 << 20;

/// The journal of the index build that is under way.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Length of the complete records; what lies behind comes from a failed append.
    length: u64,
}

impl Journal {
    /// Starts an empty journal in the collection's directory.
    pub(super) fn create(directory: &Path) -> io::Result<Self> {
        let path = path_in(directory);
        let file = File::create(&path)?;
        file.sync_all()?;
        sync_parent(&path)?;
        Ok(Self { path, file, length: 0 })
    }

    /// Appends a record made by [`encode`]; durable when it returns.
    pub(super) fn append(&mut self, record: &[u8]) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        self.file.write_all(record)?;
        self.file.sync_data()?;
        self.length += record.len() as u64;
        Ok(())
    }

    pub(super) const fn is_long(&self) -> bool {
        self.length > LIMIT
    }

    /// Forgets the journal: its changes are durable in the engine.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        sync_parent(&self.path)
    }
}

/// The record of a change.
pub(super) fn encode(steps: &[Step]) -> io::Result<Vec<u8>> {
    let mut record = serde_json::to_vec(steps)?;
    record.push(b'\n');
    Ok(record)
}

/// The journal that an interrupted build left, and the changes in it; `None` if there is none.
pub(super) fn left_behind(directory: &Path) -> io::Result<Option<(Journal, Vec<Vec<Step>>)>> {
    let path = path_in(directory);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let file = File::options().write(true).open(&path)?;
    let (changes, length) = decode(&bytes);
    Ok(Some((Journal { path, file, length }, changes)))
}

/// The complete records, and their length in bytes.
fn decode(bytes: &[u8]) -> (Vec<Vec<Step>>, u64) {
    let mut changes = Vec::new();
    let mut length = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match serde_json::from_slice(line) {
            Ok(change) if line.ends_with(b"\n") => changes.push(change),
            _ => break,
        }
        length += line.len() as u64;
    }
    (changes, length)
}

fn path_in(directory: &Path) -> PathBuf {
    directory.join("journal")
}

#[cfg(test)]
mod tests {
    use walvec_model::PointId;

    use super::*;

    fn changes_in(directory: &Path) -> Option<Vec<Vec<Step>>> {
        left_behind(directory).unwrap().map(|(_, changes)| changes)
    }

    fn change(id: u64) -> Vec<Step> {
        vec![Step::Delete(vec![PointId::Num(id)])]
    }

    #[test]
    fn a_record_torn_by_a_crash_hides_none_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(directory.path()).unwrap();
        journal.append(&encode(&change(1)).unwrap()).unwrap();
        journal.append(&encode(&change(2)).unwrap()).unwrap();
        let path = path_in(directory.path());
        let mut bytes = fs::read(&path).unwrap();
        let record = encode(&change(3)).unwrap();
        bytes.extend_from_slice(&record[..record.len() - 4]);
        fs::write(&path, bytes).unwrap();

        assert_eq!(changes_in(directory.path()), Some(vec![change(1), change(2)]));
        let (mut resumed, _) = left_behind(directory.path()).unwrap().unwrap();
        resumed.append(&encode(&change(4)).unwrap()).unwrap();
        assert_eq!(changes_in(directory.path()), Some(vec![change(1), change(2), change(4)]));
    }

    #[test]
    fn the_rest_of_a_failed_append_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(directory.path()).unwrap();
        journal.file.write_all(b"[{\"half\": \"a record\", of some length").unwrap();
        journal.append(&encode(&change(1)).unwrap()).unwrap();

        assert_eq!(changes_in(directory.path()), Some(vec![change(1)]));
    }

    #[test]
    fn without_an_interrupted_build_there_is_nothing_to_apply() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(changes_in(directory.path()), None);
        let journal = Journal::create(directory.path()).unwrap();
        assert_eq!(changes_in(directory.path()), Some(vec![]));
        journal.remove().unwrap();
        assert_eq!(changes_in(directory.path()), None);
    }
}
