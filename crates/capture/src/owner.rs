//! Decides which process may write a collection that others can reach, by an advisory lock of PostgreSQL in a session
//! of its own.
//!
//! PostgreSQL releases the lock when the session ends, and notices within seconds when the process or its machine is gone.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use walvec_model::Fingerprint;

use crate::CaptureError;
use crate::connect::{Session, statement_error};
use crate::server::Source;

/// How long to wait for the lock. Longer than the server takes to notice that a former holder is gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often to try to take the lock.
const PAUSE: Duration = Duration::from_millis(250);

/// How long a successful check of the session is valid. Less than the server takes to give the lock to another process.
const LEASE: Duration = Duration::from_secs(1);

/// How long the server may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// The server checks after five silent seconds whether the other end is there, and gives up after eleven.
const SETTINGS: &str = "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3;
    SET tcp_user_timeout = 10000; SET application_name = 'walvec owner'";

/// The right to write collections, as long as this value and its session live.
pub struct Ownership {
    session: Session,
    /// When the session was last checked. Of many concurrent writers, only one asks the server.
    looked: Mutex<Instant>,
}

impl Source {
    /// Takes the right to write these collections, each given by name and identity. Waits a while for a former holder
    /// to release it.
    ///
    /// # Errors
    /// Returns `E_OWNED` if another process keeps the right.
    pub async fn own(&self, collections: &[(String, String)]) -> Result<Ownership, CaptureError> {
        let session = Session::open(&self.catalog.info).await?;
        session
            .batch_execute(SETTINGS)
            .await
            .map_err(|error| statement_error("setting up the owner's session", &error))?;
        let deadline = Instant::now() + PATIENCE;
        // If two processes begin at the same time, the one that gets the first lock goes on, so neither ends up with
        // some of them.
        let (first, rest) = collections.split_at(collections.len().min(1));
        for some in [first, rest] {
            for (name, key) in held(&session, some).await? {
                wait_for(&session, name, key, deadline).await?;
            }
        }
        Ok(Ownership { session, looked: Mutex::new(Instant::now()) })
    }
}

impl Ownership {
    /// Returns whether the right is still held. A process that was stopped for a while may have lost it.
    pub async fn holds(&self) -> bool {
        if self.session.is_closed() {
            return false;
        }
        let mut looked = self.looked.lock().await;
        let now = Instant::now();
        if now < *looked + LEASE {
            return true;
        }
        // The lock ends only with the session.
        let answer = tokio::time::timeout(ANSWER, self.session.simple_query("SELECT 1")).await;
        let holds = matches!(answer, Ok(Ok(_)));
        if holds {
            *looked = now;
        }
        holds
    }
}

/// Waits until another process releases the lock of a collection, and takes it.
async fn wait_for(session: &Session, name: &str, key: i64, deadline: Instant) -> Result<(), CaptureError> {
    let mut has_told = false;
    while !take(session, key).await? {
        let holder = holder(session, key).await?.unwrap_or_else(|| "another process".to_owned());
        if Instant::now() > deadline {
            return Err(CaptureError::Owned { collection: name.to_owned(), holder });
        }
        if !std::mem::replace(&mut has_told, true) {
            tracing::warn!(collection = name, "waiting for {holder}, which writes the collection");
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Takes the locks of these collections that are free. Returns the others, with the numbers of their locks.
async fn held<'c>(session: &Session, collections: &'c [(String, String)]) -> Result<Vec<(&'c str, i64)>, CaptureError> {
    let keys: Vec<i64> = collections.iter().map(|(_, id)| key(id)).collect();
    let query = "SELECT place FROM unnest($1::bigint[]) WITH ORDINALITY AS wanted (key, place) WHERE NOT pg_try_advisory_lock(key)";
    let rows = session.query(query, &[&keys]).await;
    let rows = rows.map_err(|error| statement_error("taking the right to write collections", &error))?;
    let places = rows.iter().filter_map(|row| usize::try_from(row.get::<_, i64>(0)).ok()?.checked_sub(1));
    Ok(places.filter_map(|place| Some((collections.get(place)?.0.as_str(), *keys.get(place)?))).collect())
}

async fn take(session: &Session, key: i64) -> Result<bool, CaptureError> {
    let row = session.query_one("SELECT pg_try_advisory_lock($1)", &[&key]).await;
    Ok(row.map_err(|error| statement_error("taking the right to write a collection", &error))?.get(0))
}

/// Describes the session that holds the lock.
async fn holder(session: &Session, key: i64) -> Result<Option<String>, CaptureError> {
    let query = "
        SELECT format('the walvec at %s, connected since %s (server process %s)',
                      coalesce(host(a.client_addr), 'this machine'), date_trunc('second', a.backend_start), l.pid)
        FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND l.classid::bigint = ($1::bigint >> 32) & 4294967295 AND l.objid::bigint = $1::bigint & 4294967295";
    let row = session.query_opt(query, &[&key]).await;
    Ok(row.map_err(|error| statement_error("asking who writes a collection", &error))?.map(|row| row.get(0)))
}

/// Returns the number of a collection's lock. Two collections with the same number would wait for each other, without
/// losing anything.
fn key(id: &str) -> i64 {
    let digest = Fingerprint::of(&["walvec collection", id]).to_string();
    let digits = digest.get(..16).unwrap_or_default();
    u64::from_str_radix(digits, 16).unwrap_or_default().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_collection_has_a_lock_of_its_own() {
        assert_ne!(key("a"), key("b"));
        assert_ne!(key("a"), 0);
    }
}
