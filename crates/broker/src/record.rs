//! Records as a topic holds them, independent of the client library.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// A record that was read from a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The record's place in the partition.
    pub offset: i64,
    /// When the record was written, by the producer's or the broker's clock.
    pub timestamp: Option<SystemTime>,
    /// The key; `None` if the record has none.
    pub key: Option<Vec<u8>>,
    /// The value; `None` for a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers, in their order.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub number: i32,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.number)
    }
}

/// A record together with the number of the assignment in which it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// The record.
    pub record: Record,
    /// The number of the partition's assignment. It tells records apart that were read before the partition was revoked
    /// and assigned again.
    pub assignment: u64,
}

impl Record {
    /// Returns the partition that holds the record.
    #[must_use]
    pub fn partition(&self) -> Partition {
        Partition { topic: Arc::clone(&self.topic), number: self.partition }
    }

    /// Returns the last header called `name`, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(found, _)| found == name)?;
        std::str::from_utf8(value).ok()
    }

    /// Formats the record's place for messages: `topic/partition@offset`.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

/// A record to be written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outgoing {
    /// The key, which decides the partition.
    pub key: Option<Vec<u8>>,
    /// The value; `None` for a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers, in their order.
    pub headers: Vec<(&'static str, Vec<u8>)>,
    /// Whether every partition gets a copy, because the record concerns rows in all of them.
    pub everywhere: bool,
}

impl Outgoing {
    /// Returns the record with a key made from `about`, if it has no key. A compacted topic accepts no record without a
    /// key, and keeps the last record of each key, so a later record with the same `about` replaces this one. The made
    /// key is a JSON string, which no row's key is.
    #[must_use]
    pub fn with_key_about(self, about: &str) -> Self {
        let key = self.key.unwrap_or_else(|| format!("{:?}", format!("walvec: {about}")).into_bytes());
        Self { key: Some(key), ..self }
    }
}
