//! The state of the HTTP surface, and its limits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use walvec_model::IndexType;
use walvec_pipeline::status::Status;
use walvec_sink::{BoxFuture, Keywords, Search};
use walvec_transform::PayloadLayout;

use super::dead_letters::DeadLetters;
use super::read::Known;
use super::search::{Searcher, Serving};
use super::tasks::Operations;
use crate::fields::Description;

/// A collection that can be searched.
#[derive(Clone)]
pub(crate) struct Searchable {
    /// The collection's name.
    pub(crate) name: String,
    /// The layout of its payloads, so that people see the fields and not what holds them.
    pub(crate) layout: PayloadLayout,
    /// Makes the sparse vectors of queries, where it can be searched by keyword.
    pub(crate) keywords: Option<Arc<Keywords>>,
    /// Whether its rows are cut into chunks, each a point of its own.
    pub(crate) is_chunked: bool,
    /// Its description for programs.
    pub(crate) description: Arc<Description>,
    /// The fields of its payloads.
    pub(crate) fields: Arc<dyn Fields>,
    /// The points that are searched.
    pub(crate) search: Arc<dyn Search>,
}

/// The fields of payloads. They are known once a row of the table was read, and change with the table.
pub(crate) trait Fields: Send + Sync {
    /// Returns the fields as they are now.
    fn known(&self) -> Known;

    /// Returns the type of the index of a field, or of a member of one; `None` if it has none.
    fn index(&self, name: &str) -> Option<IndexType>;

    /// Returns the labels of a column that holds enums, if they are known. If `wanted` is not among them, the label does not
    /// exist now.
    fn labels<'a>(&'a self, _column: &'a str, _wanted: &'a str) -> BoxFuture<'a, Option<Vec<String>>> {
        Box::pin(std::future::ready(None))
    }
}

impl Searchable {
    /// Returns the payload's fields, if they are known.
    pub(super) fn known(&self) -> Known {
        self.fields.known()
    }
}

/// The state that the surface is built from.
pub(crate) struct AppState {
    /// The collections and the model that searches use, and their later replacements.
    pub(crate) serving: watch::Receiver<Arc<Serving>>,
    /// Accepts long work.
    pub(crate) operations: Operations,
    /// Reads dead letters.
    pub(crate) dead_letters: DeadLetters,
    /// The status of the pipeline. Readiness follows from its phase: a phase of `snapshot` or `streaming` means that the slot
    /// is held, the sink is open and the model is loaded.
    pub(crate) status: watch::Receiver<Status>,
    /// Renders `/metrics`.
    pub(crate) metrics: PrometheusHandle,
    /// The token. Without it a caller gets only `/livez`, `/readyz` and the page's style sheet. `None`: every caller is
    /// admitted.
    pub(crate) token: Option<SecretString>,
    /// The names by which others address the server.
    pub(crate) allowed_hosts: Vec<String>,
    /// Example queries that the page offers before the first search.
    pub(crate) examples: Vec<String>,
}

/// Bounds on requests; the defaults suit a machine with a few cores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Searches that embed and search concurrently. A query saturates a core while it is embedded; more of them would only slow
    /// all of them down, the pipeline included.
    pub(crate) concurrent_searches: usize,
    /// Searches that wait for their turn; a further one is refused with 503.
    pub(crate) waiting_searches: usize,
    /// The largest request body, in bytes.
    pub(crate) body_bytes: usize,
    /// The longest time from request to answer.
    pub(crate) time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { concurrent_searches: 2, waiting_searches: 64, body_bytes: 64 * 1024, time: Duration::from_secs(30) }
    }
}

/// The names under which the server may be addressed.
///
/// A page of another site can make its own host name resolve to 127.0.0.1 and then talk to this server as if it were
/// its own (DNS rebinding). The browser still sends that name in the Host header, so the list stops it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AllowedHosts {
    /// Only these names, without a port; any port is accepted.
    Only(Vec<String>),
    /// Every name. For addresses that are not loopback, unless names are configured: these need a token, which a foreign page
    /// does not have.
    Any,
}

impl AllowedHosts {
    /// Returns the rule for a server that listens on `address`, and has the further names `names`.
    pub(crate) fn for_listener(address: SocketAddr, names: &[String]) -> Self {
        if !address.ip().is_loopback() && names.is_empty() {
            return Self::Any;
        }
        let own = SocketAddr::new(address.ip(), 0).to_string();
        let own = host_without_port(&own).to_owned();
        let of_this_machine = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned);
        Self::Only(of_this_machine.into_iter().chain([own]).chain(names.iter().cloned()).collect())
    }

    /// Returns whether a request with this Host header may be served.
    pub(crate) fn allows(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(names) => names.iter().any(|name| name.eq_ignore_ascii_case(host_without_port(host))),
        }
    }
}

/// Removes the port: `localhost:8082` → `localhost`, `[::1]:8082` → `[::1]`.
fn host_without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    }
}

/// The state that handlers share.
pub(crate) struct App {
    pub(crate) searcher: Searcher,
    pub(crate) operations: Operations,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) access: Option<Access>,
    pub(crate) allowed_hosts: AllowedHosts,
    pub(crate) examples: Vec<String>,
    pub(crate) limits: Limits,
}

impl App {
    pub(crate) fn new(state: AppState, allowed_hosts: AllowedHosts, limits: Limits) -> Self {
        Self {
            searcher: Searcher::new(state.serving, limits),
            operations: state.operations,
            dead_letters: state.dead_letters,
            status: state.status,
            metrics: state.metrics,
            access: state.token.as_ref().map(Access::new),
            allowed_hosts,
            examples: state.examples,
            limits,
        }
    }
}

/// The check of tokens and sessions. Only digests are kept: `blake3::Hash` compares in constant time, whatever the length of
/// the presented text.
pub(crate) struct Access {
    token: blake3::Hash,
    session: blake3::Hash,
}

impl Access {
    fn new(token: &SecretString) -> Self {
        let token = token.expose_secret().as_bytes();
        Self { token: blake3::hash(token), session: blake3::derive_key("walvec 2026-11 page session", token).into() }
    }

    /// Returns whether this is the token.
    pub(crate) fn knows_token(&self, presented: &str) -> bool {
        blake3::hash(presented.as_bytes()) == self.token
    }

    /// Returns whether this is the session that [`session`](Self::session) returns.
    pub(crate) fn knows_session(&self, presented: &str) -> bool {
        blake3::Hash::from_hex(presented).is_ok_and(|presented| presented == self.session)
    }

    /// Returns the session of a browser that has shown the token. It is derived from the token, so it needs no store, survives
    /// a restart, ends when the token is changed, and does not reveal the token.
    pub(crate) fn session(&self) -> String {
        self.session.to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_listener_answers_to_loopback_names_only() {
        let hosts = AllowedHosts::for_listener("127.0.0.1:8082".parse().unwrap(), &[]);
        for host in ["localhost", "LocalHost:1", "127.0.0.1:8082", "127.0.0.1", "[::1]:8082", "[::1]"] {
            assert!(hosts.allows(host), "{host}");
        }
        for host in
            ["", ":80", "evil.example", "localhost.evil.example:8082", "127.0.0.1.evil.example", "::1", "0.0.0.0"]
        {
            assert!(!hosts.allows(host), "{host}");
        }
        assert!(AllowedHosts::for_listener("127.0.0.2:80".parse().unwrap(), &[]).allows("127.0.0.2:80"));
        assert!(AllowedHosts::for_listener("[::1]:80".parse().unwrap(), &[]).allows("[::1]:80"));
        assert_eq!(AllowedHosts::for_listener("0.0.0.0:80".parse().unwrap(), &[]), AllowedHosts::Any);
    }

    #[test]
    fn configured_names_are_answered_and_where_there_are_some_no_others() {
        for listen in ["127.0.0.1:8082", "0.0.0.0:8082"] {
            let hosts = AllowedHosts::for_listener(listen.parse().unwrap(), &["search.example.com".to_owned()]);
            for host in ["search.example.com", "Search.Example.com:443", "localhost:8082", listen] {
                assert!(hosts.allows(host), "{listen}: {host}");
            }
            for host in ["example.com", "evil.search.example.com", "search.example.com.evil.example"] {
                assert!(!hosts.allows(host), "{listen}: {host}");
            }
        }
    }

    #[test]
    fn a_session_is_not_the_token_and_ends_with_it() {
        let access = Access::new(&"secret".into());
        assert!(access.knows_token("secret") && !access.knows_token("secre") && !access.knows_token(""));
        assert!(access.knows_session(&access.session()) && !access.knows_session("secret"));
        assert!(!access.knows_session(&Access::new(&"other".into()).session()));
        assert!(!access.session().contains("secret"));
    }
}
