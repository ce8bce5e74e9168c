//! Following a task of a running walvec to its end.

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::{Failure, output};
use crate::api::tasks::{Accepted, Task, TaskState};
use crate::client::Client;
use crate::config::{Config, Stage};
use crate::terminal::progress::{Meter, ReportTo};

/// How often the task is polled: often enough for a progress bar.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Returns the running walvec that has to do the work.
pub(super) async fn running(config: &Config) -> Result<Client, Failure> {
    Client::needed(config, &[Stage::Capture], "; only tables that it follows can be read again").await
}

/// Starts a task and waits for its end, showing its progress.
pub(super) async fn perform(running: &Client, path: &str, body: &impl Serialize) -> Result<Task, Failure> {
    let Accepted { task: id } = running.post(path, body).await?;
    let mut meter = Meter::new("", ReportTo::Stderr);
    loop {
        let task = running.task(id).await?;
        if task.state == TaskState::Running {
            meter.rename(&task.step, task.rows);
            meter.show(task.rows, task.rows_estimated);
        }
        match task.state {
            TaskState::Running => tokio::time::sleep(POLL_INTERVAL).await,
            TaskState::Done => return Ok(task),
            TaskState::Failed => return Err(task.into_failure()),
        }
    }
}

/// Prints the outcome of a task.
pub(super) fn report(task: &Task, text: &str, as_json: bool) -> Result<ExitCode, Failure> {
    if as_json { output::json(&json!({"rows": task.rows})) } else { output::line(text) }
}
