//! A configuration from the variables of the tutorial stack that walvec replaces, for users without a file.
//!
//! | Variable | Stage |
//! |---|---|
//! | `PG_HOST`, `PG_PORT`, `PG_USER`, `PG_PASSWORD`, `PG_DATABASE` | all, capture |
//! | `PG_TABLE`, `PG_SCHEMA` | all but sink, which writes the table that has the name of its collection |
//! | `qd_host`, `qd_port`, `qd_collection` | all, index, sink |
//! | `Quix__Broker__Address`, `Quix__Consumer_Group` | all; needed by every other |
//! | `output` | capture, embed: the topic to write |
//! | `input` | index, embed, sink: the topic to read |

use std::collections::BTreeMap;
use std::path::PathBuf;

use secrecy::SecretString;
use walvec_model::TableName;

use super::environment::Environment;
use super::error::ConfigError;
use super::schema::broker::{BrokerSettings, KafkaSettings, RecordFormat};
use super::schema::collection::{CollectionConfig, LayoutKind, OnLong};
use super::schema::embedding::EmbeddingSettings;
use super::schema::pipeline::PipelineSettings;
use super::schema::server::ServerSettings;
use super::schema::sink::{QdrantSettings, SinkSettings};
use super::schema::source::SourceSettings;
use super::schema::stage::Stage;
use super::{Config, conninfo, names};

/// Makes the configuration, with the table, the text and the payload of the tutorial.
pub(super) fn configuration(environment: &Environment, stage: Stage) -> Result<Config, ConfigError> {
    let table = table(environment, stage)?;
    let collection = CollectionConfig {
        name: environment.non_empty("qd_collection").unwrap_or(&table.name).to_owned(),
        table,
        topic: None,
        filter: None,
        lookup: BTreeMap::new(),
        text: "{{ description }}".to_owned(),
        chunk: None,
        on_long: OnLong::default(),
        hybrid: None,
        payload: Some(["name", "description", "author", "year"].map(str::to_owned).to_vec()),
        computed: BTreeMap::new(),
        index: BTreeMap::new(),
        layout: LayoutKind::default(),
    };
    Ok(Config {
        source: SourceSettings { url: url_from_variables(environment), ..SourceSettings::default() },
        collections: vec![collection],
        embedding: EmbeddingSettings::default(),
        sink: sink(environment, stage)?,
        broker: broker(environment, stage)?,
        server: ServerSettings::default(),
        pipeline: PipelineSettings::default(),
        models: PathBuf::new(),
        stage,
        instance: String::new(),
    })
}

/// Reads `PG_TABLE`. A stage that reads vectors has only the collection's name, which is the table's in the
/// tutorial.
fn table(environment: &Environment, stage: Stage) -> Result<TableName, ConfigError> {
    let name = environment.non_empty("PG_TABLE").or_else(|| match stage {
        Stage::Sink => environment.non_empty("qd_collection"),
        Stage::All | Stage::Capture | Stage::Index | Stage::Embed => None,
    });
    let missing = || match (environment.non_empty("Quix__Broker__Address"), stage) {
        (None, _) => ConfigError::Absent,
        (Some(_), Stage::Sink) => ConfigError::outside_of_file(
            "qd_collection",
            "missing; set it to the collection to fill, which is called as its table, or write a walvec.yaml",
        ),
        (Some(_), _) => ConfigError::outside_of_file(
            "PG_TABLE",
            "missing; a broker alone does not say which table: set it to the table's name, or write a walvec.yaml",
        ),
    };
    let schema = environment.non_empty("PG_SCHEMA").unwrap_or("public");
    Ok(TableName::new(schema, name.ok_or_else(missing)?))
}

/// Reads `Quix__Broker__Address`, and the topics that this stage reads and writes.
fn broker(environment: &Environment, stage: Stage) -> Result<Option<BrokerSettings>, ConfigError> {
    let Some(address) = environment.non_empty("Quix__Broker__Address") else { return Ok(None) };
    names::bootstrap(address).map_err(|reason| ConfigError::outside_of_file("Quix__Broker__Address", reason))?;
    let (changes, vectors) = match stage {
        Stage::All => (None, None),
        Stage::Capture => (topic(environment, "output")?, None),
        Stage::Index => (topic(environment, "input")?, None),
        Stage::Embed => (topic(environment, "input")?, topic(environment, "output")?),
        Stage::Sink => (None, topic(environment, "input")?),
    };
    let kafka = KafkaSettings {
        bootstrap: address.to_owned(),
        format: RecordFormat::Reference,
        changes,
        vectors,
        exact_group: environment.non_empty("Quix__Consumer_Group").map(str::to_owned),
        ..KafkaSettings::default()
    };
    Ok(Some(BrokerSettings { kafka }))
}

fn topic(environment: &Environment, variable: &str) -> Result<Option<String>, ConfigError> {
    let Some(name) = environment.non_empty(variable) else { return Ok(None) };
    names::is_topic(name).map_err(|reason| ConfigError::outside_of_file(variable, reason))?;
    Ok(Some(name.to_owned()))
}

/// Reads `qd_host` and `qd_port`. The tutorial's programs speak HTTP, at 6333; gRPC is at 6334 then.
fn sink(environment: &Environment, stage: Stage) -> Result<SinkSettings, ConfigError> {
    let refused = |variable, reason: &str| {
        let reason = format!("{reason}; write a walvec.yaml with `sink.qdrant.url`, or unset it");
        Err(ConfigError::outside_of_file(variable, reason))
    };
    let port = environment.non_empty("qd_port");
    let Some(host) = environment.non_empty("qd_host") else {
        return match (port, stage) {
            (Some(_), _) => refused("qd_port", "useless without qd_host"),
            (None, Stage::Sink) => {
                let reason = "missing; set it to the host of the Qdrant server to fill, or write a walvec.yaml";
                Err(ConfigError::outside_of_file("qd_host", reason))
            }
            (None, _) => Ok(SinkSettings::default()),
        };
    };
    if host.contains(['/', ':']) {
        return refused("qd_host", "not the name of a host");
    }
    if port.is_some_and(|port| !["6333", "6334"].contains(&port)) {
        return refused("qd_port", "walvec speaks gRPC, and this port does not say which one gRPC uses");
    }
    let qdrant = QdrantSettings { url: format!("http://{host}:6334"), ..QdrantSettings::default() };
    Ok(SinkSettings { qdrant: Some(qdrant), ..SinkSettings::default() })
}

/// Returns `PG_HOST` and so on as `key=value` pairs; empty if none is set.
fn url_from_variables(environment: &Environment) -> SecretString {
    let variables = [
        ("host", "PG_HOST"),
        ("port", "PG_PORT"),
        ("user", "PG_USER"),
        ("password", "PG_PASSWORD"),
        ("dbname", "PG_DATABASE"),
    ];
    let pairs = variables
        .iter()
        .filter_map(|(setting, variable)| Some(conninfo::pair(setting, environment.non_empty(variable)?)));
    pairs.collect::<Vec<_>>().join(" ").into()
}
