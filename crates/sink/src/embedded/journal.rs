//! Changes on their way into the engine's files, for the case that they are cut short.
//!
//! The engine writes a vector over the former one at once, through a memory map, and payloads, indexes and deletions with its
//! next `flush`. Killed between the two it leaves the new vector beside the former payload, and relies on a replay of its log,
//! which 0.7.2 does not do. So a change of stored vectors is recorded before it is made, and made again at opening.
//! There are two files, of which at most one has records:
//!
//! - `last-change`: the last vectors that took the place of stored ones; once that is answered, it is flushed
//! - `journal`: all changes since an index build began. Nothing is flushed during a build, whose deletions from the segments
//!   that are being rebuilt are in memory only. The file exists exactly while a build runs.
//!
//! One record a line: the JSON of the change's steps. A torn last line was never begun, and is ignored.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::manifest::sync_parent;
use super::steps::Step;

/// Length at which a build should come to an end: applying it again takes some ten seconds.
const LIMIT: u64 = 256 << 20;

/// Which changes a journal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The last vectors that took the place of stored ones.
    LastChange,
    /// The changes since an index build began.
    Build,
}

impl Kind {
    fn path_in(self, directory: &Path) -> PathBuf {
        directory.join(match self {
            Self::LastChange => "last-change",
            Self::Build => "journal",
        })
    }
}

/// A file of changes.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Length of the complete records; what lies behind comes from a failed append.
    length: u64,
    /// Length without the last record.
    before_last: u64,
    /// Whether the file may have a record.
    has_any: bool,
}

impl Journal {
    /// Starts an empty journal in the collection's directory.
    pub(super) fn create(directory: &Path, kind: Kind) -> io::Result<Self> {
        let path = kind.path_in(directory);
        let file = File::create(&path)?;
        file.sync_all()?;
        sync_parent(&path)?;
        Ok(Self { path, file, length: 0, before_last: 0, has_any: false })
    }

    /// Appends a change; durable when it returns.
    pub(super) fn append(&mut self, change: &[Step]) -> io::Result<()> {
        self.has_any = true;
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        // Not by way of the memory: rows may be large.
        let mut record = BufWriter::new(&self.file);
        serde_json::to_writer(&mut record, change)?;
        record.write_all(b"\n")?;
        record.flush()?;
        drop(record);
        self.file.sync_data()?;
        self.before_last = self.length;
        self.length = self.file.stream_position()?;
        Ok(())
    }

    /// Puts a change in the place of all others; durable when it returns.
    pub(super) fn replace(&mut self, change: &[Step]) -> io::Result<()> {
        (self.length, self.before_last) = (0, 0);
        self.append(change)
    }

    /// Takes the last record back: its change was not made.
    pub(super) fn take_back(&mut self) -> io::Result<()> {
        self.cut(self.before_last)
    }

    /// Forgets all records: changes follow after which these must not be made again.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.cut(0)
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.sync_data()?;
        (self.length, self.before_last, self.has_any) = (length, length, length > 0);
        Ok(())
    }

    /// Whether the file may have a record, also one that could not be written or removed as it should.
    pub(super) const fn has_any(&self) -> bool {
        self.has_any
    }

    pub(super) const fn is_long(&self) -> bool {
        self.length > LIMIT
    }

    /// Removes the journal, if it is still there: its changes are durable in the engine.
    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => sync_parent(&self.path),
        }
    }
}

/// The journal that was left behind, and the changes in it; `None` if there is none.
pub(super) fn left_behind(directory: &Path, kind: Kind) -> io::Result<Option<(Journal, Vec<Vec<Step>>)>> {
    let path = kind.path_in(directory);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let file = File::options().write(true).open(&path)?;
    let (changes, before_last, length) = decode(&bytes);
    Ok(Some((Journal { path, file, length, before_last, has_any: length > 0 }, changes)))
}

/// The complete records, and their length in bytes without the last one and with it.
fn decode(bytes: &[u8]) -> (Vec<Vec<Step>>, u64, u64) {
    let mut changes = Vec::new();
    let (mut before_last, mut length) = (0, 0);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match serde_json::from_slice(line) {
            Ok(change) if line.ends_with(b"\n") => changes.push(change),
            _ => break,
        }
        (before_last, length) = (length, length + line.len() as u64);
    }
    (changes, before_last, length)
}

#[cfg(test)]
mod tests {
    use walvec_model::PointId;

    use super::*;

    fn changes_in(directory: &Path) -> Option<Vec<Vec<Step>>> {
        left_behind(directory, Kind::Build).unwrap().map(|(_, changes)| changes)
    }

    fn change(id: u64) -> Vec<Step> {
        vec![Step::Delete(vec![PointId::Num(id)])]
    }

    #[test]
    fn a_record_torn_by_a_crash_hides_none_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(directory.path(), Kind::Build).unwrap();
        journal.append(&change(1)).unwrap();
        journal.append(&change(2)).unwrap();
        let path = Kind::Build.path_in(directory.path());
        let mut bytes = fs::read(&path).unwrap();
        let record = serde_json::to_vec(&change(3)).unwrap();
        bytes.extend_from_slice(&record[..record.len() - 4]);
        fs::write(&path, bytes).unwrap();

        assert_eq!(changes_in(directory.path()), Some(vec![change(1), change(2)]));
        let (mut resumed, _) = left_behind(directory.path(), Kind::Build).unwrap().unwrap();
        resumed.append(&change(4)).unwrap();
        assert_eq!(changes_in(directory.path()), Some(vec![change(1), change(2), change(4)]));
    }

    #[test]
    fn the_rest_of_a_failed_append_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(directory.path(), Kind::Build).unwrap();
        journal.file.write_all(b"[{\"half\": \"a record\", of some length").unwrap();
        journal.append(&change(1)).unwrap();

        assert_eq!(changes_in(directory.path()), Some(vec![change(1)]));
    }

    #[test]
    fn a_change_that_is_replaced_or_taken_back_is_not_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(directory.path(), Kind::Build).unwrap();
        journal.replace(&change(1000)).unwrap();
        journal.replace(&change(3)).unwrap();
        assert_eq!(changes_in(directory.path()), Some(vec![change(3)]));
        journal.clear().unwrap();
        assert!(!journal.has_any());
        assert_eq!(changes_in(directory.path()), Some(vec![]));
        journal.append(&change(4)).unwrap();
        journal.append(&change(5)).unwrap();
        let (mut resumed, _) = left_behind(directory.path(), Kind::Build).unwrap().unwrap();
        resumed.take_back().unwrap();
        assert_eq!(changes_in(directory.path()), Some(vec![change(4)]));
    }

    #[test]
    fn without_an_interrupted_build_there_is_nothing_to_apply() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(changes_in(directory.path()), None);
        let journal = Journal::create(directory.path(), Kind::Build).unwrap();
        assert_eq!(changes_in(directory.path()), Some(vec![]));
        journal.remove().unwrap();
        assert_eq!(changes_in(directory.path()), None);
    }
}
