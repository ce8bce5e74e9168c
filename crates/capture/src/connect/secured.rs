//! Hands open connections, encrypted where required, to tokio-postgres.
//!
//! The library requests TLS itself, unless it is told that the connection starts with TLS. In that case it only calls
//! the function for the handshake, which walvec has already done. Sockets and TLS are therefore the same for both kinds
//! of sessions.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config};

use super::dial;
use super::wire::Stream;

/// The future that drives a session.
pub(super) type SessionDriver = tokio_postgres::Connection<Box<dyn Stream>, Secured<Box<dyn Stream>>>;

/// Logs in on an open connection.
pub(super) async fn log_in(
    config: &Config,
    connection: dial::DialedConnection,
) -> Result<(Client, SessionDriver), tokio_postgres::Error> {
    let mut config = config.clone();
    config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    config.connect_raw(connection.stream, Handshaken { binding: connection.binding }).await
}

/// Takes the place of a TLS library whose handshake is already done.
struct Handshaken {
    binding: Option<Vec<u8>>,
}

impl<S: Stream> TlsConnect<S> for Handshaken {
    type Stream = Secured<S>;
    type Error = io::Error;
    type Future = Ready<io::Result<Secured<S>>>;

    fn connect(self, stream: S) -> Self::Future {
        ready(Ok(Secured { stream, binding: self.binding }))
    }
}

/// A connection together with what a login on it can be bound to.
pub(super) struct Secured<S> {
    stream: S,
    binding: Option<Vec<u8>>,
}

impl<S: Stream> TlsStream for Secured<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.binding.clone().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl<S: Stream> AsyncRead for Secured<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: Stream> AsyncWrite for Secured<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
