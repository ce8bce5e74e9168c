//! The checked connection settings of one host.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::connstring::invalid;
use super::target::{Standing, TargetServer};
use crate::CaptureError;
use crate::sql::quote_ident;

/// How much the server has to prove. The names are libpq's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SslMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl FromStr for SslMode {
    type Err = CaptureError;

    fn from_str(name: &str) -> Result<Self, CaptureError> {
        Ok(match name {
            "disable" => Self::Disable,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => {
                return Err(invalid(&format!(
                    "sslmode is \"{name}\"; use disable, prefer, require, verify-ca or verify-full"
                )));
            }
        })
    }
}

/// The place at which the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// A host name or an address.
    Tcp(String),
    /// The directory of the server's Unix socket.
    Unix(PathBuf),
}

/// How the operating system detects a dead connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Liveness {
    /// Whether a silent connection is probed.
    pub(super) keepalives: bool,
    /// The silence before the first probe.
    pub(super) idle: Duration,
    /// The time between two probes.
    pub(super) interval: Duration,
    /// The number of unanswered probes after which the connection is dead.
    pub(super) retries: u32,
    /// How long sent data may stay unacknowledged.
    pub(super) user_timeout: Duration,
}

impl Default for Liveness {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { keepalives: true, idle: seconds(10), interval: seconds(10), retries: 2, user_timeout: seconds(30) }
    }
}

/// Checked connection settings of one server and database.
#[derive(Clone)]
pub(crate) struct ConnInfo {
    /// User, password, database, options and channel binding. Host and TLS are not set, because walvec opens the
    /// sockets itself.
    pub(super) config: tokio_postgres::Config,
    pub(super) host: Host,
    /// The address to connect to, instead of resolving the name. Certificates are still checked against the name.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) ssl_mode: SslMode,
    /// Whether TLS starts directly, without a request in PostgreSQL's own protocol.
    pub(super) direct_tls: bool,
    /// The file with the authorities to trust; `None` for those of the operating system.
    pub(super) root_cert: Option<PathBuf>,
    pub(super) target: TargetServer,
    pub(super) connect_timeout: Duration,
    pub(super) liveness: Liveness,
}

impl ConnInfo {
    /// Returns `host:port/database`, for messages.
    pub(crate) fn server(&self) -> String {
        format!("{}/{}", self.place(), self.database)
    }

    /// Returns `host:port`.
    pub(super) fn place(&self) -> String {
        match &self.host {
            Host::Tcp(host) => format!("{host}:{}", self.port),
            Host::Unix(directory) => format!("{}:{}", directory.display(), self.port),
        }
    }

    /// Fails if the server does not match `target_session_attrs`.
    pub(super) fn refuse_other_target(&self, found: Standing) -> Result<(), CaptureError> {
        match self.target.contradiction(found) {
            None => Ok(()),
            Some(found) => Err(CaptureError::OtherTarget { server: self.server(), wanted: self.target.name(), found }),
        }
    }

    /// Returns the error for a database that does not exist.
    pub(super) fn no_database(&self) -> CaptureError {
        CaptureError::Database { database: self.database.clone(), server: self.place() }
    }

    /// Returns the error for a database that the role may not connect to.
    pub(super) fn no_entry(&self, reason: String) -> CaptureError {
        let grant =
            format!("GRANT CONNECT ON DATABASE {} TO {};", quote_ident(&self.database), quote_ident(&self.user));
        CaptureError::Rights { doing: format!("connecting to {}", self.server()), reason, grant: Some(grant) }
    }

    /// Returns how long connecting and logging in may take together. `connect_timeout` applies to each of the steps.
    pub(super) fn connect_limit(&self) -> Duration {
        self.connect_timeout * 2
    }
}
