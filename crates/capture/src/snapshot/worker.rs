//! Copying pieces of tables.

use std::sync::{Arc, PoisonError};

use futures::TryStreamExt as _;
use tokio::sync::mpsc;
use tokio_postgres::error::SqlState;
use walvec_model::{Change, Op, Position};

use super::{Piece, Pieces};
use crate::CaptureError;
use crate::connect::{ConnInfo, Session, statement_error};
use crate::copy_text::RowDecoder;
use crate::sql::quote_literal;

/// A chunk ends when it has this many rows,
const CHUNK_ROWS: usize = 1000;
/// or this many bytes of text.
const CHUNK_BYTES: usize = 1 << 20;

/// Opens a session that sees the exported snapshot, and nothing newer.
pub(super) async fn import(info: &ConnInfo, snapshot: &str) -> Result<Session, CaptureError> {
    let session = Session::open(info).await?;
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {};",
        quote_literal(snapshot)
    );
    session.batch_execute(&begin).await.map_err(|error| match error.code() {
        // The session that holds the snapshot is gone, and the snapshot with it: the caller takes another one.
        Some(state) if [SqlState::INVALID_PARAMETER_VALUE, SqlState::UNDEFINED_OBJECT].contains(state) => {
            CaptureError::Closed
        }
        _ => statement_error("importing the snapshot", &error),
    })?;
    Ok(session)
}

/// One of the copying tasks.
pub(super) struct Worker {
    pub(super) session: Session,
    pub(super) position: Position,
    pub(super) chunks: mpsc::Sender<Result<Vec<Change>, CaptureError>>,
}

impl Worker {
    /// Copies pieces until there are none left, or until nobody wants them. Ends with the first error, and sends it.
    pub(super) async fn run(self, pieces: Pieces) {
        while let Some(piece) = next(&pieces) {
            match self.copy(&piece).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    // If nobody listens, nobody believes that the copy is complete either.
                    let _ = self.chunks.send(Err(error)).await;
                    return;
                }
            }
        }
    }

    /// Copies one piece; `false` if the receiver is gone.
    async fn copy(&self, piece: &Piece) -> Result<bool, CaptureError> {
        let wanted = self.copy_rows(piece).await?;
        if wanted {
            self.refuse_rewritten(piece).await?;
        }
        Ok(wanted)
    }

    async fn copy_rows(&self, piece: &Piece) -> Result<bool, CaptureError> {
        let failed = |error| statement_error(&format!("copying {}", piece.table.name), &error);
        let statement = format!("COPY ({}) TO STDOUT", piece.query);
        let copy = self.session.copy_out(&statement).await.map_err(failed)?;
        let mut lines = std::pin::pin!(copy);
        let mut decoder = RowDecoder::new(&piece.table, &piece.kinds);
        let mut chunk = Vec::with_capacity(CHUNK_ROWS);
        let mut bytes = 0;
        while let Some(line) = lines.try_next().await.map_err(failed)? {
            let op = Op::Insert { new: decoder.row(&line)? };
            chunk.push(Change { table: Arc::clone(&piece.table), position: self.position, op });
            bytes += line.len();
            if chunk.len() >= CHUNK_ROWS || bytes >= CHUNK_BYTES {
                let full = std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK_ROWS));
                bytes = 0;
                if self.chunks.send(Ok(full)).await.is_err() {
                    return Ok(false);
                }
            }
        }
        Ok(chunk.is_empty() || self.chunks.send(Ok(chunk)).await.is_ok())
    }

    /// Fails if another transaction replaced the storage of the table after the snapshot was exported. After TRUNCATE
    /// and the rewriting forms of ALTER TABLE an old snapshot sees an empty table, without any error
    /// (<https://www.postgresql.org/docs/current/mvcc-caveats.html>). VACUUM FULL and CLUSTER would be harmless, and look
    /// the same.
    ///
    /// The catalogue's row is read as of the snapshot, the function tells the present. Asked after the copy, because
    /// its lock keeps the storage in place until the transaction ends.
    async fn refuse_rewritten(&self, piece: &Piece) -> Result<(), CaptureError> {
        let query = "
            SELECT count(*) FROM pg_class
            WHERE oid = ANY($1) AND relfilenode IS NOT DISTINCT FROM pg_relation_filenode(oid)";
        let doing = format!("looking whether {} was rewritten", piece.table.name);
        let row = self.session.query_one(query, &[&piece.leaves]).await;
        let same: i64 = row.map_err(|error| statement_error(&doing, &error))?.get(0);
        if usize::try_from(same) == Ok(piece.leaves.len()) {
            return Ok(());
        }
        Err(CaptureError::Rewritten { table: piece.table.name.clone() })
    }
}

fn next(pieces: &Pieces) -> Option<Piece> {
    pieces.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}
