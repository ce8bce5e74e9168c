//! The program that was built from these sources.
//!
//! Cargo neither builds the program for the tests of other packages nor says where it is, so a stale program would be
//! tested unnoticed. The compiler's list of its sources shows whether it is stale.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

const REMEDY: &str = "type `cargo build` first; `make test` does";

/// Returns the path `<target directory>/<profile>/walvec`: this program is in that directory, or, if it is a test, in `deps` below.
///
/// # Errors
/// If this program is in no directory.
pub fn path() -> Result<PathBuf> {
    let this = env::current_exe()?;
    let directory = this.parent().context("this program is in no directory")?;
    let profile = if directory.ends_with("deps") { directory.parent() } else { Some(directory) };
    Ok(profile.context("this program is in no target directory")?.join("walvec"))
}

/// Refuses a program that is missing or older than its sources.
///
/// # Errors
/// If it is.
pub fn check() -> Result<()> {
    let program = path()?;
    if !program.exists() {
        bail!("{} is missing; {REMEDY}", program.display());
    }
    let list = program.with_extension("d");
    let text = fs::read_to_string(&list).with_context(|| format!("{} is missing; {REMEDY}", list.display()))?;
    let built = modified(&program)?;
    for source in sources(&text) {
        // A source that was removed makes the program stale as well.
        if modified(&source).map_or(true, |changed| changed > built) {
            bail!("{} is older than {}; {REMEDY}", program.display(), source.display());
        }
    }
    Ok(())
}

fn modified(path: &Path) -> Result<SystemTime> {
    Ok(fs::metadata(path)?.modified()?)
}

/// The sources that a dep-info file lists: `program: source source`, spaces in names written as `\ `.
fn sources(text: &str) -> Vec<PathBuf> {
    let Some((_program, list)) = text.lines().next().and_then(|line| line.split_once(": ")) else {
        return Vec::new();
    };
    let escaped = list.replace("\\ ", "\0");
    escaped.split_whitespace().map(|source| PathBuf::from(source.replace('\0', " "))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_sources_may_hold_spaces() {
        let text = "/t/walvec: /src/main.rs /my\\ src/lib.rs\n";
        assert_eq!(sources(text), [PathBuf::from("/src/main.rs"), PathBuf::from("/my src/lib.rs")]);
    }
}
