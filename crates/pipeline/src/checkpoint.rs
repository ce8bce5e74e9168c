//! The only module that advances the position which PostgreSQL may forget up to.
//!
//! The order is: the sink says durable → the checkpoint is stored → the slot is told. Only a transaction's end, or the
//! server's position while nothing is in flight, ever comes here.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use walvec_capture::ChangeStream;
use walvec_model::Lsn;

use crate::store::{Checkpoint, Store, StoreError};

/// How often at most the checkpoint is stored and the slot told. After a crash at most this much is written again.
const INTERVAL: Duration = Duration::from_secs(1);

/// Keeps the checkpoint of a running stream.
pub(crate) struct Checkpointer {
    store: Arc<Store>,
    checkpoint: Checkpoint,
    /// When progress that is not stored yet has to be stored.
    due: Option<Instant>,
    last: Option<Instant>,
}

impl Checkpointer {
    pub(crate) const fn new(store: Arc<Store>, checkpoint: Checkpoint) -> Self {
        Self { store, checkpoint, due: None, last: None }
    }

    /// Everything committed up to here is durably in the sink.
    pub(crate) const fn applied(&self) -> Lsn {
        self.checkpoint.applied
    }

    /// Notes that everything committed up to `end_lsn` is durably in the sink.
    pub(crate) fn durable(&mut self, end_lsn: Lsn) {
        if end_lsn <= self.checkpoint.applied {
            return;
        }
        self.checkpoint.applied = end_lsn;
        let now = Instant::now();
        let earliest = self.last.map_or(now, |last| last + INTERVAL);
        self.due.get_or_insert(earliest.max(now));
    }

    /// When [`store`](Self::store) should be called next; `None` if there is nothing to store.
    pub(crate) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Stores the checkpoint and then tells the slot.
    pub(crate) fn store(&mut self, stream: &ChangeStream) -> Result<Lsn, StoreError> {
        if self.due.take().is_some() {
            self.last = Some(Instant::now());
            self.store.save_checkpoint(&self.checkpoint)?;
        }
        stream.confirm(self.checkpoint.applied);
        Ok(self.checkpoint.applied)
    }
}
