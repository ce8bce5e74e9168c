//! Ordinary sessions: queries and COPY.

use std::error::Error as _;
use std::ops::Deref;

use futures::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use walvec_model::with_causes;

use super::target::{STANDING, Standing, Target};
use super::{ConnInfo, dial, secured, settings, tls};
use crate::CaptureError;

/// A session with pinned settings: a client of tokio-postgres. Ends when it is dropped.
pub struct Session {
    client: Client,
    /// `server_version_num`, e.g. 150018.
    pub(crate) version: u32,
    connection: JoinHandle<()>,
}

impl Session {
    /// Connects and pins the session's settings.
    pub(crate) async fn open(info: &ConnInfo) -> Result<Self, CaptureError> {
        Self::open_watched(info, CancellationToken::new()).await
    }

    /// Opens a session as [`open`](Self::open) does. `shut_down` is cancelled when the server ends the session because it stops.
    pub(crate) async fn open_watched(info: &ConnInfo, shut_down: CancellationToken) -> Result<Self, CaptureError> {
        // `connect_timeout` covers each step of connecting; a proxy may go silent after it.
        let limit = info.connect_limit();
        let (client, connection) = tokio::time::timeout(limit, log_in(info)).await.map_err(|_| {
            CaptureError::Connect { server: info.server(), reason: format!("no answer within {} s", limit.as_secs()) }
        })??;
        let connection = tokio::spawn(async move {
            if let Err(error) = connection.await {
                if error.code() == Some(&SqlState::ADMIN_SHUTDOWN) {
                    shut_down.cancel();
                }
                // Whoever uses the client gets an error as well; this one has the cause.
                debug!(error = %describe(&error), "connection to PostgreSQL ended");
            }
        });
        let mut session = Self { client, version: 0, connection };
        session.version = session.read_version().await?;
        session.refuse_other_target(info).await?;
        let pinned = settings::statements(session.version);
        session.batch_execute(&pinned).await.map_err(|error| statement_error("setting up the session", &error))?;
        Ok(session)
    }

    /// Fails if the server is not what `target_session_attrs` asks for. Asked before the settings are pinned, which are the
    /// answer's subject.
    async fn refuse_other_target(&self, info: &ConnInfo) -> Result<(), CaptureError> {
        if info.target == Target::Any {
            return Ok(());
        }
        let row = self.query_one(STANDING, &[]).await;
        let row = row.map_err(|error| statement_error("asking whether the server is the primary", &error))?;
        info.refuse_other_target(Standing { in_recovery: row.get(0), read_only: row.get(1) })
    }

    async fn read_version(&self) -> Result<u32, CaptureError> {
        let doing = "asking for the server's version";
        let row = self.query_one("SELECT current_setting('server_version_num')", &[]).await;
        let text: String = row.map_err(|error| statement_error(doing, &error))?.get(0);
        text.parse().map_err(|_| CaptureError::Protocol { reason: format!("server_version_num is \"{text}\"") })
    }
}

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

/// Opens a session of the library's on a connection of ours.
fn log_in(info: &ConnInfo) -> BoxFuture<'_, Result<(Client, secured::Connection), CaptureError>> {
    Box::pin(async move {
        let connection = dial::open(info).await?;
        secured::log_in(&info.config, connection).await.map_err(|error| connect_error(info, &error))
    })
}

/// An error of the connection attempt, by what it means to the user.
fn connect_error(info: &ConnInfo, error: &tokio_postgres::Error) -> CaptureError {
    let server = info.server();
    let reason = describe(error);
    if let Some(state) = error.code() {
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
    // The library keeps the kind of its errors to itself; these texts are its own.
    let broken = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    if broken.is_some_and(tls::is_broken_connection) {
        CaptureError::Connect { server, reason }
    } else if text.starts_with("error performing TLS handshake") {
        CaptureError::Tls { server, reason }
    } else if text.starts_with("authentication error") || text.starts_with("invalid configuration") {
        CaptureError::Auth { server, reason }
    } else {
        CaptureError::Connect { server, reason }
    }
}

/// An error of a statement, with what it was for.
pub(crate) fn statement_error(doing: &str, error: &tokio_postgres::Error) -> CaptureError {
    let reason = describe(error);
    match error.code() {
        None => CaptureError::Connect { server: "the source".to_owned(), reason: format!("while {doing}: {reason}") },
        Some(state) if *state == SqlState::INSUFFICIENT_PRIVILEGE => {
            CaptureError::Rights { doing: doing.to_owned(), reason, grant: None }
        }
        // The server checks what it sends, where the database itself has no encoding or another one.
        Some(state) if [SqlState::CHARACTER_NOT_IN_REPERTOIRE, SqlState::UNTRANSLATABLE_CHARACTER].contains(state) => {
            CaptureError::Encoding { place: doing.to_owned(), reason }
        }
        Some(state) => CaptureError::Statement { doing: doing.to_owned(), reason, sqlstate: state.code().to_owned() },
    }
}

/// The server's own message, or the whole chain of causes.
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(server) = error.as_db_error() {
        let detail = server.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        return format!("{}{detail}", server.message());
    }
    with_causes(error)
}
