//! Connections to PostgreSQL.
//!
//! - [`connstring`]: the connection string, taken apart into settings
//! - [`given`]: the settings, checked; [`conninfo`]: those of one host
//! - [`hosts`]: the host to use, among several
//! - [`target`]: what that has to be
//! - [`dial`]: socket and TLS, for both kinds of sessions
//! - [`tls`]: what `sslmode` asks for
//! - [`settings`]: the session settings that are pinned everywhere
//! - [`session`]: ordinary sessions, by tokio-postgres
//! - [`secured`]: how it takes a connection that is encrypted already
//! - [`replication`]: replication sessions
//! - [`inquiry`]: whether the server works for a session that is silent
//! - [`login`]: opening one
//! - [`wire`]: the protocol that it speaks

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

/// Opens an ordinary session on the server that a [`SourceConfig::url`](crate::SourceConfig::url) names, with the same TLS
/// and the same pinned settings as every other one, so that values have the same text.
///
/// # Errors
/// If the settings cannot be used (`E_CONFIG`), or the server cannot be reached, trusted or logged in to.
pub async fn open_session(url: &SecretString) -> Result<Session, CaptureError> {
    Ok(Hosts::parse(url)?.open(&CancellationToken::new()).await?.0)
}
