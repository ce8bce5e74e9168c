//! Where the broker is, and how to get in.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use secrecy::ExposeSecret as _;

pub use super::settings::{Connection, Sasl, Tls};
use crate::classify::{classify, is_login};
use crate::error::BrokerError;

impl Connection {
    /// The settings that all clients have in common.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in &self.properties {
            config.set(name, value.expose_secret());
        }
        config.set("bootstrap.servers", &self.bootstrap).set("client.id", "walvec");
        // A broker that was away is tried again within a second: somebody waits for the rows.
        config.set("reconnect.backoff.max.ms", "1000");
        let protocol = match (&self.tls, &self.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        if !self.properties.contains_key("security.protocol") {
            config.set("security.protocol", protocol);
        }
        if let Some(Tls { ca, identity }) = &self.tls {
            if let Some(ca) = ca {
                config.set("ssl.ca.location", ca.to_string_lossy());
            }
            if let Some((certificate, key)) = identity {
                config.set("ssl.certificate.location", certificate.to_string_lossy());
                config.set("ssl.key.location", key.to_string_lossy());
            }
        }
        if let Some(Sasl { mechanism, username, password }) = &self.sasl {
            config.set("sasl.mechanism", mechanism).set("sasl.username", username);
            config.set("sasl.password", password.expose_secret());
        }
        config
    }
}

/// What the client library says beside its answers: that it cannot reach the broker, or is not let in.
#[derive(Clone, Debug, Default)]
pub struct Trouble {
    bootstrap: String,
    heard: Arc<Mutex<Option<BrokerError>>>,
}

impl Trouble {
    pub(crate) fn new(connection: &Connection) -> Self {
        Self { bootstrap: connection.bootstrap.clone(), heard: Arc::default() }
    }

    /// What was said last, unless things went well since.
    #[must_use]
    pub fn current(&self) -> Option<BrokerError> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Things go well.
    pub(crate) fn over(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn classify(&self, doing: &str, error: &KafkaError) -> BrokerError {
        classify(&self.bootstrap, doing, error, self.current())
    }

    /// A refused login is worth more than the time-outs that follow from it.
    fn hear(&self, error: &KafkaError, reason: &str) {
        let bootstrap = self.bootstrap.clone();
        let reason = reason.to_owned();
        let heard = match error.rdkafka_error_code() {
            Some(code) if is_login(code) => BrokerError::Login { bootstrap, reason },
            _ => BrokerError::Unreachable { bootstrap, reason },
        };
        let mut last = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!((&*last, &heard), (Some(BrokerError::Login { .. }), BrokerError::Unreachable { .. })) {
            *last = Some(heard);
        }
    }
}

/// Listens to a client that has no other callbacks.
#[derive(Clone)]
pub(crate) struct Listener(pub(crate) Trouble);

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(&error, reason);
    }
}

impl Trouble {
    /// The client library reports an error that belongs to no request.
    pub(crate) fn error(&self, error: &KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "broker");
        self.hear(error, reason);
    }
}

/// The library's log: what matters to people comes as errors too, so this is for those who look closely.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::warn!(facility, "{message}");
        }
        _ => tracing::debug!(facility, "{message}"),
    }
}
