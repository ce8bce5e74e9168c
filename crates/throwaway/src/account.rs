//! The account that the server runs as.
//!
//! PostgreSQL refuses to run as root. Containers and build machines often are root, so there the server gets the
//! unprivileged account "postgres", or else "nobody".

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use crate::ThrowawayError;

/// The file with the accounts. On systems with other sources of accounts it still has "nobody".
const PASSWD: &str = "/etc/passwd";

/// The account of the server's processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    /// The account of this process.
    Own,
    /// Another account, because this process is root.
    Other(OtherAccount),
}

/// An unprivileged account that root switches to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OtherAccount {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// Chooses the account for servers that this process starts.
    pub(crate) fn for_servers() -> Result<Self, ThrowawayError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own);
        }
        let passwd = fs::read_to_string(PASSWD).map_err(ThrowawayError::io(PASSWD))?;
        unprivileged(&passwd).map(Self::Other).ok_or(ThrowawayError::NoAccount)
    }

    /// Makes the account the owner of `path`.
    pub(crate) fn own(&self, path: &Path) -> Result<(), ThrowawayError> {
        match self {
            Self::Own => Ok(()),
            Self::Other(other) => {
                chown(path, Some(other.uid), Some(other.gid)).map_err(ThrowawayError::io(path.to_owned()))
            }
        }
    }

    /// Refuses a path that the account cannot reach, before a program fails on it with a less helpful message.
    pub(crate) fn check_reach(&self, path: &Path) -> Result<(), ThrowawayError> {
        let Self::Other(other) = self else { return Ok(()) };
        let absolute = path.canonicalize().map_err(ThrowawayError::io(path.to_owned()))?;
        let mut directories: Vec<&Path> = absolute.ancestors().collect();
        directories.reverse();
        for directory in directories {
            let metadata = directory.metadata().map_err(ThrowawayError::io(directory.to_owned()))?;
            if !other.may_enter(metadata.mode(), metadata.uid(), metadata.gid()) {
                return Err(ThrowawayError::Unreachable {
                    path: path.to_owned(),
                    blocked_by: directory.to_owned(),
                    account: other.name.clone(),
                });
            }
        }
        Ok(())
    }
}

impl OtherAccount {
    /// Returns whether the execute bit that applies to this account is set.
    const fn may_enter(&self, mode: u32, uid: u32, gid: u32) -> bool {
        let bit = if uid == self.uid {
            0o100
        } else if gid == self.gid {
            0o010
        } else {
            0o001
        };
        mode & bit != 0
    }
}

fn unprivileged(passwd: &str) -> Option<OtherAccount> {
    ["postgres", "nobody"].iter().find_map(|name| passwd.lines().find_map(|line| entry(line, name)))
}

/// Parses a passwd line `name:x:uid:gid:...`; `None` unless the account is called `name` and is not root under
/// another name.
fn entry(line: &str, name: &str) -> Option<OtherAccount> {
    let mut fields = line.split(':');
    if fields.next() != Some(name) {
        return None;
    }
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    (uid != 0).then(|| OtherAccount { name: name.to_owned(), uid, gid })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const BOTH: &str = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65533::/:/bin/false\npostgres:x:101:104::/:\n";

    #[test]
    fn root_steps_down_to_postgres_and_else_to_nobody() {
        let postgres = OtherAccount { name: "postgres".into(), uid: 101, gid: 104 };
        assert_eq!(unprivileged(BOTH), Some(postgres));
        let nobody = OtherAccount { name: "nobody".into(), uid: 65534, gid: 65533 };
        assert_eq!(unprivileged(&BOTH.replace("postgres", "mail")), Some(nobody));
        assert_eq!(unprivileged("root:x:0:0:root:/root:/bin/bash\nnobody:x:0:0::/:\n"), None);
    }

    #[test]
    fn a_directory_that_is_closed_to_the_account_is_named() {
        let closed = fs::Permissions::from_mode(0o700);
        let outer = tempfile::Builder::new().permissions(closed).tempdir().unwrap();
        let inner = outer.path().join("inner");
        fs::create_dir(&inner).unwrap();
        // No account has this uid, so only the bits for others apply.
        let stranger = Account::Other(OtherAccount { name: "stranger".into(), uid: u32::MAX - 7, gid: u32::MAX - 7 });
        let error = stranger.check_reach(&inner).unwrap_err();
        let closed = outer.path().canonicalize().unwrap();
        assert!(matches!(&error, ThrowawayError::Unreachable { blocked_by, .. } if *blocked_by == closed), "{error}");
        assert!(error.to_string().contains("\"stranger\""), "{error}");
        assert!(Account::Own.check_reach(&inner).is_ok());
    }
}
