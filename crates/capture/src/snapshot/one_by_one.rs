//! Reads a piece in which a row is too large to be sent: all other rows, and the key of that one.
//!
//! As text, a value may be longer than the 1 GB limit of a server message. The server reports that with an error in the
//! middle of the result, and does not say which row it was.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use tokio::time::Instant;

use super::holder::import;
use super::queue::Piece;
use super::spool::{Spool, Spooled};
use crate::CaptureError;
use crate::connect::{Session, statement_error};
use crate::fetch::is_row_too_large;

/// A prefix for the line of a row of which only the key was sent. Texts of PostgreSQL never contain a zero byte.
const KEY_ALONE: u8 = 0;

/// The number of bytes of lines that are kept in memory until a statement has ended. Rows that exceed it are read by
/// two statements.
const AT_ONCE: usize = 8 << 20;

/// Returns the row's line, and whether only its key was sent.
pub(super) fn line_of(line: &[u8]) -> (&[u8], bool) {
    line.strip_prefix(&[KEY_ALONE]).map_or((line, false), |line| (line, true))
}

/// Reads the rows of `piece`, of which at least one is too large. The session's transaction has failed because of that row.
pub(super) async fn rows(
    session: &Session,
    snapshot: &str,
    piece: &Piece,
    spool: &Spool,
) -> Result<(Spooled, Duration), CaptureError> {
    let began = Instant::now();
    let failed = |error| statement_error(&format!("copying {}", piece.plan.table.name), &error);
    begin_again(session, snapshot).await?;
    let ctids = session.query(&piece.ctids(), &[]).await.map_err(failed)?;
    let ctids: Vec<String> = ctids.iter().map(|row| row.get(0)).collect();
    let mut rows = spool.piece();
    let mut rest = vec![ctids.as_slice()];
    while let Some(some) = rest.pop() {
        let lines = match copied(session, &piece.plan.query_at(piece.part(), some)).await {
            Err(error) if is_row_too_large(&error) => {
                begin_again(session, snapshot).await?;
                None
            }
            lines => lines.map_err(failed)?,
        };
        match lines {
            Some(lines) => {
                for line in lines {
                    rows.push(&line).await;
                }
            }
            None if some.len() > 1 => rest.extend([some.split_at(some.len() / 2).1, some.split_at(some.len() / 2).0]),
            None => {
                let keys = copied(session, &piece.plan.keys_at(piece.part(), some)).await.map_err(failed)?;
                for line in keys.unwrap_or_default() {
                    rows.push(&[&[KEY_ALONE][..], &line].concat()).await;
                }
            }
        }
    }
    rows.end().await;
    Ok((rows, began.elapsed()))
}

async fn begin_again(session: &Session, snapshot: &str) -> Result<(), CaptureError> {
    let ended = session.batch_execute("ROLLBACK").await;
    ended.map_err(|error| statement_error("ending a transaction that has failed", &error))?;
    import(session, snapshot).await
}

/// Returns the lines of the rows; `None` if there is more than one row and they take too much memory.
async fn copied(session: &Session, query: &str) -> Result<Option<Vec<Bytes>>, tokio_postgres::Error> {
    let copy = session.copy_out(&format!("COPY ({query}) TO STDOUT")).await?;
    let mut copy = std::pin::pin!(copy);
    let (mut lines, mut bytes, mut is_too_much) = (Vec::new(), 0, false);
    while let Some(line) = copy.try_next().await? {
        bytes += line.len();
        is_too_much |= bytes > AT_ONCE && !lines.is_empty();
        // Read to the end nevertheless, because the session is used again.
        if is_too_much {
            lines.clear();
        } else {
            lines.push(line);
        }
    }
    Ok((!is_too_much).then_some(lines))
}
