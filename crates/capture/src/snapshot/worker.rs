//! Copies pieces of tables.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use super::holder::import;
use super::one_by_one;
use super::queue::{LARGEST_PIECE, Piece, PieceQueue};
use super::round::ReadPiece;
use super::spool::{Spool, Spooled};
use crate::connect::{ConnInfo, Session, statement_error};
use crate::fetch::is_row_too_large;
use crate::{CaptureError, Outlook};

/// How often a piece is tried again, with a new session, after a transient error. The snapshot still exists then.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// One of the tasks that copy pieces.
pub(super) struct CopyWorker {
    pub(super) info: ConnInfo,
    /// The name of the snapshot.
    pub(super) snapshot: Arc<str>,
    pub(super) spool: Spool,
    pub(super) queue: Arc<PieceQueue>,
    pub(super) pieces: mpsc::Sender<ReadPiece>,
    /// The session. Between two pieces it is not in a transaction, and so holds no lock.
    pub(super) session: Option<Session>,
}

/// The outcome of copying a piece.
enum PieceOutcome {
    /// The rows, and how long they took to arrive.
    Read(Spooled, Duration),
    TooLarge,
    Rewritten,
}

impl CopyWorker {
    /// Copies pieces until there are none left, or until the receiver is gone. Ends with the first error that is not transient.
    pub(super) async fn run(mut self) -> Result<(), CaptureError> {
        let mut failed = 0;
        loop {
            // Wait before a piece is taken, which means before any lock on the table.
            self.spool.room().await;
            let Some(piece) = self.queue.take() else { return Ok(()) };
            let copied = self.copy(&piece).await;
            if !matches!(copied, Ok(PieceOutcome::Read(..))) {
                // The session may be in the middle of a statement, and is in a transaction in any case.
                self.session = None;
            }
            match copied {
                Ok(PieceOutcome::Read(rows, took)) => {
                    failed = 0;
                    self.queue.learn(&piece, rows.bytes(), took);
                    debug_assert!(self.pieces.capacity() > 0, "the spool bounds the number of pieces");
                    if self.pieces.send(ReadPiece { plan: piece.plan, rows }).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(PieceOutcome::TooLarge) => self.queue.put_back_to_be_cut(piece),
                Ok(PieceOutcome::Rewritten) => self.queue.discard(&piece.plan.table.name),
                Err(error) if passes(&error) && failed < ATTEMPTS => {
                    failed += 1;
                    tracing::warn!(table = %piece.plan.table.name, code = error.code(), "reading a piece again: {error}");
                    self.queue.put_back(piece);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Copies one piece. The table is locked from the first statement until this function ends, and meanwhile it waits
    /// only for the server.
    async fn copy(&mut self, piece: &Piece) -> Result<PieceOutcome, CaptureError> {
        let session = match &mut self.session {
            Some(session) if !session.is_closed() => session,
            other => other.insert(Session::open(&self.info).await?),
        };
        import(session, &self.snapshot).await?;
        let table = &piece.plan.table.name;
        let (rows, took) = match copy_rows(session, piece, &self.spool).await {
            Ok(Some(rows)) => rows,
            Ok(None) => return Ok(PieceOutcome::TooLarge),
            Err(error) if is_row_too_large(&error) && piece.can_be_cut() => return Ok(PieceOutcome::TooLarge),
            Err(error) if is_row_too_large(&error) && piece.part().has_ctids() => {
                one_by_one::rows(session, &self.snapshot, piece, &self.spool).await?
            }
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => return Ok(PieceOutcome::Rewritten),
            Err(error) if error.code().is_some_and(|state| ALTERED.contains(state)) => {
                return Err(CaptureError::Rewritten { table: table.clone() });
            }
            Err(error) => return Err(statement_error(&format!("copying {table}"), &error)),
        };
        if is_rewritten(session, piece).await? {
            return Ok(PieceOutcome::Rewritten);
        }
        let ended = session.batch_execute("COMMIT").await;
        ended.map_err(|error| statement_error(&format!("copying {table}"), &error))?;
        Ok(PieceOutcome::Read(rows, took))
    }
}

/// The errors of a statement that was made for the columns before an alteration.
const ALTERED: [SqlState; 3] = [SqlState::UNDEFINED_COLUMN, SqlState::UNDEFINED_FUNCTION, SqlState::DATATYPE_MISMATCH];

/// Returns whether another session may read the piece: the snapshot still exists, and the error concerns only this
/// session or this moment.
fn passes(error: &CaptureError) -> bool {
    match error {
        CaptureError::Connect { .. } | CaptureError::Exhausted { .. } | CaptureError::Spool { .. } => true,
        CaptureError::Statement { sqlstate, .. } => Outlook::of(sqlstate) != Outlook::Lasts,
        _ => false,
    }
}

/// Reads the rows; `None` if they are too many for one statement.
async fn copy_rows(
    session: &Session,
    piece: &Piece,
    spool: &Spool,
) -> Result<Option<(Spooled, Duration)>, tokio_postgres::Error> {
    let copy = session.copy_out(&format!("COPY ({}) TO STDOUT", piece.query())).await?;
    // Start the clock here, so that the distance to the server does not count.
    let began = Instant::now();
    let mut lines = std::pin::pin!(copy);
    let mut rows = spool.piece();
    while let Some(line) = lines.try_next().await? {
        rows.push(&line).await;
        if rows.bytes() > LARGEST_PIECE && piece.can_be_cut() {
            return Ok(None);
        }
    }
    let took = began.elapsed();
    rows.end().await;
    Ok(Some((rows, took)))
}

/// Returns whether another transaction replaced the storage of the table after the snapshot was exported. After
/// TRUNCATE and the rewriting forms of ALTER TABLE, an old snapshot sees an empty table, without any error
/// (<https://www.postgresql.org/docs/current/mvcc-caveats.html>). After VACUUM FULL and CLUSTER it sees the rows in
/// other pages, and pieces that were read before and after do not fit together.
///
/// The row in the catalogue is read as of the snapshot, while the function returns the present state. Called after the
/// copy, because the copy's lock keeps the storage in place until the transaction ends.
async fn is_rewritten(session: &Session, piece: &Piece) -> Result<bool, CaptureError> {
    let query = "
        SELECT count(*) FROM pg_class
        WHERE oid = ANY($1) AND relfilenode IS NOT DISTINCT FROM pg_relation_filenode(oid)";
    let leaves = &piece.part().leaves;
    let row = session.query_one(query, &[leaves]).await;
    let doing = || format!("looking whether {} was rewritten", piece.plan.table.name);
    let same: i64 = row.map_err(|error| statement_error(&doing(), &error))?.get(0);
    Ok(usize::try_from(same) != Ok(leaves.len()))
}
