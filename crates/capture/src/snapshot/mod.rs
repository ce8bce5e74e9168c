//! The rows as of the slot's consistent point.
//!
//! ```text
//! CREATE_REPLICATION_SLOT … EXPORT_SNAPSHOT ──▶ position, snapshot name
//!        │ (session kept open until everybody has imported the snapshot)
//!        ├─▶ worker 1: REPEATABLE READ, SET TRANSACTION SNAPSHOT, COPY of one range of ctids after another ─┐
//!        └─▶ worker n                                                                                        ├─▶ chunks
//! ```
//!
//! The exported snapshot is exactly the state at which the slot's stream begins: what it contains is not streamed, and
//! what it does not contain is. If anything fails, the snapshot is gone with it; the caller starts again with a new slot.
//!
//! - [`create`]: the slot, and who keeps the server from creating it
//! - [`plan`]: the ranges to copy
//! - [`worker`]: copying them

mod create;
mod plan;
mod worker;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use walvec_model::{Change, Position, RowKey, Table, TableName};

use crate::CaptureError;
use crate::connect::Session;
use crate::source::Source;
use crate::value::Kind;
use worker::Worker;

/// A copy of the configured tables as they were at one position.
///
/// Dropping it stops the copy. Memory does not depend on the size of the tables: every worker holds one chunk, and one
/// more for each waits in the channel.
pub struct Snapshot {
    position: Position,
    chunks: mpsc::Receiver<Result<Vec<Change>, CaptureError>>,
    workers: JoinSet<()>,
}

/// Which rows of a table are read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Those that meet a condition in SQL; all without one.
    Where(Option<String>),
    /// Those with these keys.
    Keys(Vec<RowKey>),
}

/// One statement's worth of copying.
struct Piece {
    table: Arc<Table>,
    kinds: Arc<[Kind]>,
    /// The query whose rows are copied, with the columns of `table`.
    query: String,
    /// The oids of the tables that hold the rows.
    leaves: Vec<u32>,
}

/// The pieces that nobody has taken yet.
type Pieces = Arc<Mutex<VecDeque<Piece>>>;

/// See [`Source::begin_snapshot`].
pub(crate) async fn begin(source: &Source) -> Result<Snapshot, CaptureError> {
    // Before the slot: a table that cannot be copied must not leave a slot behind.
    source.published_tables().await?;
    let exported = create::slot(source).await?;
    let started = start(source, &exported).await;
    // Every worker has its own copy of the snapshot now.
    exported.session.close().await;
    match started {
        Ok(snapshot) => Ok(snapshot),
        Err(error) => {
            // Nobody will ever read this slot: it would only hold back WAL.
            if let Err(also) = source.drop_slot().await {
                tracing::warn!(slot = source.config.slot, error = %also, "cannot drop the slot of a failed snapshot");
            }
            Err(error)
        }
    }
}

/// See [`Source::begin_reread`].
pub(crate) async fn reread(source: &Source, table: &TableName, rows: &Selection) -> Result<Snapshot, CaptureError> {
    let session = source.session().await?;
    let published = source.published_tables().await?.into_iter().find(|published| published.table.name == *table);
    let published = published.ok_or_else(|| CaptureError::Table {
        table: table.clone(),
        reason: "is not one of the configured tables".to_owned(),
    })?;
    if let Selection::Where(Some(condition)) = rows {
        plan::check(&session, table, condition).await?;
    }
    let exported = create::temporary(source).await?;
    let import = async {
        let session = worker::import(&source.catalog.info, &exported.snapshot).await?;
        Ok((session, plan::selected(source, published, rows).await?))
    };
    let imported = import.await;
    // The slot goes with its session. Nobody streams from it: the rows are the snapshot's.
    exported.session.close().await;
    let (session, pieces) = imported?;
    Ok(copy(exported.position, vec![session], pieces))
}

async fn start(source: &Source, exported: &create::Exported) -> Result<Snapshot, CaptureError> {
    let count = source.config.copy_workers.max(1);
    let mut sessions = Vec::with_capacity(count);
    for _ in 0..count {
        sessions.push(worker::import(&source.catalog.info, &exported.snapshot).await?);
    }
    let pieces = plan::pieces(source, count).await?;
    Ok(copy(exported.position, sessions, pieces))
}

/// Copies the pieces, each session one after the other.
fn copy(position: Position, sessions: Vec<Session>, pieces: VecDeque<Piece>) -> Snapshot {
    let pieces: Pieces = Arc::new(Mutex::new(pieces));
    let (chunks_in, chunks) = mpsc::channel(sessions.len());
    let mut workers = JoinSet::new();
    for session in sessions {
        let worker = Worker { session, position, chunks: chunks_in.clone() };
        workers.spawn(worker.run(Arc::clone(&pieces)));
    }
    Snapshot { position, chunks, workers }
}

impl Snapshot {
    /// The version of every copied row: older than everything that the stream will bring.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// The next rows, as inserts into one table; `None` when everything has been copied.
    ///
    /// # Errors
    /// Any error ends the snapshot: what has been copied so far is not everything.
    pub async fn next(&mut self) -> Result<Option<Vec<Change>>, CaptureError> {
        match self.chunks.recv().await {
            Some(Ok(chunk)) => Ok(Some(chunk)),
            Some(Err(error)) => Err(error),
            // All workers are gone. Each of them either ended well or sent its error; a panic does neither.
            None => self.join().await.map(|()| None),
        }
    }

    /// Stops the copy and waits for its workers.
    ///
    /// # Errors
    /// If a worker had failed in a way that no chunk told.
    pub async fn close(mut self) -> Result<(), CaptureError> {
        self.chunks.close();
        self.workers.abort_all();
        self.join().await
    }

    async fn join(&mut self) -> Result<(), CaptureError> {
        while let Some(ended) = self.workers.join_next().await {
            if ended.is_err_and(|error| error.is_panic()) {
                return Err(CaptureError::Closed);
            }
        }
        Ok(())
    }
}
