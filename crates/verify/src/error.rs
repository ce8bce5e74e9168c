//! Why a comparison could not be made. A mismatch that it finds is not an error.

use tokio_postgres::error::{DbError, SqlState};
use walvec_embed::EmbedError;
use walvec_model::{TableName, with_causes};

/// Why a comparison could not be made, or not be finished.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A statement failed.
    #[error("PostgreSQL, while {doing}: {reason}")]
    Source {
        /// What was attempted.
        doing: String,
        /// The server's error message.
        reason: String,
    },
    /// PostgreSQL cannot send a row because it is too large, and walvec has not parked it.
    #[error("PostgreSQL, while {doing}: a row does not fit into a message: {reason}")]
    TooLarge {
        /// What was attempted.
        doing: String,
        /// The server's error message.
        reason: String,
    },
    /// The table cannot be compared.
    #[error("table {table}: {reason}")]
    Table {
        /// The table.
        table: TableName,
        /// Why.
        reason: String,
    },
    /// The publication does not send the table.
    #[error("publication \"{publication}\" does not publish {table}, so that nothing keeps its collection up to date")]
    Publication {
        /// The publication.
        publication: String,
        /// The table.
        table: TableName,
    },
    /// A template cannot be compiled.
    #[error("{table}: {field}: {reason}")]
    Template {
        /// The table.
        table: TableName,
        /// `text`, or `computed.` and the field's name.
        field: String,
        /// The template engine's error message.
        reason: String,
    },
    /// The collection was built with another model or text template than the configuration's.
    #[error(
        "collection \"{collection}\" was built with model and text {stored}, the configuration says {configured}; every \
         point would differ, so that nothing was compared"
    )]
    Fingerprint {
        /// The collection.
        collection: String,
        /// The fingerprint of most of its points.
        stored: String,
        /// The configuration's fingerprint.
        configured: String,
    },
    /// The model cannot embed the sample.
    #[error("embedding a sample again: {0}")]
    Embed(#[from] EmbedError),
    /// The running walvec, or the sink, did not answer as it should.
    #[error("{message}")]
    Outside {
        /// The stable code.
        code: String,
        /// What happened.
        message: String,
        /// What to do.
        remedy: Option<String>,
    },
    /// A temporary file cannot be written or read.
    #[error("a temporary file: {0}")]
    Scratch(#[from] std::io::Error),
    /// Two rows have the same id, or an answer makes no sense.
    #[error("{0}")]
    Unexpected(String),
}

impl VerifyError {
    /// Returns the code that the last line of stderr shows.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Source { .. } => "E_SOURCE",
            Self::TooLarge { .. } => "E_TOO_LARGE",
            Self::Table { .. } => "E_TABLE",
            Self::Publication { .. } => "E_PUBLICATION",
            Self::Template { .. } => "E_TEMPLATE",
            Self::Fingerprint { .. } => "E_FINGERPRINT",
            Self::Embed(error) => error.code(),
            Self::Outside { code, .. } => code,
            Self::Scratch(_) => "E_SCRATCH",
            Self::Unexpected(_) => "E_INTERNAL",
        }
    }

    /// Says what to do, if anything helps.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Fingerprint { .. } => Some(
                "`walvec reindex` builds the collection anew as configured; or compare with the configuration that \
                 `walvec run` was started with"
                    .to_owned(),
            ),
            Self::TooLarge { .. } => Some(
                "the text of a value is longer than 1 GB, as that of a bytea of 512 MB is. The running walvec parks such a row, \
                 which is then left out here: wait until the status shows it and type `walvec verify` again; or make the value \
                 shorter"
                    .to_owned(),
            ),
            Self::Table { .. } | Self::Publication { .. } => Some("walvec check".to_owned()),
            Self::Embed(error) => Some(error.remedy()),
            Self::Outside { remedy, .. } => remedy.clone(),
            Self::Scratch(_) => Some("free space where temporary files go, or set TMPDIR to another place".to_owned()),
            Self::Source { .. } | Self::Template { .. } | Self::Unexpected(_) => None,
        }
    }
}

/// Returns a closure for `map_err` that makes the error of a statement, with what the statement was for.
pub(crate) fn statement(doing: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> VerifyError {
    let doing = doing.into();
    move |error| {
        let Some(server) = error.as_db_error() else {
            return VerifyError::Source { doing, reason: with_causes(&error) };
        };
        let reason = server.message().to_owned();
        if is_too_large(server) {
            VerifyError::TooLarge { doing, reason }
        } else {
            VerifyError::Source { doing, reason }
        }
    }
}

/// Returns whether the text of a row, or of one of its values, exceeds the 1 GB that a message of the server can
/// have.
fn is_too_large(error: &DbError) -> bool {
    *error.code() == SqlState::PROGRAM_LIMIT_EXCEEDED
        || (*error.code() == SqlState::INTERNAL_ERROR && error.message().contains("alloc request size"))
}

/// Makes the error for a task on the blocking pool that panicked or was cancelled.
pub(crate) fn interrupted(error: tokio::task::JoinError) -> VerifyError {
    VerifyError::Unexpected(format!("a comparison was interrupted: {error}"))
}
