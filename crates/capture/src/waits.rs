//! Who waits for whom, where walvec reads tables that others lock, or holds a snapshot.
//!
//! What is asked comes from `pg_locks`, which every role may read, in a session of its own: the other ones may be waiting.

use std::fmt;

use crate::CaptureError;
use crate::connect::{ConnInfo, Session, statement_error};
use crate::source::Source;

/// A statement that waits: one of walvec's for a lock, or one that waits for walvec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockWait {
    /// The table.
    pub table: String,
    /// Whether it waits for a transaction to end, as `CREATE INDEX CONCURRENTLY` does for all that began before it, and not for a lock on
    /// the table.
    pub is_for_end: bool,
    /// Whether walvec waits.
    pub is_ours: bool,
    /// The session that waits, or that walvec waits for.
    pub pid: i32,
    /// Its role.
    pub role: String,
    /// What it does: the first two words of its statement, where they may be seen.
    pub what: String,
}

/// Looks for sessions that wait.
pub struct LockWatch {
    info: ConnInfo,
    session: Option<Session>,
}

impl Source {
    /// Looks for sessions that wait for a lock; nothing is connected yet.
    #[must_use]
    pub fn lock_watch(&self) -> LockWatch {
        LockWatch { info: self.catalog.info.clone(), session: None }
    }
}

/// Sessions of walvec are known by their name and role: what others are called is not shown to everybody.
const QUERY: &str = "
    WITH ours AS MATERIALIZED (
        SELECT pid FROM pg_stat_activity
        WHERE application_name = 'walvec' AND usename = current_user AND datname = current_database()),
    waits AS MATERIALIZED (
        SELECT l.locktype = 'virtualxid' AS is_for_end, l.pid, pg_blocking_pids(l.pid) AS blockers,
               l.pid IN (SELECT pid FROM ours) AS is_ours,
               coalesce(l.relation, (SELECT min(held.relation) FROM pg_locks held
                                     WHERE held.pid = l.pid AND held.mode = 'ShareUpdateExclusiveLock'))::regclass::text AS relation
        FROM pg_locks l
        WHERE NOT l.granted
          AND (l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
               OR l.locktype = 'virtualxid'))
    SELECT coalesce(w.relation, ''), w.is_for_end, w.is_ours, a.pid, coalesce(a.usename, '')::text,
           coalesce(array_to_string((regexp_split_to_array(trim(a.query), '\\s+'))[1:2], ' '), '')
    FROM waits w
    JOIN pg_stat_activity a ON a.pid = CASE WHEN w.is_ours THEN w.blockers[1] ELSE w.pid END
    WHERE w.is_ours OR w.blockers && ARRAY(SELECT pid FROM ours)
    ORDER BY w.is_ours DESC, a.pid";

impl LockWatch {
    /// The statements that wait at the moment, walvec's own first.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn look(&mut self) -> Result<Vec<LockWait>, CaptureError> {
        let session = match &mut self.session {
            Some(session) if !session.is_closed() => session,
            other => other.insert(Session::open(&self.info).await?),
        };
        let rows = session.query(QUERY, &[]).await;
        let rows = rows.map_err(|error| statement_error("looking for locks", &error))?;
        let wait = |row: &tokio_postgres::Row| LockWait {
            table: row.get(0),
            is_for_end: row.get(1),
            is_ours: row.get(2),
            pid: row.get(3),
            role: row.get(4),
            what: row.get(5),
        };
        Ok(rows.iter().map(wait).collect())
    }

    /// Lets the session go until the next look.
    pub fn rest(&mut self) {
        self.session = None;
    }
}

impl LockWait {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        let pid = self.pid;
        self.is_ours.then(|| {
            format!(
                "let that session end its transaction (SELECT pg_terminate_backend({pid}); ends it); walvec goes on by itself then"
            )
        })
    }
}

impl fmt::Display for LockWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, is_for_end, is_ours, pid, role, what } = self;
        if *is_ours {
            write!(
                f,
                "reading {table} waits for process {pid} (role {role}, {what}), which has locked it or asked for a lock before"
            )
        } else if *is_for_end {
            write!(
                f,
                "process {pid} (role {role}, {what}) on {table} waits until walvec has read all rows of its snapshot; it comes next"
            )
        } else {
            write!(
                f,
                "process {pid} (role {role}, {what}) waits for a lock on {table}, which walvec is reading; it comes next"
            )
        }
    }
}
