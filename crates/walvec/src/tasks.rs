//! The long work of this process, one task at a time, and its progress.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use walvec_pipeline::observe::status::Problem;
use walvec_pipeline::source::reread::JobSpec;

use crate::api::tasks::{Task, TaskKind, TaskState};
use crate::failure::Failure;

/// What a task asks of the owner of the pipeline.
pub(crate) enum TaskRequest {
    /// Work for the running pipeline.
    Job(JobSpec),
    /// Fill new collections, or go back to the kept ones.
    Reindex {
        /// Whether to go back to the kept ones.
        rollback: bool,
    },
}

/// The tasks of this process. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Tasks(Arc<Mutex<Option<Task>>>);

impl Tasks {
    /// Begins a task; `None` while another one runs.
    pub(crate) fn begin(&self, kind: TaskKind) -> Option<TaskHandle> {
        let mut latest = self.lock();
        let id = match &*latest {
            Some(task) if task.state == TaskState::Running => return None,
            Some(task) => task.id + 1,
            None => 1,
        };
        *latest = Some(Task {
            id,
            kind,
            state: TaskState::Running,
            step: "waiting".to_owned(),
            rows: 0,
            rows_estimated: None,
            code: None,
            error: None,
            remedy: None,
        });
        Some(TaskHandle { tasks: self.clone(), id })
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
pub(crate) struct TaskHandle {
    tasks: Tasks,
    id: u64,
}

impl TaskHandle {
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
    pub(crate) fn report_progress(&self, step: &str, problem: Option<&Problem>, rows: u64, estimated: Option<u64>) {
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
                task.state = TaskState::Done;
                "done".clone_into(&mut task.step);
            }
            Err(failure) => task.fail(failure),
        });
    }
}

impl Drop for TaskHandle {
    fn drop(&mut self) {
        self.update(|task| {
            if task.state == TaskState::Running {
                task.fail(&Failure::new(
                    3,
                    "E_STOPPED",
                    "walvec stopped, or began a new session, before this was done",
                ));
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
        let first = tasks.begin(TaskKind::Backfill).unwrap();
        assert!(tasks.begin(TaskKind::Repair).is_none());
        first.update(|task| task.rows = 7);
        assert_eq!(tasks.get(1).unwrap().rows, 7);
        drop(first);
        assert_eq!(tasks.get(1).unwrap().state, TaskState::Failed);
        let second = tasks.begin(TaskKind::Reindex).unwrap();
        assert_eq!((second.id(), tasks.get(1)), (2, None));
        second.end(Ok(()));
        assert_eq!(tasks.get(2).unwrap().state, TaskState::Done);
    }
}
