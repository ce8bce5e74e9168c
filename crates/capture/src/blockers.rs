//! Open transactions that keep PostgreSQL from creating a slot.
//!
//! A slot's stream begins at a point where no older transaction is open. A prepared transaction whose coordinator is
//! gone stays open for ever. It may be in any database of the server, and no session holds it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::warn;

use crate::CaptureError;
use crate::connect::{Session, statement_error};
use crate::sql::{quote_ident, quote_literal};

/// An open transaction that has to end before PostgreSQL creates a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// What holds the transaction open.
    pub held_by: Holder,
    /// The role that began it.
    pub role: String,
    /// The database that it is in.
    pub database: String,
    /// How long the transaction has been open; `None` if the role may not see that.
    pub age: Option<Duration>,
}

/// What holds a transaction open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A session.
    Session {
        /// The process id of the session.
        pid: i32,
        /// The session's application name.
        application: String,
        /// The session's last statement, as far as the role may see it.
        query: String,
    },
    /// A transaction prepared with `PREPARE TRANSACTION`.
    Prepared {
        /// The prepared transaction's name.
        gid: String,
    },
}

impl Blocker {
    /// Returns the statement that ends the transaction, if its owner does not end it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match &self.held_by {
            Holder::Session { pid, .. } => format!("if it is forgotten: SELECT pg_terminate_backend({pid});"),
            Holder::Prepared { gid } => format!(
                "if its coordinator is gone, in the database {} as {} or a superuser: ROLLBACK PREPARED {};",
                quote_ident(&self.database),
                quote_ident(&self.role),
                quote_literal(gid)
            ),
        }
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { held_by, role, database, age } = self;
        let age = age.map_or_else(|| "for an unknown time".to_owned(), |age| format!("for {}", in_words(age)));
        match held_by {
            Holder::Prepared { gid } => {
                write!(
                    f,
                    "the prepared transaction {} of role {role} in database {database}, open {age}",
                    quote_literal(gid)
                )
            }
            Holder::Session { pid, application, query } => {
                write!(f, "session {pid} ({application}) of role {role} in database {database}, open {age}: {query}")
            }
        }
    }
}

fn in_words(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// The transactions that the creation of a slot currently waits for. Shared between the creation and the status that
/// shows them.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlotBlockers(Arc<Mutex<Vec<Blocker>>>);

impl SlotBlockers {
    pub(crate) fn now(&self) -> Vec<Blocker> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the transactions that are shown, and logs each new one once.
    fn show(&self, blockers: Vec<Blocker>) {
        let before = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), blockers.clone());
        for blocker in blockers {
            if !before.iter().any(|known| known.held_by.is_same(&blocker.held_by)) {
                warn!(remedy = blocker.remedy(), "the replication slot can only be created after {blocker}");
            }
        }
    }
}

impl Holder {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Session { pid: one, .. }, Self::Session { pid: other, .. }) => one == other,
            (one, other) => one == other,
        }
    }
}

/// A guard that clears the shown transactions when the creation has ended, successfully or not.
pub(crate) struct ShownBlockers<'a>(pub(crate) &'a SlotBlockers);

impl ShownBlockers<'_> {
    /// Finds out what the server process `pid`, which creates a slot, waits for. A failure to find out does not stop
    /// the creation.
    pub(crate) async fn look(&self, session: Result<Arc<Session>, CaptureError>, pid: i32) {
        let found = match session {
            Ok(session) => waited_for_by(&session, pid).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(blockers) => self.0.show(blockers),
            Err(error) => warn!(%error, "cannot see what the creation of the replication slot waits for"),
        }
    }
}

impl Drop for ShownBlockers<'_> {
    fn drop(&mut self) {
        self.0.show(Vec::new());
    }
}

/// Lists the transaction that is waited for first, then those that will be waited for next. They may be in any database.
const WAITED_FOR: &str = "
    WITH waits AS (
        SELECT transactionid AS xid FROM pg_locks WHERE pid = $1 AND locktype = 'transactionid' AND NOT granted),
    blockers AS (
        SELECT a.pid, NULL::text AS gid, a.usename::text AS role, a.datname::text AS database, a.xact_start AS since,
               a.application_name AS application, a.query,
               coalesce(a.backend_xid IN (SELECT xid FROM waits), false) OR a.pid = ANY(pg_blocking_pids($1)) AS is_first
        FROM pg_stat_activity a
        WHERE a.pid <> $1 AND (a.backend_xid IS NOT NULL OR a.pid = ANY(pg_blocking_pids($1)))
        UNION ALL
        SELECT NULL, p.gid, p.owner::text, p.database::text, p.prepared, NULL, NULL,
               p.transaction IN (SELECT xid FROM waits)
        FROM pg_prepared_xacts p)
    SELECT pid, gid, coalesce(role, ''), coalesce(database, ''),
           greatest(extract(epoch FROM clock_timestamp() - since), 0)::bigint,
           coalesce(application, ''), left(coalesce(query, ''), 200)
    FROM blockers
    WHERE EXISTS (SELECT FROM waits)
      AND (is_first OR gid IS NOT NULL OR since < clock_timestamp() - interval '2 seconds')
    ORDER BY is_first DESC, since";

async fn waited_for_by(session: &Session, pid: i32) -> Result<Vec<Blocker>, CaptureError> {
    let rows = session.query(WAITED_FOR, &[&pid]).await;
    let rows = rows.map_err(|error| statement_error("looking for open transactions", &error))?;
    Ok(rows.iter().map(blocker).collect())
}

/// Returns prepared transactions that have been open for more than a minute. Their coordinator may be gone.
pub(crate) async fn forgotten(session: &Session) -> Result<Vec<Blocker>, CaptureError> {
    let query = "
        SELECT NULL::int, gid, owner::text, database::text, extract(epoch FROM clock_timestamp() - prepared)::bigint, '', ''
        FROM pg_prepared_xacts WHERE prepared < clock_timestamp() - interval '1 minute' ORDER BY prepared";
    let rows = session.query(query, &[]).await;
    let rows = rows.map_err(|error| statement_error("looking for prepared transactions", &error))?;
    Ok(rows.iter().map(blocker).collect())
}

fn blocker(row: &tokio_postgres::Row) -> Blocker {
    let held_by = match row.get::<_, Option<String>>(1) {
        Some(gid) => Holder::Prepared { gid },
        None => Holder::Session {
            pid: row.get::<_, Option<i32>>(0).unwrap_or_default(),
            application: row.get(5),
            query: row.get::<_, String>(6).split_whitespace().collect::<Vec<_>>().join(" "),
        },
    };
    let age = row.get::<_, Option<i64>>(4).and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    Blocker { held_by, role: row.get(2), database: row.get(3), age }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prepared_transaction_is_told_with_the_statement_that_ends_it() {
        let held_by = Holder::Prepared { gid: "it's".to_owned() };
        let blocker = Blocker {
            held_by,
            role: "app".to_owned(),
            database: "shop".to_owned(),
            age: Some(Duration::from_secs(3 * 86_400)),
        };
        let told = "the prepared transaction 'it''s' of role app in database shop, open for 3 days";
        assert_eq!(blocker.to_string(), told);
        assert!(blocker.remedy().ends_with("ROLLBACK PREPARED 'it''s';"), "{}", blocker.remedy());
    }
}
