//! The features that a configuration needs, and the check that this program was built with them.

use walvec_embed::{ProviderProtocol, hash};

use super::error::ConfigError;
use super::schema::stage::Stage;
use super::yaml::document::YamlDocument;
use super::{Config, rules};

/// The features of a program, by cargo's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// Qdrant's engine inside the program.
    pub(crate) embedded: bool,
    /// The client of a broker.
    pub(crate) kafka: bool,
    /// TLS and SCRAM to a broker, through OpenSSL: `kafka-tls`, or `kafka-tls-system`.
    pub(crate) kafka_tls: bool,
    /// Models that run in this process.
    pub(crate) local_models: bool,
    /// Traces for a collector.
    pub(crate) otel: bool,
    /// Steps at which tests crash the program.
    pub(crate) failpoints: bool,
}

impl Features {
    /// Returns the features of this program.
    pub(crate) const fn of_this_program() -> Self {
        Self {
            embedded: cfg!(feature = "embedded"),
            kafka: cfg!(feature = "kafka"),
            kafka_tls: cfg!(any(feature = "kafka-tls", feature = "kafka-tls-system")),
            local_models: cfg!(feature = "local-models"),
            otel: cfg!(feature = "otel"),
            failpoints: cfg!(feature = "failpoints"),
        }
    }

    /// All features that a configuration can need.
    #[cfg(test)]
    pub(super) const ALL: Self =
        Self { embedded: true, kafka: true, kafka_tls: true, local_models: true, otel: true, failpoints: false };

    /// Returns their names, separated by commas.
    pub(crate) fn names(self) -> String {
        let all = [
            ("embedded", self.embedded),
            ("kafka", self.kafka),
            ("kafka-tls", self.kafka_tls),
            ("local-models", self.local_models),
            ("otel", self.otel),
            ("failpoints", self.failpoints),
        ];
        let names: Vec<&str> = all.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }
}

/// Refuses a configuration that needs a feature that the program was built without.
pub(super) fn check(config: &Config, document: Option<&YamlDocument>, features: Features) -> Result<(), ConfigError> {
    needs(config)
        .into_iter()
        .find(|need| !(need.is_there)(features))
        .map_or(Ok(()), |need| Err(rules::error(document, &need.key, need.reason())))
}

/// A feature that a key of the configuration needs.
struct Need {
    key: String,
    feature: &'static str,
    is_there: fn(Features) -> bool,
    what: &'static str,
    instead: &'static str,
}

impl Need {
    fn reason(&self) -> String {
        let Self { feature, what, instead, .. } = self;
        format!(
            "{what}, and this walvec was built without the feature \"{feature}\"; install walvec from a package, build it with \
             `--features {feature}`, or {instead}"
        )
    }
}

fn needs(config: &Config) -> Vec<Need> {
    let mut needs = Vec::new();
    let writes_points = !matches!(config.stage, Stage::Capture | Stage::Embed);
    if writes_points && config.sink.qdrant.is_none() {
        needs.push(Need {
            key: "sink".to_owned(),
            feature: "embedded",
            is_there: |features| features.embedded,
            what: "points in a data directory need Qdrant's engine",
            instead: "name a server in sink.qdrant",
        });
    }
    if let Some(index) = config.collections.iter().position(|collection| collection.hybrid.is_some()) {
        needs.push(Need {
            key: format!("collections[{index}].hybrid"),
            feature: "embedded",
            is_there: |features| features.embedded,
            what: "the BM25 vectors of hybrid searches are made by Qdrant's engine",
            instead: "remove this key",
        });
    }
    let embeds = !matches!(config.stage, Stage::Capture | Stage::Sink);
    let model = &config.embedding.model;
    if embeds && ProviderProtocol::of(model).is_none() && !model.starts_with(hash::PREFIX) {
        needs.push(Need {
            key: "embedding.model".to_owned(),
            feature: "local-models",
            is_there: |features| features.local_models,
            what: "this model runs inside walvec",
            instead: "name a model behind an HTTP interface, such as openai/text-embedding-3-small",
        });
    }
    needs.extend(broker_needs(config));
    needs
}

fn broker_needs(config: &Config) -> Vec<Need> {
    let Some(broker) = &config.broker else { return Vec::new() };
    let mut needs = vec![Need {
        key: "broker".to_owned(),
        feature: "kafka",
        is_there: |features| features.kafka,
        what: "a broker needs a client of Kafka's protocol",
        instead: "remove this key",
    }];
    let tls = |key: &str, what, instead| Need {
        key: format!("broker.kafka.{key}"),
        feature: "kafka-tls",
        is_there: |features| features.kafka_tls,
        what,
        instead,
    };
    if broker.kafka.tls.is_some() {
        needs.push(tls("tls", "TLS to a broker needs OpenSSL", "use a listener of the broker without TLS"));
    }
    if broker.kafka.sasl.as_ref().is_some_and(|sasl| sasl.mechanism.needs_openssl()) {
        needs.push(tls(
            "sasl.mechanism",
            "SCRAM needs OpenSSL",
            "use `plain` over a connection that is safe in itself",
        ));
    }
    needs
}
