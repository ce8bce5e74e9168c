//! A table that is read again while the stream goes on, and the tables whose rows depend on it, one after the other.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use walvec_capture::Shape;
use walvec_model::{Lsn, Position, TableName};

use crate::source::reread::{Ended, Progress};

/// How long to wait after a table could not be read again.
const PAUSE: Duration = Duration::from_secs(30);

/// A table, and the partitions of it to read; `None` to read all of it.
pub(super) type PartOfTable = (TableName, Option<Vec<u32>>);

/// A table that is being read again.
pub(super) struct Reading {
    pub(super) table: TableName,
    /// The shape that the table had when the reading began, to be noted at the end.
    pub(super) shape: Shape,
    /// The server's position at that look, if the table is read whole.
    pub(super) from: Option<Lsn>,
    /// The tables whose rows depend on it, each with the partitions to read. The last one is being read.
    todo: Vec<PartOfTable>,
    /// The position as of which the first of them was read whole.
    pub(super) since: Option<Position>,
    progress: Option<watch::Receiver<Progress>>,
    /// When to try again, if the table could not be read.
    again: Option<Instant>,
}

/// The next step of a reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReadingStep {
    /// Nothing before the next look.
    Wait,
    /// Show that the table could not be read.
    Failed(Ended),
    /// Forget the reading: the pause after a failure is over, and the next look begins another one.
    Forget,
    /// Give the pipeline the job of reading this.
    Give(PartOfTable),
    /// Note the shape: everything has been read.
    Done,
}

impl Reading {
    /// Creates the reading of a table, or of some of its partitions, and of its `dependents`: the tables whose rows
    /// depend on it, itself among them if it has a collection. The server was at `flushed` before the look that found
    /// the table.
    pub(super) fn of(
        table: TableName,
        shape: Shape,
        partitions: Option<&[u32]>,
        dependents: Vec<TableName>,
        flushed: Lsn,
    ) -> Self {
        // A table that looks up rows in this one is read whole: any of its rows may be affected.
        let part = |main: &TableName| partitions.filter(|_| *main == table).map(<[u32]>::to_vec);
        let todo = dependents.into_iter().map(|main| (main.clone(), part(&main))).collect();
        let from = partitions.is_none().then_some(flushed);
        Self { table, shape, from, todo, since: None, progress: None, again: None }
    }

    /// Decides the next step, and notes in `floors` as of which positions tables were read whole.
    pub(super) fn step(&mut self, now: Instant, floors: &mut BTreeMap<TableName, Position>) -> ReadingStep {
        if let Some(again) = self.again {
            return if again <= now { ReadingStep::Forget } else { ReadingStep::Wait };
        }
        let ended = self.progress.as_ref().and_then(|progress| progress.borrow().ended.clone());
        match ended {
            None if self.progress.is_some() => return ReadingStep::Wait,
            None => {}
            Some(Ok(())) => {
                self.todo.pop();
                let superseded = self.progress.take().and_then(|progress| progress.borrow().superseded.clone());
                self.since = self.since.or(superseded.as_ref().map(|(_, position)| *position));
                floors.extend(superseded);
            }
            Some(Err(ended)) => {
                self.again = Some(now + PAUSE);
                return ReadingStep::Failed(ended);
            }
        }
        self.todo.last().cloned().map_or(ReadingStep::Done, ReadingStep::Give)
    }

    /// Notes the progress of the job that was given; `None` if there was no room for it. The next step then gives it
    /// again.
    pub(super) fn given(&mut self, progress: Option<watch::Receiver<Progress>>) {
        self.progress = progress;
    }

    /// Returns the table that is read at present, and how far.
    pub(super) fn shown(&self) -> (Option<&TableName>, Progress) {
        let progress = self.progress.as_ref().map(|progress| progress.borrow().clone());
        (self.todo.last().map(|(table, _)| table), progress.unwrap_or_default())
    }
}

/// Waits until a table has been read again.
pub(super) async fn ended(reading: Option<&Reading>) {
    let progress = reading.filter(|reading| reading.again.is_none()).and_then(|reading| reading.progress.clone());
    let Some(mut progress) = progress else { return std::future::pending().await };
    if progress.wait_for(|progress| progress.ended.is_some()).await.is_err() {
        // The job was dropped together with its pipeline.
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests;
