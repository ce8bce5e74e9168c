//! Opens a replication session: startup and authentication.

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::frontend;
use tokio_postgres::config::ChannelBinding;

use super::conninfo::ConnInfo;
use super::dial;
use super::wire::{ServerMessage, Wire, WireError};
use crate::CaptureError;

/// Connects in replication mode and logs in.
///
/// An ordinary session with the same settings was opened before, so most mistakes in them have already been reported.
pub(super) async fn open(info: &ConnInfo) -> Result<Wire, CaptureError> {
    let limit = info.connect_limit();
    let late =
        |_| CaptureError::Connect { server: info.server(), reason: format!("no answer within {} s", limit.as_secs()) };
    tokio::time::timeout(limit, log_in(info)).await.map_err(late)?
}

async fn log_in(info: &ConnInfo) -> Result<Wire, CaptureError> {
    let failed = |error: WireError| super::replication::classify(&info.server(), "", error);
    let connection = dial::open(info).await?;
    let mut wire = Wire::new(connection.stream);
    let parameters = [
        ("user", info.user.as_str()),
        ("database", &info.database),
        ("replication", "database"),
        ("client_encoding", "UTF8"),
        ("application_name", "walvec"),
    ];
    let parameters = parameters.into_iter().chain(info.config.get_options().map(|options| ("options", options)));
    wire.send(|buffer| frontend::startup_message(parameters, buffer)).await.map_err(failed)?;
    authenticate(&mut wire, info, connection.binding).await?;
    loop {
        match wire.receive().await.map_err(failed)?.tag {
            b'Z' => return Ok(wire),
            // The key for cancelling; options of a newer protocol.
            b'K' | b'v' => {}
            tag => return Err(failed(WireError::Unexpected(tag))),
        }
    }
}

/// Answers the server's authentication requests until it accepts the login.
async fn authenticate(wire: &mut Wire, info: &ConnInfo, end_point: Option<Vec<u8>>) -> Result<(), CaptureError> {
    let failed = |error: WireError| super::replication::classify(&info.server(), "", error);
    let binding = Binding { asked: info.config.get_channel_binding(), end_point };
    let mut login = Login { user: &info.user, password: info.config.get_password(), binding, scram: None };
    loop {
        let question = match wire.receive().await.map_err(failed)? {
            ServerMessage { tag: b'R', body } => body,
            ServerMessage { tag, .. } => return Err(failed(WireError::Unexpected(tag))),
        };
        match login.answer(question) {
            Ok(AuthReply::Say(words)) => {
                let say = |buffer: &mut BytesMut| {
                    buffer.extend_from_slice(&words);
                    Ok(())
                };
                wire.send(say).await.map_err(failed)?;
            }
            Ok(AuthReply::Listen) => {}
            Ok(AuthReply::Welcome) => return Ok(()),
            Err(error) => return Err(CaptureError::Auth { server: info.server(), reason: error.to_string() }),
        }
    }
}

/// What the login can be bound to, so that a server in the middle cannot relay it.
struct Binding {
    asked: ChannelBinding,
    end_point: Option<Vec<u8>>,
}

impl Binding {
    /// Chooses a mechanism among those that the server offers, as tokio-postgres does for ordinary sessions.
    fn choose(&self, offered: &[u8]) -> io::Result<(&'static str, sasl::ChannelBinding)> {
        let is_offered = |name: &str| offered.split(|byte| *byte == 0).any(|offer| offer == name.as_bytes());
        let end_point = self.end_point.clone().filter(|_| self.asked != ChannelBinding::Disable);
        match (end_point, is_offered(sasl::SCRAM_SHA_256_PLUS)) {
            (Some(end_point), true) => {
                Ok((sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(end_point)))
            }
            _ if self.asked == ChannelBinding::Require => Err(not_bound()),
            (Some(_), false) => Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested())),
            (None, _) => Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported())),
        }
    }

    /// Refuses a login without SCRAM if it has to be bound.
    fn refuse_unbound(&self) -> io::Result<()> {
        if self.asked == ChannelBinding::Require { Err(not_bound()) } else { Ok(()) }
    }
}

/// The message for a server to which a login cannot be bound, although it has to be.
pub(super) const NOT_BOUND: &str = "channel_binding=require, but the server or its certificate does not support channel binding \
    (SCRAM-SHA-256-PLUS); delete `channel_binding=require` and use sslmode=verify-full";

fn not_bound() -> io::Error {
    io::Error::other(NOT_BOUND)
}

/// The state of a login.
struct Login<'a> {
    user: &'a str,
    password: Option<&'a [u8]>,
    binding: Binding,
    /// SCRAM, once it has begun, and whether the server has proved that it knows the password too.
    scram: Option<(sasl::ScramSha256, bool)>,
}

/// The answer to an authentication request.
enum AuthReply {
    Say(BytesMut),
    Listen,
    Welcome,
}

impl Login<'_> {
    /// Answers an Authentication message.
    fn answer(&mut self, mut question: Bytes) -> io::Result<AuthReply> {
        let mut words = BytesMut::new();
        match (question.try_get_u32().unwrap_or(u32::MAX), &mut self.scram) {
            (0, None) => {
                self.binding.refuse_unbound()?;
                return Ok(AuthReply::Welcome);
            }
            (0, Some((_, true))) => return Ok(AuthReply::Welcome),
            (0, Some((_, false))) => {
                return Err(io::Error::other("the server did not prove that it knows the password"));
            }
            (3, None) => {
                self.binding.refuse_unbound()?;
                frontend::password_message(self.password()?, &mut words)?;
            }
            (5, None) => {
                self.binding.refuse_unbound()?;
                let salt = question.first_chunk::<4>().ok_or(io::ErrorKind::InvalidData)?;
                let hash = md5_hash(self.user.as_bytes(), self.password()?, *salt);
                frontend::password_message(hash.as_bytes(), &mut words)?;
            }
            (10, None) => {
                let (mechanism, binding) = self.binding.choose(&question)?;
                let scram = sasl::ScramSha256::new(self.password()?, binding);
                frontend::sasl_initial_response(mechanism, scram.message(), &mut words)?;
                self.scram = Some((scram, false));
            }
            (11, Some((scram, false))) => {
                scram.update(&question)?;
                frontend::sasl_response(scram.message(), &mut words)?;
            }
            (12, Some((scram, proved))) => {
                scram.finish(&question)?;
                *proved = true;
                return Ok(AuthReply::Listen);
            }
            (method, _) => {
                return Err(io::Error::other(format!(
                    "the server asks for authentication method {method}, which is not supported"
                )));
            }
        }
        Ok(AuthReply::Say(words))
    }

    fn password(&self) -> io::Result<&[u8]> {
        self.password.ok_or_else(|| io::Error::other("the server wants a password, and none is given"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(method: u32, rest: &[u8]) -> Bytes {
        [&method.to_be_bytes(), rest].concat().into()
    }

    fn login(password: Option<&[u8]>, asked: ChannelBinding, end_point: Option<Vec<u8>>) -> Login<'_> {
        Login { user: "u", password, binding: Binding { asked, end_point }, scram: None }
    }

    fn said(answer: io::Result<AuthReply>) -> Vec<u8> {
        match answer {
            Ok(AuthReply::Say(words)) => words.to_vec(),
            Ok(AuthReply::Listen | AuthReply::Welcome) => panic!("nothing was said"),
            Err(error) => panic!("{error}"),
        }
    }

    const PLUS: &[u8] = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";

    #[test]
    fn a_server_that_skips_its_own_proof_is_not_trusted() {
        let mut login = login(Some(b"p"), ChannelBinding::Prefer, None);
        assert!(matches!(login.answer(question(10, b"SCRAM-SHA-256\0\0")), Ok(AuthReply::Say(_))));
        assert!(login.answer(question(0, b"")).is_err());
        assert!(login.answer(question(3, b"")).is_err(), "nor does it get the password after all");
    }

    #[test]
    fn a_login_is_bound_to_the_certificate_where_both_sides_can() {
        let end_point = Some(vec![1; 32]);
        let bound = said(login(Some(b"p"), ChannelBinding::Prefer, end_point.clone()).answer(question(10, PLUS)));
        assert!(bound.windows(22).any(|part| part == b"p=tls-server-end-point"), "{bound:?}");
        let disabled = said(login(Some(b"p"), ChannelBinding::Disable, end_point).answer(question(10, PLUS)));
        assert!(!disabled.windows(4).any(|part| part == b"PLUS"), "{disabled:?}");
    }

    #[test]
    fn a_login_that_has_to_be_bound_tells_an_unbound_server_nothing() {
        let end_point = || Some(vec![1; 32]);
        for (asked, end_point) in [
            (question(10, b"SCRAM-SHA-256\0\0"), end_point()),
            (question(10, PLUS), None),
            (question(5, b"salt"), end_point()),
            (question(3, b""), end_point()),
            (question(0, b""), end_point()),
        ] {
            let told = login(Some(b"p"), ChannelBinding::Require, end_point).answer(asked);
            assert!(told.is_err_and(|error| error.to_string().contains("delete `channel_binding=require`")));
        }
    }

    #[test]
    fn a_password_that_is_wanted_and_missing_is_an_error() {
        for method in [3, 5, 10] {
            let mut login = login(None, ChannelBinding::Prefer, None);
            let told = login.answer(question(method, b"salt")).err().map(|error| error.to_string());
            assert_eq!(told.as_deref(), Some("the server wants a password, and none is given"));
        }
        let mut login = login(None, ChannelBinding::Prefer, None);
        assert!(matches!(login.answer(question(0, b"")), Ok(AuthReply::Welcome)));
    }
}
