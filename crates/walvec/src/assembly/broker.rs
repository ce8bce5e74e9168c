//! Assembles the stages of a process that works through a broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;
use walvec_broker::kafka::connection::{BrokerConnection, Sasl, Tls};
use walvec_broker::kafka::consumer::GroupSharing;
use walvec_broker::kafka::lookup;
use walvec_broker::kafka::producer::{LARGEST_RECORD, Producer, Segment, Sending};
use walvec_broker::kafka::topics::{TopicSpec, Topics};
use walvec_broker::wire::Format;
use walvec_broker::{BrokerError, Partition};
use walvec_embed::Embedder;
use walvec_model::{Fingerprint, RowKey, TableName};
use walvec_pipeline::index::points_topic::{TopicCollection, VectorsTopic};
use walvec_pipeline::index::{IndexInput, Indexer, IndexerConfig};
use walvec_pipeline::publish::{Publisher, PublisherConfig, TableTopic};
use walvec_pipeline::state::dead_letters::DeadLetter;
use walvec_pipeline::state::dead_letters::DeadLetterStore as _;
use walvec_pipeline::state::dead_letters_topic::{CaptureLetters, DeadLettersTopic};
use walvec_pipeline::{Collection, ConfigDigest, PipelineError, Store};

use super::source::source_config;
use super::{digest, transform};
use crate::config::{Config, GroupProtocol, KafkaSettings, RecordFormat, Stage};
use crate::failure::Failure;

/// How long one record may take a worker: less than the time after which another worker takes over.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// The parts that the stages of one process share.
pub(crate) struct Broker<'a> {
    config: &'a Config,
    kafka: &'a KafkaSettings,
    connection: BrokerConnection,
    letters: Arc<DeadLettersTopic>,
    producer: Arc<Producer>,
}

impl<'a> Broker<'a> {
    /// Connects, and creates the topic of dead letters if it is missing.
    pub(crate) async fn connect(config: &'a Config, kafka: &'a KafkaSettings) -> Result<Self, Failure> {
        let connection = connection(kafka);
        let sending = Sending {
            compression: kafka.compression.name().to_owned(),
            largest_record: LARGEST_RECORD,
            patience: Some(SEND_TIMEOUT),
        };
        let producer = Arc::new(Producer::new(&connection, sending).map_err(PipelineError::from)?);
        let topic = kafka.dead_letters_topic();
        let letters = DeadLettersTopic::open(&connection, Arc::clone(&producer), &topic, replication(kafka)).await?;
        Ok(Self { config, kafka, connection, letters: Arc::new(letters), producer })
    }

    /// Returns the dead letters of all workers.
    pub(crate) fn letters(&self) -> Arc<DeadLettersTopic> {
        Arc::clone(&self.letters)
    }

    /// Returns the topics that this process's stage reads.
    pub(crate) fn read_topics(&self) -> Vec<String> {
        match self.config.stage {
            Stage::Sink => vec![self.kafka.vectors_topic()],
            _ => self.changes().into_iter().map(|(topic, _)| topic).collect(),
        }
    }

    /// Returns those of the topics of the stage that exist, with their numbers of partitions.
    pub(crate) async fn known_topics(&self) -> Result<Vec<(String, i32)>, Failure> {
        let topics = Topics::new(&self.connection).map_err(PipelineError::from)?;
        let there = topics.partitions().await.map_err(PipelineError::from)?;
        Ok(self.read_topics().into_iter().filter_map(|topic| Some((topic.clone(), *there.get(&topic)?))).collect())
    }

    /// Sets the group of the stage back to the oldest records of its topics.
    pub(crate) async fn rewind(&self) -> Result<(), Failure> {
        let group = self.kafka.group(self.config.stage);
        let rewound = lookup::rewind(&self.connection, &group, &self.known_topics().await?).await;
        rewound.map_err(|error| match error {
            BrokerError::Fenced { .. } => Failure::definite("E_LOCKED", format!("workers of group \"{group}\" run"))
                .with_remedy(
                    "stop them first; one that was stopped counts until its session is over, which the broker decides (45 s by default)",
                ),
            other => PipelineError::from(other).into(),
        })
    }

    /// Writes the record of a dead letter again, at the end of its topic. Returns `false` if the record does not exist any more.
    pub(crate) async fn write_again(&self, letter: &DeadLetter) -> Result<bool, Failure> {
        let Some(place) = &letter.place else { return Ok(false) };
        let partition = Partition { topic: place.topic.as_str().into(), number: place.partition };
        let found = lookup::record(&self.connection, partition, place.offset).await.map_err(PipelineError::from)?;
        let Some(record) = found else { return Ok(false) };
        // A letter about a record belongs to no row, so no later row would remove it.
        let is_about_record = letter.is_about_a_record();
        let segment = Segment::new();
        self.producer.send_again(record, !is_about_record, &segment).await.map_err(PipelineError::from)?;
        self.producer.close(&segment);
        self.producer.done(&segment).await.map_err(PipelineError::from)?;
        if is_about_record {
            self.letters.update(&letter.collection, &[], &[RowKey::new(letter.key.clone())]).await?;
        }
        Ok(true)
    }

    /// Makes the publisher, which writes PostgreSQL's changes into topics.
    pub(crate) fn publisher(&self, store: &Arc<Store>, stop: CancellationToken) -> Publisher {
        let (config, kafka) = (self.config, self.kafka);
        let source = source_config(config);
        let mut topics: Vec<TableTopic> = Vec::new();
        for collection in &config.collections {
            if topics.iter().all(|topic| topic.table != collection.table) {
                let topic = self.topic(kafka.changes_topic(&collection.table));
                topics.push(TableTopic { table: collection.table.clone(), topic });
            }
        }
        let shown = config.collections.iter().map(|collection| (collection.name.clone(), collection.table.clone()));
        let publisher = PublisherConfig {
            source,
            config_digest: topics_digest(config, kafka),
            on_gap: config.source.on_gap.into(),
            connection: self.connection.clone(),
            compression: kafka.compression.name().to_owned(),
            format: format(kafka),
            prefix: kafka.topic_prefix.clone(),
            topics,
            collections: shown.collect(),
        };
        Publisher::new(publisher, Arc::clone(store), Arc::new(CaptureLetters(self.letters())), stop)
    }

    /// Makes the indexer, which reads topics into `collections`.
    pub(crate) fn indexer(&self, collections: Vec<Collection>, stop: CancellationToken) -> Indexer {
        let (config, kafka) = (self.config, self.kafka);
        let reads = match config.stage {
            Stage::Sink => IndexInput::Vectors { format: format(kafka), topic: kafka.vectors_topic() },
            _ => IndexInput::Changes { format: format(kafka), topics: self.changes() },
        };
        let has_source = !config.source.url.expose_secret().is_empty();
        let indexer = IndexerConfig {
            connection: self.connection.clone(),
            group: kafka.group(config.stage),
            instance: format!("{}-{}", host(), config.instance),
            protocol: match kafka.group_protocol {
                GroupProtocol::Auto => None,
                GroupProtocol::Consumer => Some(GroupSharing::Consumer),
                GroupProtocol::Classic => Some(GroupSharing::Classic),
            },
            session_timeout: kafka.session_timeout(),
            reads,
            source: has_source.then(|| source_config(config)),
            batch_rows: config.pipeline.batch_rows,
            config_digest: digest::payload_digest(config),
        };
        Indexer::new(indexer, collections, self.letters(), stop)
    }

    /// Makes the collections of the stage `embed`, which writes its points to the topic of vectors.
    pub(crate) fn collections_in_topic(&self, embedder: &Arc<dyn Embedder>) -> Result<Vec<Collection>, Failure> {
        let in_topic = self.config.collections.iter().map(|collection| {
            let compiled = Arc::new(transform::compile(collection, transform::token_counter(embedder))?);
            let fingerprint = transform::fingerprint(embedder.as_ref(), collection);
            let vector = collection.layout().vector_name(&self.config.embedding.model);
            let topic = self.topic(self.kafka.vectors_topic());
            let (producer, format) = (Arc::clone(&self.producer), format(self.kafka));
            let keywords = collection.keywords_name();
            let filled = TopicCollection { name: collection.name.clone(), vector, keywords };
            let sink =
                VectorsTopic::new(&self.connection, producer, topic, format, filled).map_err(PipelineError::from)?;
            Ok(Collection {
                name: collection.name.clone(),
                table: collection.table.clone(),
                transform: compiled,
                embedder: Arc::clone(embedder),
                keywords: transform::keywords(collection),
                on_long: collection.on_long.into(),
                sink: Arc::new(sink),
                fingerprint,
            })
        });
        in_topic.collect()
    }

    /// Returns the topics of changes, each with its table if it is for one table only.
    fn changes(&self) -> Vec<(String, Option<TableName>)> {
        let mut topics: Vec<(String, Option<TableName>)> = Vec::new();
        for collection in &self.config.collections {
            let topic = self.kafka.topic_of(collection);
            let table = (self.kafka.format == RecordFormat::Debezium).then(|| collection.table.clone());
            match topics.iter_mut().find(|(known, _)| *known == topic) {
                None => topics.push((topic, table)),
                Some((_, known)) if *known != table => *known = None,
                Some(_) => {}
            }
        }
        topics
    }

    fn topic(&self, name: String) -> TopicSpec {
        let kafka = self.kafka;
        TopicSpec {
            name,
            partitions: i32::try_from(kafka.partitions()).unwrap_or(i32::MAX),
            replication: replication(kafka),
            retention: kafka.retention(),
            compact: kafka.compact,
        }
    }
}

/// Returns the settings of a connection to the broker.
pub(crate) fn connection(kafka: &KafkaSettings) -> BrokerConnection {
    let tls = kafka
        .tls
        .as_ref()
        .map(|tls| Tls { ca: tls.ca.clone(), identity: tls.certificate.clone().zip(tls.key.clone()) });
    let sasl = kafka.sasl.as_ref().map(|sasl| Sasl {
        mechanism: sasl.mechanism.name().to_owned(),
        username: sasl.username.clone(),
        password: sasl.password.clone(),
    });
    BrokerConnection { bootstrap: kafka.bootstrap.clone(), tls, sasl, properties: kafka.properties.clone() }
}

fn replication(kafka: &KafkaSettings) -> Option<i32> {
    kafka.replication_factor.and_then(|factor| i32::try_from(factor).ok())
}

const fn format(kafka: &KafkaSettings) -> Format {
    match kafka.format {
        RecordFormat::Debezium => Format::Debezium,
        RecordFormat::Reference => Format::Reference,
    }
}

/// Returns a digest of what decides about the rows in each topic and what workers make of them. When it changes, tables are read again.
pub(crate) fn topics_digest(config: &Config, kafka: &KafkaSettings) -> ConfigDigest {
    let topics = config.collections.iter().map(|collection| kafka.changes_topic(&collection.table));
    let parts: Vec<String> = std::iter::once(digest::config_digest(config)).chain(topics).collect();
    let digest = Fingerprint::of(&parts.iter().map(String::as_str).collect::<Vec<_>>()).to_string();
    // Workers then read the topics from their beginning, so every table must be written again: no table has a digest of its own.
    ConfigDigest { digest, numbers: digest::stored_numbers(config), tables: BTreeMap::new() }
}

/// Returns the name of this machine, which distinguishes its workers from those of other machines.
fn host() -> String {
    let known =
        std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::fs::read_to_string("/etc/hostname"));
    let name = known.ok().or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    let name: String =
        name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')).collect();
    if name.is_empty() { "walvec".to_owned() } else { name }
}
