//! What was written into each collection, in separate entries, so that a step of progress does not have to store it for
//! all of very many collections.

use std::collections::BTreeMap;

use redb::{ReadableTable, Table};

use super::{CHECKPOINT, Checkpoint, Store, StoreError, THE_CHECKPOINT, decode, encode};
use crate::state::witness::Witnesses;

/// The prefix of the entries' names, before the collection's name.
const PREFIX: &str = "writes/";
/// The first name after all of them: `0` follows `/`.
const BEHIND: &str = "writes0";

/// The table that holds the checkpoint, in a transaction.
pub(super) type Entries<'t> = Table<'t, &'static str, &'static [u8]>;

/// A checkpoint as it is stored.
pub(super) struct Encoded {
    checkpoint: Vec<u8>,
    /// The encoded witnesses, by the entries' names.
    writes: BTreeMap<String, Vec<u8>>,
}

impl Encoded {
    /// Encodes the checkpoint with the witnesses of all collections.
    pub(super) fn whole(checkpoint: &Checkpoint) -> Result<Self, StoreError> {
        Self::with(checkpoint, checkpoint.witnesses.iter())
    }

    fn with<'w>(
        checkpoint: &Checkpoint,
        writes: impl Iterator<Item = (&'w String, &'w Witnesses)>,
    ) -> Result<Self, StoreError> {
        debug_assert!(checkpoint.last_commit <= checkpoint.applied, "`applied` covers the last transaction with rows");
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
    /// Stores the checkpoint durably, with the witnesses of the collections that are `noted`. The stored witnesses of
    /// the other collections stay.
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

/// Reads the stored witnesses, by collection.
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

/// Adds the stored witnesses to a checkpoint. A checkpoint of an earlier release contains its own.
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
            witnesses.wrote(crate::state::witness::Witness { id, version: None });
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
