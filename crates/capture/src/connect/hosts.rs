//! The hosts of a source, and which of them its sessions are opened on.

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::{ConnInfo, Session, given};
use crate::CaptureError;

/// The hosts that the settings name, in the order in which they are tried.
pub(crate) struct Hosts(Vec<ConnInfo>);

impl Hosts {
    /// Takes the settings apart.
    pub(crate) fn parse(url: &SecretString) -> Result<Self, CaptureError> {
        given::parse(url).map(Self)
    }

    /// Opens a session on the first host that answers and is what it has to be. All other sessions of a run belong on this
    /// host: another one may be behind it, or be no part of its cluster.
    ///
    /// # Errors
    /// The error of a single host; of several, what each of them said.
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
