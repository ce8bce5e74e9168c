//! Whether this process may still write collections that others can reach.
//!
//! Two processes with slots of their own would write one collection each from its own position, and the slower one would overwrite
//! newer rows with older ones. So the right to write is held at the source, and looked at before each write: between reading a change
//! and writing it lies an embedding, and maybe a pause of the whole machine.

use std::sync::{Arc, Mutex, PoisonError};

use walvec_capture::Ownership;

use crate::error::PipelineError;
use crate::writer::{Checked, Guard};

/// The right of the present session; none where the collections are out of reach for others.
#[derive(Default)]
pub(crate) struct Owner(Mutex<Option<Arc<Ownership>>>);

impl Owner {
    /// Puts the right of a session in place of that of the last one.
    pub(crate) fn set(&self, ownership: Option<Ownership>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ownership.map(Arc::new);
    }

    fn get(&self) -> Option<Arc<Ownership>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Guard for Owner {
    fn check(&self) -> Checked<'_> {
        Box::pin(async {
            match self.get() {
                Some(ownership) if !ownership.holds().await => Err(PipelineError::Disowned),
                _ => Ok(()),
            }
        })
    }
}
