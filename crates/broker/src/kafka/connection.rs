//! Client settings for reaching a broker, and the errors that arrive outside of requests.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use secrecy::ExposeSecret as _;

pub use super::settings::{BrokerConnection, Sasl, Tls};
use crate::classify::{classify, is_login};
use crate::error::BrokerError;

impl BrokerConnection {
    /// Returns the settings that all clients have in common.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in &self.properties {
            config.set(name, value.expose_secret());
        }
        config.set("bootstrap.servers", &self.bootstrap).set("client.id", "walvec");
        // Try a broker that was away again within a second, since rows are waiting.
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

/// The last error that the client library reported outside of a request: it cannot reach the broker, or the broker
/// refuses the login.
#[derive(Clone, Debug, Default)]
pub struct LastClientError {
    bootstrap: String,
    heard: Arc<Mutex<Option<BrokerError>>>,
}

impl LastClientError {
    pub(crate) fn new(connection: &BrokerConnection) -> Self {
        Self { bootstrap: connection.bootstrap.clone(), heard: Arc::default() }
    }

    /// Returns the last error, unless a success followed it.
    #[must_use]
    pub fn current(&self) -> Option<BrokerError> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets the last error after a success.
    pub(crate) fn over(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn classify(&self, doing: &str, error: &KafkaError) -> BrokerError {
        classify(&self.bootstrap, doing, error, self.current())
    }

    /// Keeps an error. A refused login is not replaced by the time-outs that follow from it.
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

/// The callbacks of a client that needs no others: they record errors.
#[derive(Clone)]
pub(crate) struct Listener(pub(crate) LastClientError);

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(&error, reason);
    }
}

impl LastClientError {
    /// Records an error that the client library reports outside of a request.
    pub(crate) fn error(&self, error: &KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "broker");
        self.hear(error, reason);
    }
}

/// Passes on the library's log, mostly at debug level: what matters to users arrives as errors too.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::warn!(facility, "{message}");
        }
        _ => tracing::debug!(facility, "{message}"),
    }
}
