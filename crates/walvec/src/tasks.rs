//! Long work that a running walvec was asked for, one task at a time, and its progress.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use walvec_pipeline::status::Problem;

use crate::failure::Failure;

/// The kind of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Reads rows of a table again.
    Backfill,
    /// Rewrites rows and removes points that `verify` found different.
    Repair,
    /// Has all tables read again.
    Resync,
    /// Fills new collections and lets them take over the names.
    Reindex,
}

/// The state of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// It has not ended.
    Running,
    /// Everything is done.
    Done,
    /// It was given up; `error` says why.
    Failed,
}

/// A task, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Task {
    /// Counts the tasks of this process, from 1.
    pub(crate) id: u64,
    /// What it does.
    pub(crate) kind: Kind,
    /// The task's state.
    pub(crate) state: State,
    /// What it is doing, in words.
    pub(crate) step: String,
    /// Rows read so far.
    pub(crate) rows: u64,
    /// Rows in all by the server's statistics, if they have it.
    pub(crate) rows_estimated: Option<u64>,
    /// The code of the error, if it failed.
    pub(crate) code: Option<String>,
    /// The error in words.
    pub(crate) error: Option<String>,
    /// What to type, if anything helps.
    pub(crate) remedy: Option<String>,
}

impl Task {
    /// Records the failure that ended it.
    pub(crate) fn fail(&mut self, failure: &Failure) {
        let (code, error, remedy) = failure.clone().into_parts();
        self.state = State::Failed;
        (self.code, self.error, self.remedy) = (Some(code), Some(error), remedy);
    }

    /// Returns the failure that ended it, maybe in another process.
    pub(crate) fn into_failure(self) -> Failure {
        let code = self.code.unwrap_or_else(|| "E_SERVER".to_owned());
        let error = self.error.unwrap_or_else(|| "the task ended without a word".to_owned());
        let failure = Failure::new(if code == "E_CONFIG" { 2 } else { 3 }, &code, error);
        self.remedy.into_iter().fold(failure, Failure::with_remedy)
    }
}

/// The tasks of this process. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Tasks(Arc<Mutex<Option<Task>>>);

impl Tasks {
    /// Begins a task; `None` while another one runs.
    pub(crate) fn begin(&self, kind: Kind) -> Option<Handle> {
        let mut latest = self.lock();
        let id = match &*latest {
            Some(task) if task.state == State::Running => return None,
            Some(task) => task.id + 1,
            None => 1,
        };
        *latest = Some(Task {
            id,
            kind,
            state: State::Running,
            step: "waiting".to_owned(),
            rows: 0,
            rows_estimated: None,
            code: None,
            error: None,
            remedy: None,
        });
        Some(Handle { tasks: self.clone(), id })
    }

    /// Returns the latest task, if it has this number; older ones are forgotten.
    pub(crate) fn get(&self, id: u64) -> Option<Task> {
        self.lock().clone().filter(|task| task.id == id)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Task>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to report the progress of a task. If it is dropped before the end, the task has
/// failed.
pub(crate) struct Handle {
    tasks: Tasks,
    id: u64,
}

impl Handle {
    pub(crate) const fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Task)) {
        if let Some(task) = self.tasks.lock().as_mut().filter(|task| task.id == self.id) {
            change(task);
        }
    }

    pub(crate) fn step(&self, step: &str) {
        tracing::info!(task = self.id, "{step}");
        self.update(|task| step.clone_into(&mut task.step));
    }

    /// Reports the progress of a step, or what holds it up.
    pub(crate) fn reach(&self, step: &str, problem: Option<&Problem>, rows: u64, estimated: Option<u64>) {
        self.update(|task| {
            task.step = problem.map_or_else(|| step.to_owned(), |problem| format!("waiting: {}", problem.message));
            task.rows = rows;
            // Statistics may be missing, or older than the rows.
            task.rows_estimated = estimated.filter(|estimated| *estimated >= rows.max(1));
        });
    }

    pub(crate) fn end(self, result: Result<(), &Failure>) {
        self.update(|task| match result {
            Ok(()) => {
                task.state = State::Done;
                "done".clone_into(&mut task.step);
            }
            Err(failure) => task.fail(failure),
        });
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.update(|task| {
            if task.state == State::Running {
                task.fail(&Failure::new(3, "E_STOPPED", "walvec stopped, or began anew, before this was done"));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_task_runs_at_a_time_and_one_that_is_dropped_has_failed() {
        let tasks = Tasks::default();
        let first = tasks.begin(Kind::Backfill).unwrap();
        assert!(tasks.begin(Kind::Repair).is_none());
        first.update(|task| task.rows = 7);
        assert_eq!(tasks.get(1).unwrap().rows, 7);
        drop(first);
        assert_eq!(tasks.get(1).unwrap().state, State::Failed);
        let second = tasks.begin(Kind::Reindex).unwrap();
        assert_eq!((second.id(), tasks.get(1)), (2, None));
        second.end(Ok(()));
        assert_eq!(tasks.get(2).unwrap().state, State::Done);
    }
}
