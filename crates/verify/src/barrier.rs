//! The barrier: how long a comparison must wait for the running walvec.

use std::time::Duration;

use tokio_postgres::Client;
use walvec_model::Lsn;

use crate::error::statement;
use crate::{Applied, CompareJob, ComparisonStage, VerifyError};

/// The first pause between two polls: shorter than a commit takes to become searchable. Later pauses are longer and cost
/// either side little.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Sets how the barriers of a session become durable.
pub(crate) async fn prepare(session: &Client) -> Result<(), VerifyError> {
    // The WAL is sent once it is on the server's own disk, so there is no need to wait for standbys.
    session.batch_execute("SET synchronous_commit = 'local'").await.map_err(statement("preparing the session"))
}

/// Writes a message into the WAL and returns its position: everything that is visible by now was committed before it.
///
/// The message is transactional, because its commit flushes it to the disk. One that is not transactional may stay in the
/// server's memory, unsent, until another transaction commits.
pub(crate) async fn emit(session: &Client) -> Result<Lsn, VerifyError> {
    let query = "SELECT pg_logical_emit_message(true, 'walvec', 'verify')::text";
    position(session, query, "writing a message into the WAL").await
}

/// Returns the server's WAL position: nothing that is visible by now was committed after it.
pub(crate) async fn wal_position(session: &Client) -> Result<Lsn, VerifyError> {
    position(session, "SELECT pg_current_wal_insert_lsn()::text", "asking for the server's position").await
}

async fn position(session: &Client, query: &str, doing: &str) -> Result<Lsn, VerifyError> {
    let row = session.query_one(query, &[]).await.map_err(statement(doing))?;
    let text: &str = row.get(0);
    text.parse().map_err(|_| VerifyError::Unexpected(format!("PostgreSQL answered \"{text}\" as a WAL position")))
}

/// Waits until everything before `until` can be found in the collection, and the server holds no points back.
pub(crate) async fn wait(job: &CompareJob<'_>, until: Lsn) -> Result<(), VerifyError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let Applied { lsn, streaming, problem } = job.running.applied().await?;
        if streaming && lsn >= until {
            break;
        }
        (job.watch)(ComparisonStage::Waiting { until, now: lsn, problem });
        // The walvec that fills the collection is another process, so it has to be polled.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    loop {
        let held_back = job.points.held_back().await?;
        if held_back == 0 {
            return Ok(());
        }
        (job.watch)(ComparisonStage::HeldBack(held_back));
        tokio::time::sleep(LONGEST_PAUSE).await;
    }
}
