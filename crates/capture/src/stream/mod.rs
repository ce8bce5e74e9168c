//! Streams everything committed after the slot's position.
//!
//! ```text
//! server ──▶ Reader (own task) ──▶ bounded channel ──▶ ChangeStream::next
//!    ▲          │
//!    └─ status ─┴──────────────────── confirmed ◀──── ChangeStream::confirm
//! ```
//!
//! The task reports to the server even if its batches are not taken, so that a consumer that is busy for minutes does
//! not make the server believe that the connection is dead.
//!
//! - [`reader`]: the task
//! - [`patience`]: how often the task reports to the server, and how long the server may be silent
//! - [`relation`]: completes Relation messages from the catalogue
//! - [`passed`]: tables whose changes are passed over up to a position

mod passed;
mod patience;
mod reader;
mod relation;

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use walvec_model::{Lsn, StreamEvent, TableName};

use crate::CaptureError;
use crate::connect::Replication;
use crate::server::Source;
use crate::slot::SlotState;
use passed::Passed;
use patience::Patience;
use reader::{ConsumerEnds, StreamReader};
use relation::Relations;

/// The number of batches that wait for the consumer. The reader bounds the size of each.
const WAITING_BATCHES: usize = 2;

/// A running stream of changes. Dropping it ends it in the background, so the slot may stay busy for a moment.
/// [`close`](Self::close) waits for the end.
pub struct ChangeStream {
    batches: mpsc::Receiver<Result<Vec<StreamEvent>, CaptureError>>,
    confirmed: watch::Sender<Lsn>,
    stop: DropGuard,
    reader: JoinHandle<Result<(), CaptureError>>,
}

/// Opens a stream, for [`Source::open_stream`] and [`Source::open_stream_passing`].
pub(crate) fn open(
    source: &Source,
    passed: HashMap<TableName, Lsn>,
) -> BoxFuture<'_, Result<ChangeStream, CaptureError>> {
    Box::pin(async move {
        let slot = source.config.slot.clone();
        let confirmed = match source.slot().await? {
            SlotState::Ready { confirmed, .. } => confirmed,
            SlotState::Missing => return Err(CaptureError::SlotMissing { slot }),
            SlotState::Lost { reason } => return Err(CaptureError::SlotLost { slot, reason }),
        };
        // With a missing publication, PostgreSQL 18 streams nothing, and only writes a warning to its own log.
        if source.publication_identity().await?.is_none() {
            return Err(CaptureError::Publication {
                publication: source.config.publication.clone(),
                difference: "it does not exist, so changes since it was dropped cannot be had".to_owned(),
                sql: "read the tables again: `walvec reset`, then `walvec run`".to_owned(),
            });
        }
        let relations = Arc::new(Relations::known_to(source).await?);
        let mut replication = Replication::open(&source.catalog.info, &slot, source.server().version_num).await?;
        let patience = Patience::of(&mut replication).await?;
        replication.start(&source.config.publication).await?;

        let (batches_in, batches) = mpsc::channel(WAITING_BATCHES);
        let (confirmed, confirmed_out) = watch::channel(confirmed);
        let stop = CancellationToken::new();
        let (shut_down, address, stopped) = (source.catalog.shut_down.clone(), source.address(), stop.clone());
        let last_words = batches_in.clone();
        let passed = Passed::new(passed);
        let consumer = ConsumerEnds { confirmed: confirmed_out, batches: batches_in, stop: stopped };
        let reader = StreamReader::new(replication, relations, passed, consumer, patience);
        let reader = tokio::spawn(async move {
            tokio::select! {
                ended = reader.run() => ended,
                // A fast shutdown of the server ends ordinary sessions at once, but waits for readers of the WAL until
                // they have confirmed all of it. That may take for ever, for example while a provider is away, so this
                // reader lets go.
                () = shut_down.cancelled() => {
                    let error = CaptureError::Connect { server: address, reason: "the server shuts down".to_owned() };
                    // If the channel is full, the consumer gets E_CLOSED after what it has not taken yet.
                    let _ = last_words.try_send(Err(error));
                    Err(CaptureError::Closed)
                }
            }
        });
        Ok(ChangeStream { batches, confirmed, stop: stop.drop_guard(), reader })
    })
}

impl ChangeStream {
    /// Waits for the next events: at least one, in commit order. A small transaction is handed over as soon as its
    /// commit has arrived; a large one comes in several batches.
    ///
    /// Cancellation safe: dropping the future loses nothing.
    ///
    /// # Errors
    /// Any error ends the stream. Later calls return `E_CLOSED`.
    pub async fn next(&mut self) -> Result<Vec<StreamEvent>, CaptureError> {
        self.batches.recv().await.unwrap_or(Err(CaptureError::Closed))
    }

    /// Lets the server forget everything before `lsn`. Call it only with the `end_lsn` of a [`StreamEvent::Commit`] or,
    /// when nothing is in flight, the `wal_end` of a [`StreamEvent::Idle`], and only after everything up to it is
    /// durable. The position is reported to the server at once. A lower position than before has no effect.
    pub fn confirm(&self, lsn: Lsn) {
        self.confirmed.send_if_modified(|confirmed| {
            let higher = lsn > *confirmed;
            *confirmed = lsn.max(*confirmed);
            higher
        });
    }

    /// Ends the stream. Afterwards the server has received the last confirmed position, and the slot is free.
    ///
    /// # Errors
    /// Fails if the last feedback did not reach the server, or if the stream had failed before. Nothing is lost then:
    /// what was not confirmed is streamed again.
    pub async fn close(self) -> Result<(), CaptureError> {
        let Self { batches, confirmed, stop, reader } = self;
        stop.disarm().cancel();
        let ended = reader.await;
        drop((batches, confirmed));
        ended.unwrap_or(Err(CaptureError::Closed))
    }
}
