//! Copies the rows as of the slot's consistent point.
//!
//! ```text
//! CREATE_REPLICATION_SLOT … EXPORT_SNAPSHOT ──▶ position, snapshot name
//!        │
//!        ├─▶ holder: keeps the snapshot until everything was read; no locks
//!        ├─▶ worker 1: for each piece REPEATABLE READ, SET TRANSACTION SNAPSHOT, COPY, COMMIT ─┐
//!        └─▶ worker n                                                                          ├─▶ spool ─▶ chunks
//! ```
//!
//! The exported snapshot is exactly the state at which the slot's stream begins: what it contains is not streamed, and
//! what it does not contain is streamed. If the holder fails, the snapshot is gone with it, and the caller starts again
//! with a new slot.
//!
//! While a table is locked, walvec waits only for the server. The table's users therefore wait at most for the reading
//! of one piece. Rows that were read wait in the spool, not in the server.
//!
//! - [`create`]: creates the slot, and finds out what keeps the server from creating it
//! - [`holder`]: the session that keeps the snapshot
//! - [`plan`]: the tables, and the statements that read them
//! - [`queue`]: what is left to read, cut into pieces
//! - [`worker`]: copies pieces
//! - [`one_by_one`]: reads the rows of a piece in which one is too large to be sent
//! - [`spool`]: rows that were read and not handed out yet
//! - [`round`]: reads everything once, and then the tables that were rewritten in the meantime

mod create;
mod holder;
mod one_by_one;
mod plan;
mod queue;
mod round;
mod spool;
mod worker;

use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use walvec_model::{Change, Position, RowKey, TableName};

use crate::CaptureError;
use crate::server::Source;
use round::CopyRound;

/// A copy of the configured tables as they were at one position.
///
/// Dropping it stops the copy. Memory does not depend on the size of the tables: rows that were read and not taken yet
/// wait in the source's spool directory, and nothing is read while there is no room.
pub struct Snapshot {
    position: Position,
    chunks: mpsc::Receiver<Result<Vec<Change>, CaptureError>>,
    tasks: JoinSet<()>,
}

/// Which rows of a table are read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The rows that meet a condition in SQL; all rows for `None`.
    Where(Option<String>),
    /// The rows with these keys.
    Keys(Vec<RowKey>),
    /// The rows in the partitions with these oids.
    Partitions(Vec<u32>),
}

/// Begins a snapshot, for [`Source::begin_snapshot`].
pub(crate) fn begin(source: &Source) -> BoxFuture<'_, Result<Snapshot, CaptureError>> {
    Box::pin(async move {
        // Checked before the slot is created: a table that cannot be copied must not leave a slot behind.
        source.published_tables().await?;
        let exported = create::slot(source).await?;
        let workers = source.config.copy_workers.max(1);
        match Box::pin(CopyRound::begin(source, exported, workers, plan::tables(source, None))).await {
            Ok(round) => Ok(copy(source, round)),
            Err(error) => {
                // This slot will never be read, and would only hold back WAL.
                if let Err(also) = source.drop_slot().await {
                    tracing::warn!(slot = source.config.slot, error = %also, "cannot drop the slot of a failed snapshot");
                }
                Err(error)
            }
        }
    })
}

/// Begins to read rows again, for [`Source::begin_reread`].
pub(crate) fn reread<'a>(
    source: &'a Source,
    table: &'a TableName,
    rows: &'a Selection,
) -> BoxFuture<'a, Result<Snapshot, CaptureError>> {
    Box::pin(async move {
        let published = source.published_table(table).await?.ok_or_else(|| {
            let aside = source.set_aside().iter().find(|unfit| unfit.table == *table);
            let reason = match aside {
                Some(unfit) => format!("is not followed at present: {}", unfit.finding.message),
                None => "is not one of the configured tables".to_owned(),
            };
            CaptureError::Table { table: table.clone(), reason }
        })?;
        if let Selection::Where(Some(condition)) = rows {
            plan::check(&*source.catalog.patient_session().await?, table, condition).await?;
        }
        // The slot ends with its session. It is not streamed from: the rows come from the snapshot.
        let exported = create::temporary(source).await?;
        let plans = async { Ok(vec![plan::selected(source, published, rows).await?]) };
        Ok(copy(source, Box::pin(CopyRound::begin(source, exported, 1, plans)).await?))
    })
}

/// Starts to copy what a round has to read.
fn copy(source: &Source, round: CopyRound) -> Snapshot {
    let position = round.position;
    let (chunks_in, chunks) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    tasks.spawn(round.run(source.another(), source.spool.clone(), chunks_in));
    Snapshot { position, chunks, tasks }
}

impl Snapshot {
    /// Returns the version of the copied rows, which is older than everything that the stream will bring. Only the rows
    /// of a table that was read again have a later version.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// Returns the next rows, as inserts into one table; `None` when everything was copied. If a row does not fit into
    /// a message of the server (1 GB), everything but its key is [unchanged](walvec_model::Cell::Unchanged).
    ///
    /// A table that was rewritten or truncated while it was copied is read again. A truncate announces that, and the rows
    /// after it have its position. Changes in the stream from before that position are already contained in these rows.
    ///
    /// # Errors
    /// Any error ends the snapshot: the rows copied so far are incomplete.
    pub async fn next(&mut self) -> Result<Option<Vec<Change>>, CaptureError> {
        match self.chunks.recv().await {
            Some(Ok(chunk)) => Ok(Some(chunk)),
            Some(Err(error)) => Err(error),
            // The copy has ended, successfully or with an error that was sent. If a task panicked, joining it returns an error.
            None => self.join().await.map(|()| None),
        }
    }

    /// Stops the copy and waits for its tasks.
    ///
    /// # Errors
    /// Fails if a task failed in a way that no chunk has reported.
    pub async fn close(mut self) -> Result<(), CaptureError> {
        self.chunks.close();
        self.tasks.abort_all();
        self.join().await
    }

    async fn join(&mut self) -> Result<(), CaptureError> {
        while let Some(ended) = self.tasks.join_next().await {
            if ended.is_err_and(|error| error.is_panic()) {
                return Err(CaptureError::Closed);
            }
        }
        Ok(())
    }
}
