//! The state file, which survives a restart: the checkpoint, the baseline and the dead letters.
//!
//! It is one file, `state.redb`, in the data directory. Every write is fsynced before it returns.
//!
//! - [`writes`]: what was written into each collection

mod writes;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use redb::{Database, ReadableDatabase, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use walvec_model::RowKey;

use crate::error::StoreError;
use crate::state::dead_letters::DeadLetter;
use crate::state::records::{Baseline, Checkpoint};
use writes::Encoded;

const CHECKPOINT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("checkpoint");
const DEAD_LETTERS: TableDefinition<'_, (&str, &[u8]), &[u8]> = TableDefinition::new("dead_letters");
const THE_CHECKPOINT: &str = "v1";
const THE_BASELINE: &str = "baseline";

/// The state file.
pub struct Store {
    path: PathBuf,
    /// `None` after an I/O error: the database accepts nothing more until it is opened again.
    database: Mutex<Option<Database>>,
}

impl Store {
    /// Opens the state file in `directory`, or creates it.
    ///
    /// # Errors
    /// If the file is damaged, locked by another process, or cannot be written.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let store = Self { path: directory.join("state.redb"), database: Mutex::new(None) };
        store.with(|_database| Ok(()))?;
        Ok(store)
    }

    /// Returns the directory of the state file.
    pub(crate) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or_else(|| Path::new("."))
    }

    /// Returns the stored checkpoint; `None` before the first snapshot.
    ///
    /// # Errors
    /// If the file cannot be read or holds something else.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        let stored = self.with(|database| {
            let table = database.begin_read()?.open_table(CHECKPOINT)?;
            let checkpoint = table.get(THE_CHECKPOINT)?.map(|bytes| bytes.value().to_vec());
            checkpoint.map(|checkpoint| Ok((checkpoint, writes::read(&table)?))).transpose()
        })?;
        let Some((checkpoint, writes)) = stored else { return Ok(None) };
        let mut checkpoint: Checkpoint = decode(&checkpoint).map_err(|error| self.here(error))?;
        writes::join(&mut checkpoint, writes).map_err(|error| self.here(error))?;
        let renewed = self.baseline()?.and_then(|baseline| baseline.publication);
        Ok(Some(match renewed {
            Some(publication) => Checkpoint { publication, ..checkpoint },
            None => checkpoint,
        }))
    }

    /// Returns the stored baseline; `None` if an earlier version of walvec read the tables.
    ///
    /// # Errors
    /// If the file cannot be read or holds something else.
    pub fn baseline(&self) -> Result<Option<Baseline>, StoreError> {
        self.entry(THE_BASELINE)
    }

    /// Stores the baseline durably.
    ///
    /// # Errors
    /// If the file cannot be written; the old baseline stays.
    pub fn save_baseline(&self, baseline: &Baseline) -> Result<(), StoreError> {
        self.save_entry(THE_BASELINE, &encode(baseline)?)
    }

    /// Stores the checkpoint and the baseline in one durable step.
    ///
    /// # Errors
    /// If the file cannot be written; nothing is changed then.
    pub fn save_both(&self, checkpoint: &Checkpoint, baseline: &Baseline) -> Result<(), StoreError> {
        let (checkpoint, baseline) = (Encoded::whole(checkpoint)?, encode(baseline)?);
        self.with(|database| {
            let transaction = database.begin_write()?;
            insert_both(&transaction, &checkpoint, &baseline)?;
            transaction.commit()?;
            Ok(())
        })
    }

    fn entry<T: for<'a> Deserialize<'a>>(&self, name: &str) -> Result<Option<T>, StoreError> {
        let bytes = self.with(|database| {
            let table = database.begin_read()?.open_table(CHECKPOINT)?;
            Ok(table.get(name)?.map(|bytes| bytes.value().to_vec()))
        })?;
        bytes.map(|bytes| decode(&bytes)).transpose().map_err(|error| self.here(error))
    }

    fn save_entry(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            transaction.open_table(CHECKPOINT)?.insert(name, bytes)?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// Stores the checkpoint durably.
    ///
    /// # Errors
    /// If the file cannot be written; the old checkpoint stays.
    pub fn save_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let encoded = Encoded::whole(checkpoint)?;
        self.with(|database| {
            let transaction = database.begin_write()?;
            encoded.replace(&mut transaction.open_table(CHECKPOINT)?)?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// Replaces the checkpoint, the baseline and the dead letters with those of another state file, in one durable
    /// step.
    ///
    /// # Errors
    /// If the file cannot be written; nothing is changed then.
    pub fn take_over(
        &self,
        checkpoint: &Checkpoint,
        baseline: &Baseline,
        letters: &[DeadLetter],
    ) -> Result<(), StoreError> {
        let (checkpoint, baseline) = (Encoded::whole(checkpoint)?, encode(baseline)?);
        let letters = encode_all(letters)?;
        self.with(|database| {
            let transaction = database.begin_write()?;
            insert_both(&transaction, &checkpoint, &baseline)?;
            transaction.delete_table(DEAD_LETTERS)?;
            {
                let mut table = transaction.open_table(DEAD_LETTERS)?;
                for (collection, key, bytes) in &letters {
                    table.insert((*collection, key.canonical()), bytes.as_slice())?;
                }
            }
            transaction.commit()?;
            Ok(())
        })
    }

    /// Parks rows and clears others, in one durable step.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn update_dead_letters(
        &self,
        collection: &str,
        parked: &[DeadLetter],
        cleared: &[RowKey],
    ) -> Result<(), StoreError> {
        if parked.is_empty() && cleared.is_empty() {
            return Ok(());
        }
        let letters = encode_all(parked)?;
        self.with(|database| {
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(DEAD_LETTERS)?;
                for key in cleared {
                    table.remove((collection, key.canonical()))?;
                }
                for (_, key, bytes) in &letters {
                    table.insert((collection, key.canonical()), bytes.as_slice())?;
                }
            }
            transaction.commit()?;
            Ok(())
        })
    }

    /// Returns all dead letters of a collection, by key.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn dead_letters(&self, collection: &str) -> Result<Vec<DeadLetter>, StoreError> {
        let stored: Vec<Vec<u8>> = self.with(|database| {
            let table = database.begin_read()?.open_table(DEAD_LETTERS)?;
            let mut found = Vec::new();
            for entry in table.range((collection, [].as_slice())..)? {
                let (key, value) = entry?;
                if key.value().0 != collection {
                    break;
                }
                found.push(value.value().to_vec());
            }
            Ok(found)
        })?;
        self.letters(&stored)
    }

    /// Returns up to `limit` dead letters of a collection in the order of their keys, starting with the first key after
    /// `after`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn dead_letters_after(
        &self,
        collection: &str,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let from = match after {
            Some(after) => Bound::Excluded((collection, after.canonical())),
            None => Bound::Included((collection, [].as_slice())),
        };
        let stored = self.with(|database| {
            let table = database.begin_read()?.open_table(DEAD_LETTERS)?;
            let mut found: Vec<Vec<u8>> = Vec::new();
            for entry in table.range::<(&str, &[u8])>((from, Bound::Unbounded))? {
                let (key, value) = entry?;
                if key.value().0 != collection || found.len() == limit {
                    break;
                }
                found.push(value.value().to_vec());
            }
            Ok(found)
        })?;
        self.letters(&stored)
    }

    fn letters(&self, stored: &[Vec<u8>]) -> Result<Vec<DeadLetter>, StoreError> {
        stored.iter().map(|bytes| decode(bytes)).collect::<Result<_, _>>().map_err(|error| self.here(error))
    }

    /// Returns the keys of all dead letters of a collection.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn dead_letter_keys(&self, collection: &str) -> Result<HashSet<RowKey>, StoreError> {
        Ok(self.dead_letters(collection)?.into_iter().map(|letter| RowKey::new(letter.key)).collect())
    }

    /// Removes every dead letter of a collection, because its table was emptied.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn drop_dead_letters(&self, collection: &str) -> Result<(), StoreError> {
        let keys: Vec<RowKey> = self.dead_letter_keys(collection)?.into_iter().collect();
        self.update_dead_letters(collection, &[], &keys)
    }

    /// Runs one transaction. Opens the database again if an earlier error has closed it.
    fn with<T>(&self, run: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let open = match database.take() {
            Some(open) => open,
            None => self.open_or_create().map_err(|error| self.failed(&error))?,
        };
        match run(&open) {
            Err(error @ (redb::Error::Io(_) | redb::Error::PreviousIo)) => Err(self.failed(&error)),
            outcome => {
                *database = Some(open);
                outcome.map_err(|error| self.failed(&error))
            }
        }
    }

    /// Opens the file or creates it. A new file gets its name only when it is complete: a half-written file could never
    /// be opened again.
    fn open_or_create(&self) -> Result<Database, redb::Error> {
        if !self.path.exists() {
            let unfinished = self.path.with_extension("new");
            match fs::remove_file(&unfinished) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            // Keys and reasons of parked rows are only for the owner to read.
            File::options().write(true).create_new(true).mode(0o600).open(&unfinished)?;
            let database = Database::create(&unfinished)?;
            let transaction = database.begin_write()?;
            transaction.open_table(CHECKPOINT)?;
            transaction.open_table(DEAD_LETTERS)?;
            transaction.commit()?;
            drop(database);
            fs::rename(&unfinished, &self.path)?;
            self.path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())?;
        }
        Ok(Database::open(&self.path)?)
    }

    /// Returns an error about an entry, with the path of the file that holds it.
    fn here(&self, error: StoreError) -> StoreError {
        StoreError { path: self.path.display().to_string(), ..error }
    }

    fn failed(&self, error: &redb::Error) -> StoreError {
        let full =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        StoreError {
            path: self.path.display().to_string(),
            reason: error.to_string(),
            disk_full: matches!(error, redb::Error::Io(error) if full(error)),
        }
    }
}

/// A dead letter's collection, key and stored form.
type EncodedLetter<'a> = (&'a str, RowKey, Vec<u8>);

fn encode_all(letters: &[DeadLetter]) -> Result<Vec<EncodedLetter<'_>>, StoreError> {
    let encoded =
        letters.iter().map(|letter| Ok((letter.collection.as_str(), RowKey::new(letter.key.clone()), encode(letter)?)));
    encoded.collect()
}

fn insert_both(transaction: &WriteTransaction, checkpoint: &Encoded, baseline: &[u8]) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(CHECKPOINT)?;
    checkpoint.replace(&mut table)?;
    table.insert(THE_BASELINE, baseline)?;
    Ok(())
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(malformed)
}

fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(malformed)
}

fn malformed(error: serde_json::Error) -> StoreError {
    let reason = format!("an entry has another form than expected: {error}");
    StoreError { path: "state.redb".to_owned(), reason, disk_full: false }
}

#[cfg(test)]
mod tests;
