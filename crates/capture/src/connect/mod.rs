//! Connections to PostgreSQL.
//!
//! - [`conninfo`]: the connection string, taken apart and checked
//! - [`tls`]: what `sslmode` asks for
//! - [`settings`]: the session settings that are pinned everywhere
//! - [`session`]: ordinary sessions, by tokio-postgres
//! - [`replication`]: replication sessions
//! - [`login`]: opening one
//! - [`wire`]: the protocol that it speaks

mod conninfo;
mod login;
mod replication;
mod session;
mod settings;
mod tls;
mod wire;

pub(crate) use conninfo::ConnInfo;
pub(crate) use replication::Replication;
use secrecy::SecretString;
pub use session::Session;
pub(crate) use session::{describe, statement_error};

use crate::CaptureError;

/// Opens an ordinary session on the server that a [`SourceConfig::url`](crate::SourceConfig::url) names, with the same TLS
/// and the same pinned settings as every other one, so that values have the same text.
///
/// # Errors
/// If the settings cannot be used (`E_CONFIG`), or the server cannot be reached, trusted or logged in to.
pub async fn open_session(url: &SecretString) -> Result<Session, CaptureError> {
    Session::open(&ConnInfo::parse(url)?).await
}
