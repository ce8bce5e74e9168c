//! Stores dead letters: in the state file, or in a topic when several workers share the work.

use std::future::Future;
use std::pin::Pin;

use walvec_model::RowKey;

use crate::error::PipelineError;
use crate::store::{DeadLetter, Store};

/// Letters that are read at a time.
const PAGE: usize = 1000;

/// A change of the letters. It is durable when the future resolves.
pub type Kept<'a> = Pin<Box<dyn Future<Output = Result<(), PipelineError>> + Send + 'a>>;

/// Stores dead letters.
pub trait Letters: Send + Sync {
    /// Calls `see` with each letter of a collection, by key, one after the other: there may be as many letters as rows.
    ///
    /// # Errors
    /// If they cannot be read.
    fn each(&self, collection: &str, see: &mut dyn FnMut(DeadLetter)) -> Result<(), PipelineError>;

    /// Returns the letters of a collection that are shown, by key.
    ///
    /// # Errors
    /// If they cannot be read.
    fn of(&self, collection: &str) -> Result<Vec<DeadLetter>, PipelineError> {
        let mut found = Vec::new();
        self.each(collection, &mut |letter| found.extend((!letter.dropped).then_some(letter)))?;
        Ok(found)
    }

    /// Waits until the letters that other processes have added and cleared so far are known.
    fn refresh(&self) -> Kept<'_> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Parks rows and clears others. The change is durable when the future resolves.
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
