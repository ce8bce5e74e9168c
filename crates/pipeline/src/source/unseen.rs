//! Transactions that the stream has brought and that a statement may not see yet.
//!
//! The server sends a commit to readers of its WAL before other sessions see it: a moment before on a single server,
//! and with synchronous replication for as long as a standby takes. A statement that reads a table in that time sees a
//! state from before the change that it is read for: a row that seems to be missing, or an earlier value.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::PipelineError;
use crate::observe::problems::ProblemGuard;
use crate::observe::status::Problem;
use crate::port::SourcePort;
use crate::shared::Shared;

/// How many transactions are remembered before those that can be seen are dropped.
const MOST: usize = 10_000;

/// How long to wait before asking again whether a transaction can be seen. The server does not announce it. Most
/// transactions can be seen by the time of the first question.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LONGEST_LOOK: Duration = Duration::from_millis(100);

/// How long commits wait before the status shows it: a standby on another continent takes its time with every commit.
const PATIENCE: Duration = Duration::from_secs(2);

/// Transactions, by their ids in the stream, that were read and may not be visible yet.
#[derive(Debug, Default)]
pub(crate) struct Unseen(Mutex<HashSet<u32>>);

impl Unseen {
    /// Notes a transaction.
    pub(crate) fn begin(&self, xid: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(xid);
    }

    /// Forgets all transactions: nothing will be read for their changes.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Drops transactions that can be seen, if more than [`MOST`] are remembered.
    pub(crate) async fn prune(&self, source: &dyn SourcePort) -> Result<(), PipelineError> {
        let count = self.0.lock().unwrap_or_else(PoisonError::into_inner).len();
        if count > MOST {
            self.look(source).await?;
        }
        Ok(())
    }

    /// Waits until a statement sees everything that was read, and shows the wait if it takes long. A statement that
    /// begins afterwards sees it too.
    pub(crate) async fn seen(&self, source: &dyn SourcePort, shared: &Shared) -> Result<(), PipelineError> {
        let (began, mut pause) = (Instant::now(), FIRST_LOOK);
        let mut shown: Option<ProblemGuard> = None;
        loop {
            let waiting = self.look(source).await?;
            if waiting == 0 {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shared.stop.cancelled() => return Err(PipelineError::Stopped),
            }
            if shown.is_none() && began.elapsed() > PATIENCE {
                if self.forget_foreign(source).await? {
                    continue;
                }
                let problem = commits_wait(waiting);
                tracing::warn!(transactions = waiting, "{}", problem.message);
                shown.insert(ProblemGuard::new(&shared.telemetry)).show(problem);
            }
            pause = (pause * 2).min(LONGEST_LOOK);
        }
    }

    /// Forgets transactions that the server has never begun, which will never be seen: records of a topic may come from
    /// an earlier server. Returns whether there were any.
    async fn forget_foreign(&self, source: &dyn SourcePort) -> Result<bool, PipelineError> {
        let foreign = source.never_begun(&self.all()).await?;
        let mut unseen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for xid in &foreign {
            unseen.remove(xid);
        }
        Ok(!foreign.is_empty())
    }

    /// Forgets transactions that can be seen, and returns how many others there are.
    async fn look(&self, source: &dyn SourcePort) -> Result<usize, PipelineError> {
        let asked = self.all();
        if asked.is_empty() {
            return Ok(0);
        }
        let invisible: HashSet<u32> = source.invisible(&asked).await?.into_iter().collect();
        let mut unseen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for xid in asked.iter().filter(|xid| !invisible.contains(xid)) {
            unseen.remove(xid);
        }
        Ok(invisible.len())
    }

    fn all(&self) -> Vec<u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

/// Returns the problem to show while commits wait, which delays every read of the tables.
fn commits_wait(transactions: usize) -> Problem {
    Problem {
        part: "source".to_owned(),
        message: format!(
            "{transactions} committed transactions cannot be seen by others yet, so that rows which have to be read again wait for them: \
             their commits wait, for a synchronous standby perhaps"
        ),
        remedy: Some(
            "see that the standbys of synchronous_standby_names answer; walvec goes on by itself then".to_owned(),
        ),
        attempts: 1,
    }
}
