//! Whether this process may still write collections that other processes can reach.
//!
//! Two processes with separate slots would each write the same collection from its own position, and the slower one
//! would overwrite newer rows with older ones. So the right to write is held at the source, and checked before each
//! write: between reading a change and writing it lies an embedding, and perhaps a pause of the whole machine.

use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use walvec_capture::Ownership;

use crate::error::PipelineError;
use crate::shared::Fence;

/// The present session's right to write; `None` where other processes cannot reach the collections.
#[derive(Default)]
pub(crate) struct Owner(Mutex<Option<Arc<Ownership>>>);

impl Owner {
    /// Replaces the right of the last session with that of the present one.
    pub(crate) fn set(&self, ownership: Option<Ownership>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ownership.map(Arc::new);
    }

    fn get(&self) -> Option<Arc<Ownership>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Fence for Owner {
    fn check(&self) -> BoxFuture<'_, Result<(), PipelineError>> {
        Box::pin(async {
            match self.get() {
                Some(ownership) if !ownership.holds().await => Err(PipelineError::Disowned),
                _ => Ok(()),
            }
        })
    }

    fn renew(&self) -> BoxFuture<'_, ()> {
        // The check before the write finds out again.
        Box::pin(self.check().map(drop))
    }
}
