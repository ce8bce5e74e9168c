//! Detects that the collection was restored to an older state. This is checked periodically, and before rows are
//! written whose points may prove it: once they are written again, they prove nothing.

use std::collections::{HashMap, HashSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use walvec_model::{PointId, Position, RowKey, StoredPoint};

use super::{Purpose, Writer};
use crate::error::PipelineError;
use crate::state::witness::{Doubt, Witness, Witnesses};

/// How long a replica of a cluster may lag behind the others. A missing write is looked for again after that time.
const SETTLING: Duration = Duration::from_secs(2);

impl Writer {
    /// Returns the witnesses to store with the position, for [`remember`](Self::remember).
    pub(crate) fn to_remember(&self) -> Witnesses {
        self.witnesses().clone()
    }

    /// Takes over the witnesses that were stored with the position.
    pub(crate) fn remember(&self, stored: Witnesses) {
        // A replay may write a row in an older version, if what it looks up has changed.
        let may_go_back = !self.collection.transform.lookups().is_empty();
        *self.witnesses() = stored.remembered(may_go_back);
    }

    /// Notes that a snapshot has written everything that the collection has.
    pub(crate) fn wrote_everything(&self) {
        self.witnesses().found();
    }

    /// Fails if the collection lacks a write that it had. Call it only after the stream has replayed everything that
    /// was read before the start.
    pub(crate) async fn look(&self) -> Result<(), PipelineError> {
        let wanted = self.witnesses().to_look_for();
        if self.lacks(&wanted).await? {
            return Err(self.behind());
        }
        self.witnesses().found();
        Ok(())
    }

    /// Fails if the stored points of rows, read before they are written again, prove that the collection was restored.
    pub(super) async fn compare(
        &self,
        rows: &HashMap<PointId, &RowKey>,
        stored: &[StoredPoint],
        purpose: Purpose,
    ) -> Result<(), PipelineError> {
        // These rows may be stored in older versions than they were written in, or are being repaired.
        let is_unsure = |key: &RowKey| purpose == Purpose::Repair || self.parked.contains(key);
        let mut unsure = self.late.among(rows.keys().copied());
        unsure.extend(rows.iter().filter(|(_, key)| is_unsure(key)).map(|(id, _)| *id));
        self.forget_witnesses_among(&unsure);
        let doubt = self.witnesses().compare(|id| rows.contains_key(&id), stored);
        let Some(Doubt { missing, unless }) = doubt else { return Ok(()) };
        if !self.lacks(&[missing]).await? {
            return Ok(());
        }
        match unless {
            Some(newer) if !self.lacks(&[newer]).await? => Ok(()),
            Some(_) | None => Err(self.behind()),
        }
    }

    /// Forgets the witnesses of points that are about to be written again, and may be in any state meanwhile.
    pub(super) fn forget_witnesses_among(&self, ids: &HashSet<PointId>) {
        self.witnesses().keep(|witness| !ids.contains(&witness.id));
    }

    /// Forgets the witnesses of points that are about to be swept because they are older.
    pub(crate) fn forget_witnesses_before(&self, position: Position) {
        self.witnesses().keep(|witness| witness.version.is_some_and(|(_, at)| at >= position));
    }

    pub(super) fn witnesses(&self) -> MutexGuard<'_, Witnesses> {
        self.witnesses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the collection lacks one of these writes, and still does after replicas had time to catch up.
    async fn lacks(&self, wanted: &[Witness]) -> Result<bool, PipelineError> {
        if !self.lacks_now(wanted).await? {
            return Ok(false);
        }
        let settled = async {
            tokio::time::sleep(SETTLING).await;
            Ok(())
        };
        self.shared.or_stop(settled).await?;
        self.lacks_now(wanted).await
    }

    async fn lacks_now(&self, wanted: &[Witness]) -> Result<bool, PipelineError> {
        if wanted.is_empty() {
            return Ok(false);
        }
        let ids = &wanted.iter().map(|witness| witness.id).collect::<Vec<_>>();
        let stored = self.retrieve(ids).await?;
        let point = |id| stored.iter().find(|point| point.id == id);
        // The stored state of a point whose write may have been overtaken proves nothing.
        Ok(wanted.iter().any(|witness| !witness.holds(point(witness.id)) && !self.is_late(witness.id)))
    }

    fn behind(&self) -> PipelineError {
        PipelineError::Behind { collection: self.collection.name.clone() }
    }
}

#[cfg(test)]
mod tests;
