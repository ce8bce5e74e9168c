//! What a person sees on stderr: bars, notes and log lines that do not overwrite each other.
//!
//! - [`progress`]: the progress of long work

pub(crate) mod progress;

use std::io::Write;
use std::sync::OnceLock;

use indicatif::MultiProgress;

/// Returns the progress bars of the process. They have one owner, so that log lines and bars do not
/// overwrite each other.
pub(crate) fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(MultiProgress::new)
}

/// Returns a writer that puts log lines above the progress bars.
pub(crate) fn log_writer() -> impl Write {
    LogWriter
}

struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        bars().suspend(|| std::io::stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Writes on stderr, above the progress bars, what is being done.
pub(crate) fn note(text: &str) {
    bars().suspend(|| {
        // If stderr is closed, there is nowhere to write it.
        let _ = writeln!(std::io::stderr(), "==> {text}");
    });
}
