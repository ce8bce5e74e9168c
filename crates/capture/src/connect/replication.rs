//! Replication sessions: slot creation and the stream of changes.

use bytes::Bytes;
use futures::FutureExt as _;
use pg_walstream::connection::{PgReplicationConnection, PgResult};
use pg_walstream::{CancellationToken, ReplicationError};
use secrecy::ExposeSecret as _;
use walvec_model::Lsn;

use super::{ConnInfo, settings, tls};
use crate::CaptureError;

/// A replication session with pinned settings. Ends when it is dropped; a running stream is then ended in an orderly way.
///
/// The library blocks its caller in everything but reading and writing the stream. Those calls go to a thread where
/// blocking is allowed; the creation of a slot may take minutes.
pub(crate) struct Replication {
    connection: PgReplicationConnection,
    server: String,
    slot: String,
    /// Never cancelled: what we stop is our own task.
    never: CancellationToken,
}

impl Replication {
    /// Connects and pins the session's settings. `slot` is the one that the session will work with.
    pub(crate) async fn open(info: &ConnInfo, slot: &str, version: u32) -> Result<Self, CaptureError> {
        let mut info = info.clone();
        if info.root_cert.is_none() {
            info.root_cert = tls::system_roots();
        }
        let (url, server, slot) = (info.replication_url(), info.server(), slot.to_owned());
        let connected = blocking(move || PgReplicationConnection::connect(url.expose_secret())).await?;
        let connection = connected.map_err(|error| classify(&server, &slot, &error))?;
        let session = Self { connection, server, slot, never: CancellationToken::new() };
        let (session, _) = session.query(settings::statements(version)).await?;
        Ok(session)
    }

    /// Runs a statement or a replication command, and returns the first row of its result.
    pub(crate) async fn query(self, sql: String) -> Result<(Self, Vec<Option<String>>), CaptureError> {
        self.run(move |connection| connection.exec(&sql).map(|result| first_row(&result))).await
    }

    /// Starts the stream at the slot's own position.
    ///
    /// Position 0/0 makes the server use `confirmed_flush_lsn`. A position of ours could only be ignored, if it is lower,
    /// or skip changes, if it is higher.
    pub(crate) async fn start(self, publication: &str) -> Result<Self, CaptureError> {
        let slot = self.slot.clone();
        // A list of names inside a literal: the quotes of the identifier are part of the option's value.
        let names = crate::sql::quote_ident(publication);
        let start = move |connection: &mut PgReplicationConnection| {
            connection.start_replication(&slot, 0, &[("proto_version", "1"), ("publication_names", &names)])
        };
        Ok(self.run(start).await?.0)
    }

    /// Waits for the next message of the stream. Safe to drop: nothing that was read is lost.
    pub(crate) async fn next(&mut self) -> Result<Bytes, CaptureError> {
        let read = self.connection.get_copy_data_async(&self.never).await;
        read.map_err(|error| classify(&self.server, &self.slot, &error))
    }

    /// The next message, if it is here already.
    pub(crate) fn next_now(&mut self) -> Option<Result<Bytes, CaptureError>> {
        let read = self.connection.get_copy_data_async(&self.never).now_or_never()?;
        Some(read.map_err(|error| classify(&self.server, &self.slot, &error)))
    }

    /// Tells the server what has been received, and what it may forget.
    pub(crate) async fn send_status(&mut self, received: Lsn, confirmed: Lsn, reply: bool) -> Result<(), CaptureError> {
        let sent = self.connection.send_standby_status_update(received.0, confirmed.0, confirmed.0, reply).await;
        sent.map_err(|error| classify(&self.server, &self.slot, &error))
    }

    /// Ends the session and waits until the goodbye is on its way.
    pub(crate) async fn close(self) -> Result<(), CaptureError> {
        blocking(move || drop(self)).await
    }

    async fn run<T, F>(self, call: F) -> Result<(Self, T), CaptureError>
    where
        T: Send + 'static,
        F: FnOnce(&mut PgReplicationConnection) -> Result<T, ReplicationError> + Send + 'static,
    {
        let Self { mut connection, server, slot, never } = self;
        let (connection, result) = blocking(move || {
            let result = call(&mut connection);
            (connection, result)
        })
        .await?;
        let value = result.map_err(|error| classify(&server, &slot, &error))?;
        Ok((Self { connection, server, slot, never }, value))
    }
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Result<T, CaptureError> {
    tokio::task::spawn_blocking(call).await.map_err(|_| CaptureError::Closed)
}

fn first_row(result: &PgResult) -> Vec<Option<String>> {
    if result.ntuples() == 0 {
        return Vec::new();
    }
    (0..result.nfields()).map(|column| result.get_value(0, column)).collect()
}

/// The library's error, by what it means to the user. Server errors carry their SQLSTATE in front, in brackets.
fn classify(server: &str, slot: &str, error: &ReplicationError) -> CaptureError {
    let (server, slot) = (server.to_owned(), slot.to_owned());
    let text = error.to_string();
    let (sqlstate, reason) = split_sqlstate(&text);
    match sqlstate {
        "42704" if reason.contains("publication") => CaptureError::Publication {
            publication: String::new(),
            difference: reason,
            sql: "create the publication, then read the tables again: `walvec reset`".to_owned(),
        },
        "42704" => CaptureError::SlotMissing { slot },
        "42710" => CaptureError::SlotExists { slot },
        "55000" if reason.contains("wal_level") => CaptureError::WalLevel { found: reason },
        "55000" => CaptureError::SlotLost { slot, reason },
        "55006" => CaptureError::SlotBusy { slot, reason },
        "42501" => CaptureError::Rights { doing: "opening a replication session".to_owned(), reason },
        "28000" | "28P01" | "3D000" => CaptureError::Auth { server, reason },
        "" => without_sqlstate(server, error, reason),
        // The server ends the connection with these; the next one may live.
        state if state.starts_with("57") || state.starts_with("08") || state.starts_with("53") => {
            CaptureError::Connect { server, reason }
        }
        state => CaptureError::Statement {
            doing: format!("working with slot \"{slot}\""),
            sqlstate: state.to_owned(),
            reason,
        },
    }
}

/// Takes `[55006]` out of the text.
fn split_sqlstate(text: &str) -> (&str, String) {
    let found = text.find('[').and_then(|open| {
        let state = text.get(open + 1..open + 6)?;
        let is_state = state.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        let rest = text.get(open + 6..)?.strip_prefix("] ")?;
        is_state.then(|| (state, rest.to_owned()))
    });
    found.unwrap_or(("", text.to_owned()))
}

fn without_sqlstate(server: String, error: &ReplicationError, reason: String) -> CaptureError {
    match error {
        ReplicationError::Authentication(_) => CaptureError::Auth { server, reason },
        ReplicationError::Config(_) => CaptureError::Config { reason },
        ReplicationError::PermanentConnection(_) => CaptureError::Tls { server, reason },
        ReplicationError::TransientConnection(_) if reason.contains("TLS handshake failed") => {
            CaptureError::Tls { server, reason }
        }
        ReplicationError::TransientConnection(_)
        | ReplicationError::ReplicationConnection(_)
        | ReplicationError::Timeout(_)
        | ReplicationError::Io(_)
        | ReplicationError::Backend(_) => CaptureError::Connect { server, reason },
        ReplicationError::Cancelled(_) | ReplicationError::StreamStopped(_) => CaptureError::Closed,
        ReplicationError::Protocol(_)
        | ReplicationError::Buffer(_)
        | ReplicationError::ReplicationSlot(_)
        | ReplicationError::StringConversion(_)
        | ReplicationError::Deserialize(_) => CaptureError::Protocol { reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_error_is_known_by_its_code() {
        let classified = |text: &str| classify("h:1/d", "s", &ReplicationError::protocol(text)).code();
        assert_eq!(classified("[42704] replication slot \"s\" does not exist"), "E_SLOT_MISSING");
        assert_eq!(classified("[42704] publication \"p\" does not exist"), "E_PUBLICATION");
        assert_eq!(classified("[55000] can no longer get changes from replication slot \"s\""), "E_SLOT_LOST");
        assert_eq!(classified("[55000] logical decoding requires wal_level >= logical"), "E_WAL_LEVEL");
        assert_eq!(classified("[55006] replication slot \"s\" is active for PID 7"), "E_SLOT_BUSY");
        assert_eq!(classified("[57P01] terminating connection"), "E_CONNECT");
        assert_eq!(classified("a [note] without a code"), "E_PROTOCOL");
    }
}
