//! Batches whose vectors are computed concurrently.
//!
//! Vectors take long, and a provider may have to be asked for them several times. So batches that have no key in common
//! are in flight at the same time. A batch that shares a key with one that is not written yet waits for it. A part of a
//! batch is written as soon as it has its vectors, before or after other parts, because different keys need no order. A
//! note behind a batch is handed out once that batch and all batches before it are durable. Notes keep their order.
//!
//! The amount in flight is bounded by what the embedder can use and by what was written recently. So with a slow
//! embedder, no batch waits long for those that began before it, and few texts have to be embedded twice after a crash.
//!
//! - [`collections`]: the writers, and which tables their collections show
//! - `budget`: what one writer has in flight, and how fast it is written

mod budget;
mod collections;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};
use walvec_embed::Embedder;
use walvec_model::RowKey;

use self::budget::InFlightBudget;
use crate::error::PipelineError;
use crate::shared::first_error;
use crate::writer::row_source::RowSource;
use crate::writer::{Batch, EmbedJob, Writer, all};
pub(crate) use collections::PipelineCollections;

/// Bytes of rows, with their texts and payloads, that may be in flight, so that neither large rows nor many small ones
/// exhaust the memory. Vectors do not count, because a part that has them is written at once.
const BYTES: usize = 8 << 20;

/// How many batches may be in flight, or wait behind one that is, however small they are.
const BATCHES: usize = 1024;

/// How long a small batch waits for more rows while others are in flight.
const COMPANY: Duration = Duration::from_millis(250);

/// A part of a batch with its vectors, or the reason why it has none.
pub(crate) struct EmbeddedPart {
    ticket: PartTicket,
    part: Result<EmbedJob, PipelineError>,
}

/// The facts about a part that are needed while its vectors are computed.
struct PartTicket {
    /// The number of its batch.
    batch: u64,
    writer: usize,
    keys: Vec<RowKey>,
    texts: usize,
    bytes: usize,
}

/// A batch that is not durable, or that waits behind one that is not.
struct InFlightBatch<N> {
    /// Whether all its parts are known.
    is_whole: bool,
    /// How many of its parts are not durable.
    parts: usize,
    /// How many of its parts are being embedded.
    asked: usize,
    /// Whether a part could not be embedded, so that the source has to replay the batch.
    has_failed: bool,
    /// Notes to hand out behind the batch.
    notes: Vec<N>,
    /// Lives as long as the batch is in flight.
    _span: Span,
}

impl<N> InFlightBatch<N> {
    const fn new(span: Span) -> Self {
        Self { is_whole: false, parts: 0, asked: 0, has_failed: false, notes: Vec::new(), _span: span }
    }
}

/// The batches in flight. `N` is what their reader wants to know when a batch is durable.
pub(crate) struct Sequencer<N> {
    /// The oldest batch comes first.
    batches: VecDeque<InFlightBatch<N>>,
    /// The number of the oldest batch.
    first: u64,
    asked: JoinSet<EmbeddedPart>,
    /// The load of each writer.
    loads: Vec<InFlightBudget>,
    /// The distinct embedders of the writers: very many writers may share one.
    embedders: Vec<Arc<dyn Embedder>>,
    bytes: usize,
    durable: Vec<N>,
    stop: CancellationToken,
    given_up: CancellationToken,
}

/// What the reader of batches wants to know when a batch is durable.
pub(crate) trait Completion: Sized {
    /// Joins a later note behind the same batch to this one, if one note can stand for both. Otherwise returns it.
    fn join(&mut self, later: Self) -> Option<Self>;

    /// Adds this note behind `notes`.
    fn push_to(self, notes: &mut Vec<Self>) {
        let rest = match notes.last_mut() {
            Some(last) => last.join(self),
            None => Some(self),
        };
        notes.extend(rest);
    }
}

impl<N: Completion> Sequencer<N> {
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self {
            batches: VecDeque::new(),
            first: 0,
            asked: JoinSet::new(),
            loads: Vec::new(),
            embedders: Vec::new(),
            bytes: 0,
            durable: Vec::new(),
            stop,
            given_up: CancellationToken::new(),
        }
    }

    /// Returns whether everything is durable.
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Returns when to begin a batch of `rows` rows, the first of which arrived at `since`; `None` if something else
    /// has to become durable first. Full batches are cheaper: while others are in flight, a batch too small to fill a
    /// call waits up to 250 ms for more rows.
    pub(crate) fn due(&self, writers: &[Writer], rows: usize, batch_rows: usize, since: Instant) -> Option<Instant> {
        if rows == 0 || self.is_empty() {
            return Some(since);
        }
        let makes_a_call = self.embedders.iter().map(|embedder| embedder.texts_per_call().max(1)).min();
        let makes_a_call = makes_a_call.unwrap_or_default().min(batch_rows);
        let has_room = self.all_have_room(writers);
        has_room.then(|| if rows >= makes_a_call { since } else { since + COMPANY })
    }

    /// Returns whether so little is in flight that rows read for a job do not delay the stream.
    pub(crate) fn has_time(&self, writers: &[Writer]) -> bool {
        let calls = self.embedders.iter().map(|embedder| embedder.calls_at_once()).min().unwrap_or_default();
        self.asked.len() < (calls / 2).max(1) && self.all_have_room(writers)
    }

    fn all_have_room(&self, writers: &[Writer]) -> bool {
        self.has_space() && (0..self.loads.len()).all(|index| self.has_room_beside(writers, index))
    }

    fn has_room(&self, writers: &[Writer], index: usize) -> bool {
        self.has_space() && self.has_room_beside(writers, index)
    }

    fn has_room_beside(&self, writers: &[Writer], index: usize) -> bool {
        self.loads.get(index).is_none_or(|load| load.has_room(|| writers[index].collection.embedder.as_ref()))
    }

    fn has_space(&self) -> bool {
        self.asked.is_empty() || (self.bytes < BYTES && self.batches.len() < BATCHES)
    }

    fn meets(&self, batches: &[(usize, Batch)]) -> bool {
        let is_under_way = |index: usize, key| self.loads.get(index).is_some_and(|load| load.keys.contains(key));
        batches.iter().any(|(index, batch)| batch.keys().any(|key| is_under_way(*index, key)))
    }

    /// Returns whether a batch may begin without waiting.
    pub(crate) fn may_begin(&self, writers: &[Writer], batches: &[(usize, Batch)]) -> bool {
        !self.meets(batches) && batches.iter().all(|(index, _)| self.has_room(writers, *index))
    }

    /// Begins a batch, which has rows for each of these writers. Waits until it may begin, prepares its rows, as many
    /// at a time as memory allows, and begins to embed them.
    pub(crate) async fn begin(
        &mut self,
        writers: &mut [Writer],
        source: &dyn RowSource,
        mut batches: Vec<(usize, Batch)>,
        span: Span,
    ) -> Result<(), PipelineError> {
        if self.loads.len() != writers.len() {
            self.loads.resize_with(writers.len(), InFlightBudget::default);
            self.embedders = embedders_of(writers);
        }
        while !self.may_begin(writers, &batches) && self.write_next(writers).await? {}
        let number = self.first + self.batches.len() as u64;
        self.batches.push_back(InFlightBatch::new(span.clone()));
        while !batches.is_empty() {
            let prepared = prepare(writers, source, &mut batches).instrument(span.clone()).await?;
            for (ticket, part) in self.ticketed(number, prepared) {
                self.place(writers, ticket, part, &span).await?;
            }
            batches.retain(|(_, batch)| !batch.is_empty());
            while !batches.is_empty() && !self.has_space() && self.write_next(writers).await? {}
        }
        if let Some(batch) = self.batch(number) {
            batch.is_whole = true;
        }
        self.pop_completed();
        Ok(())
    }

    /// Counts parts of a batch, and their rows, as not durable. Returns each part with its slip.
    fn ticketed(&mut self, batch: u64, parts: Vec<(usize, EmbedJob)>) -> Vec<(PartTicket, EmbedJob)> {
        if let Some(open) = self.batch(batch) {
            open.parts += parts.len();
        }
        let ticket = |writer, part: &EmbedJob| {
            let keys: Vec<RowKey> = part.keys().cloned().collect();
            PartTicket { batch, writer, keys, texts: part.texts(), bytes: part.weight() }
        };
        let tickets = parts.into_iter().map(|(writer, part)| (ticket(writer, &part), part));
        let tickets: Vec<_> = tickets.collect();
        for (ticket, _) in &tickets {
            self.loads[ticket.writer].keys.extend(ticket.keys.iter().cloned());
        }
        tickets
    }

    /// Begins to embed a part as soon as its embedder has use for it.
    async fn place(
        &mut self,
        writers: &mut [Writer],
        ticket: PartTicket,
        part: EmbedJob,
        span: &Span,
    ) -> Result<(), PipelineError> {
        let can_take = |sequencer: &Self, writers: &[Writer]| {
            let embedder = writers[ticket.writer].collection.embedder.as_ref();
            sequencer.has_space() && sequencer.loads[ticket.writer].can_take(embedder)
        };
        while !can_take(self, writers) && self.write_next(writers).await? {}
        self.loads[ticket.writer].texts += ticket.texts;
        self.bytes += ticket.bytes;
        if let Some(batch) = self.batch(ticket.batch) {
            batch.asked += 1;
            debug_assert!(batch.asked <= batch.parts, "each part is embedded once");
        }
        let embedded = writers[ticket.writer].embed(part, self.given_up.clone()).instrument(span.clone());
        self.asked.spawn(async move { EmbeddedPart { ticket, part: embedded.await } });
        Ok(())
    }

    /// Adds a note behind everything that has begun.
    pub(crate) fn note(&mut self, note: N) {
        note.push_to(self.batches.back_mut().map_or(&mut self.durable, |newest| &mut newest.notes));
    }

    /// Returns the notes behind batches that are not durable, the oldest first.
    pub(crate) fn notes(&self) -> impl Iterator<Item = &N> {
        self.batches.iter().flat_map(|batch| &batch.notes)
    }

    /// Takes the notes behind batches that have become durable.
    pub(crate) fn durable(&mut self) -> Vec<N> {
        std::mem::take(&mut self.durable)
    }

    /// Waits for the next part that has its vectors, to be passed to [`write`](Self::write); `None` if nothing is being
    /// embedded. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Option<EmbeddedPart> {
        self.asked.join_next().await.map(whole)
    }

    /// Writes a part, and all others that have their vectors by now.
    pub(crate) async fn write(&mut self, writers: &mut [Writer], first: EmbeddedPart) -> Result<(), PipelineError> {
        let mut dealt: Vec<(Vec<PartTicket>, Vec<EmbedJob>)> = writers.iter().map(|_| Default::default()).collect();
        let mut failed = Ok(());
        let mut next = Some(first);
        while let Some(EmbeddedPart { ticket, part }) = next {
            if let Some(batch) = self.batch(ticket.batch) {
                debug_assert!(batch.asked > 0, "only a part that is being embedded gets vectors");
                batch.asked -= 1;
                batch.has_failed |= part.is_err();
            }
            match part {
                Ok(part) => {
                    let (tickets, parts) = &mut dealt[ticket.writer];
                    tickets.push(ticket);
                    parts.push(part);
                }
                Err(error) => failed = first_error(failed, Err(error)),
            }
            next = self.asked.try_join_next().map(whole);
        }
        crash_point!("embedded");
        let (tickets, parts): (Vec<_>, Vec<_>) = dealt.into_iter().unzip();
        let given_up = &self.given_up;
        let dealt = writers.iter_mut().zip(parts).filter(|(_, parts)| !parts.is_empty());
        let written = all(dealt, |writer, parts| async move {
            for part in parts {
                writer.write(part, given_up).await?;
            }
            Ok(())
        });
        written.await?;
        crash_point!("written");
        tickets.into_iter().flatten().for_each(|ticket| self.written(ticket));
        self.pop_completed();
        failed
    }

    fn written(&mut self, PartTicket { batch, writer, keys, texts, bytes }: PartTicket) {
        debug_assert!(bytes <= self.bytes, "a part leaves the bytes that it took: {bytes} of {}", self.bytes);
        self.loads[writer].written(&keys, texts);
        self.bytes -= bytes;
        if let Some(batch) = self.batch(batch) {
            debug_assert!(batch.parts > batch.asked, "a durable part is not being embedded");
            batch.parts -= 1;
        }
    }

    fn batch(&mut self, number: u64) -> Option<&mut InFlightBatch<N>> {
        self.batches.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn pop_completed(&mut self) {
        while let Some(oldest) = self.batches.pop_front_if(|batch| batch.is_whole && batch.parts == 0) {
            debug_assert!(oldest.asked == 0 && !oldest.has_failed, "a batch is durable as a whole");
            self.first += 1;
            self.durable.extend(oldest.notes);
        }
        debug_assert!(!self.is_empty() || self.bytes == 0, "{} bytes are in flight without a batch", self.bytes);
        debug_assert!(!self.is_empty() || self.loads.iter().all(InFlightBudget::is_empty), "rows without a batch");
    }

    /// Waits for the next part that has its vectors and writes it. Returns false if nothing is being embedded.
    async fn advance(&mut self, writers: &mut [Writer]) -> Result<bool, PipelineError> {
        let Some(answer) = self.next().await else { return Ok(false) };
        self.write(writers, answer).await?;
        Ok(true)
    }

    /// Waits for the next part that has its vectors and writes it, to make room for a batch that has yet to begin.
    /// Returns false if nothing is being embedded, and fails at a stop.
    pub(crate) async fn write_next(&mut self, writers: &mut [Writer]) -> Result<bool, PipelineError> {
        let stop = self.stop.clone();
        let answer = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(PipelineError::Stopped),
            answer = self.next() => answer,
        };
        let Some(answer) = answer else { return Ok(false) };
        self.write(writers, answer).await?;
        Ok(true)
    }

    /// Writes everything in flight, unless a stop comes first.
    pub(crate) async fn drain(&mut self, writers: &mut [Writer]) -> Result<(), PipelineError> {
        while self.write_next(writers).await? {}
        Ok(())
    }

    /// Writes everything in flight, even after a stop.
    pub(crate) async fn finish(&mut self, writers: &mut [Writer]) -> Result<(), PipelineError> {
        while self.advance(writers).await? {}
        Ok(())
    }

    /// Shuts down because of `outcome`: waits for the oldest batch, writes every part embedded by then, and drops the
    /// rest, which the source replays. After an error, a text that cannot be embedded is not tried again.
    pub(crate) async fn close(
        &mut self,
        writers: &mut [Writer],
        outcome: Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        let (oldest, mut outcome) = (self.first, outcome);
        match &outcome {
            Err(error) if error.ends_membership() => {
                // Another worker may write in its place, so this one may not write any more.
                self.asked.shutdown().await;
                return outcome;
            }
            Ok(()) | Err(PipelineError::Stopped) => {}
            Err(_) => self.given_up.cancel(),
        }
        while self.batch(oldest).is_some_and(|batch| batch.asked > 0) {
            let written = self.advance(writers).await.map(drop);
            // If a part has failed, the source replays the whole batch, so the rest of it is not needed.
            let has_failed = self.batch(oldest).is_some_and(|batch| batch.has_failed);
            if has_failed || written.as_ref().is_err_and(|error| !matches!(error, PipelineError::Stopped)) {
                self.given_up.cancel();
            }
            outcome = first_error(outcome, written);
        }
        self.asked.shutdown().await;
        outcome
    }
}

/// Prepares the next rows of each of these batches, for all writers concurrently.
async fn prepare(
    writers: &[Writer],
    source: &dyn RowSource,
    batches: &mut [(usize, Batch)],
) -> Result<Vec<(usize, EmbedJob)>, PipelineError> {
    let prepared = batches.iter_mut().map(|(index, batch)| {
        let writer = &writers[*index];
        let rows = batch.take_first(writer.rows_at_once());
        async move {
            let parts = writer.parts_of(source, rows).await?;
            Ok::<_, PipelineError>(parts.into_iter().map(|part| (*index, part)))
        }
    });
    Ok(try_join_all(prepared).await?.into_iter().flatten().collect())
}

fn embedders_of(writers: &[Writer]) -> Vec<Arc<dyn Embedder>> {
    let mut embedders: Vec<Arc<dyn Embedder>> = Vec::new();
    for Writer { collection, .. } in writers {
        if !embedders.iter().any(|known| Arc::ptr_eq(known, &collection.embedder)) {
            embedders.push(Arc::clone(&collection.embedder));
        }
    }
    embedders
}

/// Unwraps the answer of an embedding task. Aborted tasks are never joined here, so a task without an answer has
/// panicked.
fn whole(joined: Result<EmbeddedPart, JoinError>) -> EmbeddedPart {
    joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

#[cfg(test)]
mod tests;
