//! Requests that a server refused because of its rate limits.

use std::fmt;
use std::time::Duration;

use walvec_model::PointId;

/// What the limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimit {
    /// Points that are read, and searches: `read_rate_limit` of a collection's strict mode.
    Reads,
    /// Points that are changed: `write_rate_limit`.
    Writes,
    /// Anything else, or a limit of a service in front of the server.
    Other,
}

impl RateLimit {
    const fn setting(self) -> Option<&'static str> {
        match self {
            Self::Reads => Some("read_rate_limit"),
            Self::Writes => Some("write_rate_limit"),
            Self::Other => None,
        }
    }
}

/// A refusal because of a limit, and what the server did nevertheless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    /// The server's address.
    pub url: String,
    /// The collection's own name, if it is known.
    pub collection: String,
    /// Which limit it is.
    pub limit: RateLimit,
    /// The server's error message.
    pub reason: String,
    /// Whether the request is larger than what the limit allows in a whole minute, so that waiting does not help.
    pub is_too_large: bool,
    /// How long to wait, if the server says so.
    pub retry_after: Option<Duration>,
    /// The points of a batch whose writes are durable all the same.
    pub written: Vec<PointId>,
}

impl Limited {
    /// Says what to type.
    #[must_use]
    pub fn remedy(&self) -> String {
        let begin =
            if self.is_too_large { "" } else { "walvec continues automatically, as fast as the limit allows; " };
        match self.limit.setting() {
            Some(setting) => format!(
                "{begin}to raise the limit, send `PATCH collections/{} {{\"strict_mode_config\": {{\"{setting}\": 100000}}}}` in the \
                 console of Qdrant's dashboard, or to its REST API",
                self.collection
            ),
            None => format!("{begin}raise the limit of the server, or of the proxy or service in front of it"),
        }
    }
}

impl fmt::Display for Limited {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, collection, limit, reason, is_too_large, .. } = self;
        let refuses =
            if *is_too_large { "never takes a request as large as this one" } else { "takes no more for now" };
        match limit.setting() {
            Some(setting) => write!(
                formatter,
                "Qdrant at {url} {refuses}, because of the `{setting}` of collection \"{collection}\": {reason}"
            ),
            None => write!(formatter, "Qdrant at {url} {refuses}: {reason}"),
        }
    }
}
