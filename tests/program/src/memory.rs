//! The memory of a process.

use std::fs;

use anyhow::{Context as _, Result};

/// Returns a field of the system's report on the memory of a process, e.g. `RssAnon`, in bytes.
///
/// # Errors
/// If there is no such process, or no such field.
pub fn memory(pid: u32, field: &str) -> Result<u64> {
    let report = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = report.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let value = value.with_context(|| format!("no {field}"))?;
    let kibibytes: u64 = value.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1024)
}
