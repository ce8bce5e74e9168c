//! Ordinary sessions: queries and COPY.

use std::error::Error as _;
use std::ops::Deref;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt as _};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use walvec_model::with_causes;

use super::target::{STANDING, Standing, TargetServer};
use super::{ConnInfo, dial, inquiry, secured, settings, tls};
use crate::CaptureError;
use crate::limits::{Resource, is_too_large};

/// A session with pinned settings, based on a client of tokio-postgres. Ends when it is dropped.
///
/// The methods with the names of the client's wait for an answer only as long as the server works on it. On a dead
/// connection they fail.
pub struct Session {
    client: Client,
    info: ConnInfo,
    pid: i32,
    /// `server_version_num`, e.g. 150018.
    pub(crate) version: u32,
    connection: JoinHandle<()>,
}

impl Session {
    /// Connects and pins the session's settings.
    pub(crate) async fn open(info: &ConnInfo) -> Result<Self, CaptureError> {
        Self::open_watched(info, CancellationToken::new()).await
    }

    /// Opens a session like [`open`](Self::open), and cancels `shut_down` when the server ends the session because it
    /// shuts down.
    pub(crate) async fn open_watched(info: &ConnInfo, shut_down: CancellationToken) -> Result<Self, CaptureError> {
        // `connect_timeout` applies to each step of connecting. A proxy may go silent after the first one.
        let limit = info.connect_limit();
        let (client, connection) = tokio::time::timeout(limit, log_in(info)).await.map_err(|_| no_answer(info))??;
        let connection = tokio::spawn(async move {
            if let Err(error) = connection.await {
                if error.code() == Some(&SqlState::ADMIN_SHUTDOWN) {
                    shut_down.cancel();
                }
                // The user of the client gets an error as well. This one has the cause.
                debug!(error = %describe(&error), "connection to PostgreSQL ended");
            }
        });
        let mut session = Self { client, info: info.clone(), pid: 0, version: 0, connection };
        tokio::time::timeout(limit, session.introduce()).await.map_err(|_| no_answer(info))??;
        Ok(session)
    }

    /// Returns the settings of the host on which the session was opened.
    pub(crate) const fn info(&self) -> &ConnInfo {
        &self.info
    }

    /// Asks the server for its version and process id, and pins the session's settings.
    async fn introduce(&mut self) -> Result<(), CaptureError> {
        let question = format!("SELECT current_setting('server_version_num'), pg_backend_pid(), {}", settings::IS_OURS);
        let row = self.client.query_one(&question, &[]).await;
        let row = row.map_err(|error| statement_error("asking for the server's version", &error))?;
        settings::refuse_shared(&self.info, row.get(2))?;
        let text: String = row.get(0);
        let version = text.parse();
        self.version =
            version.map_err(|_| CaptureError::Protocol { reason: format!("server_version_num is \"{text}\"") })?;
        self.pid = row.get(1);
        self.refuse_other_target().await?;
        let pinned = self.client.batch_execute(&settings::statements(self.version)).await;
        pinned.map_err(|error| statement_error("setting up the session", &error))
    }

    /// Fails if the server does not match `target_session_attrs`. Has to run before the settings are pinned, because
    /// they would change the answer.
    async fn refuse_other_target(&self) -> Result<(), CaptureError> {
        if self.info.target == TargetServer::Any {
            return Ok(());
        }
        let row = self.client.query_one(STANDING, &[]).await;
        let row = row.map_err(|error| statement_error("asking whether the server is the primary", &error))?;
        self.info.refuse_other_target(Standing { in_recovery: row.get(0), read_only: row.get(1) })
    }

    /// Waits for `answer`. Whenever the server has been silent for a while, asks through another session whether it is
    /// still working.
    async fn answered<T>(&self, answer: impl Future<Output = T>) -> T {
        let mut answer = std::pin::pin!(answer);
        loop {
            match tokio::time::timeout(self.info.liveness.user_timeout, &mut answer).await {
                Ok(answer) => return answer,
                Err(_) if inquiry::is_at_work(&self.info, self.pid).await => {}
                Err(_) => {
                    tracing::warn!(server = self.info.server(), pid = self.pid, "a connection to PostgreSQL is dead");
                    // This makes the pending answer fail.
                    self.connection.abort();
                    return answer.await;
                }
            }
        }
    }

    /// Runs [`Client::query`], and fails on a dead connection.
    pub(crate) async fn query(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Error> {
        self.answered(self.client.query(sql, parameters)).await
    }

    /// Runs [`Client::query_one`], and fails on a dead connection.
    pub(crate) async fn query_one(&self, sql: &str, parameters: Parameters<'_>) -> Result<Row, Error> {
        self.answered(self.client.query_one(sql, parameters)).await
    }

    /// Runs [`Client::query_opt`], and fails on a dead connection.
    pub(crate) async fn query_opt(&self, sql: &str, parameters: Parameters<'_>) -> Result<Option<Row>, Error> {
        self.answered(self.client.query_opt(sql, parameters)).await
    }

    /// Runs [`Client::execute`], and fails on a dead connection.
    pub(crate) async fn execute(&self, sql: &str, parameters: Parameters<'_>) -> Result<u64, Error> {
        self.answered(self.client.execute(sql, parameters)).await
    }

    /// Runs [`Client::batch_execute`], and fails on a dead connection.
    pub(crate) async fn batch_execute(&self, sql: &str) -> Result<(), Error> {
        self.answered(self.client.batch_execute(sql)).await
    }

    /// Runs [`Client::copy_out`], and fails on a dead connection.
    pub(crate) async fn copy_out(&self, sql: &str) -> Result<impl Stream<Item = Result<Bytes, Error>> + '_, Error> {
        let copy = Box::pin(self.answered(self.client.copy_out(sql)).await?);
        Ok(futures::stream::unfold(copy, move |mut copy| async move {
            let line = self.answered(copy.next()).await?;
            Some((line, copy))
        }))
    }
}

/// The values for a statement's parameters `$1`, `$2` and so on.
type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

pub(super) fn no_answer(info: &ConnInfo) -> CaptureError {
    let reason = format!("no answer within {} s", info.connect_limit().as_secs());
    CaptureError::Connect { server: info.server(), reason }
}

/// Opens a session of tokio-postgres on a connection that walvec has opened.
pub(super) fn log_in(info: &ConnInfo) -> BoxFuture<'_, Result<(Client, secured::SessionDriver), CaptureError>> {
    Box::pin(async move {
        let connection = dial::open(info).await?;
        secured::log_in(&info.config, connection).await.map_err(|error| connect_error(info, &error))
    })
}

/// Converts an error of the connection attempt by what it means to the user.
fn connect_error(info: &ConnInfo, error: &Error) -> CaptureError {
    let server = info.server();
    let reason = describe(error);
    if let Some(state) = error.code() {
        if let Some(resource) = Resource::of(state.code(), &reason) {
            return CaptureError::Exhausted { resource, doing: format!("connecting to {server}"), reason };
        }
        if settings::is_poolers(state.code(), &reason) {
            return CaptureError::Pooler { server, reason };
        }
        return match *state {
            SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                CaptureError::Auth { server, reason }
            }
            SqlState::INVALID_CATALOG_NAME => info.no_database(),
            SqlState::INSUFFICIENT_PRIVILEGE => info.no_entry(reason),
            _ => CaptureError::Connect { server, reason },
        };
    }
    let text = error.to_string();
    // The library does not expose the kind of its errors. These texts are its own.
    let broken = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    if broken.is_some_and(tls::is_broken_connection) {
        CaptureError::Connect { server, reason }
    } else if text.starts_with("error performing TLS handshake") {
        CaptureError::Tls { server, reason }
    } else if text.contains("channel binding") {
        CaptureError::Auth { server, reason: super::login::NOT_BOUND.to_owned() }
    } else if text.starts_with("authentication error") || text.starts_with("invalid configuration") {
        CaptureError::Auth { server, reason }
    } else {
        CaptureError::Connect { server, reason }
    }
}

/// Converts an error of a statement. `doing` says what the statement was for.
pub(crate) fn statement_error(doing: &str, error: &Error) -> CaptureError {
    let reason = describe(error);
    if let Some(resource) = error.code().and_then(|state| Resource::of(state.code(), &reason)) {
        return CaptureError::Exhausted { resource, doing: doing.to_owned(), reason };
    }
    if error.code().is_some_and(|state| is_too_large(state.code(), &reason)) {
        return CaptureError::TooLarge { doing: doing.to_owned(), reason };
    }
    match error.code() {
        None => CaptureError::Connect { server: "the source".to_owned(), reason: format!("while {doing}: {reason}") },
        Some(state) if *state == SqlState::INSUFFICIENT_PRIVILEGE => {
            CaptureError::Rights { doing: doing.to_owned(), reason, grant: None }
        }
        // The server checks what it sends if the database itself has no encoding, or another one.
        Some(state) if [SqlState::CHARACTER_NOT_IN_REPERTOIRE, SqlState::UNTRANSLATABLE_CHARACTER].contains(state) => {
            CaptureError::Encoding { place: doing.to_owned(), reason }
        }
        Some(state) => CaptureError::Statement { doing: doing.to_owned(), reason, sqlstate: state.code().to_owned() },
    }
}

/// Returns the server's own message, or the whole chain of causes.
pub(crate) fn describe(error: &Error) -> String {
    if let Some(server) = error.as_db_error() {
        let detail = server.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        return format!("{}{detail}", server.message());
    }
    with_causes(error)
}
