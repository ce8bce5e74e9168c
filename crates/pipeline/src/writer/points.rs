//! The points of rows, written in an order that a crash cannot break.
//!
//! The first chunk of a row speaks for it: its version is the row's, and it says how many chunks there are. Several writes
//! are not one, so they are made durable in three steps:
//!
//! 1. Where a row gets more chunks than it has, the first one is written without a version, and names them all. From here
//!    on nobody takes the row for current, and whoever removes it knows how many points there may be.
//! 2. The other chunks are written, and those that there are no more of removed.
//! 3. The first one gets its version and the number of chunks that there are now. That of a row that is gone is removed.
//!
//! After a crash in between, the change is read again, and finds a row that is not current. Rows of one chunk need the last
//! step alone.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt as _, stream};
use walvec_embed::EmbedError;
use walvec_model::{Point, PointId, Position, Provenance, RowKey, Vector};
use walvec_sink::{SinkError, Write};

use super::rows::{Origin, Target, Work};
use super::{Writer, first_error};
use crate::error::PipelineError;
use crate::plan::Versioned;
use crate::retry::Retry;
use crate::store::DeadLetter;
use crate::telemetry::{Stage, Timer, count_embeddings, count_written};

/// How many groups are under way: while one is written, the next is embedded.
const GROUPS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Announce,
    Further,
    First,
}

/// Rows that are written together.
struct Group {
    rows: Vec<Target>,
    /// Vectors of documents whose points do not have them.
    vectors: HashMap<PointId, Vector>,
    /// First chunks that went after they were announced: they are written whole once more.
    vanished: HashSet<PointId>,
}

impl Target {
    fn texts(&self) -> usize {
        self.documents.iter().filter(|(_, origin)| *origin == Origin::New).count()
    }

    fn chunks(&self) -> u32 {
        u32::try_from(self.documents.len()).unwrap_or(u32::MAX)
    }

    fn is_announced(&self) -> bool {
        self.chunks() > 1 && self.chunks() > self.stored
    }

    /// How many points a step writes or removes.
    fn writes(&self, step: Step) -> usize {
        match step {
            Step::Announce => usize::from(self.is_announced()),
            Step::Further => self.documents.len().saturating_sub(1) + self.surplus.len(),
            Step::First => 1,
        }
    }
}

impl Group {
    fn document(&self, id: PointId) -> Option<(&Target, &Versioned)> {
        self.rows.iter().find_map(|row| {
            let (versioned, _) = row.documents.iter().find(|(versioned, _)| versioned.document.id == id)?;
            Some((row, versioned))
        })
    }

    /// The row that a point belongs to.
    fn owner(&self, id: PointId) -> Option<&Target> {
        let is_surplus = |row: &&Target| row.first == id || row.surplus.contains(&id);
        self.document(id).map(|(row, _)| row).or_else(|| self.rows.iter().find(is_surplus))
    }

    fn remove(&mut self, key: &RowKey) {
        self.rows.retain(|row| row.key != *key);
    }
}

/// Deals rows into groups that need about `most` vectors. A row's chunks stay together.
fn grouped(rows: Vec<Target>, most: usize) -> Vec<Vec<Target>> {
    let (mut groups, mut group, mut texts) = (Vec::new(), Vec::new(), 0);
    for row in rows {
        texts += row.texts();
        group.push(row);
        if texts >= most {
            groups.push(std::mem::take(&mut group));
            texts = 0;
        }
    }
    groups.push(group);
    groups
}

impl Writer {
    /// Embeds and writes, group by group. Returns the rows that could not be processed.
    pub(super) async fn bring(&self, work: Work) -> Result<Vec<DeadLetter>, PipelineError> {
        let Work { rows, mut failed } = work;
        let groups = grouped(rows, self.collection.embedder.texts_per_call().max(1));
        // A group that writes comes to its end: a write that is given up half-way may still arrive later.
        let brought = groups.into_iter().map(|group| async {
            if self.given_up.is_cancelled() {
                return Err(PipelineError::Stopped);
            }
            let brought = self.bring_group(group).await;
            if brought.is_err() {
                self.given_up.cancel();
            }
            brought
        });
        let brought: Vec<_> = stream::iter(brought).buffer_unordered(GROUPS).collect().await;
        failed.extend(first_error(brought)?.into_iter().flatten());
        Ok(failed)
    }

    /// Returns the rows that could not be processed.
    async fn bring_group(&self, rows: Vec<Target>) -> Result<Vec<DeadLetter>, PipelineError> {
        let failed = &mut Vec::new();
        let mut group = Group { rows, vectors: HashMap::new(), vanished: HashSet::new() };
        self.move_vectors(&mut group).await?;
        let has_vector = |id: &PointId| group.vectors.contains_key(id);
        let all = group.rows.iter().flat_map(|row| &row.documents);
        let missing = all.filter(|(versioned, origin)| *origin != Origin::Kept && !has_vector(&versioned.document.id));
        let missing = missing.map(|(versioned, _)| versioned.document.id).collect();
        self.embed_documents(&mut group, missing, failed).await?;
        for step in [Step::Announce, Step::Further, Step::First] {
            self.take_step(&mut group, step, failed).await?;
        }
        Ok(std::mem::take(failed))
    }

    /// Reads the vectors of texts that have moved from one chunk to another.
    async fn move_vectors(&self, group: &mut Group) -> Result<(), PipelineError> {
        let all = group.rows.iter().flat_map(|row| &row.documents);
        let moved: Vec<(PointId, PointId)> = all
            .filter_map(|(versioned, origin)| match origin {
                Origin::Moved(from) => Some((versioned.document.id, *from)),
                Origin::Kept | Origin::New => None,
            })
            .collect();
        if moved.is_empty() {
            return Ok(());
        }
        let ids: HashSet<PointId> = moved.iter().map(|(_, from)| *from).collect();
        let ids = &ids.into_iter().collect::<Vec<_>>();
        let stored = self.on_sink(|sink, _| async move { sink.vectors(ids.clone()).await }).await?;
        let stored: HashMap<PointId, Vector> = stored.into_iter().collect();
        let moved = moved.into_iter().filter_map(|(id, from)| Some((id, stored.get(&from)?.clone())));
        group.vectors.extend(moved);
        Ok(())
    }

    /// Computes the vectors of these documents. A row that has a text which cannot be embedded stays as it is, and is parked.
    async fn embed_documents(
        &self,
        group: &mut Group,
        ids: Vec<PointId>,
        failed: &mut Vec<DeadLetter>,
    ) -> Result<(), PipelineError> {
        for ids in ids.chunks(self.collection.embedder.texts_per_call().max(1)) {
            // A row that was parked with the texts before has left the group: each vector has to meet its own document.
            let documents = ids.iter().filter_map(|id| Some((*id, group.document(*id)?.1.document.text.clone())));
            let (ids, texts): (Vec<PointId>, Vec<String>) = documents.unzip();
            if texts.is_empty() {
                continue;
            }
            let mut computed = 0;
            for (id, answer) in ids.into_iter().zip(self.embed(&texts).await?) {
                match answer {
                    Ok(vector) => {
                        group.vectors.insert(id, vector);
                        computed += 1;
                    }
                    Err(error) => {
                        if let Some((_, versioned)) = group.document(id) {
                            let (key, position) = (versioned.document.key.clone(), versioned.position);
                            failed.push(self.letter(&key, position, error.code(), &error.to_string()));
                            group.remove(&key);
                        }
                    }
                }
            }
            count_embeddings("computed", computed);
            self.shared.telemetry.collection(self.index, |status| status.embeddings_computed += computed as u64);
        }
        Ok(())
    }

    /// A vector for each text, or why it will never have one. What may still come is asked for again, for ever, unless the batch
    /// has failed elsewhere; what has come is kept, because somebody may have paid for it.
    async fn embed(&self, texts: &[String]) -> Result<Vec<Result<Vector, EmbedError>>, PipelineError> {
        let _timer = Timer::start(Stage::Embed);
        let mut retry = Retry::new(&self.shared.telemetry, &self.shared.stop);
        let mut done: Vec<Option<Result<Vector, EmbedError>>> = texts.iter().map(|_| None).collect();
        let mut has_failed = false;
        loop {
            let open: Vec<usize> = (0..texts.len()).filter(|at| done[*at].is_none()).collect();
            let asked: Vec<String> = open.iter().map(|at| texts[*at].clone()).collect();
            let answer = tokio::select! {
                answer = self.collection.embedder.embed(asked) => answer,
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
                // "At once" it was tried already.
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

    /// Resolves when vectors are not waited for any more, because the batch has failed elsewhere. The first answer is waited for
    /// all the same, unless everything is to stop: it is paid for, and once it is stored the batch that comes again needs it not.
    async fn not_wanted(&self, has_failed: bool) {
        self.given_up.cancelled().await;
        if !has_failed {
            self.shared.stop.cancelled().await;
        }
    }

    /// Writes durably what a step takes; a row with a point that the sink refuses is parked and the others are tried again
    /// without it.
    async fn take_step(
        &self,
        group: &mut Group,
        step: Step,
        failed: &mut Vec<DeadLetter>,
    ) -> Result<(), PipelineError> {
        loop {
            let count = group.rows.iter().map(|row| row.writes(step)).sum();
            if count == 0 {
                return Ok(());
            }
            let answer = {
                let (_timer, group) = (Timer::start(Stage::Write), &*group);
                self.as_owner(|sink, _| sink.write(self.writes(group, step).collect())).await
            };
            match answer {
                Ok(()) => {
                    count_written(if step == Step::Announce { 0 } else { count });
                    return Ok(());
                }
                Err(PipelineError::Sink { source: SinkError::BadPoint { id, reason }, collection }) => {
                    let vanished = self.vanished(group, step, id).await?;
                    if !vanished.is_empty() {
                        if step == Step::First {
                            group.vanished.extend(&vanished);
                        }
                        let missing = vanished.into_iter().filter(|id| !group.vectors.contains_key(id)).collect();
                        self.embed_documents(group, missing, failed).await?;
                        continue;
                    }
                    let Some(row) = group.owner(id) else {
                        return Err(PipelineError::Sink { source: SinkError::BadPoint { id, reason }, collection });
                    };
                    let key = row.key.clone();
                    failed.push(self.letter(&key, row.position, "E_POINT", &reason));
                    group.remove(&key);
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// The points that were to keep their vectors and have gone since they were looked up, if the refused one is among those
    /// that were: another worker may have come to a truncate, or somebody has removed them.
    async fn vanished(&self, group: &Group, step: Step, refused: PointId) -> Result<Vec<PointId>, PipelineError> {
        let payloads: Vec<PointId> = self
            .writes(group, step)
            .filter_map(|write| match write {
                Write::Payload { id, .. } => Some(id),
                Write::Upsert(_) | Write::Delete(_) => None,
            })
            .collect();
        if !payloads.contains(&refused) {
            return Ok(Vec::new());
        }
        let ids = &payloads;
        let stored = self.on_sink(|sink, _| async move { sink.retrieve(ids.clone()).await }).await?;
        let stored: HashSet<PointId> = stored.into_iter().map(|point| point.id).collect();
        Ok(payloads.into_iter().filter(|id| !stored.contains(id)).collect())
    }

    fn writes<'a>(&'a self, group: &'a Group, step: Step) -> impl Iterator<Item = Write> + 'a {
        group.rows.iter().flat_map(move |row| self.writes_of(group, row, step))
    }

    fn writes_of(&self, group: &Group, row: &Target, step: Step) -> Vec<Write> {
        let mut documents = row.documents.iter().map(|(versioned, _)| versioned);
        let first = documents.next();
        match (step, first) {
            (Step::Announce, Some(first)) if row.is_announced() => {
                let provenance = Provenance { position: Position::default(), ..self.provenance(first) };
                vec![self.to_write(first, provenance, group.vectors.get(&row.first))]
            }
            (Step::Announce, _) => Vec::new(),
            (Step::Further, _) => {
                let further = documents.map(|versioned| {
                    self.to_write(versioned, self.provenance(versioned), group.vectors.get(&versioned.document.id))
                });
                further.chain(row.surplus.iter().copied().map(Write::Delete)).collect()
            }
            (Step::First, Some(first)) => {
                let is_there = row.is_announced() && !group.vanished.contains(&row.first);
                let vector = group.vectors.get(&row.first).filter(|_| !is_there);
                vec![self.to_write(first, self.provenance(first), vector)]
            }
            (Step::First, None) => vec![Write::Delete(row.first)],
        }
    }

    fn provenance(&self, versioned: &Versioned) -> Provenance {
        versioned.provenance(&self.collection.fingerprint, self.generation)
    }

    /// The whole point if there is a vector for it, else its payload.
    fn to_write(&self, versioned: &Versioned, provenance: Provenance, vector: Option<&Vector>) -> Write {
        let document = &versioned.document;
        let (id, payload) = (document.id, document.payload.clone());
        match vector.cloned() {
            Some(vector) => {
                let keywords = self.collection.keywords_of(&document.text);
                Write::Upsert(Point { id, vector, keywords, payload, provenance })
            }
            None => Write::Payload { id, payload, provenance },
        }
    }
}
