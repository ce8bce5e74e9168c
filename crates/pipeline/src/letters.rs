//! Where dead letters are kept: in the state file, or in a topic when several workers share the work.

use std::future::Future;
use std::pin::Pin;

use walvec_model::RowKey;

use crate::error::PipelineError;
use crate::store::{DeadLetter, Store};

/// A change of the letters that is durable when it resolves.
pub type Kept<'a> = Pin<Box<dyn Future<Output = Result<(), PipelineError>> + Send + 'a>>;

/// Keeps dead letters.
pub trait Letters: Send + Sync {
    /// All letters of a collection, by key.
    ///
    /// # Errors
    /// If they cannot be read.
    fn of(&self, collection: &str) -> Result<Vec<DeadLetter>, PipelineError>;

    /// Waits until it is known what others have parked and taken back so far.
    fn refresh(&self) -> Kept<'_> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Parks rows and takes others back. Durable when it resolves.
    fn update<'a>(&'a self, collection: &'a str, parked: &'a [DeadLetter], cleared: &'a [RowKey]) -> Kept<'a>;
}

impl Letters for Store {
    fn of(&self, collection: &str) -> Result<Vec<DeadLetter>, PipelineError> {
        Ok(self.dead_letters(collection)?)
    }

    fn update<'a>(&'a self, collection: &'a str, parked: &'a [DeadLetter], cleared: &'a [RowKey]) -> Kept<'a> {
        Box::pin(async move { Ok(self.update_dead_letters(collection, parked, cleared)?) })
    }
}
