//! Plain data in and out of the client, which a program built without the client has too.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::error::BrokerError;
use crate::record::{Partition, Received};

/// How to reach a broker.
#[derive(Clone, Debug, Default)]
pub struct BrokerConnection {
    /// `host:port`, or several of them separated by commas. Each leads to all brokers of the cluster.
    pub bootstrap: String,
    /// How to encrypt the connection; `None` for no encryption.
    pub tls: Option<Tls>,
    /// How to log in; `None` for no login.
    pub sasl: Option<Sasl>,
    /// Further settings of the client library, by the library's own names.
    pub properties: BTreeMap<String, SecretString>,
}

/// How to encrypt the connection. The broker's certificate must match its host name.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// A PEM file with the certificate authorities to trust; `None` for those of the system.
    pub ca: Option<PathBuf>,
    /// PEM files with a client certificate and its key.
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
    /// The name of this worker in the group. A worker that returns under its name gets its partitions back.
    pub instance: String,
    /// The topics.
    pub topics: Vec<String>,
    /// The protocol that the group uses.
    pub protocol: GroupSharing,
    /// What offsets are about: where the records go. Offsets that are about something else do not count, because their
    /// records were written elsewhere. At most 4000 characters.
    pub about: String,
    /// How long each compacted topic keeps deletes. A group that was away for longer may have missed some.
    pub deletes_kept: BTreeMap<String, Duration>,
    /// How long a worker may be silent before other workers take over, in the classic protocol. In the other protocol
    /// the broker decides.
    pub session_timeout: Duration,
}

/// How a group shares partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupSharing {
    /// The broker assigns partitions (KIP-848). Needs Kafka 4.
    Consumer,
    /// The workers assign partitions among themselves, cooperatively. Works with every other broker.
    Classic,
}

/// The offset of the next record to read, for each partition.
pub type Offsets = BTreeMap<Partition, i64>;

/// An event of the consumer.
#[derive(Debug)]
pub enum Polled {
    /// Records, ordered within each partition.
    Records(Vec<Received>),
    /// Partitions were assigned to this worker.
    Assigned(Vec<Partition>),
    /// Partitions are about to be revoked: write and commit what was read of them, then confirm.
    Revoked {
        /// The partitions.
        partitions: Vec<Partition>,
        /// Where to confirm. Dropping it confirms too.
        done: std::sync::mpsc::SyncSender<()>,
    },
    /// Partitions were lost: drop what was read of them.
    Lost(Vec<Partition>),
    /// The consumer has failed and cannot be used any more.
    Failed(BrokerError),
}

/// How records are sent.
#[derive(Clone, Debug)]
pub struct Sending {
    /// The compression: `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub compression: String,
    /// The largest record that the topics accept, in bytes.
    pub largest_record: usize,
    /// How long delivering a record may take; `None` for no limit. A record that newer ones have overtaken must not
    /// arrive later.
    pub patience: Option<Duration>,
}

/// The largest record in bytes that the library accepts by default; the defaults of brokers are close to it.
pub const LARGEST_RECORD: usize = 1_000_000;

/// How a missing topic is created. An existing topic stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// The topic's name.
    pub name: String,
    /// The number of partitions, which is the largest number of workers that can share the records.
    pub partitions: i32,
    /// The number of copies of each partition; `None` for the broker's default.
    pub replication: Option<i32>,
    /// How long records are kept; `None` for ever.
    pub retention: Option<Duration>,
    /// Whether the topic is compacted: the last record of every key is kept for ever, and earlier ones may be removed.
    pub compact: bool,
}

/// How far one partition has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionProgress {
    /// The partition.
    pub partition: Partition,
    /// The offset of the next record to read.
    pub next: i64,
    /// The number of records that wait. Not always the distance to the end of the partition, because transaction
    /// markers have offsets too.
    pub lag: i64,
    /// Whether reading is paused on purpose.
    pub is_paused: bool,
}

/// The state of a consumer at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerState {
    /// The partitions of this worker.
    pub partitions: Vec<PartitionProgress>,
    /// How often partitions were assigned or revoked.
    pub rebalances: u64,
}
