//! Messages to a user whose program was built without a feature that the configuration needs.

use super::*;
use crate::config::features::{self, Features};

/// Returns the error of a program with `features`; `None` if it accepts the configuration.
fn refusal(keys: &str, features: Features) -> Option<String> {
    let config = load(&format!("{COLLECTION}{keys}"));
    features::check(&config, None, features).err().map(|error| error.to_string())
}

const BROKER: &str = "broker: { kafka: { bootstrap: 'localhost:9092' } }\n";
const SERVER: &str = "sink: { qdrant: { url: 'http://localhost:6334' } }\n";
const PROVIDER: &str = "embedding: { model: openai/text-embedding-3-small, api_key: k }\n";

#[test]
fn a_program_with_all_features_takes_every_configuration() {
    for keys in ["", BROKER, SERVER, PROVIDER] {
        assert_eq!(refusal(keys, Features::ALL), None, "{keys}");
    }
}

#[test]
fn a_configuration_that_needs_a_feature_is_refused_with_its_name_and_what_to_write_instead() {
    let all = Features::ALL;
    let tls = "broker: { kafka: { bootstrap: 'localhost:9093', tls: {} } }\n";
    let scram = "broker: { kafka: { bootstrap: 'localhost:9092', sasl: { mechanism: scram-sha-256, username: u, password: p } } }\n";
    let cases = [
        (SERVER, Features { local_models: false, ..all }, "embedding.model", "local-models"),
        (PROVIDER, Features { embedded: false, ..all }, "sink", "embedded"),
        (BROKER, Features { kafka: false, kafka_tls: false, ..all }, "broker", "kafka"),
        (tls, Features { kafka_tls: false, ..all }, "broker.kafka.tls", "kafka-tls"),
        (scram, Features { kafka_tls: false, ..all }, "broker.kafka.sasl.mechanism", "kafka-tls"),
    ];
    for (keys, features, key, feature) in cases {
        let error = refusal(keys, features).expect("a refusal");
        assert!(error.starts_with(&format!("{key}: ")), "{error}");
        assert!(error.contains(&format!("--features {feature}`, or ")), "{error}");
    }
}

#[test]
fn a_program_for_a_server_and_a_provider_needs_no_feature() {
    let none = Features::default();
    assert_eq!(refusal(&format!("{SERVER}{PROVIDER}"), none), None);
    let hybrid = COLLECTION.replace(" }\n", ", hybrid: true }\n");
    let hybrid = load(&format!("{hybrid}{SERVER}{PROVIDER}"));
    let error = features::check(&hybrid, None, none).unwrap_err().to_string();
    assert!(error.starts_with("collections[0].hybrid: "), "{error}");
}

#[test]
fn a_stage_needs_only_the_features_of_what_it_does() {
    let keys = format!("{COLLECTION}{BROKER}{SERVER}");
    let capture = Overrides { stage: Some(Stage::Capture), ..Overrides::default() };
    let config = parse(&keys, &with(&[("DATABASE_URL", URL)]), capture).unwrap();
    let client_only = Features { kafka: true, ..Features::default() };
    assert!(features::check(&config, None, client_only).is_ok());
}
