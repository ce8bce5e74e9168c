//! The process that ends a broker, however the program that started it ends.
//!
//! A broker must not outlive a test run that was killed. So a small shell process waits for the end of its standard input,
//! whose other end only this process holds: the kernel closes it however this process ends. Through this input the shell
//! learns which process is the broker. (`crates/throwaway` does the same for PostgreSQL, where the guard finds the process
//! itself.)

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// `$1` the directory to remove. Each line of the input is the id of the process that runs now, or 0 for none.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
broker=0
while read -r line; do broker=$line; done
if [ "$broker" -gt 1 ]; then kill -KILL "$broker" 2>/dev/null; fi
# A process that is being killed may still make a file.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf "$1" 2>/dev/null && break
    sleep 0.2
done
"#;

/// A running guard. Dropping it ends the broker, removes its directory, and waits until that is done.
#[derive(Debug)]
pub(crate) struct Guard {
    process: Child,
}

impl Guard {
    /// Starts a guard that will remove `directory`.
    pub(crate) fn start(directory: &Path) -> io::Result<Self> {
        let mut guard = Command::new("/bin/sh");
        guard.args(["-c", SCRIPT, "walvec-guard"]).arg(directory);
        // The guard runs outside the caller's directory, and outside its process group, which gets Ctrl-C in a
        // terminal.
        guard.current_dir("/").process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { process: guard.spawn()? })
    }

    /// Tells the guard which process is the broker now; `None`: no process is.
    pub(crate) fn watch(&self, broker: Option<u32>) -> io::Result<()> {
        let mut input = self.process.stdin.as_ref().ok_or_else(|| io::Error::other("the guard has ended"))?;
        writeln!(input, "{}", broker.unwrap_or(0))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
