//! The part of the frontend/backend protocol that a replication session needs: simple queries and a COPY in both directions.
//!
//! tokio-postgres has no replication mode. Its building blocks (messages, SCRAM, TLS) are used here too, so that both
//! kinds of sessions reach the same servers in the same way, Unix sockets included.
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use futures::FutureExt as _;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The space for each read from the socket: room for many rows per system call.
const READ_BYTES: usize = 64 << 10;

/// Any byte stream: TCP or a Unix socket, with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// Why the communication with the server failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("{0}")]
    Io(#[from] io::Error),
    /// An error reported by the server.
    #[error("{message}")]
    Server { sqlstate: String, message: String },
    /// The server ended a COPY that only the client may end.
    #[error("the server ended the stream")]
    Ended,
    #[error("unexpected message \"{}\" from the server", char::from(*.0))]
    Unexpected(u8),
}

/// A message from the server.
pub(super) struct ServerMessage {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

/// A protocol connection to a server.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    read: BytesMut,
    write: BytesMut,
}

impl Wire {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, read: BytesMut::new(), write: BytesMut::new() }
    }

    /// Sends the bytes that `build` writes.
    pub(super) async fn send(&mut self, build: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<(), WireError> {
        self.write.clear();
        build(&mut self.write)?;
        self.stream.write_all(&self.write).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Waits for the next message that is not a notice. The server's errors are returned as `Err`. Cancellation safe:
    /// nothing is lost.
    pub(super) async fn receive(&mut self) -> Result<ServerMessage, WireError> {
        loop {
            let Some(message) = self.buffered()? else {
                self.fill().await?;
                continue;
            };
            match message.tag {
                b'E' => return Err(server_error(&message.body)),
                // Skip notices and changed settings.
                b'N' | b'S' | b'A' => {}
                _ => return Ok(message),
            }
        }
    }

    fn buffered(&mut self) -> Result<Option<ServerMessage>, WireError> {
        let Some(header) = self.read.first_chunk::<5>() else { return Ok(None) };
        let [tag, length @ ..] = *header;
        let length = usize::try_from(i32::from_be_bytes(length)).ok().filter(|&length| length >= 4);
        let total = length.ok_or(WireError::Unexpected(tag))? + 1;
        if self.read.len() < total {
            self.read.reserve(total - self.read.len());
            return Ok(None);
        }
        let mut body = self.read.split_to(total).freeze();
        body.advance(5);
        Ok(Some(ServerMessage { tag, body }))
    }

    async fn fill(&mut self) -> Result<(), WireError> {
        self.read.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(()),
        }
    }

    /// Runs a statement or command, and returns the first row of its last result.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<Option<String>>, WireError> {
        self.send(|buffer| frontend::query(sql, buffer)).await?;
        let mut row = Vec::new();
        let mut failed = None;
        loop {
            match self.receive().await {
                Ok(ServerMessage { tag: b'T', .. }) => row.clear(),
                Ok(ServerMessage { tag: b'D', body }) if row.is_empty() => row = data_row(body)?,
                Ok(ServerMessage { tag: b'Z', .. }) => return failed.map_or(Ok(row), Err),
                Ok(ServerMessage { tag: b'D' | b'C' | b'I', .. }) => {}
                Ok(ServerMessage { tag, .. }) => return Err(WireError::Unexpected(tag)),
                // The server reports when it is ready again, even after an error.
                Err(error @ WireError::Server { .. }) => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs a command that starts a COPY in both directions.
    pub(super) async fn start_copy(&mut self, command: &str) -> Result<(), WireError> {
        self.send(|buffer| frontend::query(command, buffer)).await?;
        match self.receive().await? {
            ServerMessage { tag: b'W', .. } => Ok(()),
            ServerMessage { tag, .. } => Err(WireError::Unexpected(tag)),
        }
    }

    /// Waits for the next piece of the COPY. Cancellation safe: nothing is lost.
    pub(super) async fn next_copy(&mut self) -> Result<Bytes, WireError> {
        match self.receive().await? {
            ServerMessage { tag: b'd', body } => Ok(body),
            // A server that shuts down normally reports that the command is complete, without ending the copy first.
            ServerMessage { tag: b'c' | b'C', .. } => Err(WireError::Ended),
            ServerMessage { tag, .. } => Err(WireError::Unexpected(tag)),
        }
    }

    /// Returns the next piece of the COPY, if it has already arrived.
    pub(super) fn next_copy_now(&mut self) -> Option<Result<Bytes, WireError>> {
        self.next_copy().now_or_never()
    }

    /// Sends a piece of the COPY.
    pub(super) async fn send_copy(&mut self, piece: &[u8]) -> Result<(), WireError> {
        self.send(|buffer| {
            frontend::CopyData::new(piece)?.write(buffer);
            Ok(())
        })
        .await
    }

    /// Ends the COPY and waits for the server's confirmation, which comes after it has read everything sent before.
    pub(super) async fn finish_copy(&mut self) -> Result<(), WireError> {
        self.send(|buffer| {
            frontend::copy_done(buffer);
            Ok(())
        })
        .await?;
        while self.receive().await?.tag != b'Z' {}
        Ok(())
    }

    /// Ends the session and waits until the server closes the connection, which is the last thing it does.
    pub(super) async fn leave(mut self) {
        let goodbye = |buffer: &mut BytesMut| {
            frontend::terminate(buffer);
            Ok(())
        };
        if self.send(goodbye).await.is_ok() {
            while self.fill().await.is_ok() {}
        }
    }

    /// Ends the session.
    pub(super) async fn terminate(mut self) -> Result<(), WireError> {
        self.send(|buffer| {
            frontend::terminate(buffer);
            Ok(())
        })
        .await?;
        Ok(self.stream.shutdown().await?)
    }
}

fn data_row(mut body: Bytes) -> Result<Vec<Option<String>>, WireError> {
    let short = || WireError::Unexpected(b'D');
    let count = body.try_get_u16().map_err(|_| short())?;
    let mut row = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let Ok(length) = usize::try_from(body.try_get_i32().map_err(|_| short())?) else {
            row.push(None);
            continue;
        };
        if body.len() < length {
            return Err(short());
        }
        row.push(Some(String::from_utf8_lossy(&body.split_to(length)).into_owned()));
    }
    Ok(row)
}

/// Reads the fields of an ErrorResponse: each is a letter and a text that ends with a zero byte.
fn server_error(body: &[u8]) -> WireError {
    let field = |wanted: u8| {
        let mut fields = body.split(|&byte| byte == 0);
        let found = fields.find(|field| field.first() == Some(&wanted));
        found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
    };
    let detail = field(b'D').map(|detail| format!(" ({detail})")).unwrap_or_default();
    WireError::Server {
        sqlstate: field(b'C').unwrap_or_default(),
        message: format!("{}{detail}", field(b'M').unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(server_says: &[u8]) -> Wire {
        Wire::new(Box::new(tokio::io::join(io::Cursor::new(server_says.to_vec()), tokio::io::sink())))
    }

    #[tokio::test]
    async fn a_query_returns_its_first_row() {
        let mut wire = wire(b"T\0\0\0\x06\0\0D\0\0\0\x0f\0\x02\0\0\0\x01x\xff\xff\xff\xffC\0\0\0\x05\0Z\0\0\0\x05I");
        assert_eq!(wire.query("SELECT").await.unwrap(), [Some("x".to_owned()), None]);
    }

    #[tokio::test]
    async fn a_servers_error_is_told_once_the_server_is_ready_again() {
        let mut wire = wire(b"E\0\0\0\x12C42704\0Mgone\0\0Z\0\0\0\x05I");
        let error = wire.query("SELECT").await.unwrap_err();
        assert!(matches!(error, WireError::Server { sqlstate, message } if sqlstate == "42704" && message == "gone"));
    }

    #[tokio::test]
    async fn an_end_without_goodbye_and_a_broken_length_are_errors() {
        assert!(matches!(wire(b"d\0\0").next_copy().await, Err(WireError::Io(_))));
        assert!(matches!(wire(b"d\0\0\0\x03").next_copy().await, Err(WireError::Unexpected(b'd'))));
        assert!(matches!(wire(b"d\xff\0\0\x03").next_copy().await, Err(WireError::Unexpected(b'd'))));
        assert!(matches!(wire(b"c\0\0\0\x04").next_copy().await, Err(WireError::Ended)));
    }
}
