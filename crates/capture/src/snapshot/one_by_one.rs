//! Reads a piece in which a row is too large to be sent: the others, and the key of that one.
//!
//! As text a value may be longer than the 1 GB that a message of the server can have. The server says so by an error in the middle of
//! the answer, and does not tell which row it was about.

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

/// Stands before the line of a row of which only the key was sent. No text of PostgreSQL has a zero byte.
const KEY_ALONE: u8 = 0;

/// Lines that are kept in memory until a statement has come to its end. More rows than that are read by two statements.
const AT_ONCE: usize = 8 << 20;

/// The row's line, and whether only its key was sent.
pub(super) fn line_of(line: &[u8]) -> (&[u8], bool) {
    line.strip_prefix(&[KEY_ALONE]).map_or((line, false), |line| (line, true))
}

/// The rows of `piece`, of which at least one is too large. The session's transaction has failed because of it.
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

/// The lines of the rows; `None` if they are several, and too many for the memory.
async fn copied(session: &Session, query: &str) -> Result<Option<Vec<Bytes>>, tokio_postgres::Error> {
    let copy = session.copy_out(&format!("COPY ({query}) TO STDOUT")).await?;
    let mut copy = std::pin::pin!(copy);
    let (mut lines, mut bytes, mut is_too_much) = (Vec::new(), 0, false);
    while let Some(line) = copy.try_next().await? {
        bytes += line.len();
        is_too_much |= bytes > AT_ONCE && !lines.is_empty();
        // To the end all the same: the session is used again.
        if is_too_much {
            lines.clear();
        } else {
            lines.push(line);
        }
    }
    Ok((!is_too_much).then_some(lines))
}
