//! Finds out whether the server still works for a session that is silent.
//!
//! Silence alone means nothing: a statement may wait for a lock, and a walsender may decode a large transaction of which
//! nothing is published. But a connection may also be dead without either end noticing it, behind a proxy for example. Another
//! session can tell the two apart: a server process that waits for its client has nothing to send, or cannot send it.

use tokio_util::task::AbortOnDropHandle;

use super::ConnInfo;
use super::session::{log_in, statement_error};
use crate::CaptureError;

/// `Client` means that the process waits for its client, `Activity` that it is idle.
const QUESTION: &str = "
    SELECT coalesce(wait_event_type, '') NOT IN ('Client', 'Activity')
    FROM pg_stat_activity WHERE pid = $1 AND usename = current_user";

/// Returns whether the server process `pid` is at work. If the question cannot be asked, it counts as not at work.
pub(super) async fn is_at_work(info: &ConnInfo, pid: i32) -> bool {
    match tokio::time::timeout(info.connect_limit(), ask(info, pid)).await {
        Ok(Ok(is_at_work)) => is_at_work,
        // The server is reachable, and has no room for one more session.
        Ok(Err(CaptureError::Exhausted { .. })) => true,
        Ok(Err(error)) => {
            tracing::debug!(%error, pid, "cannot ask about a session that is silent");
            false
        }
        Err(_) => false,
    }
}

async fn ask(info: &ConnInfo, pid: i32) -> Result<bool, CaptureError> {
    let (client, connection) = log_in(info).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let row = client.query_opt(QUESTION, &[&pid]).await;
    let row = row.map_err(|error| statement_error("asking about a silent session", &error))?;
    Ok(row.is_some_and(|row| row.get(0)))
}
