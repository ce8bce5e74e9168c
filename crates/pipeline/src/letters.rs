//! Where dead letters are kept: in the state file, or in a topic when several workers share the work.

use std::future::Future;
use std::pin::Pin;

use walvec_model::RowKey;

use crate::error::PipelineError;
use crate::store::{DeadLetter, Store};

/// Letters that are read at a time.
const PAGE: usize = 1000;

/// A change of the letters that is durable when it resolves.
pub type Kept<'a> = Pin<Box<dyn Future<Output = Result<(), PipelineError>> + Send + 'a>>;

/// Keeps dead letters.
pub trait Letters: Send + Sync {
    /// Shows all letters of a collection, by key, one after the other: there may be as many as rows.
    ///
    /// # Errors
    /// If they cannot be read.
    fn each(&self, collection: &str, see: &mut dyn FnMut(DeadLetter)) -> Result<(), PipelineError>;

    /// The letters of a collection that are shown, by key.
    ///
    /// # Errors
    /// If they cannot be read.
    fn of(&self, collection: &str) -> Result<Vec<DeadLetter>, PipelineError> {
        let mut found = Vec::new();
        self.each(collection, &mut |letter| found.extend((!letter.dropped).then_some(letter)))?;
        Ok(found)
    }

    /// Waits until it is known what others have parked and taken back so far.
    fn refresh(&self) -> Kept<'_> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Parks rows and takes others back. Durable when it resolves.
    fn update<'a>(&'a self, collection: &'a str, parked: &'a [DeadLetter], cleared: &'a [RowKey]) -> Kept<'a>;
}

impl Letters for Store {
    fn each(&self, collection: &str, see: &mut dyn FnMut(DeadLetter)) -> Result<(), PipelineError> {
        let mut after = None;
        loop {
            let page = self.dead_letters_after(collection, after.as_ref(), PAGE)?;
            let is_last = page.len() < PAGE;
            after = page.last().map(|letter| RowKey::new(letter.key.clone()));
            page.into_iter().for_each(&mut *see);
            if is_last {
                return Ok(());
            }
        }
    }

    fn update<'a>(&'a self, collection: &'a str, parked: &'a [DeadLetter], cleared: &'a [RowKey]) -> Kept<'a> {
        Box::pin(async move { Ok(self.update_dead_letters(collection, parked, cleared)?) })
    }
}
