//! The process that ends a cluster, however the program that started it ends.
//!
//! A server must not outlive a demo that was killed with `kill -9`, nor a test run whose process just exits: statics are
//! never dropped. So a small shell process waits for the end of its standard input. Only this process holds the other
//! end, and the kernel closes it however this process ends. Then the shell stops the server and removes temporary files.
//! An orderly end works in the same way, so there is only one way, and it is tested.

use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::ThrowawayError;
use crate::account::Account;
use crate::command::command;

/// The guard's script. `$1` pg_ctl, `$2` data directory, `$3` stop mode, `$4` directory to remove or nothing.
///
/// A fast stop waits for replication clients. One that is suspended would hold it up, hence the limit.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
while read -r _; do :; done
if "$1" status -s -D "$2" >/dev/null; then
    "$1" stop -s -D "$2" -m "$3" -t 20 || "$1" stop -s -D "$2" -m immediate
fi
if [ -n "$4" ]; then rm -rf "$4"; fi
"#;

/// What happens to the files at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtEnd<'a> {
    /// Stop with a fast shutdown and keep them.
    Keep,
    /// Stop at once, because the data is not needed any more, and remove this directory.
    Remove(&'a Path),
}

/// A running guard. Dropping it ends the cluster, and waits until that is done.
#[derive(Debug)]
pub(crate) struct Guard {
    process: Child,
}

impl Guard {
    /// Starts the guard of the cluster in `data`.
    pub(crate) fn start(
        pg_ctl: &Path,
        data: &Path,
        account: &Account,
        at_end: AtEnd<'_>,
    ) -> Result<Self, ThrowawayError> {
        let shell = Path::new("/bin/sh");
        let (mode, remove) = match at_end {
            AtEnd::Keep => ("fast", Path::new("")),
            AtEnd::Remove(directory) => ("immediate", directory),
        };
        let mut guard: Command = command(shell, account);
        guard.arg("-c").arg(SCRIPT).arg("walvec-guard").arg(pg_ctl).arg(data).arg(mode).arg(remove);
        // The guard does not stay in the caller's directory, which could then not be unmounted or removed.
        guard.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = guard.spawn().map_err(ThrowawayError::io(shell))?;
        Ok(Self { process })
    }

    /// Ends the cluster and waits until that is done.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        drop(self.process.stdin.take());
        self.process.wait().map(drop)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "the guard of a temporary PostgreSQL could not be waited for");
        }
    }
}
