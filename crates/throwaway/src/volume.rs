//! A small file system in memory, for tests of a full disk.

use std::io;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A tmpfs of limited size; unmounted when dropped. Only root may mount one.
#[derive(Debug)]
pub struct Volume(TempDir);

impl Volume {
    /// Mounts a volume of this size at a directory of its own.
    ///
    /// # Errors
    /// If that is not allowed here.
    pub fn mount(mebibytes: u32) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let size = format!("size={mebibytes}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory.path()).output()?;
        if mounted.status.success() {
            return Ok(Self(directory));
        }
        Err(io::Error::other(String::from_utf8_lossy(&mounted.stderr).trim().to_owned()))
    }

    /// Returns the directory where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills the volume until the returned file is removed.
    ///
    /// # Errors
    /// If the file cannot be written at all.
    pub fn fill(&self) -> io::Result<std::path::PathBuf> {
        let path = self.path().join("ballast");
        let mut file = std::fs::File::create(&path)?;
        let full = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
        match io::copy(&mut io::repeat(1), &mut file) {
            Err(error) if full(&error) => Ok(path),
            Err(error) => Err(error),
            Ok(_) => unreachable!("the input has no end"),
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Unmounted lazily: a process that is about to end may still have a file open.
        if let Err(error) = Command::new("umount").arg("-l").arg(self.path()).status() {
            tracing::warn!("{} stays mounted: {error}", self.path().display());
        }
    }
}
