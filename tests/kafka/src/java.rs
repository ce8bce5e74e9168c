//! A running broker process, and its log.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use crate::guard::Guard;

/// How many lines of a log, or of a command's output, an error repeats.
const TAIL_LINES: usize = 30;

/// How long a broker may take to become ready, even on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// The text that a broker writes into its log when it serves.
const READY: &str = "Kafka Server started";

/// The form of the log: lines with times, written to standard error.
const LOG: [&str; 2] =
    ["-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS"];

/// Options with which Java starts fast and uses little memory: the quick compiler, the serial collector.
const JAVA: [&str; 4] = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"];

/// Waits for a line of input before it starts Java, so that the guard knows the process before it is a broker.
const START_SCRIPT: &str = r#"read -r _ && exec java "$@""#;

/// The phase of a broker's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready,
    Ended,
}

/// A broker's process. It must be reaped by [`wait`](Self::wait).
#[derive(Debug)]
pub(crate) struct Java {
    child: Child,
    pid: Pid,
    phase: watch::Receiver<Phase>,
}

impl Java {
    /// Starts a broker in `directory`, and returns before it is ready.
    pub(crate) fn start(class_path: &OsStr, directory: &Path, guard: &Guard) -> Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", START_SCRIPT, "walvec-broker"]).args(JAVA).args(LOG).arg("-cp").arg(class_path);
        command.args(["kafka.Kafka", "server.properties"]);
        // Ctrl-C in a terminal reaches only the test, whose guard then ends the broker.
        command.current_dir(directory).process_group(0);
        // Both outputs use one pipe, so that the log is in order.
        let (reader, writer) = io::pipe()?;
        command.stdin(Stdio::piped()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.spawn().context("/bin/sh could not be started")?;
        // The command still holds the pipe's other end.
        drop(command);
        guard.watch(Some(child.id()))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id")?;
        child.stdin.take().context("no standard input")?.write_all(b"start\n")?;
        let (sender, phase) = watch::channel(Phase::Starting);
        let log = log_file(directory);
        std::thread::Builder::new().name("kafka-log".to_owned()).spawn(move || copy_log(reader, &log, &sender))?;
        Ok(Self { child, pid, phase })
    }

    /// Returns a handle that waits for the next phase of the process.
    pub(crate) fn progress(&self) -> Progress {
        Progress { phase: self.phase.clone() }
    }

    /// Returns whether the process has ended by itself, or is about to.
    pub(crate) fn has_ended(&self) -> bool {
        *self.phase.borrow() == Phase::Ended
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        // The process is not reaped yet, so the id is still its own.
        kill_process(self.pid, signal).with_context(|| format!("the broker cannot be sent {signal:?}"))
    }

    /// Reaps the process.
    pub(crate) fn wait(mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

/// A handle that waits for the phases of a broker's process.
#[derive(Debug)]
pub(crate) struct Progress {
    phase: watch::Receiver<Phase>,
}

impl Progress {
    /// Returns when the broker serves.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        let settled = self.phase.wait_for(|phase| *phase != Phase::Starting);
        match tokio::time::timeout(START_TIMEOUT, settled).await {
            Ok(Ok(phase)) if *phase == Phase::Ready => Ok(()),
            Ok(_) => bail!("the broker ended while it started"),
            Err(_) => bail!("the broker was not ready after {} seconds", START_TIMEOUT.as_secs()),
        }
    }

    /// Returns when the process has closed its log: it has ended, or is about to.
    pub(crate) async fn ended(&mut self) {
        // On an error, the thread that reads the log has ended, and so has the log.
        let _ = self.phase.wait_for(|phase| *phase == Phase::Ended).await;
    }
}

/// Returns the path of the log of the broker in `directory`.
pub(crate) fn log_file(directory: &Path) -> PathBuf {
    directory.join("broker.log")
}

/// Returns the log's last lines.
pub(crate) fn log_tail(directory: &Path) -> String {
    tail(&log(directory))
}

/// Returns the first errors in the log. Later ones are mostly consequences of the shutdown.
pub(crate) fn log_errors(directory: &Path) -> String {
    let log = log(directory);
    let wrong = |line: &&str| line.contains(" ERROR ") || line.contains("Exception");
    log.lines().filter(wrong).take(TAIL_LINES).collect::<Vec<_>>().join("\n")
}

fn log(directory: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(log_file(directory)).unwrap_or_default()).into_owned()
}

/// Copies a broker's output into its log file until it ends, and reports when the broker is ready.
fn copy_log(reader: impl Read, log: &Path, phase: &watch::Sender<Phase>) {
    // Without the file the tests lose the log, but not their broker.
    let mut file = OpenOptions::new().create(true).append(true).open(log).ok();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        if let Some(file) = &mut file {
            let _ = file.write_all(&line);
        }
        if String::from_utf8_lossy(&line).contains(READY) {
            phase.send_replace(Phase::Ready);
        }
        line.clear();
    }
    phase.send_replace(Phase::Ended);
}

/// Runs one of Kafka's own commands to its end, and returns what it printed.
pub(crate) async fn run(class_path: &OsStr, directory: &Path, class: &str, arguments: &[&str]) -> Result<String> {
    let mut command = tokio::process::Command::new("java");
    command.args(JAVA).arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn").arg("-cp").arg(class_path);
    command.arg(class).args(arguments).current_dir(directory).stdin(Stdio::null()).kill_on_drop(true);
    output(command).await
}

/// Runs a command to its end and returns its output; if it fails, the error has the output.
pub(crate) async fn output(mut command: tokio::process::Command) -> Result<String> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let output = command.output().await.with_context(|| format!("{program} could not be started"))?;
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(words);
    }
    let words = tail(&format!("{words}{}", String::from_utf8_lossy(&output.stderr)));
    let how = output.status.code().map_or_else(
        || format!("was ended by signal {}", output.status.signal().unwrap_or_default()),
        |code| format!("ended with {code}"),
    );
    Err(anyhow!("{program} {how}:\n{words}"))
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
