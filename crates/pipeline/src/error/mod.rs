//! The errors of the pipeline and their codes.
//!
//! - [`policy`]: decides what follows from each
//! - [`resync`]: the decision to read the tables again

pub mod policy;
mod resync;

use std::time::Duration;

use walvec_broker::BrokerError;
use walvec_capture::CaptureError;
use walvec_embed::EmbedError;
use walvec_model::TableName;
use walvec_sink::SinkError;
use walvec_transform::TransformError;

pub use resync::Resync;

/// An error that concerns more than one row. Errors of single rows become dead letters where they happen.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// PostgreSQL.
    #[error("source: {0}")]
    Source(#[from] CaptureError),
    /// The broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A collection's template or columns.
    #[error("collection \"{collection}\": {source}")]
    Transform {
        /// The collection.
        collection: String,
        /// The error.
        source: Box<TransformError>,
    },
    /// The embedding model.
    #[error("embedder: {0}")]
    Embed(#[from] EmbedError),
    /// The sink.
    #[error("{}", in_collection(.collection, .source))]
    Sink {
        /// The collection.
        collection: String,
        /// The error.
        source: SinkError,
    },
    /// The state file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Going on would silently lose changes.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The stream has a gap, or a person wants the tables to be read again.
    #[error("{}", .0.why)]
    Resync(Resync),
    /// A collection does not have what was written into it.
    #[error("collection \"{collection}\" is an older state of itself")]
    Behind {
        /// The collection.
        collection: String,
    },
    /// The right to write the collections was lost, and another process may have it.
    #[error(
        "the session that held the right to write the collections is gone; nothing is written until it is held again"
    )]
    Disowned,
    /// A table was altered. The stream does not show what that did to its rows, so they have to be read again.
    #[error(
        "table {table} was altered; its rows are read again, because the stream does not tell what that did to them"
    )]
    Altered {
        /// The table.
        table: TableName,
    },
    /// A table changes so fast that it cannot be read again in one go.
    #[error("table {table} changes faster than it can be read again; the rows that were written are right")]
    TooFast {
        /// The table.
        table: TableName,
    },
    /// Shutdown was asked for while an error was being retried.
    #[error("stopped while an error was being retried; nothing unconfirmed is lost")]
    Stopped,
}

/// Why walvec does not start: going on would silently lose changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Refusal {
    /// The code on the last line of stderr.
    pub code: &'static str,
    /// What was found and what it endangers.
    pub what: String,
    /// What to type.
    pub remedy: String,
}

/// The state file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("state file {path}: {reason}")]
pub struct StoreError {
    pub(crate) path: String,
    pub(crate) reason: String,
    pub(crate) disk_full: bool,
}

impl StoreError {
    /// Returns whether the same attempt succeeds once there is disk space again.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        self.disk_full
    }
}

/// Describes the error, with the name of the collection unless the error contains it.
fn in_collection(collection: &str, error: &SinkError) -> String {
    match error {
        SinkError::Fingerprint { .. }
        | SinkError::Foreign { .. }
        | SinkError::OtherDatabase { .. }
        | SinkError::Sharding { .. }
        | SinkError::Corrupt { .. }
        | SinkError::Limited(_)
        | SinkError::Locked { .. } => error.to_string(),
        _ => format!("collection \"{collection}\": {error}"),
    }
}

impl PipelineError {
    /// Returns whether the source's server could not be reached, or the connection to it broke.
    pub(crate) fn is_unreachable_source(&self) -> bool {
        use CaptureError::{Connect, OtherTarget, Standby};
        matches!(self, Self::Source(Connect { .. } | OtherTarget { .. } | Standby { .. }))
    }

    /// Returns whether the worker has lost its right to write: it has to join its group again before it does anything
    /// else.
    #[must_use]
    pub const fn ends_membership(&self) -> bool {
        matches!(self, Self::Disowned | Self::Broker(BrokerError::Fenced { .. } | BrokerError::Closed))
    }

    /// Returns the minimum wait that the server has asked for.
    pub(crate) fn retry_after(&self) -> Duration {
        match self {
            Self::Sink { source: SinkError::Limited(limited), .. } => limited.retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        }
    }

    /// Returns the part that failed, as the status names it.
    #[must_use]
    pub const fn part(&self) -> &'static str {
        match self {
            Self::Source(_)
            | Self::Disowned
            | Self::Refused(_)
            | Self::Resync(_)
            | Self::Altered { .. }
            | Self::TooFast { .. } => "source",
            Self::Broker(_) => "broker",
            Self::Transform { .. } => "transform",
            Self::Embed(_) => "embedder",
            Self::Sink { .. } | Self::Behind { .. } => "sink",
            Self::Store(_) => "state",
            Self::Stopped => "pipeline",
        }
    }

    /// Returns the code on the last line of stderr.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Source(error) => error.code(),
            Self::Broker(error) => error.code(),
            Self::Transform { source, .. } => source.code(),
            Self::Embed(error) => error.code(),
            Self::Sink { source, .. } => match source {
                SinkError::Fingerprint { .. } => "E_FINGERPRINT",
                SinkError::Foreign { .. } => "E_FOREIGN",
                SinkError::OtherDatabase { .. } => "E_OWNED",
                SinkError::Locked { .. } => "E_LOCKED",
                SinkError::NotBuilt => "E_FEATURE",
                _ => "E_SINK",
            },
            Self::Store(_) => "E_STATE",
            Self::Refused(refusal) => refusal.code,
            Self::Disowned => "E_OWNED",
            Self::Resync(_) => "E_RESYNC",
            Self::Behind { .. } => "E_SINK_BEHIND",
            Self::Altered { .. } => "E_ALTERED",
            Self::TooFast { .. } => "E_TOO_FAST",
            Self::Stopped => "E_STOPPED",
        }
    }

    /// Returns what to type, if anything helps.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Source(error) => error.remedy(),
            Self::Broker(error) => error.remedy(),
            Self::Embed(error) => Some(error.remedy()),
            Self::Refused(refusal) => Some(refusal.remedy.clone()),
            Self::Transform { .. } => Some("correct the collection in the configuration, then start again".to_owned()),
            Self::Sink { source: SinkError::Fingerprint { .. }, .. } => Some(
                "`walvec reindex` builds another collection as configured, while the former one answers searches, and \
                 switches; or go back to the former model, text template and layout"
                    .to_owned(),
            ),
            Self::Sink { source: SinkError::Foreign { .. }, .. } => Some(
                "give the collection another `name` in the configuration; or, if nothing needs the one that is there, delete it on the \
                 server"
                    .to_owned(),
            ),
            Self::Sink { source: SinkError::OtherDatabase { .. }, .. } => Some(
                "give the collection another `name` in the configuration; or, if this database has taken the place of the other one and \
                 the data directory of then is lost, `walvec reset --purge` removes the collection and the next `walvec run` fills it anew"
                    .to_owned(),
            ),
            Self::Sink { source: SinkError::Sharding { .. }, .. } => Some(
                "put `sink.qdrant.shard_key` back as it was, give the collection another `name`, or `walvec reset --purge` \
                 and embed everything again"
                    .to_owned(),
            ),
            Self::Sink { source: SinkError::Locked { .. }, .. } => {
                Some("stop the other process, or set another `sink.embedded.path`".to_owned())
            }
            Self::Sink { source: SinkError::NotBuilt, .. } => Some(
                "install walvec from a package, or build it with `--features embedded`; or name a server in `sink.qdrant`"
                    .to_owned(),
            ),
            Self::Sink { source: SinkError::Limited(limited), .. } => Some(limited.remedy()),
            Self::Sink { source: SinkError::Server { .. }, .. } => {
                Some("look at `sink.qdrant.url` and `sink.qdrant.api_key`, then start again".to_owned())
            }
            Self::Sink { source: SinkError::Unavailable { .. } | SinkError::Missing { .. }, .. } => {
                Some("see that the Qdrant server runs and is well; walvec goes on by itself then".to_owned())
            }
            Self::Sink { source: SinkError::BadRequest(_), .. } => Some(
                "the reason is the engine's own; a server in strict mode (`strict_mode_config` of the collection) forbids requests that \
                 others allow: let it allow this one, then start again"
                    .to_owned(),
            ),
            Self::Sink { .. } | Self::Store(_) => {
                Some("look at the disk space and the permissions of the data directory, then start again".to_owned())
            }
            Self::TooFast { .. } => Some("read it in parts: `walvec backfill --table ... --where ...`".to_owned()),
            Self::Disowned | Self::Resync(_) | Self::Behind { .. } | Self::Altered { .. } | Self::Stopped => None,
        }
    }
}

#[cfg(test)]
mod tests;
