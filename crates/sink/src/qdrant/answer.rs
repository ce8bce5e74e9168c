//! Interpretation of the server's answers.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use qdrant_client::QdrantError;
use qdrant_client::qdrant::{UpdateResult, UpdateStatus};
use tonic::{Code, Status};

use crate::{Limited, RateLimit, SinkError};

/// The collection that a request is about, for errors. Never holds the API key.
#[derive(Debug)]
pub(super) struct CollectionPlace {
    pub(super) url: String,
    /// The name that it is configured by.
    collection: String,
    /// Its own name, once it is known.
    own: RwLock<Option<String>>,
}

impl CollectionPlace {
    pub(super) fn new(url: &str, collection: &str) -> Self {
        Self { url: url.to_owned(), collection: collection.to_owned(), own: RwLock::default() }
    }

    /// Returns the name for requests. Until the collection's own name is known, that is the alias.
    pub(super) fn name(&self) -> String {
        let own = self.own.read().unwrap_or_else(PoisonError::into_inner);
        own.clone().unwrap_or_else(|| self.collection.clone())
    }

    /// Returns whether the collection was checked and fits.
    pub(super) fn is_known(&self) -> bool {
        self.own.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn set_name(&self, name: &str) {
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = Some(name.to_owned());
    }

    /// Converts an error of the client. [`SinkError::BadRequest`] is about the request itself: it is too large, or something in it is
    /// not accepted; a part of it may still be accepted.
    pub(super) fn error(&self, error: QdrantError) -> SinkError {
        match error {
            QdrantError::ResponseError { status } | QdrantError::ResourceExhaustedError { status, .. } => {
                self.status(&status)
            }
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
            // A proxy's message about a large message; the server itself says "out of range".
            Code::ResourceExhausted if status.message().contains("larger than max") => SinkError::BadRequest(reason()),
            Code::ResourceExhausted if !is_about_storage(status.message()) => self.limited(status),
            _ => self.unavailable(&reason()),
        }
    }

    /// Makes the error of a rate limit. Qdrant refuses a request with the time after which there is room for it, or because there
    /// never will be (`lib/common/common/src/rate_limiting.rs`).
    fn limited(&self, status: &Status) -> SinkError {
        let reason = status.message().to_owned();
        let limit = match reason.as_str() {
            words if words.contains("Write rate limit") => RateLimit::Writes,
            words if words.contains("Read rate limit") => RateLimit::Reads,
            _ => RateLimit::Other,
        };
        SinkError::Limited(Box::new(Limited {
            url: self.url.clone(),
            collection: self.name(),
            limit,
            is_too_large: reason.contains("larger than rate limiter capacity"),
            reason,
            retry_after: retry_after(status),
            written: Vec::new(),
        }))
    }

    pub(super) fn missing(&self) -> SinkError {
        SinkError::Missing { url: self.url.clone(), collection: self.collection.clone() }
    }

    pub(super) fn unavailable(&self, reason: &str) -> SinkError {
        SinkError::Unavailable { url: self.url.clone(), reason: reason.to_owned() }
    }

    /// Checks the status of a write: only `completed` means that the server has applied it.
    pub(super) fn completed(&self, result: Option<&UpdateResult>) -> Result<(), SinkError> {
        let status = result.map(|result| UpdateStatus::try_from(result.status));
        match status {
            Some(Ok(UpdateStatus::Completed)) => Ok(()),
            Some(Ok(status)) => Err(self.unavailable(&format!("a write was answered with {}", status.as_str_name()))),
            Some(Err(_)) | None => Err(self.unavailable("a write was answered without a status")),
        }
    }
}

/// Returns whether a "Not found" is about a collection. The server also says it of points.
fn is_about_the_collection(message: &str) -> bool {
    message.contains("ollection")
}

/// Returns whether the collection has reached the maximal size of its strict mode. The server then refuses every point until the
/// maximum is raised.
fn is_about_a_quota(message: &str) -> bool {
    message.contains("limit of") && message.contains("reached")
}

/// Returns whether the node's disk or memory has reached its limit. From 1.19 on a node refuses writes then.
fn is_about_storage(message: &str) -> bool {
    message.starts_with("Insufficient storage")
}

/// Returns the pause that the server asks for, in whole seconds as in HTTP.
fn retry_after(status: &Status) -> Option<Duration> {
    let seconds = status.metadata().get("retry-after")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> CollectionPlace {
        CollectionPlace::new("http://localhost:6334", "books")
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
        assert!(matches!(of(Code::NotFound, "Not found: No point with id 7 found"), SinkError::BadRequest(_)));
        let full = "Bad request: Max vector storage size limit of 1024 bytes reached!";
        assert!(
            matches!(of(Code::InvalidArgument, full), SinkError::Unavailable { .. }),
            "it passes, and no point is to blame"
        );
    }

    #[test]
    fn a_limit_is_named_with_the_collections_own_name_and_what_to_type() {
        let place = place();
        place.set_name("books__1");
        let mut status = Status::resource_exhausted(
            "Rate limiting exceeded: Write rate limit exceeded: Operation requires 5 tokens but only 1.0 were available. Retry after 3s",
        );
        status.metadata_mut().insert("retry-after", "3".parse().unwrap());
        let error = place.error(QdrantError::from(status));
        assert!(error.is_retryable());
        let SinkError::Limited(limited) = &error else { panic!("{error}") };
        assert_eq!((limited.limit, limited.retry_after), (RateLimit::Writes, Some(Duration::from_secs(3))));
        assert!(error.to_string().contains("`write_rate_limit` of collection \"books__1\""), "{error}");
        let typed = r#"PATCH collections/books__1 {"strict_mode_config": {"write_rate_limit": 100000}}"#;
        assert!(limited.remedy().contains(typed), "{}", limited.remedy());
    }

    #[test]
    fn a_request_that_a_limit_never_lets_through_is_told_from_one_that_has_to_wait() {
        let of = |message| of(Code::ResourceExhausted, message);
        let never = of(
            "Rate limiting exceeded: Read rate limit exceeded, request larger than rate limiter capacity, please try to split your request",
        );
        assert!(matches!(&never, SinkError::Limited(limited) if limited.limit == RateLimit::Reads), "{never}");
        assert!(!never.is_retryable());
        // The messages of servers before 1.17, and of services in front of a server.
        for words in ["Rate limiting exceeded: Write rate limit exceeded, retry later", "too many requests"] {
            assert!(matches!(of(words), SinkError::Limited(limited) if !limited.is_too_large), "{words}");
        }
        let full = of("Insufficient storage: the disk is full");
        assert!(matches!(full, SinkError::Unavailable { .. }), "{full}");
    }
}
