//! The only module that advances the position up to which PostgreSQL may forget WAL.
//!
//! The order is: the sink reports durable → the checkpoint is stored → the position is reported to the slot. Only the
//! end of a transaction, or the server's position while nothing is in flight, is ever reported here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use walvec_model::{Lsn, StreamEvent};

use crate::error::{Resync, StoreError};
use crate::port::{SourcePort, StreamPort};
use crate::state::records::{Checkpoint, SnapshotState};
use crate::state::store::Store;
use crate::state::witness::Witnesses;

/// How often at most the checkpoint is stored and the position reported. After a crash at most this much is written
/// again.
const INTERVAL: Duration = Duration::from_secs(1);

/// Keeps the checkpoint of a running stream.
pub(crate) struct Checkpointer {
    store: Arc<Store>,
    source: Arc<dyn SourcePort>,
    checkpoint: Checkpoint,
    /// How far the stream has come since it was opened. It lies behind `checkpoint.applied` while the stream is being
    /// replayed.
    reached: Lsn,
    /// The value to store as [`Checkpoint::written_to`].
    written_to: Lsn,
    /// When progress that is not stored yet has to be stored.
    due: Option<Instant>,
    last: Option<Instant>,
    /// Collections with notes that are not stored yet.
    noted: BTreeSet<String>,
}

impl Checkpointer {
    /// Stores that a session begins to write. Dropping the result stores up to where it may have written.
    pub(crate) fn open(
        store: Arc<Store>,
        source: Arc<dyn SourcePort>,
        mut checkpoint: Checkpoint,
    ) -> Result<Self, StoreError> {
        let written_to = checkpoint.written_to.take().unwrap_or(checkpoint.applied);
        store.save_checkpoint(&checkpoint)?;
        Ok(Self {
            store,
            source,
            checkpoint,
            reached: Lsn::ZERO,
            written_to,
            due: None,
            last: None,
            noted: BTreeSet::new(),
        })
    }

    /// Notes the position of a change that the stream brings.
    pub(crate) fn takes(&mut self, event: &StreamEvent) {
        let position = match event {
            StreamEvent::Change(change) => change.position,
            StreamEvent::LookedUp(change) => change.position,
            StreamEvent::Begin { .. }
            | StreamEvent::Partition { .. }
            | StreamEvent::Commit { .. }
            | StreamEvent::Idle { .. } => return,
        };
        // A history that ends where the commit's record begins does not contain it, hence plus one.
        self.takes_as_of(Lsn(position.commit_lsn.0.saturating_add(1)));
    }

    /// Notes that rows are written that were read as of `position`.
    pub(crate) fn takes_as_of(&mut self, position: Lsn) {
        self.written_to = self.written_to.max(position);
    }

    /// Returns the position up to which every commit is in the sink, and nothing older is being replayed into it.
    pub(crate) const fn reached(&self) -> Lsn {
        self.reached
    }

    /// Notes that everything committed up to `end_lsn` is durably in the sink.
    pub(crate) fn durable(&mut self, end_lsn: Lsn) {
        // An idle server repeats its position. There is nothing new to store.
        if end_lsn <= self.reached {
            return;
        }
        self.reached = end_lsn;
        self.checkpoint.applied = self.checkpoint.applied.max(end_lsn);
        let now = Instant::now();
        let earliest = self.last.map_or(now, |last| last + INTERVAL);
        self.due.get_or_insert(earliest.max(now));
    }

    /// Notes that the transaction with this end brought rows, and that everything up to there is durably in the sink.
    pub(crate) fn committed(&mut self, end_lsn: Lsn) {
        self.checkpoint.last_commit = self.checkpoint.last_commit.max(end_lsn);
        self.durable(end_lsn);
    }

    /// Returns whether points of former generations wait to be removed.
    pub(crate) const fn sweep_waits(&self) -> bool {
        self.checkpoint.sweep_waits
    }

    /// Stores that no points of former generations are left.
    pub(crate) fn swept(&mut self) -> Result<(), StoreError> {
        self.checkpoint.sweep_waits = false;
        self.store.save_checkpoint(&self.checkpoint)
    }

    /// Stores that the next session has to read the tables again.
    pub(crate) fn want(&mut self, resync: &Resync) -> Result<(), StoreError> {
        self.checkpoint.snapshot = SnapshotState::Again;
        self.checkpoint.resync = Some(resync.clone());
        self.store.save_checkpoint(&self.checkpoint)
    }

    /// Notes what a collection must have. It is stored with the next position.
    pub(crate) fn note_witnesses(&mut self, collection: &str, witnesses: Witnesses) {
        if self.checkpoint.witnesses.get(collection) != Some(&witnesses) {
            self.checkpoint.witnesses.insert(collection.to_owned(), witnesses);
            self.noted.insert(collection.to_owned());
        }
    }

    /// Stores the notes, and confirms nothing.
    pub(crate) fn save(&self) -> Result<(), StoreError> {
        self.store.save_checkpoint(&self.checkpoint)
    }

    /// Notes where the topics end, for a pipeline that writes to topics. It is stored with the next position.
    pub(crate) fn note_written(&mut self, written: BTreeMap<String, i64>) {
        self.checkpoint.written = written;
    }

    /// Returns when [`store`](Self::store) should be called next; `None` if there is nothing to store.
    pub(crate) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Stores the checkpoint, then reports to the slot at most what this stream has brought. A replay that is cut short
    /// has to be repeated, because it may have brought back rows whose deletion is still to come.
    pub(crate) fn store(&mut self, stream: &dyn StreamPort) -> Result<Lsn, StoreError> {
        if self.due.take().is_some() {
            self.last = Some(Instant::now());
            crash_point!("checkpoint-due");
            self.store.save_progress(&self.checkpoint, self.noted.iter())?;
            self.noted.clear();
            crash_point!("checkpoint-stored");
        }
        stream.confirm(self.reached);
        crash_point!("confirmed");
        Ok(self.reached)
    }
}

impl Drop for Checkpointer {
    /// Stores `written_to`, because a session may end wherever it awaits.
    fn drop(&mut self) {
        // A value that was read for a row may be newer than the row's change.
        self.checkpoint.written_to = Some(self.written_to.max(self.source.read_as_of()));
        if let Err(error) = self.store.save_checkpoint(&self.checkpoint) {
            tracing::warn!(
                "what was written last could not be noted; a promotion would mean reading all tables again: {error}"
            );
        }
    }
}
