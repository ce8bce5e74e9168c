//! The outcome of the last run on a data directory: when it began, when it ended and why.
//!
//! Stored in `last-run.json`, readable for the owner of the directory. `walvec status` shows it, because logs may be
//! elsewhere, or gone.

use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, io};

use serde::{Deserialize, Serialize};
use walvec_model::Moment;

use crate::failure::Failure;
use crate::private_file;

/// A run that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastRun {
    pub(crate) began: Moment,
    /// The end of the run; `None` while it runs, or if it was killed.
    pub(crate) ended: Option<RunEnd>,
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunEnd {
    pub(crate) at: Moment,
    /// The error that stopped it; `None` if it was asked to stop.
    pub(crate) error: Option<StopCause>,
}

/// A definite error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StopCause {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) remedy: Option<String>,
}

impl LastRun {
    /// Returns the last run on `directory`, if one is recorded.
    pub(crate) fn of(directory: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(file(directory)).ok()?).ok()
    }
}

/// Records the start of a run.
pub(crate) fn begin(directory: &Path) {
    write(directory, &LastRun { began: now(), ended: None });
}

/// Records the end of the present run.
pub(crate) fn end(directory: &Path, outcome: Result<(), &Failure>) {
    let error = outcome.err().map(|failure| {
        let (code, message, remedy) = failure.clone().into_parts();
        StopCause { code, message, remedy }
    });
    let ended = Some(RunEnd { at: now(), error });
    let began = LastRun::of(directory).map_or_else(now, |run| run.began);
    write(directory, &LastRun { began, ended });
}

/// Forgets the last run.
pub(crate) fn forget(directory: &Path) -> io::Result<()> {
    match fs::remove_file(file(directory)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn file(directory: &Path) -> PathBuf {
    directory.join("last-run.json")
}

fn now() -> Moment {
    SystemTime::now().into()
}

/// Writes the record. Errors are only logged: a full disk must neither stop a run nor hide its error.
fn write(directory: &Path, run: &LastRun) {
    let written =
        serde_json::to_vec(run).map_err(io::Error::from).and_then(|text| private_file::write(&file(directory), &text));
    if let Err(error) = written {
        tracing::warn!("how this run goes could not be noted for `walvec status`: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_run_ended_is_known_until_the_next_one_begins() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(LastRun::of(path), None);
        begin(path);
        assert_eq!(LastRun::of(path).unwrap().ended, None);
        let failure = Failure::definite("E_SLOT_LOST", "the slot is lost").with_remedy("walvec reset");
        end(path, Err(&failure));
        let error = LastRun::of(path).unwrap().ended.unwrap().error.unwrap();
        assert_eq!((error.code.as_str(), error.remedy.as_deref()), ("E_SLOT_LOST", Some("walvec reset")));
        begin(path);
        assert_eq!(LastRun::of(path).unwrap().ended, None);
        end(path, Ok(()));
        assert_eq!(LastRun::of(path).unwrap().ended.unwrap().error, None);
        forget(path).unwrap();
        forget(path).unwrap();
        assert_eq!(LastRun::of(path), None);
    }

    #[test]
    fn only_the_owner_may_read_why_a_run_ended() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        begin(directory.path());
        let mode = fs::metadata(file(directory.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
