//! Computes vectors for the rows of a batch, which is divided into parts that are embedded separately.
//!
//! A part has as many texts as the embedder wants in a call. So no part waits for the vectors of another, whose request
//! may have to be repeated several times.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::future::{join, try_join_all};
use tokio_util::sync::CancellationToken;
use walvec_embed::{EmbedError, Embedder};
use walvec_model::{Document, PointId, RowKey, TableName, Value, Vector, weight};

use super::early::EarlyVectors;
use super::long::{CutLog, Length, OnLong};
use super::prepare::{RowPlan, VectorSource};
use super::{BatchContext, RowFailure, Writer};
use crate::error::PipelineError;
use crate::observe::metrics::{TimedStage, Timer, count_embeddings};
use crate::observe::telemetry::Telemetry;
use crate::retry::Retry;
use crate::writer::known::Versioned;

/// The bytes that a row takes in addition to its documents: its key in each place that tracks rows in flight, and the
/// allocations. Without it, a transaction of a million short rows or deletes would count as nothing.
const ROW_BYTES: usize = 512;

/// The bytes that a document takes in addition to its text and its fields.
const DOCUMENT_BYTES: usize = size_of::<(Versioned, VectorSource)>() + 256;

/// The bytes that a field takes in addition to its name and its value.
const FIELD_BYTES: usize = size_of::<Value>() + 64;

/// Rows that are embedded in one call and written together.
pub(crate) struct EmbedJob {
    pub(super) rows: Vec<RowPlan>,
    /// Rows that could not be processed.
    pub(super) failed: Vec<RowFailure>,
    /// Vectors of documents whose stored points do not have them.
    pub(super) vectors: HashMap<PointId, Vector>,
    /// Vectors that began to be computed before it was known which ones are needed.
    pub(super) early: Option<EarlyVectors>,
    /// First chunks that were announced and have vanished since. They are written as whole points once more.
    pub(super) vanished: HashSet<PointId>,
    pub(super) context: Arc<BatchContext>,
}

impl EmbedJob {
    fn new(context: &Arc<BatchContext>) -> Self {
        let context = Arc::clone(context);
        let (rows, failed, vectors, early, vanished) = Default::default();
        Self { rows, failed, vectors, early, vanished, context }
    }

    pub(super) fn document(&self, id: PointId) -> Option<(&RowPlan, &Versioned)> {
        self.rows.iter().find_map(|row| {
            let (versioned, _) = row.documents.iter().find(|(versioned, _)| versioned.document.id == id)?;
            Some((row, versioned))
        })
    }

    /// Returns the row that a point belongs to.
    pub(super) fn owner(&self, id: PointId) -> Option<&RowPlan> {
        let is_surplus = |row: &&RowPlan| row.first == id || row.surplus.contains(&id);
        self.document(id).map(|(row, _)| row).or_else(|| self.rows.iter().find(is_surplus))
    }

    /// Returns the keys of its rows, including those that failed.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &RowKey> {
        self.rows.iter().map(|row| &row.key).chain(self.failed.iter().map(|failure| &failure.key))
    }

    /// Returns whether each document has a vector, here or in its stored point.
    pub(super) fn has_its_vectors(&self) -> bool {
        let mut all = self.rows.iter().flat_map(|row| &row.documents);
        all.all(|(versioned, origin)| {
            *origin == VectorSource::Kept || self.vectors.contains_key(&versioned.document.id)
        })
    }

    /// Returns how many vectors have to be computed for it.
    pub(crate) fn texts(&self) -> usize {
        self.rows.iter().map(RowPlan::texts).sum()
    }

    /// Returns about how many bytes it takes.
    pub(crate) fn weight(&self) -> usize {
        self.rows.iter().map(RowPlan::weight).sum()
    }

    /// Moves a row that cannot be processed to the failed ones: it is parked, and its points stay as they are.
    pub(super) fn fail(&mut self, failure: RowFailure) {
        self.rows.retain(|row| row.key != failure.key);
        self.failed.push(failure);
    }
}

/// Divides rows into parts that need about `most` vectors each. The chunks of a row stay together, and so do a row and
/// its failures.
pub(super) fn parts(
    rows: Vec<RowPlan>,
    failed: Vec<RowFailure>,
    mut moved: HashMap<PointId, Vector>,
    context: &Arc<BatchContext>,
    most: usize,
) -> Vec<EmbedJob> {
    let (mut parts, mut part, mut texts) = (Vec::new(), EmbedJob::new(context), 0);
    for row in rows {
        texts += row.texts();
        let ids = row.documents.iter().map(|(versioned, _)| versioned.document.id);
        part.vectors.extend(ids.filter_map(|id| Some((id, moved.remove(&id)?))));
        part.rows.push(row);
        if texts >= most {
            parts.push(std::mem::replace(&mut part, EmbedJob::new(context)));
            texts = 0;
        }
    }
    debug_assert!(moved.is_empty(), "each vector that was read belongs to a row");
    for failure in failed {
        let has_row = |part: &&mut EmbedJob| part.rows.iter().any(|row| row.key == failure.key);
        parts.iter_mut().find(has_row).unwrap_or(&mut part).failed.push(failure);
    }
    if !part.rows.is_empty() || !part.failed.is_empty() {
        parts.push(part);
    }
    parts
}

impl RowPlan {
    /// Returns about how many bytes it takes.
    pub(super) fn weight(&self) -> usize {
        let documents = self.documents.iter().map(|(versioned, _)| &versioned.document);
        let document = |document: &Document| {
            let fields = document.payload.iter().map(|(name, value)| FIELD_BYTES + name.len() + weight(value));
            DOCUMENT_BYTES + document.text.len() + fields.sum::<usize>()
        };
        ROW_BYTES + documents.map(document).sum::<usize>()
    }

    pub(super) fn texts(&self) -> usize {
        self.documents.iter().filter(|(_, origin)| *origin == VectorSource::New).count()
    }
}

/// Asks the embedder for the vectors of one collection, independently of its writer.
#[derive(Clone)]
pub(super) struct Texts {
    pub(super) collection: String,
    pub(super) table: TableName,
    pub(super) on_long: OnLong,
    pub(super) cut_log: Arc<CutLog>,
    pub(super) embedder: Arc<dyn Embedder>,
    pub(super) telemetry: Telemetry,
    stop: CancellationToken,
    /// Cancelled when another part has failed, so that everything in flight will be replayed.
    given_up: CancellationToken,
    /// The collection's place in the status.
    pub(super) index: usize,
}

impl Writer {
    pub(super) fn texts(&self, given_up: CancellationToken) -> Texts {
        Texts {
            collection: self.collection.name.clone(),
            table: self.collection.table.clone(),
            on_long: self.collection.on_long,
            cut_log: Arc::clone(&self.cut_log),
            embedder: Arc::clone(&self.collection.embedder),
            telemetry: self.shared.telemetry.clone(),
            stop: self.shared.stop.clone(),
            given_up,
            index: self.index,
        }
    }

    /// Computes the vectors that a part lacks. It does not borrow the writer, which may write other parts meanwhile.
    pub(crate) fn embed(
        &self,
        mut part: EmbedJob,
        given_up: CancellationToken,
    ) -> impl Future<Output = Result<EmbedJob, PipelineError>> + Send + use<> {
        let (texts, guard) = (self.texts(given_up), self.shared.guard.clone());
        let renew = async move {
            if let Some(guard) = guard {
                guard.renew().await;
            }
        };
        let fill = async move {
            texts.take_early(&mut part).await;
            let all = part.rows.iter().flat_map(|row| &row.documents);
            let lacks = |(versioned, origin): &&(Versioned, VectorSource)| {
                *origin != VectorSource::Kept && !part.vectors.contains_key(&versioned.document.id)
            };
            let missing = all.filter(lacks).map(|(versioned, _)| versioned.document.id).collect();
            texts.fill(&mut part, missing).await?;
            Ok(part)
        };
        async move { join(renew, fill).await.1 }
    }
}

impl Texts {
    /// Computes the vectors of these documents. A row with a text that cannot be embedded is parked, and its points
    /// stay as they are.
    pub(super) async fn fill(&self, part: &mut EmbedJob, ids: Vec<PointId>) -> Result<(), PipelineError> {
        let text = |id| Some((id, part.document(id)?.1.document.text.clone()));
        let (ids, texts): (Vec<PointId>, Vec<String>) = ids.into_iter().filter_map(text).unzip();
        // One row may have more chunks than fit into a call.
        let calls = texts.chunks(self.embedder.texts_per_call().max(1)).map(|texts| self.vectors(texts));
        let answers = try_join_all(calls).await?;
        let mut computed = 0;
        for (id, answer) in ids.into_iter().zip(answers.into_iter().flatten()) {
            match answer {
                Ok(vector) => {
                    part.vectors.insert(id, vector);
                    computed += 1;
                }
                Err(error) => {
                    // A row that has failed already is not in the part any more.
                    if let Some((_, versioned)) = part.document(id) {
                        let (key, position) = (versioned.document.key.clone(), versioned.position);
                        part.fail(RowFailure { key, position, code: error.code(), reason: error.to_string() });
                    }
                }
            }
        }
        self.count(computed);
        Ok(())
    }

    pub(super) fn count(&self, computed: usize) {
        if computed > 0 {
            count_embeddings("computed", computed);
            self.telemetry.collection(self.index, |status| status.embeddings_computed += computed as u64);
        }
    }

    /// Returns a vector for each text, or why it will never have one. Retries transient errors without end, unless
    /// another part has failed. Keeps the vectors that have arrived, because they may have cost money.
    pub(super) async fn embed(
        &self,
        texts: &[String],
        length: Length,
    ) -> Result<Vec<Result<Vector, EmbedError>>, PipelineError> {
        let _timer = Timer::start(TimedStage::Embed);
        let mut retry = Retry::one_of_many(&self.telemetry, &self.stop);
        let mut done: Vec<Option<Result<Vector, EmbedError>>> = texts.iter().map(|_| None).collect();
        let mut has_failed = false;
        loop {
            let open: Vec<usize> = (0..texts.len()).filter(|at| done[*at].is_none()).collect();
            let asked: Vec<String> = open.iter().map(|at| texts[*at].clone()).collect();
            let answer = match length {
                Length::Whole => self.embedder.embed_whole(asked),
                Length::Beginning => self.embedder.embed(asked),
            };
            let answer = tokio::select! {
                answer = answer => answer,
                () = self.not_wanted(has_failed) => return Err(PipelineError::Stopped),
            };
            let again = match answer {
                Ok(answers) if answers.len() != open.len() => {
                    let reason = format!("{} texts were given, {} vectors came back", open.len(), answers.len());
                    Some(EmbedError::Failed(reason))
                }
                Ok(answers) => {
                    let mut again = None;
                    for (at, answer) in open.iter().zip(answers) {
                        match answer {
                            Err(error) if error.is_retryable() => again = Some(error),
                            answer => done[*at] = Some(answer),
                        }
                    }
                    if open.iter().any(|at| done[*at].is_some()) {
                        retry.succeeded();
                    }
                    again
                }
                Err(error) => Some(error),
            };
            let Some(error) = again else { return Ok(done.into_iter().flatten().collect()) };
            has_failed = true;
            let pause = async {
                // A delay of zero means at once. That was the attempt that failed, so back off instead.
                match error.after().filter(|delay| !delay.is_zero()) {
                    Some(delay) => retry.soon(error.into(), delay).await,
                    None => retry.after(error.into()).await,
                }
            };
            tokio::select! {
                paused = pause => paused?,
                () = self.given_up.cancelled() => return Err(PipelineError::Stopped),
            }
        }
    }

    /// Resolves when vectors are not needed any more, because another part has failed. The first answer is still
    /// awaited, unless everything is to stop: it is paid for, and once it is stored, the replayed batch does not need
    /// it again.
    async fn not_wanted(&self, has_failed: bool) {
        self.given_up.cancelled().await;
        if !has_failed {
            self.stop.cancelled().await;
        }
    }
}

#[cfg(test)]
mod tests;
