//! Opening a replication session: socket, TLS, startup, password.

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect as _};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::conninfo::{ConnInfo, Host, SslMode};
use super::tls;
use super::wire::{Message, Stream, Wire, WireError};
use crate::CaptureError;

/// Connects in replication mode and logs in.
///
/// An ordinary session of the same settings has been opened before, so that most of what can be wrong with them has been
/// told already.
pub(super) async fn open(info: &ConnInfo) -> Result<Wire, CaptureError> {
    let limit = info.connect_limit();
    let late =
        |_| CaptureError::Connect { server: info.server(), reason: format!("no answer within {} s", limit.as_secs()) };
    tokio::time::timeout(limit, log_in(info)).await.map_err(late)?
}

async fn log_in(info: &ConnInfo) -> Result<Wire, CaptureError> {
    let failed = |error: WireError| super::replication::classify(&info.server(), "", error);
    let mut wire = Wire::new(connect(info).await?);
    let parameters = [
        ("user", info.user.as_str()),
        ("database", &info.database),
        ("replication", "database"),
        ("client_encoding", "UTF8"),
        ("application_name", "walvec"),
    ];
    let parameters = parameters.into_iter().chain(info.config.get_options().map(|options| ("options", options)));
    wire.send(|buffer| frontend::startup_message(parameters, buffer)).await.map_err(failed)?;
    authenticate(&mut wire, info).await?;
    loop {
        match wire.receive().await.map_err(failed)?.tag {
            b'Z' => return Ok(wire),
            // The key for cancelling; a newer protocol's options.
            b'K' | b'v' => {}
            tag => return Err(failed(WireError::Unexpected(tag))),
        }
    }
}

async fn connect(info: &ConnInfo) -> Result<Box<dyn Stream>, CaptureError> {
    let failed = |error: io::Error| CaptureError::Connect { server: info.server(), reason: error.to_string() };
    match &info.host {
        #[cfg(unix)]
        Host::Unix(directory) => {
            let path = directory.join(format!(".s.PGSQL.{}", info.port));
            Ok(Box::new(UnixStream::connect(path).await.map_err(failed)?))
        }
        Host::Tcp(host) => {
            let stream = TcpStream::connect((host.as_str(), info.port)).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            secure(info, host, stream).await
        }
    }
}

/// Encrypts the connection as far as `sslmode` asks for it.
async fn secure(info: &ConnInfo, host: &str, mut stream: TcpStream) -> Result<Box<dyn Stream>, CaptureError> {
    let refused = |reason: String| CaptureError::Tls { server: info.server(), reason };
    let failed = |error: io::Error| CaptureError::Connect { server: info.server(), reason: error.to_string() };
    if info.ssl_mode == SslMode::Disable {
        return Ok(Box::new(stream));
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(failed)?;
    if stream.read_u8().await.map_err(failed)? != b'S' {
        return match info.ssl_mode {
            SslMode::Prefer => Ok(Box::new(stream)),
            _ => Err(refused("server does not support TLS".to_owned())),
        };
    }
    let config = tls::client_config(info.ssl_mode, info.root_cert.as_deref()).map_err(refused)?;
    let mut maker = MakeRustlsConnect::new(config);
    let Ok(connector) = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut maker, host);
    let stream = connector
        .connect(stream)
        .await
        .map_err(|error| if tls::is_broken_connection(&error) { failed(error) } else { refused(error.to_string()) })?;
    Ok(Box::new(stream))
}

/// Answers the server's questions until it is content.
async fn authenticate(wire: &mut Wire, info: &ConnInfo) -> Result<(), CaptureError> {
    let failed = |error: WireError| super::replication::classify(&info.server(), "", error);
    let mut login = Login { user: &info.user, password: info.config.get_password(), scram: None };
    loop {
        let question = match wire.receive().await.map_err(failed)? {
            Message { tag: b'R', body } => body,
            Message { tag, .. } => return Err(failed(WireError::Unexpected(tag))),
        };
        match login.answer(question) {
            Ok(Answer::Say(words)) => {
                let say = |buffer: &mut BytesMut| {
                    buffer.extend_from_slice(&words);
                    Ok(())
                };
                wire.send(say).await.map_err(failed)?;
            }
            Ok(Answer::Listen) => {}
            Ok(Answer::Welcome) => return Ok(()),
            Err(error) => return Err(CaptureError::Auth { server: info.server(), reason: error.to_string() }),
        }
    }
}

/// The state of a login.
struct Login<'a> {
    user: &'a str,
    password: Option<&'a [u8]>,
    /// SCRAM, once it has begun, and whether the server has proved that it knows the password too.
    scram: Option<(sasl::ScramSha256, bool)>,
}

/// What to do after a question.
enum Answer {
    Say(BytesMut),
    Listen,
    Welcome,
}

impl Login<'_> {
    /// Answers an Authentication message.
    fn answer(&mut self, mut question: Bytes) -> io::Result<Answer> {
        let mut words = BytesMut::new();
        match (question.try_get_u32().unwrap_or(u32::MAX), &mut self.scram) {
            (0, None | Some((_, true))) => return Ok(Answer::Welcome),
            (0, Some((_, false))) => {
                return Err(io::Error::other("the server did not prove that it knows the password"));
            }
            (3, None) => frontend::password_message(self.password()?, &mut words)?,
            (5, None) => {
                let salt = question.first_chunk::<4>().ok_or(io::ErrorKind::InvalidData)?;
                let hash = md5_hash(self.user.as_bytes(), self.password()?, *salt);
                frontend::password_message(hash.as_bytes(), &mut words)?;
            }
            (10, None) => {
                // Channel binding needs the server's certificate, which the TLS library keeps to itself. Who the server
                // is, `verify-full` proves.
                let scram = sasl::ScramSha256::new(self.password()?, sasl::ChannelBinding::unsupported());
                frontend::sasl_initial_response(sasl::SCRAM_SHA_256, scram.message(), &mut words)?;
                self.scram = Some((scram, false));
            }
            (11, Some((scram, false))) => {
                scram.update(&question)?;
                frontend::sasl_response(scram.message(), &mut words)?;
            }
            (12, Some((scram, proved))) => {
                scram.finish(&question)?;
                *proved = true;
                return Ok(Answer::Listen);
            }
            (method, _) => {
                return Err(io::Error::other(format!(
                    "the server asks for authentication method {method}, which is not supported"
                )));
            }
        }
        Ok(Answer::Say(words))
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

    #[test]
    fn a_server_that_skips_its_own_proof_is_not_trusted() {
        let mut login = Login { user: "u", password: Some(b"p"), scram: None };
        assert!(matches!(login.answer(question(10, b"SCRAM-SHA-256\0\0")), Ok(Answer::Say(_))));
        assert!(login.answer(question(0, b"")).is_err());
        assert!(login.answer(question(3, b"")).is_err(), "nor does it get the password after all");
    }

    #[test]
    fn a_password_that_is_wanted_and_missing_is_an_error() {
        for method in [3, 5, 10] {
            let mut login = Login { user: "u", password: None, scram: None };
            let told = login.answer(question(method, b"salt")).err().map(|error| error.to_string());
            assert_eq!(told.as_deref(), Some("the server wants a password, and none is given"));
        }
        let mut login = Login { user: "u", password: None, scram: None };
        assert!(matches!(login.answer(question(0, b"")), Ok(Answer::Welcome)));
    }
}
