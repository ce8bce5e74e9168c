//! The file `server.json`, by which other processes of this machine find a running walvec.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::private_file;

/// The header that carries the key.
pub(crate) const KEY_HEADER: &str = "walvec-key";

/// The content of `server.json`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Announcement {
    /// The address of the HTTP API.
    pub(crate) address: SocketAddr,
    /// The process id.
    pub(crate) pid: u32,
    /// The key that callers send in place of a token, and to change what is stored. Only the owner can read the file.
    pub(crate) key: String,
}

impl Announcement {
    /// Reads what the process of a directory has announced, if there is one. `Err`: this user may not read it.
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>, PermissionDenied> {
        match std::fs::read(directory.join("server.json")) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(PermissionDenied),
            read => Ok(read.ok().and_then(|text| serde_json::from_slice(&text).ok())),
        }
    }
}

/// The error for a data directory of another user.
pub(crate) struct PermissionDenied;

/// The announcement of this process's address to other processes; removed when dropped.
pub(crate) struct AnnouncementGuard(PathBuf);

impl AnnouncementGuard {
    /// Writes `server.json`, atomically.
    pub(crate) fn write(directory: &Path, address: SocketAddr, key: &str) -> std::io::Result<Self> {
        let path = directory.join("server.json");
        let announcement = Announcement { address, pid: std::process::id(), key: key.to_owned() };
        private_file::write(&path, &serde_json::to_vec(&announcement)?)?;
        Ok(Self(path))
    }
}

impl Drop for AnnouncementGuard {
    fn drop(&mut self) {
        // If the file stays, other processes notice when the connection fails.
        let _ = std::fs::remove_file(&self.0);
    }
}
