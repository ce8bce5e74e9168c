//! Rules for the broker's settings, and for the stage that needs them.

use std::collections::HashMap;
use std::path::Path;

use secrecy::ExposeSecret as _;

use super::{Violation, in_range, violation};
use crate::config::schema::broker::{KafkaSettings, RecordFormat, SaslMechanism, SaslSettings, TlsSettings};
use crate::config::schema::collection::CollectionConfig;
use crate::config::schema::stage::Stage;
use crate::config::{Config, names};

/// A hundred years.
const LONGEST_RETENTION_HOURS: u64 = 876_000;

/// Settings of librdkafka that the guarantees depend on, or that have a key of their own in walvec.yaml:
/// then that key. <https://github.com/confluentinc/librdkafka/blob/v2.12.1/CONFIGURATION.md>
const DECIDED: &[(&str, Option<&str>)] = &[
    ("bootstrap.servers", Some("bootstrap")),
    ("metadata.broker.list", Some("bootstrap")),
    ("group.id", Some("group")),
    ("group.protocol", Some("group_protocol")),
    ("session.timeout.ms", Some("session_timeout_ms")),
    ("compression.codec", Some("compression")),
    ("compression.type", Some("compression")),
    ("security.protocol", Some("tls and sasl")),
    ("sasl.mechanism", Some("sasl.mechanism")),
    ("sasl.mechanisms", Some("sasl.mechanism")),
    ("sasl.username", Some("sasl.username")),
    ("sasl.password", Some("sasl.password")),
    ("ssl.ca.location", Some("tls.ca")),
    ("ssl.certificate.location", Some("tls.certificate")),
    ("ssl.key.location", Some("tls.key")),
    ("message.timeout.ms", None),
    ("delivery.timeout.ms", None),
    ("message.max.bytes", None),
    ("max.poll.interval.ms", None),
    ("statistics.interval.ms", None),
    ("group.instance.id", None),
    ("group.protocol.type", None),
    ("group.remote.assignor", None),
    ("partition.assignment.strategy", None),
    ("auto.offset.reset", None),
    ("auto.commit.enable", None),
    ("auto.commit.interval.ms", None),
    ("enable.auto.commit", None),
    ("enable.auto.offset.store", None),
    ("enable.partition.eof", None),
    ("offset.store.method", None),
    ("offset.store.path", None),
    ("offset.store.sync.interval.ms", None),
    ("isolation.level", None),
    ("allow.auto.create.topics", None),
    ("acks", None),
    ("request.required.acks", None),
    ("enable.idempotence", None),
    ("enable.gapless.guarantee", None),
    ("transactional.id", None),
    ("retries", None),
    ("message.send.max.retries", None),
    ("max.in.flight", None),
    ("max.in.flight.requests.per.connection", None),
    ("partitioner", None),
    ("queuing.strategy", None),
    ("delivery.report.only.error", None),
    ("produce.offset.report", None),
    ("log.queue", None),
];

/// Checks that a single stage has a broker, through which it reaches the other stages.
pub(super) fn check_stage(config: &Config) -> Result<(), Violation> {
    if config.broker.is_some() {
        return Ok(());
    }
    if config.stage != Stage::All {
        return violation(
            "broker.kafka",
            format!(
                "missing; the stage {} meets the others in a broker. Name it, broker: {{ kafka: {{ bootstrap: \
                 \"localhost:9092\" }} }} or, without a file, in Quix__Broker__Address; or leave --stage and WALVEC_STAGE \
                 away to do without one",
                config.stage
            ),
        );
    }
    match config.collections.iter().position(|collection| collection.topic.is_some()) {
        Some(index) => violation(
            format!("collections[{index}].topic"),
            "there is no broker to read it from; add broker.kafka, or remove it",
        ),
        None => Ok(()),
    }
}

pub(super) fn check_broker(config: &Config) -> Result<(), Violation> {
    let Some(broker) = &config.broker else { return Ok(()) };
    let kafka = &broker.kafka;
    if matches!(config.stage, Stage::Embed | Stage::Sink)
        && let Some(index) = config.collections.iter().position(|collection| collection.chunk.is_some())
    {
        let reason = format!(
            "the stage {} knows one point per row, and could not remove the chunks of a row that has become shorter; use \
             `--stage index`, which does both",
            config.stage
        );
        return violation(format!("collections[{index}].chunk"), reason);
    }
    check_kafka(kafka).map_err(|(key, reason)| (format!("broker.kafka.{key}"), reason))?;
    check_topics(config, kafka)
}

fn check_kafka(kafka: &KafkaSettings) -> Result<(), Violation> {
    names::bootstrap(&kafka.bootstrap).map_err(|reason| ("bootstrap".to_owned(), reason))?;
    let named = [("topic_prefix", Some(&kafka.topic_prefix)), ("changes", kafka.changes.as_ref())];
    for (key, name) in named.into_iter().chain([("vectors", kafka.vectors.as_ref())]) {
        name.map_or(Ok(()), |name| check_topic(key, name))?;
    }
    if kafka.group.as_ref().is_some_and(|group| group.is_empty() || group.contains(char::is_control)) {
        return violation("group", "must not be empty, and must have no control characters");
    }
    check_format(kafka)?;
    in_range("partitions", kafka.partitions().into(), 1..=10_000)?;
    in_range("replication_factor", kafka.replication_factor.unwrap_or(1).into(), 1..=100)?;
    in_range("retention_hours", kafka.retention_hours, 0..=LONGEST_RETENTION_HOURS)?;
    in_range("session_timeout_ms", kafka.session_timeout_ms, 1000..=1_800_000)?;
    kafka.tls.as_ref().map_or(Ok(()), check_tls)?;
    check_properties(kafka)?;
    kafka.sasl.as_ref().map_or(Ok(()), |sasl| check_sasl(kafka, sasl))
}

fn check_format(kafka: &KafkaSettings) -> Result<(), Violation> {
    match kafka.format {
        RecordFormat::Debezium if kafka.changes.is_some() => violation(
            "changes",
            "only with format: reference; with debezium each table has a topic: remove it, or set topic_prefix",
        ),
        RecordFormat::Reference if kafka.compact => violation(
            "compact",
            "format: reference gives all rows of a table one key, and the broker would keep only the last of them; remove it, \
             or write format: debezium",
        ),
        RecordFormat::Debezium | RecordFormat::Reference => Ok(()),
    }
}

fn check_tls(tls: &TlsSettings) -> Result<(), Violation> {
    match (&tls.certificate, &tls.key) {
        (Some(_), None) => return violation("tls.key", "missing; a certificate proves nothing without its key"),
        (None, Some(_)) => return violation("tls.certificate", "missing; `key` belongs to a certificate"),
        (Some(_), Some(_)) | (None, None) => {}
    }
    let files = [("tls.ca", &tls.ca), ("tls.certificate", &tls.certificate), ("tls.key", &tls.key)];
    files.into_iter().try_for_each(|(key, file)| file.as_deref().map_or(Ok(()), |file| check_file(key, file)))
}

/// Checks that a file can be read, because the client library's error about it is not helpful.
fn check_file(key: &str, path: &Path) -> Result<(), Violation> {
    match std::fs::File::open(path).and_then(|file| file.metadata()) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(_) => violation(key, format!("{} is not a file; name a PEM file", path.display())),
        Err(error) => violation(key, format!("{}: {error}; name a PEM file that walvec may read", path.display())),
    }
}

fn check_properties(kafka: &KafkaSettings) -> Result<(), Violation> {
    for name in kafka.properties.keys() {
        let decided = DECIDED.iter().find(|(decided, _)| decided == name);
        let reason = match decided {
            Some(("security.protocol", _)) if accepts_the_risk(kafka) => continue,
            Some((_, Some(key))) => format!("{name} has a place of its own; write broker.kafka.{key}"),
            Some((_, None)) => format!("walvec decides {name} itself: what it guarantees depends on it; remove it"),
            None if is_setting(name) => continue,
            None => format!("\"{name}\" is no setting of librdkafka; they look like socket.keepalive.enable"),
        };
        return violation(format!("properties.{name}"), reason);
    }
    Ok(())
}

fn is_setting(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_'))
}

/// Returns whether the configuration says that a login without TLS is intended.
fn accepts_the_risk(kafka: &KafkaSettings) -> bool {
    let protocol = kafka.properties.get("security.protocol").map(|protocol| protocol.expose_secret());
    protocol.is_some_and(|protocol| {
        protocol.eq_ignore_ascii_case("sasl_plaintext") && kafka.security_protocol() == "sasl_plaintext"
    })
}

fn check_sasl(kafka: &KafkaSettings, sasl: &SaslSettings) -> Result<(), Violation> {
    if sasl.username.is_empty() {
        return violation("sasl.username", "empty; name the user to log in as");
    }
    if sasl.password.expose_secret().is_empty() {
        return violation("sasl.password", "missing, or empty; write for example \"${KAFKA_PASSWORD}\"");
    }
    let shows_password = sasl.mechanism == SaslMechanism::Plain && kafka.tls.is_none() && !accepts_the_risk(kafka);
    match names::bootstrap_hosts(&kafka.bootstrap).find(|host| !names::is_loopback(host)) {
        Some(host) if shows_password => violation(
            "sasl.mechanism",
            format!(
                "plain without TLS sends the password unencrypted to {host}, and whoever listens can log in with it; add tls: \
                 {{}}, or use scram-sha-256, or accept the risk by properties: {{ security.protocol: sasl_plaintext }}"
            ),
        ),
        Some(_) | None => Ok(()),
    }
}

fn check_topic(key: &str, name: &str) -> Result<(), Violation> {
    names::is_topic(name).map_err(|reason| (key.to_owned(), reason))
}

/// Checks that no topic has two purposes, and that every topic that is read is also written.
fn check_topics(config: &Config, kafka: &KafkaSettings) -> Result<(), Violation> {
    let (vectors, dead_letters) = (kafka.vectors_topic(), kafka.dead_letters_topic());
    check_topic("broker.kafka.topic_prefix", &dead_letters)?;
    check_topic("broker.kafka.topic_prefix", &vectors)?;
    if vectors == dead_letters {
        return violation("broker.kafka.vectors", format!("{vectors} is the topic of parked rows; choose another"));
    }
    let mut captured = HashMap::new();
    for (index, collection) in config.collections.iter().enumerate() {
        let at = |field: &str| format!("collections[{index}].{field}");
        let changes = kafka.changes_topic(&collection.table);
        check_topic(&at("table"), &changes)?;
        let first = captured.entry(changes.clone()).or_insert(&collection.table);
        if kafka.format == RecordFormat::Debezium && **first != collection.table {
            let reason = format!(
                "its topic would be {changes}, as that of {first}: what a topic's name cannot hold becomes _; rename one of \
                 the tables, or capture it by another walvec with another broker.kafka.topic_prefix"
            );
            return violation(at("table"), reason);
        }
        let read = kafka.topic_of(collection);
        let key = collection.topic.as_ref().map_or_else(|| at("table"), |_| at("topic"));
        check_topic(&key, &read)?;
        for (topic, holds) in [(&vectors, "vectors"), (&dead_letters, "parked rows")] {
            if [&read, &changes].contains(&topic) {
                return violation(key, format!("{topic} is the topic of {holds}; changes need another one"));
            }
        }
        check_writer(config.stage, collection, &changes).map_err(|reason| (at("topic"), reason))?;
    }
    Ok(())
}

/// Checks a collection's own topic: one with another name than the capture stage's is written by another
/// program.
fn check_writer(stage: Stage, collection: &CollectionConfig, changes: &str) -> Result<(), String> {
    match &collection.topic {
        Some(topic) if stage == Stage::All && topic != changes => Err(format!(
            "this walvec writes the table's changes to {changes} and would never read them; remove it, or let somebody else \
             write {topic} and start walvec run --stage index"
        )),
        Some(_) | None => Ok(()),
    }
}
