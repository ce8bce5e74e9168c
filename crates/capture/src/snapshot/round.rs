//! Reads everything once, and then the tables that were rewritten in the meantime.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use walvec_model::{Cell, Change, Op, Position, TableName};

use super::create::{self, Exported};
use super::holder::SnapshotHolder;
use super::one_by_one;
use super::plan::{self, Plan};
use super::queue::PieceQueue;
use super::spool::{PIECES, Spool, Spooled};
use super::worker::CopyWorker;
use crate::CaptureError;
use crate::connect::Session;
use crate::copy_text::RowDecoder;
use crate::server::Source;

/// The number of rows at which a chunk ends.
const CHUNK_ROWS: usize = 1000;
/// The number of bytes of text at which a chunk ends.
const CHUNK_BYTES: usize = 1 << 20;

pub(super) type ChunkSender = mpsc::Sender<Result<Vec<Change>, CaptureError>>;

/// A piece that was read.
pub(super) struct ReadPiece {
    pub(super) plan: Arc<Plan>,
    pub(super) rows: Spooled,
}

/// A snapshot that is being held, and what has to be read from it.
pub(super) struct CopyRound {
    pub(super) position: Position,
    holder: SnapshotHolder,
    sessions: Vec<Session>,
    plans: Vec<Plan>,
}

impl CopyRound {
    /// Takes a snapshot over from the session that created its slot, and closes that session. Errors in the preparation
    /// are reported before anything is read.
    pub(super) async fn begin(
        source: &Source,
        exported: Exported,
        workers: usize,
        plans: impl Future<Output = Result<Vec<Plan>, CaptureError>>,
    ) -> Result<Self, CaptureError> {
        let prepared = async {
            let holder = SnapshotHolder::take_over(source, &exported).await?;
            let mut sessions = Vec::with_capacity(workers);
            for _ in 0..workers {
                sessions.push(Session::open(&source.catalog.info).await?);
            }
            // Plan after the snapshot was taken: the tables' sizes then cover all rows that it sees.
            Ok((holder, sessions, plans.await?))
        };
        let prepared = prepared.await;
        exported.session.close().await;
        let (holder, sessions, plans) = prepared?;
        Ok(Self { position: exported.position, holder, sessions, plans })
    }

    /// Reads everything and hands it to `chunks`. Tables that were rewritten in the meantime are then read again, as of
    /// a later position.
    pub(super) async fn run(mut self, source: Source, directory: Option<PathBuf>, chunks: ChunkSender) {
        let spool = Spool::new(directory);
        loop {
            let workers = self.sessions.len();
            let shapes: Vec<_> = self.plans.iter().map(|plan| Arc::clone(&plan.table)).collect();
            let rewritten = match self.read(&source, &spool, &chunks).await {
                Ok(rewritten) if rewritten.is_empty() => return,
                Ok(rewritten) => rewritten,
                Err(error) => {
                    // If the receiver is gone, nothing needs to be reported: it takes a copy for complete only if that
                    // is reported to it.
                    let _ = chunks.send(Err(error)).await;
                    return;
                }
            };
            let again = Box::pin(again(&source, &rewritten, workers)).await.and_then(|round| {
                let altered = round.plans.iter().find(|plan| !shapes.contains(&plan.table));
                altered.map_or(Ok(()), |plan| Err(CaptureError::Rewritten { table: plan.table.name.clone() }))?;
                Ok(round)
            });
            match again {
                Ok(round) => {
                    for plan in &round.plans {
                        tracing::info!(table = %plan.table.name, at = %round.position.commit_lsn, "the table was rewritten or truncated, and is read again");
                        let begins =
                            Change { table: Arc::clone(&plan.table), position: round.position, op: Op::Truncate };
                        let _ = chunks.send(Ok(vec![begins])).await;
                    }
                    self = round;
                }
                Err(error) => {
                    let _ = chunks.send(Err(error)).await;
                    return;
                }
            }
        }
    }

    /// Reads everything. Returns the tables that were rewritten in the meantime.
    async fn read(self, source: &Source, spool: &Spool, chunks: &ChunkSender) -> Result<Vec<TableName>, CaptureError> {
        let Self { position, holder, sessions, plans } = self;
        let queue = Arc::new(PieceQueue::new(plans));
        // The spool bounds the number of pieces, so a worker that has read one never waits here.
        let (pieces_in, pieces) = mpsc::channel(PIECES + sessions.len());
        let mut workers = JoinSet::new();
        for session in sessions {
            let worker = CopyWorker {
                info: source.catalog.info.clone(),
                snapshot: holder.snapshot.as_str().into(),
                spool: spool.clone(),
                queue: Arc::clone(&queue),
                pieces: pieces_in.clone(),
                session: Some(session),
            };
            workers.spawn(worker.run());
        }
        drop(pieces_in);
        let reading = async {
            while let Some(ended) = workers.join_next().await {
                ended.map_err(|_| CaptureError::Closed)??;
            }
            // The server may now forget what only this snapshot sees, even if the rows are still being handed out.
            drop(holder);
            Ok(())
        };
        tokio::try_join!(reading, hand_out(&queue, pieces, position, chunks))?;
        Ok(queue.rewritten())
    }
}

/// Prepares to read the tables once more, as of now.
async fn again(source: &Source, tables: &[TableName], workers: usize) -> Result<CopyRound, CaptureError> {
    let exported = create::temporary(source).await?;
    Box::pin(CopyRound::begin(source, exported, workers, plan::tables(source, Some(tables)))).await
}

/// Hands out the rows in chunks, in the order of the pieces.
async fn hand_out(
    queue: &PieceQueue,
    mut pieces: mpsc::Receiver<ReadPiece>,
    position: Position,
    chunks: &ChunkSender,
) -> Result<(), CaptureError> {
    while let Some(ReadPiece { plan, rows }) = pieces.recv().await {
        let table = &plan.table;
        let mut decoder = RowDecoder::new(table, &plan.kinds);
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        let mut lines = rows.read();
        let unread = |error: std::io::Error| CaptureError::Spool { reason: error.to_string() };
        while let Some(line) = lines.next().await.map_err(unread)? {
            if chunk.is_empty() && queue.is_discarded(&table.name) {
                break;
            }
            let (text, is_key_alone) = one_by_one::line_of(&line);
            let mut new = decoder.row(text)?;
            if is_key_alone {
                let others = new.0.iter_mut().enumerate().filter(|(index, _)| !table.key.contains(index));
                others.for_each(|(_, cell)| *cell = Cell::Unchanged);
            }
            let op = Op::Insert { new };
            chunk.push(Change { table: Arc::clone(table), position, op });
            bytes += line.len();
            if chunk.len() >= CHUNK_ROWS || bytes >= CHUNK_BYTES {
                bytes = 0;
                if chunks.send(Ok(std::mem::take(&mut chunk))).await.is_err() {
                    return Ok(());
                }
            }
        }
        if !chunk.is_empty() && chunks.send(Ok(chunk)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
