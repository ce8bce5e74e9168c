//! How a command ends when it does not do what was asked.

use std::fmt::Display;
use std::io::Write as _;
use std::time::SystemTime;

use walvec_model::Moment;
use walvec_pipeline::{During, PipelineError, Policy};
use walvec_verify::VerifyError;

use super::output;
use crate::config::ConfigError;
use crate::tasks::{State, Task};

/// What was found, what it endangers, what to type, and the exit code.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// See `walvec --help`.
    pub(crate) exit: u8,
    code: String,
    what: String,
    remedy: Option<String>,
    /// Whether it may be gone at the next attempt, without anybody's help.
    pub(crate) passes: bool,
}

impl Failure {
    /// A failure with a code and a description.
    pub(crate) fn new(exit: u8, code: &str, what: impl Display) -> Self {
        Self { exit, code: code.to_owned(), what: what.to_string(), remedy: None, passes: false }
    }

    /// A configuration that cannot be used.
    pub(crate) fn configuration(error: ConfigError) -> Self {
        let remedy = error.remedy().map(str::to_owned);
        Self { remedy, ..Self::new(2, "E_CONFIG", error) }
    }

    /// A definite error, exit code 3.
    pub(crate) fn definite(code: &str, what: impl Display) -> Self {
        Self::new(3, code, what)
    }

    /// What it is called on the last line of stderr.
    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    /// Code, description and remedy.
    pub(crate) fn into_parts(self) -> (String, String, Option<String>) {
        (self.code, self.what, self.remedy)
    }

    /// Adds what to type.
    pub(crate) fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Says that it may be gone at the next attempt.
    pub(crate) fn passing(self) -> Self {
        Self { passes: true, ..self }
    }

    /// The failure as JSON fields, for `--json`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "code": self.code, "message": self.what, "remedy": self.remedy })
    }

    /// A command line that cannot be understood.
    pub(crate) fn usage(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let what = text.lines().next().unwrap_or_default();
        let what = what.strip_prefix("error: ").unwrap_or(what);
        Self::new(2, "E_USAGE", what).with_remedy("walvec --help")
    }

    /// A task that ended with it.
    pub(crate) fn tell(&self, task: &mut Task) {
        task.state = State::Failed;
        task.code = Some(self.code.clone());
        task.error = Some(self.what.clone());
        task.remedy.clone_from(&self.remedy);
    }

    /// The failure with which a task ended in another process.
    pub(crate) fn of_task(task: Task) -> Self {
        let code = task.code.unwrap_or_else(|| "E_SERVER".to_owned());
        let what = task.error.unwrap_or_else(|| "the task ended without a word".to_owned());
        Self { exit: if code == "E_CONFIG" { 2 } else { 3 }, code, what, remedy: task.remedy, passes: false }
    }

    /// Writes the failure to stdout, for programs that read JSON there.
    pub(crate) fn print_json(&self) {
        // Without a reader of stdout, stderr still says it.
        let _ = output::json(&serde_json::json!({ "error": self.to_json() }));
    }

    /// Writes the failure to stderr as a line of a log in JSON, whatever the log leaves out.
    pub(crate) fn log(&self) {
        let at = Moment::from(SystemTime::now());
        let fields = serde_json::json!({ "message": self.what, "code": self.code, "remedy": self.remedy });
        let line = serde_json::json!({ "timestamp": at, "level": "ERROR", "fields": fields });
        // Where stderr is closed, there is no other place to write it.
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    /// Writes the failure to stderr; the code comes last, alone on its line.
    pub(crate) fn print(&self) {
        let mut stderr = std::io::stderr().lock();
        // A closed stderr leaves nobody to tell.
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
        // A connection string that cannot be read is configuration, wherever it is noticed.
        let exit = if error.code() == "E_CONFIG" { 2 } else { 3 };
        let passes = error.policy(During::Running) != Policy::Stop;
        Self { exit, code: error.code().to_owned(), what: error.to_string(), remedy: error.remedy(), passes }
    }
}
