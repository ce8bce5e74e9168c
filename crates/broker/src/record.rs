//! Records as a topic holds them, without a client library in sight.

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
    /// Its place in the partition.
    pub offset: i64,
    /// When it was written, by the producer's or the broker's clock.
    pub timestamp: Option<SystemTime>,
    /// The key, if it has one.
    pub key: Option<Vec<u8>>,
    /// The value; a record without one is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers, in their order.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The topic.
    pub topic: Arc<str>,
    /// Its number, from 0.
    pub number: i32,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.number)
    }
}

/// A record, and in which assignment of its partition it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// The record.
    pub record: Record,
    /// Tells what was read before a partition went and came back.
    pub assignment: u64,
}

impl Record {
    /// The partition that it is in.
    #[must_use]
    pub fn partition(&self) -> Partition {
        Partition { topic: Arc::clone(&self.topic), number: self.partition }
    }

    /// The last header called `name`, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(found, _)| found == name)?;
        std::str::from_utf8(value).ok()
    }

    /// `topic/partition@offset`, for messages.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

/// A record that is to be written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outgoing {
    /// The key, which decides the partition.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers, in their order.
    pub headers: Vec<(&'static str, Vec<u8>)>,
    /// Whether every partition gets a copy: it concerns the rows of all of them.
    pub everywhere: bool,
}

impl Outgoing {
    /// The same with a key, if it has none: a compacted topic takes no record without one, and keeps the last of each key.
    /// `about`: what a later record makes this one superfluous by being about it too. No row's key is a JSON text.
    #[must_use]
    pub fn with_key_about(self, about: &str) -> Self {
        let key = self.key.unwrap_or_else(|| format!("{:?}", format!("walvec: {about}")).into_bytes());
        Self { key: Some(key), ..self }
    }
}
