//! How a command that failed says so.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::SystemTime;

use serde_json::json;
use walvec_model::Moment;

use super::{Failure, output};

/// Shows why a command failed, and returns its exit code.
pub(crate) fn show(failure: &Failure, wants_json: bool, logs_json: bool) -> ExitCode {
    if wants_json {
        print_json(failure);
    }
    if logs_json {
        log(failure);
    } else {
        print(failure);
    }
    ExitCode::from(failure.exit)
}

/// Writes the failure to stdout, for programs that read JSON there.
pub(super) fn print_json(failure: &Failure) {
    // If stdout is closed, stderr still has the failure.
    let _ = output::json(&json!({ "error": failure.to_json() }));
}

/// Writes the failure to stderr as a log line in JSON, whatever the level of the log is.
fn log(failure: &Failure) {
    let at = Moment::from(SystemTime::now());
    let line = json!({ "timestamp": at, "level": "ERROR", "fields": failure.to_json() });
    // If stderr is closed, there is no other place to write it.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes the failure to stderr; the code comes last, alone on its line.
fn print(failure: &Failure) {
    let (code, what, remedy) = failure.clone().into_parts();
    let mut stderr = std::io::stderr().lock();
    // If stderr is closed, there is nowhere to write it.
    let _ = writeln!(stderr, "error: {what}");
    if let Some(remedy) = remedy {
        let _ = writeln!(stderr, " help: {remedy}");
    }
    let _ = writeln!(stderr, "{code}");
}
