//! Programs that are not walvec: those of `tests/quix`, and Debezium's engine.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::wait;

/// A running program. Killed when dropped.
#[derive(Debug)]
pub struct Other {
    process: Child,
    log: PathBuf,
    output: PathBuf,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns whether `what` can be tested here. If not, it prints a clear notice; on a build server, where nothing may be
/// left out, it panics.
#[allow(clippy::print_stderr)]
fn can_test(what: &str, is_there: bool, remedy: &str) -> bool {
    assert!(is_there || env::var_os("CI").is_none_or(|ci| ci.is_empty()), "{what} cannot be tested: {remedy}");
    if !is_there {
        eprintln!("SKIPPED: {what}: {remedy}");
    }
    is_there
}

/// Returns whether programs that use Quix Streams can be tested here.
///
/// # Panics
/// If they cannot and `CI` is set.
#[must_use]
pub fn can_test_quix() -> bool {
    let remedy = "fetch it with `make quix`; needs Python 3.10 and pip";
    can_test("programs that use Quix Streams", python().is_some(), remedy)
}

/// Returns whether Debezium's engine can be run here.
///
/// # Panics
/// If it cannot and `CI` is set.
#[must_use]
pub fn can_test_debezium() -> bool {
    static JAVAC: OnceLock<bool> = OnceLock::new();
    let has = |program| std::process::Command::new(program).arg("-version").output().is_ok_and(|o| o.status.success());
    let is_there = *JAVAC.get_or_init(|| has("javac") && has("mvn"));
    can_test("Debezium's own engine", is_there, "install a JDK 17 and Maven; `make debezium` fetches it")
}

/// Returns whether the program was built with TLS and SCRAM to a broker.
///
/// # Panics
/// If it was not and `CI` is set.
#[must_use]
pub fn can_test_kafka_tls() -> bool {
    static FEATURES: OnceLock<String> = OnceLock::new();
    let features = FEATURES.get_or_init(|| {
        let output = walvec_test_program::path()
            .and_then(|program| Ok(std::process::Command::new(program).arg("--version").output()?));
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    });
    let remedy = "install pkg-config and the headers of OpenSSL (Debian: libssl-dev), then build with `make test`";
    can_test("TLS and SCRAM to a broker", features.contains("kafka-tls"), remedy)
}

/// Returns the path of the Python that has Quix Streams.
fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let mut command = std::process::Command::new(repository().join("scripts/clients-python.sh"));
        let output = command.arg("--installed").arg(repository().join("tests/quix/requirements.txt")).output().ok()?;
        let path = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| path.trim().into())
    };
    PYTHON.get_or_init(find).as_deref()
}

impl Other {
    /// Starts a program of `tests/quix`, e.g. `enrich.py`, with these arguments and variables.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn quix(directory: &Path, program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Self> {
        let mut command = Command::new(python().context("there is no Python with Quix Streams")?);
        // Python must not write byte code into the checkout.
        command.args(["-B", "-u"]).arg(repository().join("tests/quix").join(program)).args(arguments);
        command.env("state", directory.join(format!("{program}-state"))).envs(variables.iter().copied());
        Self::start(command, directory, program)
    }

    /// Starts Debezium's engine, which follows a database into the topics of a broker.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn debezium(directory: &Path, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(repository().join("scripts/debezium-recorder.sh"));
        command.arg("produce").args(arguments);
        Self::start(command, directory, "debezium")
    }

    fn start(mut command: Command, directory: &Path, name: &str) -> Result<Self> {
        let (log, output) = (directory.join(format!("{name}.log")), directory.join(format!("{name}.out")));
        let append = |path: &Path| File::options().create(true).append(true).open(path);
        command.current_dir(directory).stdin(Stdio::null()).stdout(append(&output)?).stderr(append(&log)?);
        let process = command.kill_on_drop(true).spawn().with_context(|| format!("{name} could not be started"))?;
        Ok(Self { process, log, output })
    }

    /// Fails if the program has ended.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn is_alive(&mut self) -> Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}", self.log.display()),
        }
    }

    /// Returns what the program has printed so far.
    ///
    /// # Errors
    /// The file system's.
    pub fn printed(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.output)?)
    }

    /// Asks the program to stop (SIGTERM) and waits until it ends, with any exit code.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn stop(mut self) -> Result<()> {
        let pid = self.process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM)?;
        }
        tokio::time::timeout(wait::LIMIT, self.process.wait()).await.context("the program does not end")??;
        Ok(())
    }
}
