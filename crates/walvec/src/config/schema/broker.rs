//! The broker between the stages. The comments on the fields are the manual.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use walvec_model::TableName;

use super::collection::CollectionConfig;
use super::stage::Stage;
use super::values::{given, secret};
use crate::config::names;

/// The broker that carries changes from `walvec run --stage capture` to the workers that index them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BrokerSettings {
    /// Kafka, Redpanda, or another broker with Kafka's protocol.
    pub(crate) kafka: KafkaSettings,
}

/// A broker with Kafka's protocol.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct KafkaSettings {
    /// The addresses of the brokers: `host:9092`, several separated by commas. Required.
    pub(crate) bootstrap: String,
    /// The beginning of the names of topics: `<prefix>.<schema>.<table>` for changes, `<prefix>.vectors`,
    /// `<prefix>.dead-letters`. Characters that a topic's name cannot hold become `_`.
    pub(crate) topic_prefix: String,
    /// The format of records: `debezium`, or `reference`, the topics, records and groups of the tutorial stack.
    pub(crate) format: RecordFormat,
    /// The beginning of the names of consumer groups: `<group>-index`, `<group>-embed`, `<group>-sink`. Workers of one group
    /// share the partitions. Default: `walvec`; with `format: reference` the groups `vectorsv1` (embed, index) and `ingesterV1`
    /// (sink).
    pub(crate) group: Option<String>,
    /// With `format: reference`, the topic of all changes. Default: `postgres-cdc-data`.
    pub(crate) changes: Option<String>,
    /// The topic between `--stage embed` and `--stage sink`. Default: `<prefix>.vectors`; with `format: reference`
    /// `embeddings-fastembed-V1`.
    pub(crate) vectors: Option<String>,
    /// The number of partitions of a topic that walvec creates, 1 to 10000: at most this many workers share its work. An existing
    /// topic is left as it is. Default: 6; with `format: reference` 1, because its rows have one key and lie in one partition.
    pub(crate) partitions: Option<u32>,
    /// The number of brokers that keep a copy of a topic that walvec creates. Default: the broker's.
    pub(crate) replication_factor: Option<u32>,
    /// How long a topic that walvec creates keeps its records, in hours; 0 keeps them forever. A worker that is stopped for longer
    /// misses changes, and notices that.
    pub(crate) retention_hours: u64,
    /// Keep the last record of every row forever, instead of every record for some time. Only for topics that walvec creates,
    /// and not with `format: reference`.
    pub(crate) compact: bool,
    /// How records are compressed: `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub(crate) compression: Compression,
    /// How workers share partitions: `consumer`, the broker's own protocol since Kafka 4.0; `classic`; or `auto`, the newest that
    /// the broker knows.
    pub(crate) group_protocol: GroupProtocol,
    /// How many milliseconds a worker may be silent before its partitions go to others, 1000 to 1800000. Brokers refuse less than
    /// 6000 unless they are configured otherwise. With the protocol `consumer` the broker decides.
    pub(crate) session_timeout_ms: u64,
    /// Encrypt, and verify the broker's certificate; `tls: {}` is enough if a well-known authority signed it.
    #[serde(deserialize_with = "given")]
    pub(crate) tls: Option<TlsSettings>,
    /// Log in. Default: no login.
    #[serde(deserialize_with = "given")]
    pub(crate) sasl: Option<SaslSettings>,
    /// Any other setting of librdkafka, as name and text: `{ "socket.keepalive.enable": "true" }`. Settings that walvec decides
    /// itself are refused.
    #[serde(deserialize_with = "secrets")]
    #[schemars(with = "BTreeMap<String, String>")]
    pub(crate) properties: BTreeMap<String, SecretString>,
    /// The one group of this process, from `Quix__Consumer_Group`.
    #[serde(skip)]
    pub(in crate::config) exact_group: Option<String>,
}

impl KafkaSettings {
    /// The default of partitions: more than the workers that one table usually starts with, because keys move to other partitions
    /// when some are added later.
    const PARTITIONS: u32 = 6;
    /// A week, which is also the brokers' default: a worker may be away over the holidays.
    const RETENTION_HOURS: u64 = 168;
    /// Short for a client (45 s is usual), because a worker that died delays the rows of its partitions for this long.
    const SESSION_TIMEOUT_MS: u64 = 10_000;
    /// The topics of the tutorial stack.
    pub(in crate::config) const REFERENCE_CHANGES: &str = "postgres-cdc-data";
    pub(in crate::config) const REFERENCE_VECTORS: &str = "embeddings-fastembed-V1";
    /// The groups of the tutorial stack.
    const REFERENCE_EMBED: &str = "vectorsv1";
    const REFERENCE_SINK: &str = "ingesterV1";

    /// Returns the topic that the index stage and the embed stage read for a collection.
    pub(crate) fn topic_of(&self, collection: &CollectionConfig) -> String {
        collection.topic.clone().unwrap_or_else(|| self.changes_topic(&collection.table))
    }

    /// Returns the topic that the capture stage writes the changes of `table` to.
    pub(crate) fn changes_topic(&self, table: &TableName) -> String {
        match self.format {
            RecordFormat::Debezium => names::topic(&format!("{}.{}.{}", self.topic_prefix, table.schema, table.name)),
            RecordFormat::Reference => self.changes.as_deref().unwrap_or(Self::REFERENCE_CHANGES).to_owned(),
        }
    }

    /// Returns the topic between the embed stage and the sink stage.
    pub(crate) fn vectors_topic(&self) -> String {
        match (&self.vectors, self.format) {
            (Some(vectors), _) => vectors.clone(),
            (None, RecordFormat::Debezium) => format!("{}.vectors", self.topic_prefix),
            (None, RecordFormat::Reference) => Self::REFERENCE_VECTORS.to_owned(),
        }
    }

    /// Returns the topic of dead letters.
    pub(crate) fn dead_letters_topic(&self) -> String {
        format!("{}.dead-letters", self.topic_prefix)
    }

    /// Returns the consumer group of the workers of `stage`. Stage `all` reads as stage `index` does.
    pub(crate) fn group(&self, stage: Stage) -> String {
        if let Some(group) = &self.exact_group {
            return group.clone();
        }
        match (&self.group, self.format, stage) {
            (None, RecordFormat::Reference, Stage::Sink) => Self::REFERENCE_SINK.to_owned(),
            (None, RecordFormat::Reference, _) => Self::REFERENCE_EMBED.to_owned(),
            (group, _, Stage::All) => format!("{}-{}", group.as_deref().unwrap_or("walvec"), Stage::Index),
            (group, _, stage) => format!("{}-{stage}", group.as_deref().unwrap_or("walvec")),
        }
    }

    /// Returns the number of partitions of a topic that walvec creates.
    pub(crate) fn partitions(&self) -> u32 {
        self.partitions.unwrap_or(match self.format {
            RecordFormat::Debezium => Self::PARTITIONS,
            RecordFormat::Reference => 1,
        })
    }

    /// Returns how long topics that walvec creates keep their records; `None` means forever.
    pub(crate) const fn retention(&self) -> Option<Duration> {
        match self.retention_hours {
            0 => None,
            hours => Some(Duration::from_secs(hours * 3600)),
        }
    }

    /// Returns how long a worker may be silent before it counts as gone.
    pub(crate) const fn session_timeout(&self) -> Duration {
        Duration::from_millis(self.session_timeout_ms)
    }

    /// Returns librdkafka's `security.protocol`.
    pub(crate) const fn security_protocol(&self) -> &'static str {
        match (self.tls.is_some(), self.sasl.is_some()) {
            (false, false) => "plaintext",
            (true, false) => "ssl",
            (false, true) => "sasl_plaintext",
            (true, true) => "sasl_ssl",
        }
    }
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            bootstrap: String::new(),
            topic_prefix: "walvec".to_owned(),
            format: RecordFormat::default(),
            group: None,
            changes: None,
            vectors: None,
            partitions: None,
            replication_factor: None,
            retention_hours: Self::RETENTION_HOURS,
            compact: false,
            compression: Compression::default(),
            group_protocol: GroupProtocol::default(),
            session_timeout_ms: Self::SESSION_TIMEOUT_MS,
            tls: None,
            sasl: None,
            properties: BTreeMap::new(),
            exact_group: None,
        }
    }
}

/// The format of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RecordFormat {
    /// The format of Debezium's connector for PostgreSQL; the row's key is the record's.
    #[default]
    Debezium,
    /// The format of the tutorial stack; the table's name is the record's key.
    Reference,
}

/// How records are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compression {
    /// Not at all.
    None,
    /// Small and slow.
    Gzip,
    /// About as lz4, for consumers that support nothing else.
    Snappy,
    /// Fast.
    #[default]
    Lz4,
    /// Small, and faster than gzip.
    Zstd,
}

impl Compression {
    /// Returns librdkafka's name for it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// How workers share partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum GroupProtocol {
    /// The newest protocol that the broker supports.
    #[default]
    Auto,
    /// The broker assigns partitions (KIP-848, Kafka 4.0).
    Consumer,
    /// A member of the group assigns partitions.
    Classic,
}

/// TLS to the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TlsSettings {
    /// The authorities to trust, a PEM file. Default: the system's.
    pub(crate) ca: Option<PathBuf>,
    /// This client's certificate, a PEM file, if the broker asks for one. Needs `key`.
    pub(crate) certificate: Option<PathBuf>,
    /// The key of `certificate`, a PEM file. Its password is the property `ssl.key.password`.
    pub(crate) key: Option<PathBuf>,
}

/// How to log in.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SaslSettings {
    /// The mechanism that proves the password: `plain` sends it, `scram-sha-256` and `scram-sha-512` do not.
    pub(crate) mechanism: SaslMechanism,
    /// The user.
    pub(crate) username: String,
    /// The password. Best written as `${KAFKA_PASSWORD}`.
    #[serde(default, deserialize_with = "secret")]
    #[schemars(with = "String")]
    pub(crate) password: SecretString,
}

/// The mechanism that proves a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub(crate) enum SaslMechanism {
    /// The password is sent as it is.
    #[serde(rename = "plain")]
    Plain,
    /// A challenge is answered.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// A challenge is answered, with a longer hash.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

impl SaslMechanism {
    /// Returns whether librdkafka uses OpenSSL for this mechanism.
    pub(in crate::config) const fn needs_openssl(self) -> bool {
        matches!(self, Self::ScramSha256 | Self::ScramSha512)
    }

    /// Returns its registered name, which librdkafka takes.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Reads properties, any of which may hold a secret.
fn secrets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, SecretString>, D::Error> {
    let texts = BTreeMap::<String, String>::deserialize(deserializer)?;
    Ok(texts.into_iter().map(|(name, text)| (name, text.into())).collect())
}
