//! Checks whether the server allows a replication session, by opening one.
//!
//! Managed services have their own rules for replication, a pooler in between speaks another protocol, and connections
//! may be exhausted. Only an attempt shows all of that.

use super::remedy::Remedy;
use super::rights::Rights;
use super::server::MORE;
use super::{Finding, Subject};
use crate::CaptureError;
use crate::connect::{Replication, Session, statement_error};
use crate::limits::Resource;

/// Opens a replication session and ends it again.
pub(super) async fn finding(
    session: &Session,
    rights: &Rights<'_>,
    slot: &str,
) -> Result<Option<Finding>, CaptureError> {
    let error = match Box::pin(Replication::open(session.info(), slot, session.version)).await {
        Ok(replication) => {
            replication.leave().await;
            return Ok(None);
        }
        Err(error) => error,
    };
    match &error {
        CaptureError::Rights { reason, .. } => Ok(Some(rights.replication(reason))),
        CaptureError::Exhausted { resource: resource @ Resource::WalSenders, .. } => {
            let limit = session.query_one("SELECT current_setting('max_wal_senders')::bigint", &[]).await;
            let limit: i64 = limit.map_err(|error| statement_error("checking the server's settings", &error))?.get(0);
            let remedy = Remedy::Statements(vec![rights.setting("max_wal_senders", limit + MORE)]);
            let message = format!("all {limit} replication connections are taken (max_wal_senders)");
            Ok(Some(Finding::error("E_LIMIT", message, remedy).about(Subject::Limit(*resource))))
        }
        CaptureError::Exhausted { resource, .. } => Ok(Some(Finding::of(&error).about(Subject::Limit(*resource)))),
        CaptureError::Auth { .. } | CaptureError::Pooler { .. } | CaptureError::Statement { .. } => {
            Ok(Some(Finding::of(&error)))
        }
        _ => Err(error),
    }
}
