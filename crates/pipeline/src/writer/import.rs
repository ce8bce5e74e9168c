//! Writes points that were made elsewhere: the stage `sink` reads them from a topic.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;

use walvec_model::{Generation, Point, PointId, Position, Provenance, RowKey};
use walvec_sink::{SinkError, Write};

use super::{BatchContext, RowFailure, Writer};
use crate::error::PipelineError;
use crate::observe::metrics::{TimedStage, Timer, count_written};
use crate::state::dead_letters::Place;
use crate::writer::known::FOREIGN;

/// A point that was read from a topic, or its removal.
pub(crate) struct ImportedPoint {
    pub(crate) id: PointId,
    /// The point; `None` removes it.
    pub(crate) point: Option<Point>,
    /// The version; `None`: newer than any stored one.
    pub(crate) position: Option<Position>,
    pub(crate) generation: Generation,
    pub(crate) place: Place,
}

impl ImportedPoint {
    /// Returns whether the sink has this version already, or a newer one.
    fn is_in(&self, stored: &Provenance) -> bool {
        self.generation != FOREIGN
            && self.position.is_some_and(|position| stored.position >= position && stored.generation >= self.generation)
    }
}

impl Writer {
    /// Writes points that another stage or program has made, in the order in which they were made.
    pub(crate) async fn place(&mut self, placed: Vec<ImportedPoint>) -> Result<(), PipelineError> {
        let mut last: HashMap<PointId, ImportedPoint> = HashMap::with_capacity(placed.len());
        for point in placed {
            last.insert(point.id, point);
        }
        let ids: Vec<PointId> = last.keys().copied().collect();
        let stored = self.retrieve(&ids).await?;
        for point in stored {
            let Some(provenance) = point.provenance else { continue };
            if last.get(&point.id).is_some_and(|placed| placed.is_in(&provenance)) {
                last.remove(&point.id);
            }
        }
        let mut versions = HashMap::with_capacity(last.len());
        let (mut writes, mut failed, mut places) = (Vec::with_capacity(last.len()), Vec::new(), HashMap::new());
        for ImportedPoint { id, point, position, place, .. } in last.into_values() {
            let key = RowKey::new(point.as_ref().map(|point| point.provenance.key.clone()).unwrap_or_default());
            places.insert(key.clone(), place);
            versions.insert(id, (key, position.unwrap_or_default()));
            writes.push(point.map_or(Write::Delete(id), Write::Upsert));
        }
        let context = BatchContext { generation: self.generation, places };
        let other = |write: &Write| matches!(write, Write::Upsert(point) if point.provenance.fingerprint != self.collection.fingerprint);
        let (others, writes): (Vec<Write>, Vec<Write>) = writes.into_iter().partition(other);
        for (key, position) in others.iter().filter_map(|write| versions.get(&write.id())) {
            let reason = "the vector was made by another model, or from another text, than the configuration says";
            let (key, position) = (key.clone(), *position);
            failed.push(RowFailure { key, position, code: "E_FINGERPRINT", reason: reason.to_owned() });
        }
        self.store(writes, &versions, &mut failed).await?;
        let versions: Vec<(RowKey, Position)> = versions.into_values().collect();
        self.settle(&context, &versions, &failed).await
    }

    /// Writes durably. If the sink refuses a point, it is parked and the others are tried again without it.
    async fn store(
        &self,
        mut writes: Vec<Write>,
        versions: &HashMap<PointId, (RowKey, Position)>,
        failed: &mut Vec<RowFailure>,
    ) -> Result<(), PipelineError> {
        let _timer = Timer::start(TimedStage::Write);
        while !writes.is_empty() {
            let batch = &writes;
            let answer = self.write_all(batch, &AtomicBool::default()).await;
            match answer {
                Ok(()) => break,
                Err(PipelineError::Sink { source: SinkError::BadPoint { id, reason }, collection }) => {
                    let Some((key, position)) = versions.get(&id).filter(|_| batch.iter().any(|w| w.id() == id)) else {
                        return Err(PipelineError::Sink { source: SinkError::BadPoint { id, reason }, collection });
                    };
                    let (key, position) = (key.clone(), *position);
                    failed.push(RowFailure { key, position, code: "E_POINT", reason });
                    writes.retain(|write| write.id() != id);
                }
                Err(other) => return Err(other),
            }
        }
        count_written(writes.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
