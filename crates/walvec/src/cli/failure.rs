//! How a command ends when it fails.

use std::fmt::Display;
use std::io::Write as _;
use std::time::SystemTime;

use walvec_model::Moment;
use walvec_pipeline::{During, PipelineError, Policy};
use walvec_verify::VerifyError;

use super::output;
use crate::config::ConfigError;
use crate::tasks::{State, Task};

/// A failed command: what was found, what it endangers, what to type, and the exit code.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// The exit code; `walvec --help` lists them.
    pub(crate) exit: u8,
    code: String,
    what: String,
    remedy: Option<String>,
    /// Whether it may be gone at the next attempt without any change by the user.
    pub(crate) passes: bool,
}

impl Failure {
    /// Makes a failure with a code and a description.
    pub(crate) fn new(exit: u8, code: &str, what: impl Display) -> Self {
        Self { exit, code: code.to_owned(), what: what.to_string(), remedy: None, passes: false }
    }

    /// Makes the failure for a configuration that cannot be used.
    pub(crate) fn configuration(error: ConfigError) -> Self {
        let remedy = error.remedy().map(str::to_owned);
        Self { remedy, ..Self::new(2, "E_CONFIG", error) }
    }

    /// Makes a definite error, with exit code 3.
    pub(crate) fn definite(code: &str, what: impl Display) -> Self {
        Self::new(3, code, what)
    }

    /// Returns the code that the last line of stderr shows.
    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    /// Splits it into code, description and remedy.
    pub(crate) fn into_parts(self) -> (String, String, Option<String>) {
        (self.code, self.what, self.remedy)
    }

    /// Adds the remedy: what to type.
    pub(crate) fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Marks it as one that may be gone at the next attempt.
    pub(crate) fn passing(self) -> Self {
        Self { passes: true, ..self }
    }

    /// Returns the failure as JSON, for `--json`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "code": self.code, "message": self.what, "remedy": self.remedy })
    }

    /// Makes the failure for a command line that cannot be understood.
    pub(crate) fn usage(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let what = text.lines().next().unwrap_or_default();
        let what = what.strip_prefix("error: ").unwrap_or(what);
        Self::new(2, "E_USAGE", what).with_remedy("walvec --help")
    }

    /// Records it as the end of a task.
    pub(crate) fn tell(&self, task: &mut Task) {
        task.state = State::Failed;
        task.code = Some(self.code.clone());
        task.error = Some(self.what.clone());
        task.remedy.clone_from(&self.remedy);
    }

    /// Makes the failure that ended a task in another process.
    pub(crate) fn of_task(task: Task) -> Self {
        let code = task.code.unwrap_or_else(|| "E_SERVER".to_owned());
        let what = task.error.unwrap_or_else(|| "the task ended without a word".to_owned());
        Self { exit: if code == "E_CONFIG" { 2 } else { 3 }, code, what, remedy: task.remedy, passes: false }
    }

    /// Writes the failure to stdout, for programs that read JSON there.
    pub(crate) fn print_json(&self) {
        // If stdout is closed, stderr still has the failure.
        let _ = output::json(&serde_json::json!({ "error": self.to_json() }));
    }

    /// Writes the failure to stderr as a log line in JSON, whatever the level of the log is.
    pub(crate) fn log(&self) {
        let at = Moment::from(SystemTime::now());
        let fields = serde_json::json!({ "message": self.what, "code": self.code, "remedy": self.remedy });
        let line = serde_json::json!({ "timestamp": at, "level": "ERROR", "fields": fields });
        // If stderr is closed, there is no other place to write it.
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    /// Writes the failure to stderr; the code comes last, alone on its line.
    pub(crate) fn print(&self) {
        let mut stderr = std::io::stderr().lock();
        // If stderr is closed, there is nowhere to write it.
        let _ = writeln!(stderr, "error: {}", self.what);
        if let Some(remedy) = &self.remedy {
            let _ = writeln!(stderr, " help: {remedy}");
        }
        let _ = writeln!(stderr, "{}", self.code);
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let remedy = self.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        write!(f, "{}{remedy} [{}]", self.what, self.code)
    }
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        Self { exit: 3, code: error.code().to_owned(), what: error.to_string(), remedy: error.remedy(), passes: false }
    }
}

impl From<PipelineError> for Failure {
    fn from(error: PipelineError) -> Self {
        // A connection string that cannot be read is an error of the configuration, wherever it is
        // noticed.
        let exit = if error.code() == "E_CONFIG" { 2 } else { 3 };
        let passes = error.policy(During::Running) != Policy::Stop;
        Self { exit, code: error.code().to_owned(), what: error.to_string(), remedy: error.remedy(), passes }
    }
}
