//! Commands of the program that run to their end.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use tokio::process::Command;

use crate::{binary, wait};

/// The configuration file, which every command reads from its working directory.
pub const CONFIGURATION: &str = "walvec.yaml";

/// Starts `walvec run` in `directory` and waits until it has crashed at a failpoint, which `failpoints` sets as the crate `fail`
/// reads it, e.g. `written=3*off->return`.
///
/// # Errors
/// If it ends in another way, or does not reach the failpoint.
pub async fn crash(directory: &Path, failpoints: &str) -> Result<()> {
    let log = directory.join("crash.log");
    let output = File::create(&log)?;
    let mut command = command(directory, &["run"])?;
    let mut process = command.env("FAILPOINTS", failpoints).stdout(output.try_clone()?).stderr(output).spawn()?;
    let ended = tokio::time::timeout(wait::LIMIT, process.wait()).await;
    let status = ended.with_context(|| format!("walvec never came to {failpoints}"))??;
    if status.signal() != Some(Signal::ABORT.as_raw()) {
        bail!("walvec ended with {status} instead of crashing at {failpoints}: {}", last_words(&log)?);
    }
    Ok(())
}

/// Runs a command of the program to its end.
///
/// # Errors
/// If it cannot be started, or does not end in time.
pub async fn run(directory: &Path, arguments: &[&str]) -> Result<Output> {
    let output = command(directory, arguments)?.output();
    let output = tokio::time::timeout(wait::LIMIT, output).await;
    output.with_context(|| format!("waited in vain for the end of walvec {arguments:?}"))?.map_err(Into::into)
}

/// Runs a command of the program whose output is closed before it prints anything, as `| head` may do.
///
/// # Errors
/// If it cannot be started, or does not end in time.
pub async fn run_unread(directory: &Path, arguments: &[&str]) -> Result<Output> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let process = command(directory, arguments)?.stdout(writer).stderr(Stdio::piped()).spawn()?;
    let output = tokio::time::timeout(wait::LIMIT, process.wait_with_output()).await;
    output.with_context(|| format!("waited in vain for the end of walvec {arguments:?}"))?.map_err(Into::into)
}

/// Returns a command that runs the program without any variables of the caller that could configure it.
///
/// # Errors
/// If the program cannot be found.
pub fn command(directory: &Path, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary::path()?);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_setting = ["PG", "WALVEC_", "OTEL_", "HF_"].iter().any(|prefix| text.starts_with(prefix));
        if is_setting || ["DATABASE_URL", "RUST_LOG", "COLUMNS", "NO_COLOR"].contains(&&*text) {
            command.env_remove(&name);
        }
    }
    command.args(arguments).current_dir(directory).stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

/// Returns the directory below `data` in which a process of a stage keeps its state.
#[must_use]
pub fn stage_directory(data: &Path, stage: &str, instance: &str, has_qdrant_server: bool) -> PathBuf {
    match stage {
        "capture" => data.join(stage),
        "index" | "sink" if !has_qdrant_server => data.to_owned(),
        _ => data.join(format!("{stage}-{instance}")),
    }
}

/// Returns the end of a log, where walvec names what stopped it.
pub(crate) fn last_words(log: &Path) -> Result<String> {
    let text = fs::read_to_string(log)?;
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(5)..].join("\n"))
}
