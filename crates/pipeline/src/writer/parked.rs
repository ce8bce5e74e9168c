//! Which rows of a collection are parked, and their dead letters.

use std::collections::{HashMap, HashSet};

use walvec_model::{Generation, KeyDigest, Position, RowKey, Value};

use super::Writer;
use super::batch::{BatchContext, RowFailure};
use super::known::FOREIGN;
use crate::error::PipelineError;
use crate::observe::status::{CollectionStatus, LATEST_DEAD_LETTERS};
use crate::state::dead_letters::{DeadLetter, DeadLetterStore, Place};

/// A version of a row that can be compared across snapshots.
type RowVersion = (Generation, Position);

/// Which rows are parked, and in which version: only that version or a newer one clears the row. Digests instead of
/// keys, because all rows of a table may be parked.
#[derive(Debug, Default)]
pub(crate) struct ParkedRows {
    versions: HashMap<KeyDigest, RowVersion>,
    /// The parked rows whose dead letters are not shown.
    dropped: HashSet<KeyDigest>,
    /// The newest dead letters that are shown, the newest first.
    latest: Vec<DeadLetter>,
}

impl ParkedRows {
    /// Reads the parked rows of `collection`.
    pub(crate) fn read(letters: &dyn DeadLetterStore, collection: &str) -> Result<Self, PipelineError> {
        let mut parked = Self::default();
        letters.each(collection, &mut |letter| parked.add(letter))?;
        parked.keep_newest();
        Ok(parked)
    }

    /// Adds a stored dead letter. Capture and workers may both have parked a version of the row.
    fn add(&mut self, letter: DeadLetter) {
        let (key, version) = version_of(&letter);
        let newest = self.versions.entry(key).or_insert(version);
        *newest = version.max(*newest);
        if letter.dropped {
            self.dropped.insert(key);
            return;
        }
        self.latest.push(letter);
        if self.latest.len() > 2 * LATEST_DEAD_LETTERS {
            self.keep_newest();
        }
    }

    /// Returns whether the newest version of this row could not be processed.
    pub(crate) fn contains(&self, key: &RowKey) -> bool {
        !self.versions.is_empty() && self.versions.contains_key(&key.digest())
    }

    /// Returns the version in which a row is parked.
    pub(crate) fn version(&self, key: &RowKey) -> Option<RowVersion> {
        if self.versions.is_empty() { None } else { self.versions.get(&key.digest()).copied() }
    }

    /// Parks rows, each in place of an earlier version of it.
    pub(crate) fn park(&mut self, letters: Vec<DeadLetter>) {
        let parked: HashSet<KeyDigest> = letters.iter().map(|letter| version_of(letter).0).collect();
        self.latest.retain(|letter| !parked.contains(&version_of(letter).0));
        for (key, version) in letters.iter().map(version_of) {
            self.versions.insert(key, version);
            self.dropped.remove(&key);
        }
        self.latest.extend(letters);
        self.keep_newest();
    }

    /// Clears rows.
    pub(crate) fn clear(&mut self, keys: &[RowKey]) {
        for key in keys {
            self.versions.remove(&key.digest());
            self.dropped.remove(&key.digest());
        }
        let versions = &self.versions;
        self.latest.retain(|letter| versions.contains_key(&version_of(letter).0));
    }

    /// Shows the dead letters in the status of the collection.
    pub(crate) fn show_in(&self, status: &mut CollectionStatus) {
        debug_assert!(self.dropped.iter().all(|key| self.versions.contains_key(key)), "a dropped row is parked");
        status.dead_letters = (self.versions.len() - self.dropped.len()) as u64;
        status.latest_dead_letters.clone_from(&self.latest);
    }

    fn keep_newest(&mut self) {
        self.latest.sort_by_key(|letter| std::cmp::Reverse(letter.position));
        self.latest.truncate(LATEST_DEAD_LETTERS);
    }
}

fn version_of(letter: &DeadLetter) -> (KeyDigest, RowVersion) {
    (RowKey::new(letter.key.clone()).digest(), (letter.generation, letter.position))
}

impl Writer {
    /// Returns the keys of the parked rows whose letters are `wanted`.
    fn keys_of_letters(&self, wanted: impl Fn(&DeadLetter) -> bool) -> Result<Vec<RowKey>, PipelineError> {
        let mut keys = Vec::new();
        let mut see = |letter: DeadLetter| {
            if wanted(&letter) {
                keys.push(RowKey::new(letter.key));
            }
        };
        self.shared.letters.each(&self.collection.name, &mut see)?;
        Ok(keys)
    }

    /// Reads the dead letters again: another worker may have parked rows that this worker owns now.
    pub(crate) fn reload_letters(&mut self) -> Result<(), PipelineError> {
        self.parked = ParkedRows::read(self.shared.letters.as_ref(), &self.collection.name)?;
        self.report_dead_letters();
        Ok(())
    }

    /// Parks a record that cannot be read, under its place.
    pub(crate) async fn park(&mut self, place: Place, code: &'static str, reason: String) -> Result<(), PipelineError> {
        let key = RowKey::new(vec![Value::from(place.to_string())]);
        let context = BatchContext { generation: self.generation, places: HashMap::from([(key.clone(), place)]) };
        self.settle(&context, &[], &[RowFailure { key, position: Position::default(), code, reason }]).await
    }

    /// Parks the rows that failed, and clears parked rows that a newer version has healed.
    pub(super) async fn settle(
        &mut self,
        context: &BatchContext,
        versions: &[(RowKey, Position)],
        failed: &[RowFailure],
    ) -> Result<(), PipelineError> {
        let failed_keys: HashSet<&RowKey> = failed.iter().map(|failure| &failure.key).collect();
        let generation = context.generation;
        let heals = |key: &RowKey, position: Position| {
            // Behind a broker a row may be parked before older versions of it have been read.
            self.parked.version(key).is_some_and(|parked| generation == FOREIGN || (generation, position) >= parked)
        };
        let healed: Vec<RowKey> = versions
            .iter()
            .filter(|(key, position)| heals(key, *position) && !failed_keys.contains(key))
            .map(|(key, _)| key.clone())
            .collect();
        if failed.is_empty() && healed.is_empty() {
            return Ok(());
        }
        // A row may have failed in two versions: one that could not be processed, and a later one that could not even
        // be read.
        let mut newest_failures: HashMap<&RowKey, &RowFailure> = HashMap::new();
        for failure in failed {
            let newest = newest_failures.entry(&failure.key).or_insert(failure);
            if failure.position >= newest.position {
                *newest = failure;
            }
        }
        let letters: Vec<DeadLetter> =
            newest_failures.into_values().map(|failure| self.letter(context, failure)).collect();
        for letter in &letters {
            let key = RowKey::new(letter.key.clone());
            tracing::warn!(table = letter.table, %key, code = letter.code, "row parked: {}", letter.reason);
        }
        self.shared.letters.update(&self.collection.name, &letters, &healed).await?;
        self.parked.clear(&healed);
        self.parked.park(letters);
        self.report_dead_letters();
        Ok(())
    }

    /// Clears the dead letters that are `wanted`: their rows are gone, or newer versions of them were written.
    pub(super) async fn clear_letters(&mut self, wanted: impl Fn(&DeadLetter) -> bool) -> Result<(), PipelineError> {
        let keys = self.keys_of_letters(wanted)?;
        self.shared.letters.update(&self.collection.name, &[], &keys).await?;
        self.parked.clear(&keys);
        self.report_dead_letters();
        Ok(())
    }

    fn letter(&self, context: &BatchContext, RowFailure { key, position, code, reason }: &RowFailure) -> DeadLetter {
        DeadLetter {
            collection: self.collection.name.clone(),
            table: self.collection.table.to_string(),
            key: key.values().to_vec(),
            position: *position,
            generation: context.generation,
            place: context.places.get(key).cloned(),
            code: (*code).to_owned(),
            reason: reason.clone(),
            dropped: false,
        }
    }

    pub(super) fn report_dead_letters(&self) {
        self.shared.telemetry.collection(self.index, |status| self.parked.show_in(status));
    }
}

#[cfg(test)]
mod tests;
