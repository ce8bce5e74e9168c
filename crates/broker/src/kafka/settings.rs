//! What the client is told, and what it tells: plain data, which a program without the client has too.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::error::BrokerError;
use crate::record::{Partition, Received};

/// How to reach a broker.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// `host:port`, several separated by commas: any of them leads to the others.
    pub bootstrap: String,
    /// How to encrypt; `None`: not at all.
    pub tls: Option<Tls>,
    /// How to log in; `None`: not at all.
    pub sasl: Option<Sasl>,
    /// Further settings of the client library, by its own names.
    pub properties: BTreeMap<String, SecretString>,
}

/// How to encrypt. The broker's certificate must fit its host name.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The certificate authorities to trust, as a PEM file; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// A certificate to show, and its key, as PEM files.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// How to log in.
#[derive(Clone, Debug)]
pub struct Sasl {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: String,
    /// The user.
    pub username: String,
    /// The password.
    pub password: SecretString,
}

/// How a worker belongs to a group.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The group.
    pub group: String,
    /// The name of this worker in the group: one that comes back under it gets its partitions back.
    pub instance: String,
    /// The topics.
    pub topics: Vec<String>,
    /// Which protocol the group uses.
    pub protocol: Protocol,
    /// What offsets are about: where the records go. Offsets that are about something else do not count, because what was
    /// read is not there. At most 4000 characters.
    pub about: String,
    /// How long those topics that are compacted keep deletes. A group that was away for longer may have missed some.
    pub deletes_kept: BTreeMap<String, Duration>,
    /// How long a worker may be silent before others take over, in the classic protocol; in the other the broker decides.
    pub session_timeout: Duration,
}

/// How a group shares partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The broker decides (KIP-848): Kafka 4.
    Consumer,
    /// The workers decide among themselves, cooperatively: every other broker.
    Classic,
}

/// Offsets by partition: that of the record to be read next.
pub type Offsets = BTreeMap<Partition, i64>;

/// What happened.
#[derive(Debug)]
pub enum Polled {
    /// Records, in the order of each partition.
    Records(Vec<Received>),
    /// Partitions have come.
    Assigned(Vec<Partition>),
    /// Partitions are about to go: write and commit what was read of them, then say so.
    Revoked {
        /// Which.
        partitions: Vec<Partition>,
        /// Where to say so; dropping it says it too.
        done: std::sync::mpsc::SyncSender<()>,
    },
    /// Partitions are gone: drop what was read of them.
    Lost(Vec<Partition>),
    /// The consumer is of no use any more.
    Failed(BrokerError),
}

/// How records travel.
#[derive(Clone, Debug)]
pub struct Sending {
    /// `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub compression: String,
    /// The largest record that the topics take, in bytes.
    pub largest_record: usize,
    /// How long a record may take; `None`: for ever. One that is overtaken by others must not arrive after all.
    pub patience: Option<Duration>,
}

/// What the library takes by default, and brokers too, more or less.
pub const LARGEST_RECORD: usize = 1_000_000;

/// What a topic is made like when it is missing. One that exists stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// Its partitions: the most workers that can share its records.
    pub partitions: i32,
    /// Copies of each partition; `None`: as many as the broker's default.
    pub replication: Option<i32>,
    /// How long records are kept; `None`: for ever.
    pub retention: Option<Duration>,
    /// Whether the last record of every key is kept for ever, and former ones need not be.
    pub compact: bool,
}

/// How far one partition has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The partition.
    pub partition: Partition,
    /// The offset that is read next.
    pub next: i64,
    /// Records that wait. Not simply what lies between here and the end: the marks of transactions have offsets too.
    pub lag: i64,
    /// Whether reading waits on purpose.
    pub is_paused: bool,
}

/// A picture of the consumer at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The partitions of this worker.
    pub partitions: Vec<Progress>,
    /// How often partitions have come or gone.
    pub rebalances: u64,
}
