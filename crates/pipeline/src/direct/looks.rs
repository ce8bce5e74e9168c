//! Looks at the collections while the stream is followed: whether one is an older state of itself, and whether a write has
//! arrived after newer ones.

use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::Instant;

use super::follow::Follower;
use crate::error::PipelineError;
use crate::observe::metrics::count_overtaken;
use crate::rounds::{Rounds, answers};
use crate::source::reread::{JobSpec, QueuedJob};
use crate::writer::{Overtaken, Writer};

/// How often each collection is checked for writes that it must still have. Very many collections are checked less
/// often.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

impl Follower<'_> {
    /// Makes sure that no collection is an older state of itself, and that no write has arrived after newer ones.
    pub(super) async fn look(&mut self) -> Result<(), PipelineError> {
        let looked = self.look_once().await;
        // Counted from the end of the look, so that the stream has its turn however long the look took.
        self.look_at = Instant::now() + Rounds::pause(self.run.collections.writers.len(), LOOK_INTERVAL);
        looked
    }

    async fn look_once(&mut self) -> Result<(), PipelineError> {
        let turn = self.looks.turn(self.run.collections.writers.len());
        let followed = self.run.collections.writers[turn]
            .iter()
            .filter(|writer| !self.run.collections.is_aside(&writer.collection.table));
        let followed: Vec<&Writer> = followed.collect();
        answers(followed.iter().map(|writer| writer.look().boxed()).collect()).await?;
        if !self.sequencer.is_empty() {
            return Ok(());
        }
        for writer in followed {
            let overtaken = writer.overtaken().await?;
            // Another job goes first. The next look finds the points again.
            if !overtaken.is_empty() && self.active.is_none() {
                let collection = writer.collection.name.clone();
                return self.mend(collection, overtaken).await;
            }
        }
        Ok(())
    }

    /// Repairs what a late request has overwritten: reads the older rows again, and removes the points that it brought
    /// back.
    async fn mend(&mut self, collection: String, Overtaken { rows, points }: Overtaken) -> Result<(), PipelineError> {
        let count = rows.len() + points.len();
        tracing::warn!(collection, count, "a request arrived after newer ones; what it has set back is read again");
        count_overtaken(count);
        let rows = rows.into_iter().collect();
        self.begin(QueuedJob::unasked(JobSpec::Repair { collection, rows, points })).await
    }
}
