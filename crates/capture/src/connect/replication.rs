//! Replication sessions: slot creation and the stream of changes.

use std::io;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use walvec_model::Lsn;

use super::target::{STANDING, Standing, TargetServer};
use super::wire::{Wire, WireError};
use super::{ConnInfo, inquiry, login, settings};
use crate::CaptureError;
use crate::limits::{Resource, is_too_large};
use crate::outlook::Outlook;
use crate::sql::{quote_ident, quote_literal};

/// How long to wait until the server has ended a session after a goodbye.
const LEAVING: Duration = Duration::from_secs(2);

/// A replication session with pinned settings. Ends when it is dropped.
pub(crate) struct Replication {
    wire: Wire,
    info: ConnInfo,
    pid: i32,
    server: String,
    slot: String,
}

impl Replication {
    /// Connects and pins the session's settings. `slot` is the slot that the session will use.
    pub(crate) async fn open(info: &ConnInfo, slot: &str, version: u32) -> Result<Self, CaptureError> {
        let wire = login::open(info).await?;
        let mut session = Self { wire, info: info.clone(), pid: 0, server: info.server(), slot: slot.to_owned() };
        let row = session.query(&format!("SELECT pg_backend_pid(), {}", settings::IS_OURS)).await?;
        let cell = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
        settings::refuse_shared(info, &cell(1))?;
        session.pid = cell(0).parse().unwrap_or(0);
        if info.target != TargetServer::Any {
            let row = session.query(STANDING).await?;
            let is = |index: usize| row.get(index).is_some_and(|cell| cell.as_deref() == Some("t"));
            info.refuse_other_target(Standing { in_recovery: is(0), read_only: is(1) })?;
        }
        session.query(&settings::statements(version)).await?;
        Ok(session)
    }

    /// Returns the process id of the session on the server.
    pub(crate) const fn pid(&self) -> i32 {
        self.pid
    }

    /// Asks through another session whether the server works for this one, which it may do in silence.
    pub(crate) fn is_at_work(&self) -> impl Future<Output = bool> + Send + 'static {
        let (info, pid) = (self.info.clone(), self.pid);
        async move { inquiry::is_at_work(&info, pid).await }
    }

    /// Runs a statement or a replication command, and returns the first row of its result.
    pub(crate) async fn query(&mut self, sql: &str) -> Result<Vec<Option<String>>, CaptureError> {
        let row = self.wire.query(sql).await;
        row.map_err(|error| self.failed(error))
    }

    /// Starts the stream at the slot's own confirmed position.
    ///
    /// Position 0/0 makes the server use `confirmed_flush_lsn`. An explicit position would be ignored if it is lower,
    /// and skip changes if it is higher.
    pub(crate) async fn start(&mut self, publication: &str) -> Result<(), CaptureError> {
        // The option is a list of names inside a literal, so the identifier's quotes are part of its value.
        let names = quote_literal(&quote_ident(publication));
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '1', publication_names {names})",
            quote_ident(&self.slot)
        );
        let started = self.wire.start_copy(&command).await;
        started.map_err(|error| self.failed(error))
    }

    /// Waits for the next message of the stream. Cancellation safe: dropping the future loses nothing that was read.
    pub(crate) async fn next(&mut self) -> Result<Bytes, CaptureError> {
        let message = self.wire.next_copy().await;
        message.map_err(|error| self.failed(error))
    }

    /// Returns the next message, if it has already arrived.
    pub(crate) fn next_now(&mut self) -> Option<Result<Bytes, CaptureError>> {
        let message = self.wire.next_copy_now()?;
        Some(message.map_err(|error| self.failed(error)))
    }

    /// Reports to the server what was received and what it may forget. With `reply`, asks the server to answer.
    pub(crate) async fn send_status(&mut self, received: Lsn, confirmed: Lsn, reply: bool) -> Result<(), CaptureError> {
        let sent = self.wire.send_copy(&status(received, confirmed, reply)).await;
        sent.map_err(|error| self.failed(error))
    }

    /// Ends a running stream. Afterwards the server has read all feedback and released the slot.
    pub(crate) async fn finish(&mut self) -> Result<(), CaptureError> {
        let finished = self.wire.finish_copy().await;
        finished.map_err(|error| self.failed(error))
    }

    /// Ends the session. The server would also notice a closed connection.
    pub(crate) async fn close(self) {
        if let Err(error) = self.wire.terminate().await {
            tracing::debug!(%error, "the replication session ended without a goodbye");
        }
    }

    /// Ends the session and waits until the server has ended it too, so that the connection no longer counts towards any limit.
    pub(crate) async fn leave(self) {
        if tokio::time::timeout(LEAVING, self.wire.leave()).await.is_err() {
            tracing::debug!("the server takes its time to end a replication session");
        }
    }

    /// Returns the error for a server that has been silent for too long.
    pub(crate) fn silent(&self, limit: Duration) -> CaptureError {
        let reason = format!("the server has been silent for {} s", limit.as_secs());
        CaptureError::Connect { server: self.server.clone(), reason }
    }

    fn failed(&self, error: WireError) -> CaptureError {
        classify(&self.server, &self.slot, error)
    }
}

/// Encodes a standby status update; <https://www.postgresql.org/docs/current/protocol-replication.html>.
fn status(received: Lsn, confirmed: Lsn, reply: bool) -> Vec<u8> {
    const EPOCH_2000: Duration = Duration::from_secs(946_684_800);
    // Only shown in pg_stat_replication, so a clock before the year 2000 does no harm.
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + EPOCH_2000).unwrap_or_default();
    let clock = u64::try_from(clock.as_micros()).unwrap_or(0);
    let mut message = vec![b'r'];
    // The written, flushed and applied positions. Only the second one moves the slot.
    for number in [received.0, confirmed.0, confirmed.0, clock] {
        message.extend(number.to_be_bytes());
    }
    message.push(u8::from(reply));
    message
}

/// Converts an error by what it means to the user.
pub(super) fn classify(server: &str, slot: &str, error: WireError) -> CaptureError {
    let (server, slot) = (server.to_owned(), slot.to_owned());
    let (sqlstate, reason) = match error {
        WireError::Server { sqlstate, message } => (sqlstate, message),
        WireError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return CaptureError::Connect { server, reason: "the server closed the connection".to_owned() };
        }
        error @ (WireError::Io(_) | WireError::Ended) => {
            return CaptureError::Connect { server, reason: error.to_string() };
        }
        error @ WireError::Unexpected(_) => return CaptureError::Protocol { reason: error.to_string() },
    };
    if let Some(resource) = Resource::of(&sqlstate, &reason) {
        return CaptureError::Exhausted { resource, doing: format!("working with slot \"{slot}\""), reason };
    }
    if is_too_large(&sqlstate, &reason) {
        return CaptureError::Unsendable { reason };
    }
    match sqlstate.as_str() {
        code if settings::is_poolers(code, &reason) => CaptureError::Pooler { server, reason },
        "42704" if reason.starts_with("publication") => CaptureError::Publication {
            publication: quoted_part(&reason),
            difference: "it does not exist, so changes since it was dropped cannot be had".to_owned(),
            sql: "read the tables again: `walvec reset`, then `walvec run`".to_owned(),
        },
        "42704" => CaptureError::SlotMissing { slot },
        "42710" => CaptureError::SlotExists { slot },
        "55000" if reason.contains("wal_level") => CaptureError::WalLevel { found: reason },
        "55000" => CaptureError::SlotLost { slot, reason },
        "55006" => CaptureError::SlotBusy { slot, reason },
        "42501" => CaptureError::Rights { doing: "opening a replication session".to_owned(), reason, grant: None },
        "22021" | "22P05" => CaptureError::Encoding { place: "the stream".to_owned(), reason },
        "28000" | "28P01" => CaptureError::Auth { server, reason },
        "3D000" => {
            let (place, database) = server.rsplit_once('/').unwrap_or((&server, ""));
            CaptureError::Database { database: database.to_owned(), server: place.to_owned() }
        }
        // The server ends the connection with these errors. The next connection may work.
        _ if Outlook::of(&sqlstate) == Outlook::NextSession => CaptureError::Connect { server, reason },
        _ => CaptureError::Statement { doing: format!("working with slot \"{slot}\""), sqlstate, reason },
    }
}

/// Returns the part of a message between its first two double quotes.
fn quoted_part(message: &str) -> String {
    message.split('"').nth(1).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_error_is_known_by_its_code() {
        let code = |sqlstate: &str, message: &str| {
            let error = WireError::Server { sqlstate: sqlstate.to_owned(), message: message.to_owned() };
            classify("h:1/d", "s", error).code()
        };
        assert_eq!(code("42704", "replication slot \"s\" does not exist"), "E_SLOT_MISSING");
        assert_eq!(code("42704", "publication \"p\" does not exist"), "E_PUBLICATION");
        assert_eq!(code("55000", "can no longer get changes from replication slot \"s\""), "E_SLOT_LOST");
        assert_eq!(code("55000", "logical decoding requires wal_level >= logical"), "E_WAL_LEVEL");
        assert_eq!(code("55006", "replication slot \"s\" is active for PID 7"), "E_SLOT_BUSY");
        assert_eq!(code("57P01", "terminating connection"), "E_CONNECT");
        assert_eq!(code("3D000", "database \"d\" does not exist"), "E_DATABASE");
        assert_eq!(code("53400", "all replication slots are in use"), "E_LIMIT");
        assert_eq!(code("53300", "sorry, too many clients already"), "E_LIMIT");
        assert_eq!(code("08P01", "unsupported startup parameter: replication"), "E_POOLER");
        assert_eq!(code("08P01", "unsupported startup parameter: options"), "E_POOLER");
        assert_eq!(
            code("0A000", "Feature not supported: RDS Proxy currently doesn't support command-line options"),
            "E_POOLER"
        );
        assert_eq!(code("08006", "connection failure"), "E_CONNECT");
        assert_eq!(code("XX000", "?"), "E_STATEMENT");
    }

    #[test]
    fn a_status_has_the_servers_layout() {
        let message = status(Lsn(3), Lsn(2), true);
        assert_eq!(message.len(), 34);
        assert_eq!((message[0], message[8], message[16], message[24], message[33]), (b'r', 3, 2, 2, 1));
    }
}
