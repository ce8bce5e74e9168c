//! BENCHMARKS.md: the sections of the parts, in order.

use crate::Plan;

/// The parts that have a section, in the order of BENCHMARKS.md.
const ORDER: [&str; 10] =
    ["capture", "sync", "broker", "points", "engine", "operations", "embedding", "provider", "tables", "growth"];

/// The sections of what was measured.
#[derive(Default)]
pub(crate) struct Report(Vec<(&'static str, String)>);

impl Report {
    /// Adds the section of a part.
    pub(crate) fn add(&mut self, part: &'static str, section: String) {
        self.0.push((part, section));
    }

    /// Returns the text of BENCHMARKS.md. `server` is PostgreSQL's version.
    pub(crate) fn render(&self, plan: &Plan, server: &str) -> String {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut text = format!(
            "# Benchmarks\n\nWritten by `make bench`: {cores} cores, PostgreSQL {server}, release build, medians of {} round(s). Machines \
             differ and are\nnoisy: compare the ratios, which come from paired runs, rather than the rates.\n\n",
            plan.rounds
        );
        for part in ORDER {
            self.0.iter().filter(|(of, _)| *of == part).for_each(|(_, section)| text.push_str(section));
        }
        text
    }
}

pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes / 1_000_000)
}
