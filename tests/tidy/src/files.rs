//! The Rust files of the workspace.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A file with its lines.
#[derive(Debug)]
pub struct SourceFile {
    /// From the root of the workspace.
    pub path: PathBuf,
    /// What it holds.
    pub text: String,
}

impl SourceFile {
    /// Its path as it is written in messages and lists: with slashes.
    #[must_use]
    pub fn name(&self) -> String {
        let parts = self.path.iter().map(|part| part.to_string_lossy().into_owned());
        parts.collect::<Vec<_>>().join("/")
    }

    /// Its lines, with their numbers from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

/// The root of the workspace.
#[must_use]
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// Every Rust file below a directory of the workspace, in order.
///
/// # Errors
/// If a directory or a file cannot be read.
pub fn below(directory: &str) -> Result<Vec<SourceFile>> {
    let mut found = Vec::new();
    collect(&root().join(directory), &mut found)?;
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

fn collect(directory: &Path, found: &mut Vec<SourceFile>) -> Result<()> {
    let unreadable = || format!("cannot read {}", directory.display());
    for entry in fs::read_dir(directory).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        if path.is_dir() {
            // Programs in other languages have libraries and build results of their own.
            if path.file_name().is_none_or(|name| name != "target" && name != "node_modules") {
                collect(&path, found)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            found.push(SourceFile { path: path.strip_prefix(root())?.to_owned(), text });
        }
    }
    Ok(())
}
