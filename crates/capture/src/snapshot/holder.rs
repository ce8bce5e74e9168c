//! Keeps a snapshot as long as something has to be read from it.

use crate::CaptureError;
use crate::connect::{Session, statement_error};
use crate::server::Source;
use crate::sql::quote_literal;

use super::create::Exported;
use tokio_postgres::error::SqlState;

/// A session with a transaction that only holds the snapshot, without a lock on any user table. While it is open, other
/// sessions import the snapshot from it, and the server keeps the row versions that the snapshot sees.
pub(super) struct SnapshotHolder {
    /// Keeps the transaction open.
    _session: Session,
    /// The name for `SET TRANSACTION SNAPSHOT`.
    pub(super) snapshot: String,
}

impl SnapshotHolder {
    /// Takes the snapshot over from the session that created the slot. That session is free afterwards.
    pub(super) async fn take_over(source: &Source, exported: &Exported) -> Result<Self, CaptureError> {
        let session = Session::open(&source.catalog.info).await?;
        import(&session, &exported.snapshot).await?;
        let row = session.query_one("SELECT pg_export_snapshot()", &[]).await;
        let snapshot = row.map_err(|error| statement_error("exporting the snapshot", &error))?.get(0);
        Ok(Self { _session: session, snapshot })
    }
}

/// Begins a transaction that sees the exported snapshot and nothing newer.
pub(super) async fn import(session: &Session, snapshot: &str) -> Result<(), CaptureError> {
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {};",
        quote_literal(snapshot)
    );
    session.batch_execute(&begin).await.map_err(|error| match error.code() {
        // The session that held the snapshot is gone, and the snapshot with it. The caller takes a new one.
        Some(state) if [SqlState::INVALID_PARAMETER_VALUE, SqlState::UNDEFINED_OBJECT].contains(state) => {
            CaptureError::Closed
        }
        _ => statement_error("importing the snapshot", &error),
    })
}
