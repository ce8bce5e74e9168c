//! The data directory and the locks in it.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::paths::io_error;
use crate::SinkError;

/// The right to use a data directory, for as long as this value lives. One process has it at a time.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: LockFile,
}

impl DataDir {
    /// Creates `root` where it is missing, and locks it. The lock ends with the process, even if that is killed.
    ///
    /// # Errors
    /// [`SinkError::Locked`] if another process has it, [`SinkError::Io`] if the directory cannot be made or written.
    pub fn lock(root: &Path) -> Result<Self, SinkError> {
        Ok(Self { path: root.to_owned(), _lock: LockFile::acquire(root)? })
    }

    /// Returns the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// An exclusively locked file called `lock`, which holds the process id of its owner.
#[derive(Debug)]
pub(super) struct LockFile {
    file: File,
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Closing the file is not enough while a child process that was just forked still shares it.
        self.file.unlock().ok();
    }
}

impl LockFile {
    /// Locks `directory`, which is created where it is missing.
    pub(super) fn acquire(directory: &Path) -> Result<Self, SinkError> {
        create_private_dir(directory).map_err(io_error(directory))?;
        let path = directory.join("lock");
        let failed = io_error(&path);
        // The file is not truncated: until the lock is ours, its text belongs to the other owner.
        let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(SinkError::Locked { path: directory.to_owned(), pid: read_pid(&mut file) });
            }
            Err(TryLockError::Error(error)) => return Err(io_error(&path)(error)),
        }
        write_pid(&mut file).map_err(io_error(&path))?;
        Ok(Self { file })
    }
}

/// Creates a directory, and its missing parents, that only its owner can read, because it will hold rows. An existing directory
/// stays as it is.
///
/// # Errors
/// If it cannot be made.
pub fn create_private_dir(directory: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.rewind()?;
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}
