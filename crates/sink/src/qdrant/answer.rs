//! What the server's answers mean.

use qdrant_client::QdrantError;
use qdrant_client::qdrant::{UpdateResult, UpdateStatus};
use tonic::{Code, Status};

use crate::SinkError;

/// The collection that a request is about, for errors. Never holds the API key.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) url: String,
    pub(super) collection: String,
}

impl Place {
    /// An error of the client in the sink's terms. [`SinkError::BadRequest`] is about the request itself: too large, or
    /// something in it is not accepted; a part of it may well be.
    pub(super) fn error(&self, error: QdrantError) -> SinkError {
        match error {
            QdrantError::ResponseError { status } => self.status(&status),
            QdrantError::ResourceExhaustedError { status, .. } => self.unavailable(status.message()),
            QdrantError::Io(error) => self.unavailable(&error.to_string()),
            other => SinkError::Server { url: self.url.clone(), reason: other.to_string() },
        }
    }

    pub(super) fn status(&self, status: &Status) -> SinkError {
        let reason = || format!("{} ({:?})", status.message(), status.code());
        match status.code() {
            Code::NotFound if is_about_the_collection(status.message()) => self.missing(),
            Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented => {
                SinkError::Server { url: self.url.clone(), reason: reason() }
            }
            Code::InvalidArgument if is_about_a_quota(status.message()) => self.unavailable(&reason()),
            Code::InvalidArgument | Code::OutOfRange | Code::NotFound => SinkError::BadRequest(reason()),
            // What a proxy says of a large message; the server itself says "out of range".
            Code::ResourceExhausted if status.message().contains("larger than max") => SinkError::BadRequest(reason()),
            _ => self.unavailable(&reason()),
        }
    }

    pub(super) fn missing(&self) -> SinkError {
        SinkError::Missing { url: self.url.clone(), collection: self.collection.clone() }
    }

    pub(super) fn unavailable(&self, reason: &str) -> SinkError {
        SinkError::Unavailable { url: self.url.clone(), reason: reason.to_owned() }
    }

    /// Only `completed` means that the server has applied the write.
    pub(super) fn completed(&self, result: Option<&UpdateResult>) -> Result<(), SinkError> {
        let status = result.map(|result| UpdateStatus::try_from(result.status));
        match status {
            Some(Ok(UpdateStatus::Completed)) => Ok(()),
            Some(Ok(status)) => Err(self.unavailable(&format!("a write was answered with {}", status.as_str_name()))),
            Some(Err(_)) | None => Err(self.unavailable("a write was answered without a status")),
        }
    }
}

/// The server says "Not found" of collections and of points.
fn is_about_the_collection(message: &str) -> bool {
    message.contains("ollection")
}

/// In strict mode the server refuses every point of a collection that is as large as it may become, until it may become larger.
fn is_about_a_quota(message: &str) -> bool {
    message.contains("limit of") && message.contains("reached")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { url: "http://localhost:6334".to_owned(), collection: "books".to_owned() }
    }

    fn of(code: Code, message: &str) -> SinkError {
        place().error(QdrantError::ResponseError { status: Status::new(code, message) })
    }

    #[test]
    fn only_completed_counts_as_written() {
        let answer = |status| place().completed(Some(&UpdateResult { operation_id: Some(1), status }));
        assert!(answer(UpdateStatus::Completed as i32).is_ok());
        for other in [UpdateStatus::Acknowledged, UpdateStatus::WaitTimeout, UpdateStatus::ClockRejected] {
            assert!(answer(other as i32).unwrap_err().is_retryable(), "{other:?}");
        }
        assert!(answer(77).is_err());
        assert!(place().completed(None).is_err());
    }

    #[test]
    fn what_passes_by_itself_is_told_from_what_does_not() {
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Internal, Code::Unknown, Code::Cancelled] {
            assert!(of(code, "x").is_retryable(), "{code:?}");
        }
        for code in [Code::Unauthenticated, Code::PermissionDenied, Code::InvalidArgument] {
            assert!(!of(code, "x").is_retryable(), "{code:?}");
        }
        assert!(matches!(
            of(Code::NotFound, "Not found: Collection `books` doesn't exist!"),
            SinkError::Missing { .. }
        ));
        let too_large = "Received message larger than max (5000000 vs. 4194304)";
        assert!(matches!(of(Code::ResourceExhausted, too_large), SinkError::BadRequest(_)));
        assert!(of(Code::ResourceExhausted, "Rate limiting exceeded").is_retryable());
        assert!(matches!(of(Code::NotFound, "Not found: No point with id 7 found"), SinkError::BadRequest(_)));
        let full = "Bad request: Max vector storage size limit of 1024 bytes reached!";
        assert!(
            matches!(of(Code::InvalidArgument, full), SinkError::Unavailable { .. }),
            "it passes, and no point is to blame"
        );
    }
}
