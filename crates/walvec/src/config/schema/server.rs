//! The HTTP server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};

use super::values::optional_secret;
use crate::config::names;

/// The HTTP server.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServerSettings {
    /// Address and port. Anything but a loopback address needs a token. `WALVEC_LISTEN` and `--listen` take precedence.
    #[serde(deserialize_with = "listen_address")]
    #[schemars(with = "String")]
    pub(crate) listen: SocketAddr,
    /// The token that clients must send as `Authorization: Bearer ...`: at least 16 characters where others can reach the server. Best written as
    /// `${WALVEC_TOKEN}`; if that variable is set, it takes precedence over this setting.
    #[serde(deserialize_with = "optional_secret")]
    #[schemars(with = "Option<String>")]
    pub(crate) token: Option<SecretString>,
    /// The names by which others address the server, in addition to those of this machine: `search.example.com`. A proxy that passes `Host` on to a
    /// loopback address needs its name here. On any other address every name is answered, unless some are given.
    pub(crate) allowed_hosts: Vec<String>,
}

/// The default address. Loopback, so that nothing is exposed by accident; the port differs from those of Qdrant and the usual web servers.
pub(crate) const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8082);

impl Default for ServerSettings {
    fn default() -> Self {
        Self { listen: DEFAULT_LISTEN, token: None, allowed_hosts: Vec::new() }
    }
}

fn listen_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    names::listen_address(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}
