//! An error with its code, its remedy and the exit code of the command that it ends.

use std::fmt::Display;

use walvec_pipeline::{During, PipelineError, Policy};
use walvec_verify::VerifyError;

use crate::config::ConfigError;

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
