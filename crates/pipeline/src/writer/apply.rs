//! Writes the points of rows, in an order that a crash cannot break.
//!
//! The first chunk stands for the row: its version is the row's, and it says how many chunks there are. The sink does
//! not write several points atomically, so they are made durable in three steps:
//!
//! 1. If a row gets more chunks than it has, the first chunk is written without a version, and with the new number of
//!    chunks. From now on the row does not count as current, and a component that removes it knows how many points
//!    there may be.
//! 2. The other chunks are written, and those that are no longer needed are removed.
//! 3. The first chunk gets its version and the number of chunks that there are now. If the row is gone, the first chunk
//!    is removed.
//!
//! After a crash in between, the change is read again and finds a row that is not current. A row of one chunk needs
//! only the last step.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;

use tokio_util::sync::CancellationToken;
use walvec_model::{Point, PointId, Position, Provenance, RowKey, Vector};
use walvec_sink::{SinkError, Write};

use super::embed::EmbedJob;
use super::prepare::RowPlan;
use super::{RowFailure, Writer};
use crate::error::PipelineError;
use crate::observe::metrics::{TimedStage, Timer, count_written};
use crate::state::witness::Witness;
use crate::writer::known::Versioned;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteStep {
    Announce,
    Further,
    First,
}

impl RowPlan {
    fn chunks(&self) -> u32 {
        u32::try_from(self.documents.len()).unwrap_or(u32::MAX)
    }

    /// Returns all points that the row has or had.
    fn ids(&self) -> impl Iterator<Item = PointId> {
        let documents = self.documents.iter().map(|(versioned, _)| versioned.document.id);
        documents.chain(self.surplus.iter().copied()).chain([self.first])
    }

    fn is_announced(&self) -> bool {
        self.chunks() > 1 && self.chunks() > self.stored
    }

    /// Returns how many points a step writes or removes.
    fn writes(&self, step: WriteStep) -> usize {
        match step {
            WriteStep::Announce => usize::from(self.is_announced()),
            WriteStep::Further => self.documents.len().saturating_sub(1) + self.surplus.len(),
            WriteStep::First => 1,
        }
    }
}

impl Writer {
    /// Writes a part that has its vectors. When this returns, it is durable in the sink, or parked.
    pub(crate) async fn write(
        &mut self,
        mut part: EmbedJob,
        given_up: &CancellationToken,
    ) -> Result<(), PipelineError> {
        debug_assert!(part.has_its_vectors(), "a part is embedded before it is written");
        let versions: Vec<(RowKey, Position)> = part.rows.iter().map(|row| (row.key.clone(), row.position)).collect();
        for step in [WriteStep::Announce, WriteStep::Further, WriteStep::First] {
            self.take_step(&mut part, step, given_up).await?;
        }
        self.note_witnesses(&part);
        self.settle(&part.context, &versions, &part.failed).await
    }

    /// Remembers the last row that was written and the last one that was removed: each proves what the other cannot.
    fn note_witnesses(&self, part: &EmbedJob) {
        let last = |is_gone: bool| {
            let is_alike = |row: &&RowPlan| row.documents.is_empty() == is_gone && !self.is_late(row.first);
            part.rows.iter().rev().find(is_alike)
        };
        for row in [last(false), last(true)].into_iter().flatten() {
            let version = (!row.documents.is_empty()).then_some((part.context.generation, row.position));
            self.witnesses().wrote(Witness { id: row.first, version });
        }
    }

    /// Writes one step of a part durably. If the sink refuses a point, its row is parked and the step is tried again
    /// without it.
    async fn take_step(
        &self,
        part: &mut EmbedJob,
        step: WriteStep,
        given_up: &CancellationToken,
    ) -> Result<(), PipelineError> {
        let is_doubtful = AtomicBool::default();
        loop {
            let count = part.rows.iter().map(|row| row.writes(step)).sum();
            if count == 0 {
                return Ok(());
            }
            let answer = {
                let _timer = Timer::start(TimedStage::Write);
                let writes: Vec<Write> = self.writes(part, step).collect();
                self.write_all(&writes, &is_doubtful).await
            };
            match answer {
                Ok(()) => {
                    self.note_late(part, step, is_doubtful.into_inner());
                    count_written(if step == WriteStep::Announce { 0 } else { count });
                    return Ok(());
                }
                Err(PipelineError::Sink { source: SinkError::BadPoint { id, reason }, collection }) => {
                    let vanished = self.vanished(part, step, id).await?;
                    if !vanished.is_empty() {
                        if step == WriteStep::First {
                            part.vanished.extend(&vanished);
                        }
                        let missing = vanished.into_iter().filter(|id| !part.vectors.contains_key(id)).collect();
                        self.texts(given_up.clone()).fill(part, missing).await?;
                        continue;
                    }
                    let Some(row) = part.owner(id) else {
                        return Err(PipelineError::Sink { source: SinkError::BadPoint { id, reason }, collection });
                    };
                    let (key, position) = (row.key.clone(), row.position);
                    part.fail(RowFailure { key, position, code: "E_POINT", reason });
                }
                Err(other) => {
                    self.note_late(part, step, true);
                    return Err(other);
                }
            }
        }
    }

    /// Remembers the last writes of points whose earlier states may still arrive.
    fn note_late(&self, part: &EmbedJob, step: WriteStep, was_sent_before: bool) {
        if !self.late.is_watched() {
            return;
        }
        let is_concerned = |row: &&RowPlan| was_sent_before || !self.late.among(row.ids()).is_empty();
        let concerned: Vec<&RowPlan> = part.rows.iter().filter(is_concerned).collect();
        let writes = |row: &'_ RowPlan| {
            let key = row.key.clone();
            self.writes_of(part, row, step).into_iter().map(move |write| (write, key.clone()))
        };
        self.late.written(concerned.into_iter().flat_map(writes), was_sent_before);
    }

    /// Returns the points that were to keep their vectors and have vanished since they were retrieved, if the `refused`
    /// one was to keep its vector. Another worker may have reached a truncate, or another program may have removed
    /// them.
    async fn vanished(
        &self,
        part: &EmbedJob,
        step: WriteStep,
        refused: PointId,
    ) -> Result<Vec<PointId>, PipelineError> {
        let payloads: Vec<PointId> = self
            .writes(part, step)
            .filter_map(|write| match write {
                Write::Payload { id, .. } => Some(id),
                Write::Upsert(_) | Write::Delete(_) => None,
            })
            .collect();
        if !payloads.contains(&refused) {
            return Ok(Vec::new());
        }
        let stored = self.retrieve(&payloads).await?;
        let stored: HashSet<PointId> = stored.into_iter().map(|point| point.id).collect();
        Ok(payloads.into_iter().filter(|id| !stored.contains(id)).collect())
    }

    fn writes<'a>(&'a self, part: &'a EmbedJob, step: WriteStep) -> impl Iterator<Item = Write> + 'a {
        part.rows.iter().flat_map(move |row| self.writes_of(part, row, step))
    }

    fn writes_of(&self, part: &EmbedJob, row: &RowPlan, step: WriteStep) -> Vec<Write> {
        let mut documents = row.documents.iter().map(|(versioned, _)| versioned);
        let first = documents.next();
        match (step, first) {
            (WriteStep::Announce, Some(first)) if row.is_announced() => {
                let provenance = Provenance { position: Position::default(), ..self.provenance(part, first) };
                vec![self.to_write(first, provenance, part.vectors.get(&row.first))]
            }
            (WriteStep::Announce, _) => Vec::new(),
            (WriteStep::Further, _) => {
                let further = documents.map(|versioned| {
                    self.to_write(versioned, self.provenance(part, versioned), part.vectors.get(&versioned.document.id))
                });
                further.chain(row.surplus.iter().copied().map(Write::Delete)).collect()
            }
            (WriteStep::First, Some(first)) => {
                let is_there = row.is_announced() && !part.vanished.contains(&row.first);
                let vector = part.vectors.get(&row.first).filter(|_| !is_there);
                vec![self.to_write(first, self.provenance(part, first), vector)]
            }
            (WriteStep::First, None) => vec![Write::Delete(row.first)],
        }
    }

    fn provenance(&self, part: &EmbedJob, versioned: &Versioned) -> Provenance {
        versioned.provenance(&self.collection.fingerprint, part.context.generation)
    }

    /// Returns the whole point if there is a vector for it, else only its payload.
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

#[cfg(test)]
mod tests;
