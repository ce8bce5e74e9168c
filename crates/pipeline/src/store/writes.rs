//! What was written into each collection, in entries of their own: of very many collections, not all of it is stored with each step of
//! the progress.

use std::collections::BTreeMap;

use redb::{ReadableTable, Table};

use super::{CHECKPOINT, Checkpoint, Store, StoreError, THE_CHECKPOINT, decode, encode};
use crate::witness::Witnesses;

/// What the names of the entries begin with, before the collection's.
const PREFIX: &str = "writes/";
/// The first name behind all of them: `0` comes after `/`.
const BEHIND: &str = "writes0";

/// The table of the checkpoint, in a transaction.
pub(super) type Entries<'t> = Table<'t, &'static str, &'static [u8]>;

/// A checkpoint as it is stored.
pub(super) struct Encoded {
    checkpoint: Vec<u8>,
    /// By the names of their entries.
    writes: BTreeMap<String, Vec<u8>>,
}

impl Encoded {
    /// With everything that was written.
    pub(super) fn whole(checkpoint: &Checkpoint) -> Result<Self, StoreError> {
        Self::with(checkpoint, checkpoint.witnesses.iter())
    }

    fn with<'w>(
        checkpoint: &Checkpoint,
        writes: impl Iterator<Item = (&'w String, &'w Witnesses)>,
    ) -> Result<Self, StoreError> {
        let writes = writes.map(|(collection, witnesses)| Ok((format!("{PREFIX}{collection}"), encode(witnesses)?)));
        Ok(Self { checkpoint: encode(checkpoint)?, writes: writes.collect::<Result<_, StoreError>>()? })
    }

    /// Stores it in place of what was stored before.
    pub(super) fn replace(&self, entries: &mut Entries<'_>) -> Result<(), redb::Error> {
        entries.retain_in(PREFIX..BEHIND, |name, _| self.writes.contains_key(name))?;
        self.put(entries)
    }

    fn put(&self, entries: &mut Entries<'_>) -> Result<(), redb::Error> {
        entries.insert(THE_CHECKPOINT, self.checkpoint.as_slice())?;
        for (name, bytes) in &self.writes {
            entries.insert(name.as_str(), bytes.as_slice())?;
        }
        Ok(())
    }
}

impl Store {
    /// Stores the checkpoint, durably, and what was written into the collections that are `noted`; of the others stays what is stored.
    ///
    /// # Errors
    /// If the file cannot be written; the old checkpoint stays.
    pub(crate) fn save_progress<'c>(
        &self,
        checkpoint: &Checkpoint,
        noted: impl Iterator<Item = &'c String>,
    ) -> Result<(), StoreError> {
        let encoded = Encoded::with(checkpoint, noted.filter_map(|name| checkpoint.witnesses.get_key_value(name)))?;
        self.with(|database| {
            let transaction = database.begin_write()?;
            encoded.put(&mut transaction.open_table(CHECKPOINT)?)?;
            transaction.commit()?;
            Ok(())
        })
    }
}

/// What is stored of what was written, by collection.
pub(super) fn read(
    entries: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
    let entry = |found: Result<_, redb::StorageError>| {
        let (name, bytes): (redb::AccessGuard<'_, &str>, redb::AccessGuard<'_, &[u8]>) = found?;
        let collection = name.value().strip_prefix(PREFIX).unwrap_or_default();
        Ok((collection.to_owned(), bytes.value().to_vec()))
    };
    entries.range(PREFIX..BEHIND)?.map(entry).collect()
}

/// Adds what is stored of what was written to a checkpoint, which has that in itself if an earlier release stored it.
pub(super) fn join(checkpoint: &mut Checkpoint, writes: Vec<(String, Vec<u8>)>) -> Result<(), StoreError> {
    for (collection, bytes) in writes {
        checkpoint.witnesses.insert(collection, decode(&bytes)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::checkpoint;
    use super::*;

    fn witnesses(ids: std::ops::Range<u64>) -> Witnesses {
        let mut witnesses = Witnesses::default();
        for id in ids {
            let id = walvec_model::PointId::Num(id);
            witnesses.wrote(crate::witness::Witness { id, version: None });
        }
        witnesses
    }

    fn with(writes: &[(&str, std::ops::Range<u64>)]) -> Checkpoint {
        let witnesses = writes.iter().map(|(name, ids)| ((*name).to_owned(), witnesses(ids.clone()))).collect();
        Checkpoint { witnesses, ..checkpoint() }
    }

    #[test]
    fn a_step_stores_what_was_noted_and_leaves_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.save_checkpoint(&with(&[("books", 0..2), ("books/2", 0..1), ("gone", 0..1)])).unwrap();
        store.save_checkpoint(&with(&[("books", 0..2), ("books/2", 0..1)])).unwrap();
        let progress = with(&[("books", 0..3), ("books/2", 0..5)]);
        store.save_progress(&progress, std::iter::once(&"books".to_owned())).unwrap();
        drop(store);
        let stored = Store::open(directory.path()).unwrap().checkpoint().unwrap();
        assert_eq!(stored, Some(with(&[("books", 0..3), ("books/2", 0..1)])));
    }

    #[test]
    fn what_an_earlier_release_stored_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let mut earlier = serde_json::to_value(checkpoint()).unwrap();
        earlier["writes"] = serde_json::json!({ "books": witnesses(0..2) });
        store.save_entry(THE_CHECKPOINT, earlier.to_string().as_bytes()).unwrap();
        assert_eq!(store.checkpoint().unwrap(), Some(with(&[("books", 0..2)])));
    }
}
