//! Dead letters, and where they are stored: in the state file, or in a topic when several workers share the work.

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use walvec_broker::Record;
use walvec_model::{Generation, Position, RowKey, Value};

use crate::error::PipelineError;
use crate::state::store::Store;

/// A row that could not be processed. A newer version of the row clears it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The collection that lacks the row.
    pub collection: String,
    /// The table, `schema.table`.
    pub table: String,
    /// The row's key.
    pub key: Vec<Value>,
    /// The version that could not be processed.
    pub position: Position,
    /// The generation that last met the row.
    #[serde(default)]
    pub generation: Generation,
    /// Where the change was read, if it came through a topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// The error's code.
    pub code: String,
    /// The error in words.
    pub reason: String,
    /// Whether an operator has said that the row is not needed. The dead letter is not shown any more. It is kept
    /// because a later change may leave values out, and a version of the row was never stored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dropped: bool,
}

impl DeadLetter {
    /// Returns whether it stands for a record that cannot be read, instead of a row.
    #[must_use]
    pub fn is_about_a_record(&self) -> bool {
        let place = self.place.as_ref().map(ToString::to_string);
        place.is_some_and(|place| self.key.first().and_then(Value::as_str) == Some(&place))
    }
}

/// The place of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

impl From<&Record> for Place {
    fn from(record: &Record) -> Self {
        Self { topic: record.topic.to_string(), partition: record.partition, offset: record.offset }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

/// Letters that are read at a time.
const PAGE: usize = 1000;

/// Stores dead letters.
pub trait DeadLetterStore: Send + Sync {
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
    fn refresh(&self) -> BoxFuture<'_, Result<(), PipelineError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Parks rows and clears others. The change is durable when the future resolves.
    fn update<'a>(
        &'a self,
        collection: &'a str,
        parked: &'a [DeadLetter],
        cleared: &'a [RowKey],
    ) -> BoxFuture<'a, Result<(), PipelineError>>;
}

impl DeadLetterStore for Store {
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

    fn update<'a>(
        &'a self,
        collection: &'a str,
        parked: &'a [DeadLetter],
        cleared: &'a [RowKey],
    ) -> BoxFuture<'a, Result<(), PipelineError>> {
        Box::pin(async move { Ok(self.update_dead_letters(collection, parked, cleared)?) })
    }
}

#[cfg(test)]
mod tests;
