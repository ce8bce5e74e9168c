//! Guarantees to a user who configures a broker and a stage.

use std::path::Path;

use super::*;
use crate::config::schema::broker::{Compression, GroupProtocol, KafkaSettings, SaslMechanism};

fn kafka(config: Config) -> KafkaSettings {
    config.broker.expect("a broker").kafka
}

/// Makes the settings of a broker at localhost with these keys.
fn with_keys(keys: &str) -> KafkaSettings {
    kafka(load(&file(keys)))
}

fn file(keys: &str) -> String {
    format!("{COLLECTION}broker: {{ kafka: {{ bootstrap: 'localhost:9092', {keys} }} }}\n")
}

fn of_stage(stage: Stage) -> Overrides {
    Overrides { stage: Some(stage), ..Overrides::default() }
}

const STAGES: [Stage; 5] = [Stage::All, Stage::Capture, Stage::Index, Stage::Embed, Stage::Sink];

#[test]
fn a_broker_needs_an_address_and_nothing_else() {
    let kafka = with_keys("");
    assert_eq!(kafka.topic_of(&load(COLLECTION).collections[0]), "walvec.public.books");
    assert_eq!(kafka.vectors_topic(), "walvec.vectors");
    assert_eq!(kafka.dead_letters_topic(), "walvec.dead-letters");
    let groups = STAGES.map(|stage| kafka.group(stage));
    assert_eq!(groups, ["walvec-index", "walvec-capture", "walvec-index", "walvec-embed", "walvec-sink"]);
    assert_eq!((kafka.partitions(), kafka.replication_factor, kafka.compact), (6, None, false));
    assert_eq!(kafka.retention().map(|kept| kept.as_secs()), Some(7 * 24 * 3600));
    assert_eq!((kafka.compression.name(), kafka.group_protocol), ("lz4", GroupProtocol::Auto));
    assert_eq!(kafka.session_timeout().as_secs(), 10);
    assert_eq!(kafka.security_protocol(), "plaintext");
    assert!(load(COLLECTION).broker.is_none());
}

#[test]
fn the_broker_of_the_example_is_valid_and_holds_the_defaults() {
    let from = EXAMPLE.find("# broker:\n").expect("a broker");
    let section = &EXAMPLE[from..from + EXAMPLE[from..].find("\n\n").expect("its end")];
    let is_key = |line: &str| {
        let key = line.trim_start().strip_prefix("# ").and_then(|rest| rest.split_once(':')).map(|(key, _)| key);
        let is_name = |key: &str| key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        // Files that do not exist, and the key of the other format, are left out.
        key.is_some_and(|key| is_name(key) && !["ca", "certificate", "key", "changes"].contains(&key))
    };
    let lines: Vec<String> =
        section.lines().filter(|line| is_key(line)).map(|line| line.replacen("# ", "", 1)).collect();
    let environment = with(&[("DATABASE_URL", URL), ("KAFKA_PASSWORD", "p")]);
    let text = format!("{COLLECTION}{}\n", lines.join("\n"));
    let mut example = kafka(parse(&text, &environment, Overrides::default()).unwrap());
    assert_eq!(example.security_protocol(), "sasl_ssl");
    assert_eq!(example.sasl.take().map(|sasl| sasl.mechanism), Some(SaslMechanism::ScramSha256));
    assert_eq!(example.properties["socket.keepalive.enable"].expose_secret(), "true");
    assert_eq!((example.replication_factor.take(), example.partitions.take()), (Some(3), Some(6)));
    (example.tls, example.properties) = (None, Default::default());
    assert_eq!((example.group.take(), example.vectors.take()), (Some("walvec".into()), Some("walvec.vectors".into())));
    assert_eq!(format!("{example:?}"), format!("{:?}", with_keys("")));
}

#[test]
fn everything_about_a_broker_can_be_said() {
    let kafka = with_keys(
        "topic_prefix: shop, group: g, vectors: v, partitions: 12, replication_factor: 3, retention_hours: 0, compact: true, \
         compression: zstd, group_protocol: classic, session_timeout_ms: 6000, properties: { client.rack: a }, tls: { ca: \
         Cargo.toml }, sasl: { mechanism: scram-sha-512, username: u, password: p }",
    );
    assert_eq!(kafka.changes_topic(&TableName::new("My Schema", "bücher")), "shop.My_Schema.b_cher");
    assert_eq!((kafka.vectors_topic().as_str(), kafka.group(Stage::Sink).as_str()), ("v", "g-sink"));
    assert_eq!((kafka.partitions(), kafka.retention(), kafka.compact), (12, None, true));
    assert_eq!((kafka.compression, kafka.group_protocol), (Compression::Zstd, GroupProtocol::Classic));
    assert_eq!(kafka.security_protocol(), "sasl_ssl");
    assert_eq!(kafka.sasl.map(|sasl| sasl.mechanism.name()), Some("SCRAM-SHA-512"));
}

#[test]
fn the_reference_format_has_the_topics_and_groups_of_the_tutorial() {
    let reference = with_keys("format: reference");
    assert_eq!(reference.changes_topic(&TableName::new("public", "books")), "postgres-cdc-data");
    assert_eq!(reference.vectors_topic(), "embeddings-fastembed-V1");
    let groups = [Stage::Index, Stage::Embed, Stage::Sink].map(|stage| reference.group(stage));
    assert_eq!(groups, ["vectorsv1", "vectorsv1", "ingesterV1"]);
    assert_eq!(reference.partitions(), 1);
    let named = with_keys("format: reference, changes: c, vectors: v, group: g, partitions: 3");
    assert_eq!(named.changes_topic(&TableName::new("public", "books")), "c");
    assert_eq!((named.vectors_topic().as_str(), named.group(Stage::Embed).as_str()), ("v", "g-embed"));
    assert_eq!(named.partitions(), 3);
    let two = "collections: [{name: a, table: a.b, text: t}, {name: b, table: a.c, text: t}]\n\
        broker: { kafka: { bootstrap: 'h:1', format: reference } }";
    assert_eq!(load(two).collections.len(), 2);
}

#[test]
fn tls_is_on_as_soon_as_its_key_is_there() {
    assert_eq!(with_keys("tls: {}").security_protocol(), "ssl");
    let commented_out = format!("{COLLECTION}broker:\n  kafka:\n    bootstrap: a:1\n    tls:\n      # ca: x\n");
    assert_eq!(kafka(load(&commented_out)).security_protocol(), "ssl");
}

#[test]
fn wrong_settings_of_a_broker_name_the_key_and_what_to_write() {
    for (keys, expected) in [
        ("topic_prefix: 'a b'", "broker.kafka.topic_prefix: \"a b\" is no name for a topic"),
        ("topic_prefix: ''", "broker.kafka.topic_prefix: \"\" is no name"),
        ("format: avro", "broker.kafka.format: \"avro\" is none of debezium, reference"),
        ("group: ''", "broker.kafka.group: must not be empty"),
        ("changes: c", "broker.kafka.changes: only with format: reference"),
        ("vectors: 'a/b'", "broker.kafka.vectors: \"a/b\" is no name for a topic"),
        ("vectors: walvec.dead-letters", "broker.kafka.vectors: walvec.dead-letters is the topic of parked rows"),
        ("vectors: walvec.public.books", "collections[0].table: walvec.public.books is the topic of vectors"),
        ("partitions: 0", "broker.kafka.partitions: 0 is out of range; 1 to 10000"),
        ("partitions: 10001", "broker.kafka.partitions: 10001 is out of range"),
        ("replication_factor: 0", "broker.kafka.replication_factor: 0 is out of range"),
        ("retention_hours: 876001", "broker.kafka.retention_hours: 876001 is out of range"),
        ("compact: maybe", "broker.kafka.compact: \"maybe\" is neither true nor false"),
        (
            "compact: true, format: reference",
            "broker.kafka.compact: format: reference gives all rows of a table one key",
        ),
        ("compression: lzma", "broker.kafka.compression: \"lzma\" is none of none, gzip, snappy, lz4, zstd"),
        ("session_timeout_ms: 10", "broker.kafka.session_timeout_ms: 10 is out of range"),
        ("tls: { certificate: a }", "broker.kafka.tls.key: missing"),
        ("tls: { key: a }", "broker.kafka.tls.certificate: missing"),
        ("tls: { ca: /nowhere/ca.pem }", "broker.kafka.tls.ca: /nowhere/ca.pem: No such file"),
        ("tls: { ca: / }", "broker.kafka.tls.ca: / is not a file"),
        (
            "sasl: { mechanism: SCRAM-SHA-256 }",
            "is none of plain, scram-sha-256, scram-sha-512; did you mean scram-sha-256?",
        ),
        ("sasl: { mechanism: plain, username: u }", "broker.kafka.sasl.password: missing, or empty"),
        ("sasl: { mechanism: plain, username: '', password: p }", "broker.kafka.sasl.username: empty"),
        ("sasl: { mechanism: plain, username: u, password: '' }", "broker.kafka.sasl.password: missing, or empty"),
        ("sasl:", "broker.kafka.sasl.mechanism: missing"),
        ("topics: a", "broker.kafka.topics: unknown key; did you mean topic_prefix?"),
    ] {
        let message = refusal(&file(keys));
        assert!(message.contains(expected), "{keys}: {message}");
    }
    for (broker, expected) in [
        ("", "broker.kafka: missing; it has no default"),
        ("{ kafka: {} }", "broker.kafka.bootstrap: missing; write where the broker is"),
        ("{ kafka: { bootstrap: localhost } }", "broker.kafka.bootstrap: \"localhost\" is not the address of a broker"),
        ("{ kafka: { bootstrap: 'a:1,ssl://b:1' } }", "broker.kafka.bootstrap: \"ssl://b:1\" is not the address"),
        ("{ redpanda: {} }", "broker.redpanda: unknown key"),
    ] {
        let message = refusal(&format!("{COLLECTION}broker: {broker}\n"));
        assert!(message.contains(expected), "{broker}: {message}");
    }
}

#[test]
fn what_walvec_decides_cannot_be_set_as_a_property() {
    for (property, expected) in [
        ("enable.auto.commit", "walvec decides enable.auto.commit itself"),
        ("enable.idempotence", "walvec decides enable.idempotence itself"),
        ("acks", "walvec decides acks itself"),
        ("partition.assignment.strategy", "walvec decides partition.assignment.strategy itself"),
        ("bootstrap.servers", "write broker.kafka.bootstrap"),
        ("group.id", "write broker.kafka.group"),
        ("sasl.password", "write broker.kafka.sasl.password"),
        ("security.protocol", "write broker.kafka.tls and sasl"),
        ("Socket.Keepalive", "no setting of librdkafka"),
    ] {
        let message = refusal(&file(&format!("properties: {{ {property}: x }}")));
        assert!(message.contains(&format!("broker.kafka.properties.{property}: ")), "{property}: {message}");
        assert!(message.contains(expected), "{property}: {message}");
    }
}

#[test]
fn a_password_is_not_sent_in_the_clear_unless_somebody_says_so() {
    let text = |host: &str, mechanism: &str, more: &str| {
        let sasl = format!("sasl: {{ mechanism: {mechanism}, username: u, password: p }}");
        format!("{COLLECTION}broker: {{ kafka: {{ bootstrap: '{host}', {sasl}, {more} }} }}\n")
    };
    let message = refusal(&text("localhost:9092,kafka.example:9092", "plain", ""));
    assert!(message.contains("broker.kafka.sasl.mechanism: plain without TLS sends the password"), "{message}");
    assert!(message.contains("kafka.example") && message.contains("tls: {}"), "{message}");
    for (host, mechanism, more) in [
        ("localhost:9092,127.0.0.1:9093,[::1]:9094", "plain", ""),
        ("kafka.example:9092", "plain", "tls: {}"),
        ("kafka.example:9092", "scram-sha-256", ""),
        ("kafka.example:9092", "plain", "properties: { security.protocol: SASL_PLAINTEXT }"),
    ] {
        load(&text(host, mechanism, more));
    }
    let contradiction =
        text("kafka.example:9092", "plain", "tls: {}, properties: { security.protocol: sasl_plaintext }");
    assert!(refusal(&contradiction).contains("security.protocol has a place of its own"));
}

#[test]
fn secrets_of_a_broker_are_not_in_the_debug_output() {
    let kafka = with_keys(
        "sasl: { mechanism: plain, username: u, password: s3cret }, properties: { ssl.key.password: s3cret }",
    );
    assert!(!format!("{kafka:?}").contains("s3cret"));
}

#[test]
fn a_collection_can_be_read_from_a_topic_that_somebody_else_writes() {
    let text =
        format!("{}broker: {{ kafka: {{ bootstrap: 'h:1' }} }}", COLLECTION.replace("text:", "topic: enriched, text:"));
    let config = parse(&text, &with(&[]), of_stage(Stage::Index)).unwrap();
    let collection = config.collections[0].clone();
    let kafka = kafka(config);
    assert_eq!(kafka.topic_of(&collection), "enriched");
    assert_eq!(kafka.changes_topic(&collection.table), "walvec.public.books");
    let message = refusal(&text);
    assert!(message.contains("collections[0].topic: this walvec writes the table's changes to walvec.public.books"));
    assert!(message.contains("walvec run --stage index"), "{message}");
    let own = text.replace("enriched", "walvec.public.books");
    load(&own);
    for (topic, expected) in [
        ("'a b'", "collections[0].topic: \"a b\" is no name for a topic"),
        ("walvec.vectors", "collections[0].topic: walvec.vectors is the topic of vectors"),
        ("walvec.dead-letters", "collections[0].topic: walvec.dead-letters is the topic of parked rows"),
    ] {
        let message = refusal(&text.replace("enriched", topic));
        assert!(message.contains(expected), "{topic}: {message}");
    }
    let alone = refusal(&COLLECTION.replace("text:", "topic: enriched, text:"));
    assert!(alone.contains("collections[0].topic: there is no broker to read it from"), "{alone}");
}

#[test]
fn two_tables_never_share_a_topic_of_changes() {
    let text = "collections:\n  - { name: a, table: 'public.\"x y\"', text: t }\n  - { name: b, table: public.x_y, text: t }\n\
        broker: { kafka: { bootstrap: 'h:1' } }\n";
    let message = refusal(text);
    assert!(
        message.contains("collections[1].table: its topic would be walvec.public.x_y, as that of public.x y"),
        "{message}"
    );
    let long = format!(
        "collections: [{{ name: a, table: public.{}, text: t }}]\nbroker: {{ kafka: {{ bootstrap: 'h:1' }} }}",
        "x".repeat(240)
    );
    assert!(refusal(&long).contains("collections[0].table: the topic walvec.public.xxx"));
    // Two collections of one table share a topic, which is read by both.
    load(
        "collections: [{name: a, table: a.b, text: t}, {name: b, table: a.b, text: t}]\nbroker: { kafka: { bootstrap: 'h:1' } }",
    );
}

#[test]
fn a_stage_needs_a_broker_and_says_what_to_write() {
    for stage in STAGES {
        let alone = parse(COLLECTION, &environment(), of_stage(stage));
        if stage == Stage::All {
            assert!(alone.is_ok());
            continue;
        }
        let message = alone.unwrap_err().to_string();
        assert!(message.contains("broker.kafka: missing") && message.contains(stage.name()), "{message}");
        assert!(message.contains("bootstrap: \"localhost:9092\"") && message.contains("--stage"), "{message}");
        assert_eq!(parse(&file(""), &environment(), of_stage(stage)).unwrap().stage, stage);
    }
}

#[test]
fn only_what_reads_the_stream_needs_a_database() {
    for stage in [Stage::Index, Stage::Embed, Stage::Sink] {
        assert_eq!(url(&parse(&file(""), &with(&[]), of_stage(stage)).unwrap()), "");
        let given = parse(&file(""), &environment(), of_stage(stage)).unwrap();
        assert_eq!(url(&given), URL);
    }
    for stage in [Stage::All, Stage::Capture] {
        let message = parse(&file(""), &with(&[]), of_stage(stage)).unwrap_err().to_string();
        assert!(message.contains("source.url: missing"), "{message}");
    }
}

#[test]
fn stage_and_instance_come_from_the_flag_or_the_environment() {
    let variables = [("DATABASE_URL", URL), ("WALVEC_STAGE", "index"), ("WALVEC_INSTANCE", "a.b-C_1")];
    let config = parse(&file(""), &with(&variables), Overrides::default()).unwrap();
    assert_eq!((config.stage, config.instance.as_str()), (Stage::Index, "a.b-C_1"));
    let flags = Overrides { stage: Some(Stage::Sink), instance: Some("2".to_owned()), ..Overrides::default() };
    let config = parse(&file(""), &with(&variables), flags).unwrap();
    assert_eq!((config.stage, config.instance.as_str()), (Stage::Sink, "2"));
    let config = load(COLLECTION);
    assert_eq!((config.stage, config.instance.as_str()), (Stage::All, "1"));

    let message = refusal_in(COLLECTION, &with(&[("DATABASE_URL", URL), ("WALVEC_STAGE", "indx")]));
    assert_eq!(message, "WALVEC_STAGE: \"indx\" is none of all, capture, index, embed, sink");
    for name in ["a b", "a/b", "ä", &"x".repeat(101)] {
        let message = refusal_in(COLLECTION, &with(&[("DATABASE_URL", URL), ("WALVEC_INSTANCE", name)]));
        assert!(message.starts_with("WALVEC_INSTANCE: ") && message.contains("is no name for a worker"), "{message}");
    }
}

#[test]
fn every_process_has_a_directory_of_its_own() {
    let server = "sink: { qdrant: { url: 'http://h:6334', state: /state } }\n";
    let embedded = "sink: { embedded: { path: /data } }\n";
    let directory = |text: &str, stage, instance: &str| {
        let flags = Overrides { stage: Some(stage), instance: Some(instance.to_owned()), ..Overrides::default() };
        parse(text, &environment(), flags).unwrap().directory()
    };
    assert_eq!(directory(&format!("{COLLECTION}{server}"), Stage::All, "1"), Path::new("/state"));
    for (sink, stage, expected) in [
        (server, Stage::All, "/state"),
        (server, Stage::Capture, "/state/capture"),
        (server, Stage::Index, "/state/index-b"),
        (server, Stage::Embed, "/state/embed-b"),
        (server, Stage::Sink, "/state/sink-b"),
        (embedded, Stage::All, "/data"),
        (embedded, Stage::Capture, "/data/capture"),
        // The engine's directory is shared, so that a second worker finds it locked.
        (embedded, Stage::Index, "/data"),
        (embedded, Stage::Sink, "/data"),
        (embedded, Stage::Embed, "/data/embed-b"),
    ] {
        assert_eq!(directory(&format!("{}{sink}", file("")), stage, "b"), Path::new(expected), "{stage}");
    }
}

/// Makes the configuration from the tutorial's variables.
fn from_variables(stage: Stage, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = [&[("Quix__Broker__Address", "kafka_broker:9092")], variables].concat();
    Config::load(None, &with(&variables), of_stage(stage))
}

#[test]
fn the_tutorials_variables_configure_every_stage() {
    let source = [("PG_HOST", "h"), ("PG_DATABASE", "d"), ("PG_TABLE", "books")];
    let (output, input) = (("output", "out"), ("input", "in"));

    let all = from_variables(Stage::All, &[&source[..], &[input, output]].concat()).unwrap();
    let table = all.collections[0].table.clone();
    let all = kafka(all);
    assert_eq!(
        (all.bootstrap.as_str(), all.changes_topic(&table).as_str()),
        ("kafka_broker:9092", "postgres-cdc-data")
    );
    assert_eq!(all.vectors_topic(), "embeddings-fastembed-V1");

    let capture = from_variables(Stage::Capture, &[&source[..], &[output]].concat()).unwrap();
    assert_eq!(url(&capture), "host='h' dbname='d'");
    assert_eq!(kafka(capture).changes_topic(&table), "out");
    assert_eq!(kafka(from_variables(Stage::Capture, &source).unwrap()).changes_topic(&table), "postgres-cdc-data");

    let index = from_variables(Stage::Index, &[("PG_TABLE", "books"), input]).unwrap();
    assert_eq!(kafka(index).changes_topic(&table), "in");

    let embed = kafka(from_variables(Stage::Embed, &[("PG_TABLE", "books"), input, output]).unwrap());
    assert_eq!((embed.changes_topic(&table).as_str(), embed.vectors_topic().as_str()), ("in", "out"));
    assert_eq!(embed.group(Stage::Embed), "vectorsv1");

    let sink = from_variables(Stage::Sink, &[input, ("qd_host", "q"), ("qd_collection", "books")]).unwrap();
    assert_eq!((&sink.collections[0].table, sink.collections[0].name.as_str()), (&table, "books"));
    let sink = kafka(sink);
    assert_eq!((sink.vectors_topic().as_str(), sink.group(Stage::Sink).as_str()), ("in", "ingesterV1"));

    let named = [("PG_TABLE", "books"), ("Quix__Consumer_Group", "mine")];
    assert_eq!(kafka(from_variables(Stage::Embed, &named).unwrap()).group(Stage::Embed), "mine");
}

#[test]
fn what_the_tutorials_variables_leave_open_is_named() {
    for (stage, variables, expected) in [
        (Stage::Index, &[][..], "PG_TABLE: missing"),
        (Stage::Embed, &[("qd_collection", "books")], "PG_TABLE: missing"),
        (Stage::Sink, &[("qd_host", "q")], "qd_collection: missing"),
        (Stage::Sink, &[("qd_collection", "books")], "qd_host: missing"),
        (Stage::Capture, &[("PG_TABLE", "books")], "source.url: missing"),
        (Stage::Sink, &[("qd_host", "q"), ("qd_collection", "b"), ("input", "a b")], "input: \"a b\" is no name"),
    ] {
        let message = from_variables(stage, variables).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{stage}: {message}");
    }
    let variables = [("PG_HOST", "h"), ("PG_TABLE", "books")];
    let message = Config::load(None, &with(&variables), of_stage(Stage::Capture)).unwrap_err().to_string();
    assert!(message.contains("Quix__Broker__Address"), "{message}");
}
