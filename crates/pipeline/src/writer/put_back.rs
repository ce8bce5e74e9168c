//! Whether the collection was put back to an older state. That is looked for now and then, and before rows are written that may prove
//! it: afterwards they prove nothing any more.

use std::collections::{HashMap, HashSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use walvec_model::{PointId, Position, RowKey, StoredPoint};

use super::{Purpose, Writer};
use crate::error::PipelineError;
use crate::witness::{Doubt, Witness, Witnesses};

/// How long a replica of a cluster may take to have what others have: what is missing is looked for once more then.
const SETTLING: Duration = Duration::from_secs(2);

impl Writer {
    /// What is to be stored with the position, for [`remember`](Self::remember).
    pub(crate) fn to_remember(&self) -> Witnesses {
        self.witnesses().clone()
    }

    /// Takes over what was stored with the position.
    pub(crate) fn remember(&self, stored: Witnesses) {
        // A replay writes a row anew in an older version where what it looks up has changed.
        let may_go_back = !self.collection.transform.lookups().is_empty();
        *self.witnesses() = stored.remembered(may_go_back);
    }

    /// Takes what a snapshot has written for all that there is.
    pub(crate) fn wrote_everything(&self) {
        self.witnesses().found();
    }

    /// Fails if the collection does not have any more what it had. To be called once everything is read again that had been read before
    /// the start.
    pub(crate) async fn look(&self) -> Result<(), PipelineError> {
        let wanted = self.witnesses().to_look_for();
        if self.lacks(&wanted).await? {
            return Err(self.behind());
        }
        self.witnesses().found();
        Ok(())
    }

    /// Fails if rows prove that the collection was put back, given their points as they are stored before they are written.
    pub(super) async fn compare(
        &self,
        rows: &HashMap<PointId, &RowKey>,
        stored: &[StoredPoint],
        purpose: Purpose,
    ) -> Result<(), PipelineError> {
        // These may be stored in older versions than they were written in, or are to be mended.
        let is_unsure = |key: &RowKey| purpose == Purpose::Repair || self.has_parked(key);
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

    /// Forgets what was written into points that are about to be written again, and may be in any state meanwhile.
    pub(super) fn forget_witnesses_among(&self, ids: &HashSet<PointId>) {
        self.witnesses().keep(|witness| !ids.contains(&witness.id));
    }

    /// Forgets what is about to be swept because it is older.
    pub(crate) fn forget_witnesses_before(&self, position: Position) {
        self.witnesses().keep(|witness| witness.version.is_some_and(|(_, at)| at >= position));
    }

    pub(super) fn witnesses(&self) -> MutexGuard<'_, Witnesses> {
        self.witnesses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the collection lacks one of these writes, and goes on to.
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
        // What is stored of a point whose write may have been overtaken tells nothing.
        Ok(wanted.iter().any(|witness| !witness.holds(point(witness.id)) && !self.is_late(witness.id)))
    }

    fn behind(&self) -> PipelineError {
        PipelineError::Behind { collection: self.collection.name.clone() }
    }
}
