//! Connections to PostgreSQL.
//!
//! - [`connstring`]: splits the connection string into settings
//! - [`given`]: checks the settings; [`conninfo`]: the checked settings of one host
//! - [`hosts`]: chooses a host among several
//! - [`target`]: the requirements on that host
//! - [`dial`]: opens socket and TLS, for both kinds of sessions
//! - [`tls`]: TLS as `sslmode` requires it
//! - [`settings`]: the session settings that are pinned on every connection
//! - [`session`]: ordinary sessions, with tokio-postgres
//! - [`secured`]: hands an encrypted connection to tokio-postgres
//! - [`replication`]: replication sessions
//! - [`inquiry`]: finds out whether the server works for a silent session
//! - [`login`]: opens a replication session
//! - [`wire`]: the protocol of a replication session

mod conninfo;
mod connstring;
mod dial;
mod given;
mod hosts;
mod inquiry;
mod login;
mod replication;
mod secured;
mod session;
mod settings;
mod target;
mod tls;
mod wire;

pub(crate) use conninfo::ConnInfo;
pub(crate) use hosts::Hosts;
pub(crate) use replication::Replication;
use secrecy::SecretString;
pub use session::Session;
pub(crate) use session::{describe, statement_error};
use tokio_util::sync::CancellationToken;

use crate::CaptureError;

/// Opens an ordinary session on the server that a [`SourceConfig::url`](crate::SourceConfig::url) names. It has the
/// same TLS and the same pinned settings as all other sessions, so that values have the same text.
///
/// # Errors
/// Fails if the settings cannot be used (`E_CONFIG`), or if the server cannot be reached, trusted or logged in to.
pub async fn open_session(url: &SecretString) -> Result<Session, CaptureError> {
    Ok(Hosts::parse(url)?.open(&CancellationToken::new()).await?.0)
}
