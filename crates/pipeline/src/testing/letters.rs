//! Dead letters in memory, with failures on command.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use serde_json::json;
use walvec_model::{Generation, RowKey};

use crate::error::PipelineError;
use crate::state::dead_letters::{DeadLetter, DeadLetterStore};
use crate::testing::rows::at;

/// Returns the letter of a row of a collection.
pub(crate) fn letter(collection: &str, key: u64) -> DeadLetter {
    DeadLetter {
        collection: collection.to_owned(),
        table: "public.books".to_owned(),
        key: vec![json!(key)],
        position: at(7),
        generation: Generation(1),
        place: None,
        code: "E_RENDER".to_owned(),
        reason: "undefined value".to_owned(),
        dropped: false,
    }
}

/// Dead letters in memory.
#[derive(Default)]
pub(crate) struct TestLetters {
    /// By collection and key.
    letters: Mutex<BTreeMap<(String, String), DeadLetter>>,
    /// Letters of other processes, which become known with the next refresh.
    elsewhere: Mutex<Vec<DeadLetter>>,
    faults: Mutex<VecDeque<PipelineError>>,
    updates: AtomicUsize,
}

impl TestLetters {
    /// Lets the next update fail.
    pub(crate) fn fail(&self, error: PipelineError) {
        self.faults.lock().unwrap().push_back(error);
    }

    /// Stores a letter, as another process does: it is known after the next refresh.
    pub(crate) fn put_elsewhere(&self, letter: DeadLetter) {
        self.elsewhere.lock().unwrap().push(letter);
    }

    /// Returns how often letters were stored or cleared.
    pub(crate) fn updates(&self) -> usize {
        self.updates.load(Ordering::Relaxed)
    }

    /// Returns the code of each letter of a collection, with the text of its key.
    pub(crate) fn codes(&self, collection: &str) -> Vec<(String, String)> {
        let letters = self.of(collection).unwrap().into_iter();
        letters.map(|letter| (RowKey::new(letter.key).to_string(), letter.code)).collect()
    }

    fn put(&self, letter: DeadLetter) {
        let place = (letter.collection.clone(), RowKey::new(letter.key.clone()).to_string());
        self.letters.lock().unwrap().insert(place, letter);
    }
}

impl DeadLetterStore for TestLetters {
    fn each(&self, collection: &str, see: &mut dyn FnMut(DeadLetter)) -> Result<(), PipelineError> {
        let letters = self.letters.lock().unwrap().clone();
        letters.into_values().filter(|letter| letter.collection == collection).for_each(see);
        Ok(())
    }

    fn refresh(&self) -> BoxFuture<'_, Result<(), PipelineError>> {
        std::mem::take(&mut *self.elsewhere.lock().unwrap()).into_iter().for_each(|letter| self.put(letter));
        Box::pin(std::future::ready(Ok(())))
    }

    fn update<'a>(
        &'a self,
        collection: &'a str,
        parked: &'a [DeadLetter],
        cleared: &'a [RowKey],
    ) -> BoxFuture<'a, Result<(), PipelineError>> {
        self.updates.fetch_add(1, Ordering::Relaxed);
        if let Some(error) = self.faults.lock().unwrap().pop_front() {
            return Box::pin(std::future::ready(Err(error)));
        }
        parked.iter().cloned().for_each(|letter| self.put(letter));
        for key in cleared {
            self.letters.lock().unwrap().remove(&(collection.to_owned(), key.to_string()));
        }
        Box::pin(std::future::ready(Ok(())))
    }
}
