//! Changes on their way into the engine's files, recorded in case they are cut short.
//!
//! ```text
//!  change ──▶ record, one fdatasync for all that wait ──▶ engine's memory ──▶ answer
//!                                                              └── now and then: engine's flush, records are forgotten
//! ```
//!
//! The engine makes a change durable by a flush of all its files, which takes several times as long as one `fdatasync`. It overwrites a vector at
//! once, through a memory map, and writes everything else with the next flush. It relies on a replay of its own log, which 0.7.2 does not do. So
//! every change is recorded before it is made. At opening it is made again, in order, unless a flush after it is known to have ended. Making a
//! change again changes nothing.
//!
//! All collections of a data directory share the journal: `<root>/journal/<number>.log`. The oldest file is removed when every collection has
//! flushed its changes in it. So the records that are left of a collection are always the end of its history, without a hole. A collection counts
//! its flushes, and each record says how many came before it. Records that are older than the last flush are not needed. Records that are newer
//! than the collection knows of belong to another state of it, and would not fit a collection that was restored from a copy.
//!
//! - `record`: how a record lies in a file
//! - `file`: one file
//! - `left_behind`: changes that another process left

mod file;
mod left_behind;
mod record;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use uuid::Uuid;

use self::file::LogFile;
use self::record::{JournalRecord, RecordKind};
use super::data_dir::LockFile;
use super::manifest::sync_parent;
use super::paths::io_error;
use super::steps::EngineStep;
use crate::SinkError;

pub(super) use self::left_behind::{forget_handed_out, handed_out};

/// Length at which a new file is begun.
const FILE_BYTES: usize = 4 << 20;

/// About how many bytes the engine holds in memory for a changed point until its next flush. For short rows that is more than their records take.
const POINT_BYTES: u64 = 640;

/// With more files than this, the collections that still need the oldest one are asked to flush.
const MANY_FILES: usize = 12;

/// A callback that asks a collection to flush.
type Relief = Arc<dyn Fn() + Send + Sync>;

/// The journals that are open in this process, and how many collections use each.
static OPEN: Mutex<BTreeMap<PathBuf, (Arc<Journal>, usize)>> = Mutex::new(BTreeMap::new());

/// A collection's part in the journal of its data directory.
pub(super) struct JournalMember {
    journal: Arc<Journal>,
    root: PathBuf,
    id: Uuid,
    /// How many flushes the collection has counted.
    flushes: AtomicU64,
}

impl JournalMember {
    /// Joins the journal of the data directory `root`. The first to join opens it and hands out the changes that another process left there to
    /// their collections, see [`handed_out`]. `flushes`: how many this collection has counted.
    pub(super) fn join(root: &Path, id: Uuid, flushes: u64) -> Result<Self, SinkError> {
        let root = root.canonicalize().map_err(io_error(root))?;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let journal = match open.get_mut(&root) {
            Some((journal, members)) => {
                *members += 1;
                Arc::clone(journal)
            }
            None => {
                let journal = Arc::new(Journal::open(&root)?);
                open.insert(root.clone(), (Arc::clone(&journal), 1));
                journal
            }
        };
        Ok(Self { journal, root, id, flushes: AtomicU64::new(flushes) })
    }

    /// Sets the callback for when the collection should flush. It runs on a thread that may wait for it.
    pub(super) fn relieved_by(&self, relief: Relief) {
        self.journal.state().reliefs.insert(self.id, relief);
    }

    /// Records a change; it is durable when this returns.
    pub(super) fn record(&self, change: &mut [EngineStep]) -> io::Result<()> {
        let record = record::record(RecordKind::Change, self.tag(), &record::encode(change)?)?;
        self.journal.append(self.id, &record)
    }

    /// Withdraws the last change, durably, because it was not made.
    pub(super) fn withdraw(&self) -> io::Result<()> {
        let record = record::record(RecordKind::Withdrawn, self.tag(), &[])?;
        self.journal.append(self.id, &record)
    }

    /// Forgets all changes, after the engine has flushed them and the collection has durably counted `flushes` flushes.
    pub(super) fn flushed(&self, flushes: u64) {
        self.flushes.store(flushes, Ordering::Relaxed);
        self.journal.flushed(self.id);
    }

    fn tag(&self) -> (Uuid, u64) {
        (self.id, self.flushes.load(Ordering::Relaxed))
    }

    /// Returns the changes since the last flush.
    pub(super) fn changes(&self) -> io::Result<Vec<Vec<EngineStep>>> {
        self.journal.changes(self.tag())
    }

    /// Adds the `points` of the last change to the estimate of [`bytes`](Self::bytes).
    pub(super) fn changed(&self, points: u64) {
        if let Some(owed) = self.journal.state().owed.get_mut(&self.id) {
            owed.bytes = owed.bytes.saturating_add(points.saturating_mul(POINT_BYTES));
        }
    }

    /// Returns about how many bytes the changes since the last flush take, in the journal and in the engine's memory.
    pub(super) fn bytes(&self) -> u64 {
        self.journal.state().owed.get(&self.id).map_or(0, |owed| owed.bytes)
    }
}

impl std::fmt::Debug for JournalMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("root", &self.root).field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for JournalMember {
    /// Keeps the changes that were not flushed, for when the collection is opened again.
    fn drop(&mut self) {
        self.journal.state().reliefs.remove(&self.id);
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((journal, members)) = open.get_mut(&self.root) else { return };
        *members -= 1;
        if *members == 0 {
            journal.close();
            open.remove(&self.root);
        }
    }
}

/// The journal of a data directory.
struct Journal {
    directory: PathBuf,
    state: Mutex<JournalState>,
    /// Signals the end of an `fdatasync`.
    turn: Condvar,
}

#[derive(Default)]
struct JournalState {
    /// The files, oldest first; the last one takes records.
    files: VecDeque<LogFile>,
    /// How many files were created.
    begun: u64,
    /// The group of records that the next `fdatasync` is for.
    group: Arc<RecordGroup>,
    is_syncing: bool,
    /// Whether writing the last file failed; the next record goes to a new one.
    is_broken: bool,
    /// The collections that have records which are not flushed.
    owed: HashMap<Uuid, Owed>,
    reliefs: HashMap<Uuid, Relief>,
    is_relieving: bool,
    lock: Option<LockFile>,
}

/// A group of records that share one `fdatasync`, and its outcome.
#[derive(Default)]
struct RecordGroup(OnceLock<Result<(), (ErrorKind, String)>>);

impl RecordGroup {
    fn end(&self, outcome: &io::Result<()>) {
        // `set` cannot fail: each group ends once.
        self.0.set(outcome.as_ref().copied().map_err(|error| (error.kind(), error.to_string()))).ok();
    }

    fn outcome(&self) -> Option<io::Result<()>> {
        self.0.get().map(|outcome| outcome.clone().map_err(|(kind, reason)| io::Error::new(kind, reason)))
    }
}

/// The changes of a collection that are not flushed.
#[derive(Clone, Copy)]
struct Owed {
    /// The number of the file that holds the first of its records.
    since: u64,
    /// The size of its records, and of what the engine holds in memory of their points.
    bytes: u64,
}

impl Journal {
    fn open(root: &Path) -> Result<Self, SinkError> {
        let directory = root.join("journal");
        let lock = Some(LockFile::acquire(&directory)?);
        left_behind::hand_out(root, &directory)?;
        Ok(Self {
            directory,
            state: Mutex::new(JournalState { lock, ..JournalState::default() }),
            turn: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, JournalState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the files if no collection needs them, and releases the lock.
    fn close(&self) {
        let mut state = self.state();
        if state.owed.is_empty() {
            state.remove_oldest(0);
        }
        state.lock = None;
    }

    /// Appends a record; it is durable when this returns.
    fn append(self: &Arc<Self>, owner: Uuid, record: &[u8]) -> io::Result<()> {
        let mut state = self.with_room(self.state())?;
        let Some(last) = state.files.back_mut() else { return Err(ErrorKind::NotFound.into()) };
        let number = last.number;
        if let Err(error) = last.append(record) {
            state.is_broken = true;
            return Err(error);
        }
        let owed = state.owed.entry(owner).or_insert(Owed { since: number, bytes: 0 });
        owed.bytes += record.len() as u64;
        self.synced(state)
    }

    /// Waits until the appended records are durable. Callers that arrive during an `fdatasync` share the next one.
    fn synced<'a>(&'a self, mut state: MutexGuard<'a, JournalState>) -> io::Result<()> {
        let group = Arc::clone(&state.group);
        loop {
            if let Some(outcome) = group.outcome() {
                return outcome;
            }
            if state.is_syncing {
                state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let Some(last) = state.files.back() else { return Err(ErrorKind::NotFound.into()) };
            let (file, length) = (Arc::clone(&last.file), last.length);
            let led = std::mem::take(&mut state.group);
            state.is_syncing = true;
            drop(state);
            let outcome = file.sync_data();
            state = self.state();
            state.is_syncing = false;
            state.end_sync(length, &outcome);
            led.end(&outcome);
            self.turn.notify_all();
        }
    }

    /// Makes sure that the last file can take records, or creates a new one.
    fn with_room<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, JournalState>,
    ) -> io::Result<MutexGuard<'a, JournalState>> {
        loop {
            if !state.is_broken && state.files.back().is_some_and(|last| last.length < FILE_BYTES as u64) {
                return Ok(state);
            }
            if !state.is_syncing {
                break;
            }
            state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        // A file must be durable to its end before another one follows it.
        if let Some(last) = state.files.back() {
            let length = last.length;
            let outcome = last.file.sync_data();
            state.end_sync(length, &outcome);
            std::mem::take(&mut state.group).end(&outcome);
            self.turn.notify_all();
        }
        let previous = state.files.back().map(LogFile::as_previous);
        let number = state.begun + 1;
        let begun = LogFile::create(&self.directory, number, previous, FILE_BYTES)?;
        state.begun = number;
        state.files.push_back(begun);
        state.is_broken = false;
        self.relieve(&mut state);
        Ok(state)
    }

    fn flushed(&self, owner: Uuid) {
        let mut state = self.state();
        state.owed.remove(&owner);
        state.remove_oldest(1);
    }

    fn changes(&self, (owner, flushes): (Uuid, u64)) -> io::Result<Vec<Vec<EngineStep>>> {
        let state = self.state();
        let Some(owed) = state.owed.get(&owner) else { return Ok(Vec::new()) };
        let mut contents: Vec<Vec<u8>> = Vec::new();
        for file in state.files.iter().filter(|file| file.number >= owed.since) {
            let mut bytes = fs::read(&file.path)?;
            bytes.truncate(usize::try_from(file.length).unwrap_or(usize::MAX));
            let records = record::records(&bytes)?.0.into_iter();
            for JournalRecord { kind, content, .. } in
                records.filter(|record| (record.owner, record.flushes) == (owner, flushes))
            {
                match kind {
                    RecordKind::Change => contents.push(content.to_vec()),
                    RecordKind::Withdrawn => drop(contents.pop()),
                    RecordKind::Begin => {}
                }
            }
        }
        drop(state);
        contents.iter().map(|content| record::decode(content)).collect()
    }

    /// Asks the collections that still need the oldest file to flush, on a thread of its own: they may have nothing to write for a long time.
    fn relieve(self: &Arc<Self>, state: &mut JournalState) {
        let Some(oldest) = state.files.front().map(|oldest| oldest.number) else { return };
        if state.files.len() <= MANY_FILES || state.is_relieving {
            return;
        }
        let holders = state.owed.iter().filter(|(_, owed)| owed.since <= oldest);
        let reliefs: Vec<Relief> = holders.filter_map(|(id, _)| state.reliefs.get(id).map(Arc::clone)).collect();
        let journal = Arc::clone(self);
        let work = move || {
            reliefs.iter().for_each(|relief| relief());
            journal.state().is_relieving = false;
        };
        // If no thread can be started, the next new file tries again.
        state.is_relieving = thread::Builder::new().name("walvec-journal".to_owned()).spawn(work).is_ok();
    }
}

impl JournalState {
    /// Records the outcome of an `fdatasync` of the first `length` bytes of the last file.
    fn end_sync(&mut self, length: u64, outcome: &io::Result<()>) {
        let Some(last) = self.files.back_mut() else { return };
        if outcome.is_ok() {
            last.synced = last.synced.max(length);
            return;
        }
        // After a failed `fdatasync` the system may have dropped the data, and it reports the error only once. So nothing more is written to this
        // file, and records that were appended meanwhile have failed as well.
        self.is_broken = true;
        if let Err(error) = last.cut() {
            tracing::warn!(%error, path = %last.path.display(), "changes that were not made could not be removed from the journal");
        }
        std::mem::take(&mut self.group).end(outcome);
    }

    /// Removes files that no collection needs, oldest first, so that a crash leaves no hole. Keeps the last `kept` files.
    fn remove_oldest(&mut self, kept: usize) {
        while self.files.len() > kept
            && let Some(oldest) = self.files.front()
            && self.owed.values().all(|owed| owed.since > oldest.number)
        {
            if let Err(error) = fs::remove_file(&oldest.path).and_then(|()| sync_parent(&oldest.path)) {
                tracing::warn!(%error, path = %oldest.path.display(), "a file of the journal that is no longer needed stays");
                return;
            }
            self.files.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
