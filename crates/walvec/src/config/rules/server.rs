//! Rules for `server`: who may ask, and under which names.

use std::collections::HashSet;
use std::net::Ipv6Addr;

use secrecy::ExposeSecret as _;

use super::{Violation, error, violation};
use crate::config::Config;
use crate::config::error::ConfigError;
use crate::config::schema::server::ServerSettings;
use crate::config::yaml::document::YamlDocument;

/// The length of the shortest token that cannot be guessed from outside. `openssl rand -hex 32` makes one of 64
/// characters.
const SHORTEST_TOKEN: usize = 16;

/// A token with fewer different characters is a pattern.
const LEAST_DIFFERENT: usize = 6;

pub(super) fn check_server(config: &Config) -> Result<(), Violation> {
    let server = &config.server;
    match server.token.as_ref().map(|token| token.expose_secret()) {
        Some(token) if token.is_empty() || !token.chars().all(|c| c.is_ascii_graphic()) => violation(
            "server.token",
            "must not be empty, and must hold only visible ASCII characters: it travels in a header",
        ),
        Some(_) | None => Ok(()),
    }?;
    let host = |(index, host): (usize, &String)| {
        check_host(host).map_err(|reason| (format!("server.allowed_hosts[{index}]"), reason))
    };
    server.allowed_hosts.iter().enumerate().try_for_each(host)
}

/// Checks that the text is a name or an address without a port, as in a Host header before the port.
fn check_host(host: &str) -> Result<(), String> {
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_host = match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
    };
    if is_host {
        return Ok(());
    }
    Err(format!(
        "\"{host}\" is not a host name; write the name or address that browsers show, without scheme and port, for example \
         search.example.com or [::1]. There are no wildcards"
    ))
}

/// Refuses to serve others without a token, or with one that can be guessed.
pub(in crate::config) fn check_exposure(config: &Config, document: Option<&YamlDocument>) -> Result<(), ConfigError> {
    let ServerSettings { listen, token, .. } = &config.server;
    if token.is_none() && !listen.ip().is_loopback() {
        let reason = format!(
            "{listen} can be reached from other machines, and whoever reaches it can read your rows; set server.token or \
             WALVEC_TOKEN, or listen on 127.0.0.1:{}",
            listen.port()
        );
        return Err(error(document, "server.listen", reason));
    }
    match config.server.weak_token() {
        Some(why) if config.server.is_for_others() => {
            let reason = format!(
                "{why}, and whoever guesses it can read your rows; make one with `openssl rand -hex 32`, and set it here or as \
                 WALVEC_TOKEN"
            );
            Err(error(document, "server.token", reason))
        }
        _ => Ok(()),
    }
}

impl ServerSettings {
    /// Returns whether other machines are served: by the address, or through a proxy that passes other names
    /// on.
    fn is_for_others(&self) -> bool {
        !self.listen.ip().is_loopback() || !self.allowed_hosts.is_empty()
    }

    /// Says why the token can be guessed; `None` if it cannot be, or there is none.
    pub(crate) fn weak_token(&self) -> Option<String> {
        let token = self.token.as_ref()?.expose_secret();
        let different = token.chars().collect::<HashSet<_>>().len();
        match token.len() {
            length if length < SHORTEST_TOKEN => {
                Some(format!("the token has {length} characters, fewer than {SHORTEST_TOKEN}"))
            }
            _ if different < LEAST_DIFFERENT => Some(format!("the token is made of {different} different characters")),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_can_be_guessed_is_told_from_one_that_cannot() {
        let weak = |token: &str| ServerSettings { token: Some(token.into()), ..ServerSettings::default() }.weak_token();
        for token in ["secret", "walvec-token-1", "aaaaaaaaaaaaaaaaaaaaaaaa", "1212121212121212"] {
            assert!(weak(token).is_some(), "{token}");
        }
        for token in ["5f2a9c0d7b1e4836", "correct-horse-battery-staple", &"0123456789abcdef".repeat(4)] {
            assert_eq!(weak(token), None, "{token}");
        }
        assert_eq!(ServerSettings::default().weak_token(), None);
    }

    #[test]
    fn a_host_is_a_name_or_an_address_alone() {
        for host in ["search.example.com", "10.0.0.7", "[::1]", "walvec", "my_host"] {
            assert_eq!(check_host(host), Ok(()), "{host}");
        }
        for host in ["", "https://a.example", "a.example:80", "*.example.com", "a/b", "::1", "[::x]", "bücher.example"]
        {
            assert!(check_host(host).is_err(), "{host}");
        }
    }
}
