//! Following a task of a running walvec to its end.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::running::Running;
use super::{Failure, output};
use crate::config::{Config, Stage};
use crate::tasks::{State, Task};

/// How often the task is asked how far it is: often enough for a progress bar.
const ASK: Duration = Duration::from_millis(200);

/// The running walvec that has to do the work.
pub(super) async fn running(config: &Config) -> Result<Running, Failure> {
    Running::needed(config, &[Stage::Capture], "; what it does not follow cannot be read again beside the stream").await
}

/// Asks for a task and waits for its end, showing how far it is.
pub(super) async fn perform(running: &Running, path: &str, body: &Value) -> Result<Task, Failure> {
    let accepted: Value = running.post(path, body).await?;
    let id = accepted.get("task").and_then(Value::as_u64).unwrap_or_default();
    let bar = std::io::stderr().is_terminal().then(new_bar);
    loop {
        let task: Task = running.get(&format!("/api/v1/tasks/{id}"), &[]).await?;
        if let Some(bar) = &bar {
            bar.set_length(task.rows_estimated.unwrap_or(0).max(task.rows));
            bar.set_position(task.rows);
            bar.set_message(task.step.clone());
        }
        match task.state {
            State::Running => tokio::time::sleep(ASK).await,
            State::Done => return Ok(task),
            State::Failed => return Err(Failure::of_task(task)),
        }
    }
}

/// Prints how a task has ended.
pub(super) fn report(task: &Task, text: &str, as_json: bool) -> Result<ExitCode, Failure> {
    if as_json { output::json(&json!({"rows": task.rows})) } else { output::line(text) }
}

fn new_bar() -> ProgressBar {
    let bar = output::bars().add(ProgressBar::new(0));
    if let Ok(style) = ProgressStyle::with_template("  {msg:16} {bar:32} {pos}/{len} rows  {per_sec}") {
        bar.set_style(style);
    }
    bar
}
