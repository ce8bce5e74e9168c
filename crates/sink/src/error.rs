//! Errors of a sink.

use std::path::PathBuf;

use walvec_model::PointId;

use crate::Limited;

/// An error of a sink. Only [`is_retryable`](Self::is_retryable) errors go away by themselves.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// Another process, or another handle in this one, owns the data directory or a collection in it.
    #[error("{} is in use by {}; stop it first, or search through its HTTP API", .path.display(), holder(*.pid))]
    Locked {
        /// The data directory, or the collection's.
        path: PathBuf,
        /// The process id of the owner, if its lock file says so.
        pid: Option<u32>,
    },
    /// The stored collection was made with another model or dimension.
    #[error(
        "collection \"{collection}\" was built with {stored}; the configuration now says {configured}; vectors of the \
         two cannot be compared, and mixing them would make every search wrong"
    )]
    Fingerprint {
        /// The collection.
        collection: String,
        /// What the collection was built with.
        stored: String,
        /// What the configuration asks for.
        configured: String,
    },
    /// A collection of that name exists which walvec has not made.
    #[error(
        "there is a collection \"{collection}\" at {url} which walvec has not made, with {holds}; walvec would overwrite or delete \
         what is in it"
    )]
    Foreign {
        /// The collection.
        collection: String,
        /// The server's address.
        url: String,
        /// What it holds.
        holds: String,
    },
    /// The collection is filled from another database.
    #[error(
        "collection \"{collection}\" at {url} is filled from another database ({stored}; this one: {found}); two databases would \
         overwrite and remove each other's rows in it"
    )]
    OtherDatabase {
        /// The collection.
        collection: String,
        /// The server's address.
        url: String,
        /// The database that the collection is filled from.
        stored: String,
        /// The database of the configuration.
        found: String,
    },
    /// The stored collection distributes its points over shards in another way than the configuration
    /// says.
    #[error(
        "collection \"{collection}\" is sharded {stored}, the configuration says {configured}; that is decided when a \
         collection is made"
    )]
    Sharding {
        /// The collection.
        collection: String,
        /// How it is sharded.
        stored: &'static str,
        /// How the configuration wants it sharded.
        configured: &'static str,
    },
    /// The engine was left out when the program was built.
    #[error(
        "a collection in a data directory needs Qdrant's engine, and this walvec was built without the feature \"embedded\""
    )]
    NotBuilt,
    /// The files of the collection cannot be read.
    #[error("collection \"{collection}\" in {} cannot be opened: {reason}", .path.display())]
    Corrupt {
        /// The collection.
        collection: String,
        /// The path of the collection.
        path: PathBuf,
        /// The engine's error message.
        reason: String,
    },
    /// The sink refused one point; the other points of the batch are not to blame.
    #[error("point {id} was refused: {reason}")]
    BadPoint {
        /// The point.
        id: PointId,
        /// Why it was refused.
        reason: String,
    },
    /// A request that the engine or the server does not accept.
    #[error("the request was refused: {0}")]
    BadRequest(String),
    /// A file operation failed: the disk is full, a permission is missing, or a collection's name cannot
    /// be a directory's.
    #[error("{}: {source}", .path.display())]
    Io {
        /// What was being read or written.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The engine failed for a reason that may pass.
    #[error("the engine failed: {0}")]
    Engine(String),
    /// The server cannot be reached, or failed this time.
    #[error("Qdrant at {url} did not do it: {reason}")]
    Unavailable {
        /// The server's address.
        url: String,
        /// The error message.
        reason: String,
    },
    /// The server refused the request because of its rate limits.
    #[error("{0}")]
    Limited(Box<Limited>),
    /// The server refuses until the user changes something: the key, the address, its version.
    #[error("Qdrant at {url} refused: {reason}")]
    Server {
        /// The server's address.
        url: String,
        /// The server's reason.
        reason: String,
    },
    /// The broker did not accept the record for the topic that stands for the collection.
    #[error("{reason}")]
    Topic {
        /// The broker's error message.
        reason: String,
        /// Whether it may accept the record later.
        passes: bool,
    },
    /// The collection does not exist on the server any more.
    #[error("Qdrant at {url} has no collection \"{collection}\" any more")]
    Missing {
        /// The server's address.
        url: String,
        /// The collection.
        collection: String,
    },
    /// The sink was closed.
    #[error("the sink is closed")]
    Closed,
}

impl SinkError {
    /// Returns whether the same call may succeed later although the configuration stays as it is.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() != std::io::ErrorKind::InvalidInput,
            Self::Topic { passes, .. } => *passes,
            Self::Limited(limited) => !limited.is_too_large,
            Self::Engine(_) | Self::Unavailable { .. } | Self::Missing { .. } => true,
            Self::Locked { .. }
            | Self::Fingerprint { .. }
            | Self::Foreign { .. }
            | Self::OtherDatabase { .. }
            | Self::Sharding { .. }
            | Self::Corrupt { .. }
            | Self::NotBuilt
            | Self::BadPoint { .. }
            | Self::BadRequest(_)
            | Self::Server { .. }
            | Self::Closed => false,
        }
    }
}

fn holder(pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("walvec process {pid}"),
        None => "another walvec process".to_owned(),
    }
}
