//! The hosts of a source, and the choice of the one on which sessions are opened.

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::{ConnInfo, Session, given};
use crate::CaptureError;

/// The hosts in the settings, in the order in which they are tried.
pub(crate) struct Hosts(Vec<ConnInfo>);

impl Hosts {
    /// Parses the settings.
    pub(crate) fn parse(url: &SecretString) -> Result<Self, CaptureError> {
        given::parse(url).map(Self)
    }

    /// Opens a session on the first host that answers and matches `target_session_attrs`. All other sessions of a run
    /// have to use this host: another one may lag behind it, or belong to another cluster.
    ///
    /// # Errors
    /// Returns the error of a single host, or the errors of all hosts if there are several.
    pub(crate) async fn open(&self, shut_down: &CancellationToken) -> Result<(Session, ConnInfo), CaptureError> {
        let mut tried = Vec::with_capacity(self.0.len());
        for info in &self.0 {
            match Box::pin(Session::open_watched(info, shut_down.clone())).await {
                Ok(session) => return Ok((session, info.clone())),
                Err(error) => tried.push(error),
            }
        }
        match (tried.pop(), tried.is_empty()) {
            (Some(only), true) => Err(only),
            (last, _) => Err(CaptureError::NoHost { tried: tried.into_iter().chain(last).collect() }),
        }
    }
}
