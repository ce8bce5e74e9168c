//! Running PostgreSQL's own programs.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::ThrowawayError;
use crate::account::Account;

/// How many lines of a program's output, or of the server's log, an error repeats.
const TAIL_LINES: usize = 20;

/// Makes a command that runs as `account`, in a process group of its own: a Ctrl-C in the terminal reaches only the
/// program that the user started, which then stops the server in the right order.
pub(crate) fn command(program: &Path, account: &Account) -> Command {
    let mut command = Command::new(program);
    // Variables like PGDATA, PGPORT or PGOPTIONS are meant for the user's other servers.
    let theirs = |(name, _): &(std::ffi::OsString, _)| name.as_encoded_bytes().starts_with(b"PG");
    for (name, _) in std::env::vars_os().filter(theirs) {
        command.env_remove(name);
    }
    // Error messages are matched and shown in English.
    command.env("LC_ALL", "C").stdin(Stdio::null()).process_group(0);
    if let Account::Other(other) = account {
        // The account may lack access to the caller's directory and to root's home.
        command.uid(other.uid).gid(other.gid).env("HOME", "/").current_dir("/");
    }
    command
}

/// Runs a command to its end, without blocking the runtime.
pub(crate) async fn output(command: Command) -> Result<Output, ThrowawayError> {
    let program = command.get_program().to_owned();
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true).output().await.map_err(ThrowawayError::io(program))
}

/// Runs a command to its end; any other end than success is an error with the program's output.
pub(crate) async fn run(command: Command) -> Result<(), ThrowawayError> {
    let program = command.get_program().to_owned();
    let output = output(command).await?;
    if output.status.success() { Ok(()) } else { Err(failure(&program, &output)) }
}

/// Makes the error for a program that failed.
pub(crate) fn failure(program: &OsStr, output: &Output) -> ThrowawayError {
    ThrowawayError::Program {
        program: program.to_string_lossy().into_owned(),
        status: output.status.to_string(),
        output: words(output),
    }
}

/// Returns the last lines of a program's output.
pub(crate) fn words(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    tail(&text)
}

/// Returns the last lines of a text.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
