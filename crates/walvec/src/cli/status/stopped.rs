//! The status of a walvec that does not run, from its data directory.

use std::io;
use std::path::PathBuf;

use walvec_pipeline::state::dead_letters::DeadLetter;
use walvec_pipeline::state::dead_letters::DeadLetterStore as _;
use walvec_pipeline::state::records::{Checkpoint, SnapshotState};
use walvec_pipeline::{PipelineError, Store};

use crate::assembly;
use crate::config::Config;
use crate::daemon::last_run::LastRun;
use crate::failure::Failure;

/// A walvec that does not run.
pub(super) struct Stopped {
    pub(super) directory: PathBuf,
    pub(super) last_run: Option<LastRun>,
    pub(super) checkpoint: Option<Checkpoint>,
    /// The parked rows of each collection, by name; `None` if this process does not keep them.
    pub(super) parked: Option<Vec<(String, Vec<DeadLetter>)>>,
}

impl Stopped {
    /// Reads the data directory. Fails with `E_LOCKED` if a process uses it after all.
    pub(super) fn read(config: &Config, directory: PathBuf) -> Result<Self, Failure> {
        let last_run = LastRun::of(&directory);
        // Behind a broker the parked rows are in a topic.
        let keeps_parked = config.broker.is_none();
        let mut stopped = Self { directory, last_run, checkpoint: None, parked: keeps_parked.then(Vec::new) };
        let has_state = stopped.has_state()?;
        if !has_state && stopped.last_run.is_none() {
            return Ok(stopped);
        }
        let _data_dir = assembly::lock(&stopped.directory)?;
        if !has_state {
            return Ok(stopped);
        }
        let store = Store::open(&stopped.directory).map_err(PipelineError::from)?;
        stopped.checkpoint = store.checkpoint().map_err(PipelineError::from)?;
        if let Some(parked) = &mut stopped.parked {
            for collection in &config.collections {
                let letters = store.of(&collection.name)?;
                parked.push((collection.name.clone(), letters));
            }
        }
        Ok(stopped)
    }

    /// Returns whether the directory has anything from an earlier run.
    pub(super) fn has_run(&self) -> bool {
        self.last_run.is_some() || self.checkpoint.is_some()
    }

    /// Returns the checkpoint, if the next run continues from it instead of reading the tables
    /// again.
    pub(super) fn position(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref().filter(|checkpoint| checkpoint.snapshot == SnapshotState::Done)
    }

    fn has_state(&self) -> Result<bool, Failure> {
        self.directory.join("state.redb").try_exists().map_err(|error| {
            let what = format!("{} cannot be read: {error}", self.directory.display());
            let failure = Failure::definite("E_SINK", what);
            match error.kind() {
                io::ErrorKind::PermissionDenied => failure.with_remedy(
                    "type the command as the user that runs walvec, or start walvec: it answers with its token (WALVEC_TOKEN)",
                ),
                _ => failure,
            }
        })
    }
}
