//! Opens the connection under a session: socket and TLS. Both kinds of sessions use it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use super::conninfo::{ConnInfo, Host, Liveness, SslMode};
use super::tls;
use super::wire::Stream;
use crate::CaptureError;

/// A connection on which no session was opened yet.
pub(super) struct DialedConnection {
    pub(super) stream: Box<dyn Stream>,
    /// The digest of the server's certificate that a login can be bound to; `None` without TLS, or if the certificate has none.
    pub(super) binding: Option<Vec<u8>>,
}

/// Connects to the server, encrypted as `sslmode` requires.
pub(super) async fn open(info: &ConnInfo) -> Result<DialedConnection, CaptureError> {
    match &info.host {
        #[cfg(unix)]
        Host::Unix(directory) => {
            let path = directory.join(format!(".s.PGSQL.{}", info.port));
            let stream = in_time(info, UnixStream::connect(path)).await.map_err(|error| failed(info, &error))?;
            Ok(DialedConnection { stream: Box::new(stream), binding: None })
        }
        Host::Tcp(host) => {
            let stream = tcp(info, host).await.map_err(|error| failed(info, &error))?;
            secure(info, host, stream).await
        }
    }
}

fn failed(info: &ConnInfo, error: &io::Error) -> CaptureError {
    CaptureError::Connect { server: info.server(), reason: error.to_string() }
}

async fn in_time<T>(info: &ConnInfo, connecting: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {:?}", info.connect_timeout));
    tokio::time::timeout(info.connect_timeout, connecting).await.map_err(late)?
}

/// Tries each address of the name, for up to `connect_timeout` each.
async fn tcp(info: &ConnInfo, host: &str) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = match info.address {
        Some(address) => vec![(address, info.port).into()],
        None => in_time(info, tokio::net::lookup_host((host, info.port))).await?.collect(),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match in_time(info, TcpStream::connect(address)).await {
            Ok(stream) => {
                keep_alive(&stream, &info.liveness)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Makes the operating system detect a peer that has silently disappeared.
fn keep_alive(stream: &TcpStream, liveness: &Liveness) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    if liveness.keepalives {
        let probes = TcpKeepalive::new()
            .with_time(liveness.idle)
            .with_interval(liveness.interval)
            .with_retries(liveness.retries);
        socket.set_tcp_keepalive(&probes)?;
    }
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(liveness.user_timeout))?;
    Ok(())
}

async fn secure(info: &ConnInfo, host: &str, mut stream: TcpStream) -> Result<DialedConnection, CaptureError> {
    let refused = |reason: String| CaptureError::Tls { server: info.server(), reason };
    if info.ssl_mode == SslMode::Disable {
        return Ok(DialedConnection { stream: Box::new(stream), binding: None });
    }
    if !info.direct_tls && !in_time(info, has_tls(&mut stream)).await.map_err(|error| failed(info, &error))? {
        return match info.ssl_mode {
            SslMode::Prefer => Ok(DialedConnection { stream: Box::new(stream), binding: None }),
            _ => Err(refused("server does not support TLS".to_owned())),
        };
    }
    let config = tls::client_config(info.ssl_mode, info.root_cert.as_deref(), info.direct_tls).map_err(refused)?;
    let name = server_name(host).ok_or_else(|| refused(format!("\"{host}\" is not a host name")))?;
    let connecting = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = in_time(info, connecting).await.map_err(|error| {
        if tls::is_broken_connection(&error) { failed(info, &error) } else { refused(error.to_string()) }
    })?;
    let certificates = stream.get_ref().1.peer_certificates();
    let binding = certificates.and_then(|chain| chain.first()).and_then(|leaf| tls::end_point(leaf));
    Ok(DialedConnection { stream: Box::new(stream), binding })
}

/// Asks whether the server supports TLS.
async fn has_tls(stream: &mut TcpStream) -> io::Result<bool> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    Ok(stream.read_u8().await? == b'S')
}

fn server_name(host: &str) -> Option<ServerName<'static>> {
    match host.parse::<IpAddr>() {
        Ok(address) => Some(ServerName::IpAddress(address.into())),
        Err(_) => ServerName::try_from(host.to_owned()).ok(),
    }
}
