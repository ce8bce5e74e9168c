//! Reads the server's catalogue.
//!
//! - [`server`]: the identity and the capabilities of the server and database
//! - [`service`]: the managed service that runs the server, if any
//! - [`shape`]: what decides which rows a table has and how their values read
//! - [`tables`]: tables with their columns, keys and rights
//! - [`types`]: how the values of a type are read, and what makes two of them equal
//! - [`CatalogSessions`]: the sessions for all questions to the catalogue

mod server;
mod service;
mod shape;
mod tables;
mod types;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use server::facts as server_facts;
pub use server::{Capabilities, ServerFacts};
pub use service::Service;
pub(crate) use shape::shapes;
pub use shape::{Alteration, Shape};
pub(crate) use tables::{
    ColumnFacts, Generated, Leaf, OwnerRole, TableFacts, estimate_rows, facts_by_name, facts_by_oid, facts_of, leaves,
    leaves_of,
};
use tokio_util::sync::CancellationToken;
pub(crate) use types::{FIRST_USER_DEFINED, equalities, resolve as resolve_types};
use walvec_model::{Column, Lsn};

use crate::CaptureError;
use crate::connect::{ConnInfo, Hosts, Session, statement_error};
use crate::value::ValueKind;

/// A session that is opened when it is first needed, and again after it broke.
type SessionSlot = tokio::sync::Mutex<Option<Arc<Session>>>;

/// Answers questions about the source. Opens a new session when one broke.
pub(crate) struct CatalogSessions {
    /// The settings of the chosen host.
    pub(crate) info: ConnInfo,
    /// The session for questions that are answered at once.
    session: SessionSlot,
    /// The session for questions about tables that may wait for a lock held by the application. No other questions wait
    /// behind them.
    patient: SessionSlot,
    /// The session for reading rows, which may wait for a lock held by the application. No other questions wait behind it.
    rows: SessionSlot,
    /// Cancelled when the server ends a session because it shuts down.
    pub(crate) shut_down: CancellationToken,
    /// The kinds of the types seen so far. The kind of an oid never changes.
    kinds: Mutex<HashMap<u32, ValueKind>>,
    /// The equality operators of the types seen so far, from [`equalities`]; `None` if it is PostgreSQL's own `=`.
    equalities: Mutex<HashMap<u32, Option<String>>>,
    /// The server's position when rows were last read outside of snapshots and the stream.
    read_as_of: AtomicU64,
}

impl CatalogSessions {
    /// Chooses the host on which all sessions are opened from then on.
    pub(crate) async fn connect(hosts: &Hosts) -> Result<Self, CaptureError> {
        let shut_down = CancellationToken::new();
        let (session, info) = hosts.open(&shut_down).await?;
        let session = SessionSlot::new(Some(Arc::new(session)));
        Ok(Self {
            info,
            session,
            patient: SessionSlot::default(),
            rows: SessionSlot::default(),
            shut_down,
            kinds: Mutex::default(),
            equalities: Mutex::default(),
            read_as_of: AtomicU64::new(0),
        })
    }

    /// Returns a working session for questions that are answered at once.
    pub(crate) async fn session(&self) -> Result<Arc<Session>, CaptureError> {
        self.working(&self.session).await
    }

    /// Returns a working session for questions that lock a table of the application.
    pub(crate) async fn patient_session(&self) -> Result<Arc<Session>, CaptureError> {
        self.working(&self.patient).await
    }

    /// Returns a working session for reading rows.
    pub(crate) async fn rows_session(&self) -> Result<Arc<Session>, CaptureError> {
        self.working(&self.rows).await
    }

    /// Records that `session` has just read rows.
    pub(crate) async fn note_read(&self, session: &Session) -> Result<(), CaptureError> {
        // Rows can be visible before their commit is on the disk, so use the position of insertion.
        let query = "SELECT CASE WHEN pg_is_in_recovery() THEN '0/0' ELSE pg_current_wal_insert_lsn()::text END";
        let row = session.query_one(query, &[]).await;
        let row = row.map_err(|error| statement_error("asking for the server's position", &error))?;
        self.read_as_of.fetch_max(parse_lsn(row.get(0))?.0, Ordering::Relaxed);
        Ok(())
    }

    /// Returns the server's position when rows were last read outside of snapshots and the stream; 0 if none were.
    pub(crate) fn read_as_of(&self) -> Lsn {
        Lsn(self.read_as_of.load(Ordering::Relaxed))
    }

    async fn working(&self, slot: &SessionSlot) -> Result<Arc<Session>, CaptureError> {
        let mut slot = slot.lock().await;
        if let Some(session) = slot.as_ref().filter(|session| !session.is_closed()) {
            return Ok(Arc::clone(session));
        }
        let session = Arc::new(Session::open_watched(&self.info, self.shut_down.clone()).await?);
        *slot = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Returns how to read the values of `columns`, in their order. `key` holds the indexes of the key columns.
    pub(crate) async fn kinds_of(&self, columns: &[Column], key: &[usize]) -> Result<Vec<ValueKind>, CaptureError> {
        let missing = unknown(&self.kinds, columns);
        if !missing.is_empty() {
            let found = types::kinds(&*self.session().await?, &missing).await?;
            lock(&self.kinds).extend(found);
        }
        let known = lock(&self.kinds);
        let kind = |(index, column): (usize, &Column)| {
            let kind = known.get(&column.type_oid).cloned().unwrap_or(ValueKind::Text);
            if key.contains(&index) { kind.in_key() } else { kind }
        };
        Ok(columns.iter().enumerate().map(kind).collect())
    }

    /// Returns, for each of these columns, the operator that compares its values for equality.
    pub(crate) async fn equalities_of(&self, columns: &[Column]) -> Result<Vec<String>, CaptureError> {
        let missing = unknown(&self.equalities, columns);
        if !missing.is_empty() {
            let mut found = equalities(&*self.session().await?, &missing).await?;
            lock(&self.equalities).extend(missing.iter().map(|oid| (*oid, found.remove(oid))));
        }
        let known = lock(&self.equalities);
        let operator = |column: &Column| known.get(&column.type_oid).cloned().flatten();
        Ok(columns.iter().map(|column| operator(column).unwrap_or_else(|| "=".to_owned())).collect())
    }
}

/// Returns the types of `columns` that are not in `known`.
fn unknown<T>(known: &Mutex<HashMap<u32, T>>, columns: &[Column]) -> Vec<u32> {
    let known = lock(known);
    columns.iter().map(|column| column.type_oid).filter(|oid| !known.contains_key(oid)).collect()
}

fn lock<T>(known: &Mutex<HashMap<u32, T>>) -> MutexGuard<'_, HashMap<u32, T>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Parses a position as the server prints it.
pub(crate) fn parse_lsn(text: &str) -> Result<Lsn, CaptureError> {
    text.parse().map_err(|error| CaptureError::Protocol { reason: format!("{error}") })
}
