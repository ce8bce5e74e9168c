//! Until when the running walvec has to be waited for.

use std::time::Duration;

use tokio_postgres::Client;
use walvec_model::Lsn;

use crate::error::statement;
use crate::{Applied, Job, Stage, VerifyError};

/// Between two questions: at first less than a commit takes to be searchable, later little work for either side.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Settles how the barriers of a session become durable.
pub(crate) async fn prepare(session: &Client) -> Result<(), VerifyError> {
    // Only what is on the server's disk is sent. Standbys are of no interest here.
    session.batch_execute("SET synchronous_commit = 'local'").await.map_err(statement("preparing the session"))
}

/// Writes a message into the WAL and returns its position: everything that anybody can see by now was committed before it.
///
/// The message is transactional because its commit takes it to the disk. One that is not may lie in the server's memory,
/// unsent, until somebody else commits.
pub(crate) async fn emit(session: &Client) -> Result<Lsn, VerifyError> {
    let query = "SELECT pg_logical_emit_message(true, 'walvec', 'verify')::text";
    position(session, query, "writing a message into the WAL").await
}

/// Where the server is: nothing that anybody has seen by now is of later.
pub(crate) async fn wal_position(session: &Client) -> Result<Lsn, VerifyError> {
    position(session, "SELECT pg_current_wal_insert_lsn()::text", "asking for the server's position").await
}

async fn position(session: &Client, query: &str, doing: &str) -> Result<Lsn, VerifyError> {
    let row = session.query_one(query, &[]).await.map_err(statement(doing))?;
    let text: &str = row.get(0);
    text.parse().map_err(|_| VerifyError::Unexpected(format!("PostgreSQL answered \"{text}\" as a WAL position")))
}

/// Waits until everything before `until` can be found, and all of it is shown.
pub(crate) async fn wait(job: &Job<'_>, until: Lsn) -> Result<(), VerifyError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let Applied { lsn, streaming, problem } = job.running.applied().await?;
        if streaming && lsn >= until {
            break;
        }
        (job.watch)(Stage::Waiting { until, now: lsn, problem });
        // Another process cannot be awaited, only asked.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    loop {
        let held_back = job.points.held_back().await?;
        if held_back == 0 {
            return Ok(());
        }
        (job.watch)(Stage::HeldBack(held_back));
        tokio::time::sleep(LONGEST_PAUSE).await;
    }
}
