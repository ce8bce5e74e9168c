//! What can go wrong in a sink.

use std::path::PathBuf;

use walvec_model::PointId;

use crate::Limited;

/// An error of a sink. Only [`is_retryable`](Self::is_retryable) errors go away by themselves.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// Somebody owns the data directory, or the collection in it.
    #[error("{} is in use by {}; stop it first, or search through its HTTP API", .path.display(), holder(*.pid))]
    Locked {
        /// The data directory, or the collection's.
        path: PathBuf,
        /// The process that has it, where its lock file says so.
        pid: Option<u32>,
    },
    /// The stored collection was made with another model or dimension.
    #[error(
        "collection \"{collection}\" was built with {stored}; the configuration now says {configured}; vectors of the \
         two do not compare, and mixing them would make every search wrong"
    )]
    Fingerprint {
        /// The collection.
        collection: String,
        /// What the collection was built with.
        stored: String,
        /// What the configuration asks for.
        configured: String,
    },
    /// There is a collection of that name which walvec has not made.
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
        /// The database that it is filled from.
        stored: String,
        /// The database of the configuration.
        found: String,
    },
    /// The stored collection deals its points out to shards in another way than the configuration says.
    #[error(
        "collection \"{collection}\" is sharded {stored}, the configuration says {configured}; that is decided when a \
         collection is made"
    )]
    Sharding {
        /// The collection.
        collection: String,
        /// How it is sharded.
        stored: &'static str,
        /// How it should be.
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
        /// Where it is.
        path: PathBuf,
        /// The engine's words.
        reason: String,
    },
    /// The sink refused one point; the others of the batch are not to blame.
    #[error("point {id} was refused: {reason}")]
    BadPoint {
        /// The point.
        id: PointId,
        /// Why.
        reason: String,
    },
    /// A request that the engine or the server does not accept.
    #[error("the request was refused: {0}")]
    BadRequest(String),
    /// The file system said no: disk full, permissions, or a collection name that cannot be a directory's.
    #[error("{}: {source}", .path.display())]
    Io {
        /// What was being read or written.
        path: PathBuf,
        /// The operating system's words.
        source: std::io::Error,
    },
    /// The engine failed for a reason that may pass.
    #[error("the engine failed: {0}")]
    Engine(String),
    /// The server cannot be reached, or could not do it this time.
    #[error("Qdrant at {url} did not do it: {reason}")]
    Unavailable {
        /// Its address.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The server lets only so much through in a minute.
    #[error("{0}")]
    Limited(Box<Limited>),
    /// The server will not do it until somebody changes something: the key, the address, its version.
    #[error("Qdrant at {url} refused: {reason}")]
    Server {
        /// Its address.
        url: String,
        /// Its reason.
        reason: String,
    },
    /// The topic that stands for the collection did not take it.
    #[error("{reason}")]
    Topic {
        /// What the broker says.
        reason: String,
        /// Whether it may do so later.
        passes: bool,
    },
    /// The collection is gone from the server.
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
    /// Whether the same call may succeed later without anybody changing the configuration.
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
