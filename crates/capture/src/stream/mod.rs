//! Everything committed after the slot's position.
//!
//! ```text
//! server ──▶ Reader (own task) ──▶ bounded channel ──▶ ChangeStream::next
//!    ▲          │
//!    └─ status ─┴──────────────────── confirmed ◀──── ChangeStream::confirm
//! ```
//!
//! The task answers the server whether or not anybody takes its batches: a consumer that is busy for minutes does not let
//! the server believe that the connection is dead.
//!
//! - [`reader`]: the task
//! - [`patience`]: how often the server hears from it, and how long it may be silent
//! - [`relation`]: Relation messages, completed from the catalogue
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
use crate::slot::SlotState;
use crate::source::Source;
use passed::Passed;
use patience::Patience;
use reader::Reader;
use relation::Relations;

/// Batches that wait for the consumer; each is bounded by the reader.
const WAITING_BATCHES: usize = 2;

/// A running stream of changes. Dropping it ends it in the background, so that the slot may stay busy for a moment;
/// [`close`](Self::close) waits.
pub struct ChangeStream {
    batches: mpsc::Receiver<Result<Vec<StreamEvent>, CaptureError>>,
    confirmed: watch::Sender<Lsn>,
    stop: DropGuard,
    reader: JoinHandle<Result<(), CaptureError>>,
}

/// See [`Source::open_stream`] and [`Source::open_stream_passing`].
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
        // PostgreSQL 18 streams from a missing publication: nothing, with a warning in its own log.
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
        let reader = Reader::new(replication, relations, passed, confirmed_out, batches_in, patience, stopped);
        let reader = tokio::spawn(async move {
            tokio::select! {
                ended = reader.run() => ended,
                // A fast stop of the server ends ordinary sessions at once, and waits for readers of the log until they have
                // confirmed all of it. That may take for ever, because a provider is away for example: so this one lets go.
                () = shut_down.cancelled() => {
                    let error = CaptureError::Connect { server: address, reason: "the server shuts down".to_owned() };
                    // A consumer that is behind gets E_CLOSED behind what it has not taken yet.
                    let _ = last_words.try_send(Err(error));
                    Err(CaptureError::Closed)
                }
            }
        });
        Ok(ChangeStream { batches, confirmed, stop: stop.drop_guard(), reader })
    })
}

impl ChangeStream {
    /// The next events: at least one, in commit order. Waits until there are some. A small transaction is handed over as
    /// soon as its commit is here; a big one comes in several batches.
    ///
    /// Safe to drop while it waits.
    ///
    /// # Errors
    /// Any error ends the stream; afterwards there is only `E_CLOSED`.
    pub async fn next(&mut self) -> Result<Vec<StreamEvent>, CaptureError> {
        self.batches.recv().await.unwrap_or(Err(CaptureError::Closed))
    }

    /// Lets the server forget everything before `lsn`. Only ever a [`StreamEvent::Commit`]'s `end_lsn` or, when nothing is
    /// in flight, an [`StreamEvent::Idle`]'s `wal_end`, after everything up to it is durable. Told to the server at once;
    /// a lower position than before changes nothing.
    pub fn confirm(&self, lsn: Lsn) {
        self.confirmed.send_if_modified(|confirmed| {
            let higher = lsn > *confirmed;
            *confirmed = lsn.max(*confirmed);
            higher
        });
    }

    /// Ends the stream: the last confirmed position is told to the server, the server has taken note, and the slot is
    /// free.
    ///
    /// # Errors
    /// If the last word did not reach the server, or the stream had failed before. Nothing is lost by that: what was not
    /// confirmed is streamed again.
    pub async fn close(self) -> Result<(), CaptureError> {
        let Self { batches, confirmed, stop, reader } = self;
        stop.disarm().cancel();
        let ended = reader.await;
        drop((batches, confirmed));
        ended.unwrap_or(Err(CaptureError::Closed))
    }
}
