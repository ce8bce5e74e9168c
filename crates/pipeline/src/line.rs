//! Batches whose vectors are being computed, side by side.
//!
//! Vectors take long, and those of a provider may have to be asked for several times. So batches that have no key in common
//! are under way at the same time; a batch with a key of one that is not written yet waits for it. A part of a batch is
//! written as soon as it has its vectors, whichever part that is: between different keys there is no order to keep. What is
//! noted behind a batch comes out when that batch and all before it are durable, and in the order in which it was noted.
//!
//! How much is under way is bounded by what the embedder can make use of, and by what was written lately: with a slow one
//! nobody waits long for what was begun, and little is asked for twice after a crash.

mod load;

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

use self::load::Load;
use crate::error::PipelineError;
use crate::refetch::Refetch;
use crate::writer::{Batch, Part, Writer, all, first_error};

/// Bytes of rows with their texts and payloads that may be under way at the same time, so that neither large ones nor many small ones
/// fill the memory. Vectors do not count: whatever has one is written at once.
const BYTES: usize = 8 << 20;

/// Batches that may be under way or behind one that is, however small they are.
const BATCHES: usize = 1024;

/// How long a small batch waits for company while others are under way.
const COMPANY: Duration = Duration::from_millis(250);

/// A part of a batch with its vectors, or why it has none.
pub(crate) struct Answer {
    slip: Slip,
    part: Result<Part, PipelineError>,
}

/// What is known of a part while its vectors are computed.
struct Slip {
    /// The number of its batch.
    batch: u64,
    writer: usize,
    keys: Vec<RowKey>,
    texts: usize,
    bytes: usize,
}

/// A batch that is not durable, or behind one that is not.
struct Open<N> {
    /// Whether all its parts are known.
    is_whole: bool,
    /// Parts that are not durable.
    parts: usize,
    /// Parts whose vectors are being computed.
    asked: usize,
    /// Whether a part has got no vectors, so that the batch will come again.
    has_failed: bool,
    /// Comes out behind the batch.
    notes: Vec<N>,
    /// As long as the batch is under way.
    _span: Span,
}

impl<N> Open<N> {
    const fn new(span: Span) -> Self {
        Self { is_whole: false, parts: 0, asked: 0, has_failed: false, notes: Vec::new(), _span: span }
    }
}

/// The batches that are under way. `N` is what their reader wants to know of them when they are durable.
pub(crate) struct Line<N> {
    /// The oldest first.
    batches: VecDeque<Open<N>>,
    /// The number of the oldest.
    first: u64,
    asked: JoinSet<Answer>,
    /// By writer.
    loads: Vec<Load>,
    /// The embedders of the writers, each once: very many of these may have the same one.
    embedders: Vec<Arc<dyn Embedder>>,
    bytes: usize,
    durable: Vec<N>,
    stop: CancellationToken,
    given_up: CancellationToken,
}

/// What somebody wants to know of batches when they are durable.
pub(crate) trait Note: Sized {
    /// Takes in what is noted behind the same batch, if one note can say both; else gives it back.
    fn join(&mut self, later: Self) -> Option<Self>;

    /// Notes something behind `notes`.
    fn push_to(self, notes: &mut Vec<Self>) {
        let rest = match notes.last_mut() {
            Some(last) => last.join(self),
            None => Some(self),
        };
        notes.extend(rest);
    }
}

impl<N: Note> Line<N> {
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

    /// Whether everything is durable.
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// When a batch of so many rows, of which the first came at `since`, had better begin. While others are under way a small
    /// one grows for a while. `None`: there is no room before something else is durable.
    pub(crate) fn due(&self, writers: &[Writer], rows: usize, batch_rows: usize, since: Instant) -> Option<Instant> {
        if rows == 0 || self.is_empty() {
            return Some(since);
        }
        let makes_a_call = self.embedders.iter().map(|embedder| embedder.texts_per_call().max(1)).min();
        let makes_a_call = makes_a_call.unwrap_or_default().min(batch_rows);
        let has_room = self.all_have_room(writers);
        has_room.then(|| if rows >= makes_a_call { since } else { since + COMPANY })
    }

    /// Whether so little is under way that rows which are read for another reason do not hold the others up.
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

    /// Whether a batch may begin without waiting.
    pub(crate) fn may_begin(&self, writers: &[Writer], batches: &[(usize, Batch)]) -> bool {
        !self.meets(batches) && batches.iter().all(|(index, _)| self.has_room(writers, *index))
    }

    /// Begins a batch, which has rows for each of these writers: waits until it may, prepares its rows, as many at a time as the
    /// memory takes, and asks for their vectors.
    pub(crate) async fn begin(
        &mut self,
        writers: &mut [Writer],
        source: &dyn Refetch,
        mut batches: Vec<(usize, Batch)>,
        span: Span,
    ) -> Result<(), PipelineError> {
        if self.loads.len() != writers.len() {
            self.loads.resize_with(writers.len(), Load::default);
            self.embedders = embedders_of(writers);
        }
        while !self.may_begin(writers, &batches) && self.make_way(writers).await? {}
        let number = self.first + self.batches.len() as u64;
        self.batches.push_back(Open::new(span.clone()));
        while !batches.is_empty() {
            let prepared = prepare(writers, source, &mut batches).instrument(span.clone()).await?;
            for (slip, part) in self.enrolled(number, prepared) {
                self.place(writers, slip, part, &span).await?;
            }
            batches.retain(|(_, batch)| !batch.is_empty());
            while !batches.is_empty() && !self.has_space() && self.make_way(writers).await? {}
        }
        if let Some(batch) = self.batch(number) {
            batch.is_whole = true;
        }
        self.come_out();
        Ok(())
    }

    /// Counts parts of a batch, and their rows, as not durable.
    fn enrolled(&mut self, batch: u64, parts: Vec<(usize, Part)>) -> Vec<(Slip, Part)> {
        if let Some(open) = self.batch(batch) {
            open.parts += parts.len();
        }
        let slip = |writer, part: &Part| {
            let keys: Vec<RowKey> = part.keys().cloned().collect();
            Slip { batch, writer, keys, texts: part.texts(), bytes: part.weight() }
        };
        let slips = parts.into_iter().map(|(writer, part)| (slip(writer, &part), part));
        let slips: Vec<_> = slips.collect();
        for (slip, _) in &slips {
            self.loads[slip.writer].keys.extend(slip.keys.iter().cloned());
        }
        slips
    }

    /// Asks for the vectors of a part as soon as its embedder can make use of it.
    async fn place(
        &mut self,
        writers: &mut [Writer],
        slip: Slip,
        part: Part,
        span: &Span,
    ) -> Result<(), PipelineError> {
        let can_take = |line: &Self, writers: &[Writer]| {
            let embedder = writers[slip.writer].collection.embedder.as_ref();
            line.has_space() && line.loads[slip.writer].can_take(embedder)
        };
        while !can_take(self, writers) && self.make_way(writers).await? {}
        self.loads[slip.writer].texts += slip.texts;
        self.bytes += slip.bytes;
        if let Some(batch) = self.batch(slip.batch) {
            batch.asked += 1;
        }
        let embedded = writers[slip.writer].embed(part, self.given_up.clone()).instrument(span.clone());
        self.asked.spawn(async move { Answer { slip, part: embedded.await } });
        Ok(())
    }

    /// Notes something behind everything that has begun.
    pub(crate) fn note(&mut self, note: N) {
        note.push_to(self.batches.back_mut().map_or(&mut self.durable, |newest| &mut newest.notes));
    }

    /// What was noted behind batches that are not durable, the oldest first.
    pub(crate) fn notes(&self) -> impl Iterator<Item = &N> {
        self.batches.iter().flat_map(|batch| &batch.notes)
    }

    /// What was noted behind batches that have become durable.
    pub(crate) fn durable(&mut self) -> Vec<N> {
        std::mem::take(&mut self.durable)
    }

    /// The next part that has its vectors, which is to be written with [`write`](Self::write); `None` if nothing is under way.
    /// Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Answer> {
        self.asked.join_next().await.map(whole)
    }

    /// Writes a part, and what else has its vectors.
    pub(crate) async fn write(&mut self, writers: &mut [Writer], first: Answer) -> Result<(), PipelineError> {
        let mut dealt: Vec<(Vec<Slip>, Vec<Part>)> = writers.iter().map(|_| Default::default()).collect();
        let mut failed = Ok(());
        let mut next = Some(first);
        while let Some(Answer { slip, part }) = next {
            if let Some(batch) = self.batch(slip.batch) {
                batch.asked -= 1;
                batch.has_failed |= part.is_err();
            }
            match part {
                Ok(part) => {
                    let (slips, parts) = &mut dealt[slip.writer];
                    slips.push(slip);
                    parts.push(part);
                }
                Err(error) => failed = first_error(failed, Err(error)),
            }
            next = self.asked.try_join_next().map(whole);
        }
        crash_point!("embedded");
        let (slips, parts): (Vec<_>, Vec<_>) = dealt.into_iter().unzip();
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
        slips.into_iter().flatten().for_each(|slip| self.written(slip));
        self.come_out();
        failed
    }

    fn written(&mut self, Slip { batch, writer, keys, texts, bytes }: Slip) {
        self.loads[writer].written(&keys, texts);
        self.bytes -= bytes;
        if let Some(batch) = self.batch(batch) {
            batch.parts -= 1;
        }
    }

    fn batch(&mut self, number: u64) -> Option<&mut Open<N>> {
        self.batches.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn come_out(&mut self) {
        while let Some(oldest) = self.batches.pop_front_if(|batch| batch.is_whole && batch.parts == 0) {
            self.first += 1;
            self.durable.extend(oldest.notes);
        }
    }

    /// Waits for the next part that has its vectors and writes it. False if nothing is under way.
    async fn advance(&mut self, writers: &mut [Writer]) -> Result<bool, PipelineError> {
        let Some(answer) = self.next().await else { return Ok(false) };
        self.write(writers, answer).await?;
        Ok(true)
    }

    /// The same, for what has yet to begin: a stop is not kept waiting.
    pub(crate) async fn make_way(&mut self, writers: &mut [Writer]) -> Result<bool, PipelineError> {
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

    /// Writes everything that is under way, unless a stop comes first.
    pub(crate) async fn drain(&mut self, writers: &mut [Writer]) -> Result<(), PipelineError> {
        while self.make_way(writers).await? {}
        Ok(())
    }

    /// Writes everything that is under way, whatever comes.
    pub(crate) async fn finish(&mut self, writers: &mut [Writer]) -> Result<(), PipelineError> {
        while self.advance(writers).await? {}
        Ok(())
    }

    /// Comes to an end because of `outcome`: waits for the oldest batch, writes whatever has its vectors until then, and gives the
    /// rest up, which will come again. After an error nothing that fails is asked for again.
    pub(crate) async fn close(
        &mut self,
        writers: &mut [Writer],
        outcome: Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        let (oldest, mut outcome) = (self.first, outcome);
        match &outcome {
            Err(error) if error.ends_membership() => {
                // Somebody else may write in its place: it may not write any more.
                self.asked.shutdown().await;
                return outcome;
            }
            Ok(()) | Err(PipelineError::Stopped) => {}
            Err(_) => self.given_up.cancel(),
        }
        while self.batch(oldest).is_some_and(|batch| batch.asked > 0) {
            let written = self.advance(writers).await.map(drop);
            // It comes again as a whole when a part of it has failed.
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

/// Prepares the next rows of each of these batches, each writer's beside the others'.
async fn prepare(
    writers: &[Writer],
    source: &dyn Refetch,
    batches: &mut [(usize, Batch)],
) -> Result<Vec<(usize, Part)>, PipelineError> {
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

/// Nobody waits for what was aborted, so that a part without an answer has panicked.
fn whole(joined: Result<Answer, JoinError>) -> Answer {
    joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

#[cfg(test)]
mod tests;
