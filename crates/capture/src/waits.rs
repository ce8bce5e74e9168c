//! Finds which session waits for which, while walvec reads tables that others lock, or holds a snapshot.
//!
//! The answer comes from `pg_locks`, which every role may read. It is read in a separate session, since the others may
//! be waiting.

use std::fmt;

use crate::CaptureError;
use crate::connect::{ConnInfo, Session, statement_error};
use crate::server::Source;

/// A statement that waits: either one of walvec's for a lock, or one that waits for walvec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockWait {
    /// The table.
    pub table: String,
    /// Whether it waits for a transaction to end, rather than for a lock on the table. `CREATE INDEX CONCURRENTLY`, for
    /// example, waits for all transactions that began before it.
    pub is_for_end: bool,
    /// Whether walvec is the one that waits.
    pub is_ours: bool,
    /// The session that waits for walvec, or that walvec waits for.
    pub pid: i32,
    /// The session's role.
    pub role: String,
    /// What the session does: the first two words of its statement, if the role may see them.
    pub what: String,
}

/// Looks for sessions that wait.
pub struct LockWatch {
    info: ConnInfo,
    session: Option<Session>,
}

impl Source {
    /// Creates a watch for sessions that wait for a lock. Does not connect yet.
    #[must_use]
    pub fn lock_watch(&self) -> LockWatch {
        LockWatch { info: self.catalog.info.clone(), session: None }
    }
}

/// walvec's sessions are recognised by their name and role. The names of other roles' sessions are not visible to every role.
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
    /// Returns the statements that are waiting, walvec's own first.
    ///
    /// # Errors
    /// Fails if the server cannot be asked.
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

    /// Closes the session until the next look.
    pub fn rest(&mut self) {
        self.session = None;
    }
}

impl LockWait {
    /// Returns what to do about the wait, if anything.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        let pid = self.pid;
        self.is_ours.then(|| {
            format!(
                "let that session end its transaction (SELECT pg_terminate_backend({pid}); ends it); walvec then continues automatically"
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
