//! Errors of a temporary cluster.

use std::path::PathBuf;

use crate::Version;
use crate::installation::OLDEST_MAJOR;

/// An error of this crate. Every message says what to do about it, unless the operating system's message
/// does.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ThrowawayError {
    /// No server was found.
    #[error(
        "no PostgreSQL server ({OLDEST_MAJOR} or newer) was found; looked in {looked_in}. \
         Install one with your package manager, or get one with walvec: `pip install 'walvec[demo]'`; \
         in a source checkout `make postgres` fetches one (no root needed). \
         WALVEC_POSTGRES names a directory that holds initdb, pg_ctl and postgres"
    )]
    NotFound {
        /// The places that were searched, as text for users.
        looked_in: String,
    },
    /// No server of the requested major version was found.
    #[error(
        "no PostgreSQL {major} was found; there is {found}. \
         Type `scripts/fetch-postgres.sh {major}` to fetch it into your cache (13 to 18; no root needed)"
    )]
    MajorNotFound {
        /// The major version that was asked for.
        major: u32,
        /// The versions that were found, as text for users.
        found: String,
    },
    /// The place that the user named holds no usable server.
    #[error("{} is not a usable PostgreSQL {OLDEST_MAJOR} or newer: {reason}", .path.display())]
    NotUsable {
        /// The place.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// PostgreSQL refuses to run as root, and no other account exists.
    #[error(
        "PostgreSQL refuses to run as root, and /etc/passwd has neither a user \"postgres\" nor \"nobody\" to run it as; \
         run walvec as another user"
    )]
    NoAccount,
    /// The account of the server may not enter a directory.
    #[error(
        "{} cannot be used: the server runs as the user \"{account}\" (PostgreSQL refuses to run as root), \
         who may not enter {}; choose a place below /tmp or /var/tmp, or open that directory with `chmod a+x`",
        .path.display(), .blocked_by.display()
    )]
    Unreachable {
        /// The path that the server needs to reach.
        path: PathBuf,
        /// The first directory on the way that is closed.
        blocked_by: PathBuf,
        /// The server's account.
        account: String,
    },
    /// The directory to keep the cluster in is used for something else.
    #[error("{} is not empty and holds no cluster made by walvec; choose an empty or a new directory", .path.display())]
    NotACluster {
        /// The directory.
        path: PathBuf,
    },
    /// The kept cluster was made by another major version.
    #[error(
        "the cluster in {} was made by PostgreSQL {made_by}, the server here is {installed}; \
         set WALVEC_POSTGRES={made_by}, or choose another directory",
        .path.display()
    )]
    OtherMajor {
        /// The cluster.
        path: PathBuf,
        /// The major version that made the cluster.
        made_by: String,
        /// The version of the server here.
        installed: Version,
    },
    /// Another program runs the kept cluster.
    #[error("the cluster in {} is already running; stop the other walvec first, or choose another directory", .path.display())]
    AlreadyRunning {
        /// The cluster.
        path: PathBuf,
    },
    /// The server of a package cannot be used where it is, and could not be copied.
    #[error(
        "the PostgreSQL in {} cannot be used where it is, and copying it into {} failed: {source}; \
         set WALVEC_CACHE to a directory that can be written to and, if walvec runs as root, that every user may enter",
        .server.display(), .directory.display()
    )]
    NotCopied {
        /// The directory of its programs.
        server: PathBuf,
        /// The directory that the copy was meant for.
        directory: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// One of PostgreSQL's programs failed.
    #[error("{program} failed ({status}): {output}")]
    Program {
        /// The program's path.
        program: String,
        /// How it ended.
        status: String,
        /// The last lines of its output.
        output: String,
    },
    /// The server did not start.
    #[error("PostgreSQL {version} did not start: {output}\nThe end of its log {}:\n{log_tail}", .log.display())]
    Start {
        /// The server's version.
        version: Version,
        /// The output of pg_ctl.
        output: String,
        /// The server's log.
        log: PathBuf,
        /// The log's last lines.
        log_tail: String,
    },
    /// The processes of a killed server did not end in time.
    #[error("PostgreSQL (process {pid}) still accepts connections after it was killed")]
    StillThere {
        /// The process id of the postmaster.
        pid: i32,
    },
    /// A connection or a statement failed.
    #[error("{doing}: {source}")]
    Sql {
        /// What was being done.
        doing: String,
        /// The server's error.
        source: tokio_postgres::Error,
    },
    /// A file operation failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// What was being read or written.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
}

impl ThrowawayError {
    /// Returns a closure for `map_err` that makes an I/O error about `path`.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
