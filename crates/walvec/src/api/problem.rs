//! Errors of the API, as `application/problem+json` (RFC 9457).

use axum::http::StatusCode;

/// The kinds of problem. A program decides by the kind's `type`, a person reads the detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// No query, or only blanks.
    EmptyQuery,
    /// The query is longer than the limit.
    QueryTooLong,
    /// The number of hits is out of range or not a number.
    BadLimit,
    /// A filter cannot be understood.
    BadFilter,
    /// A parameter is unknown or given twice.
    BadParameter,
    /// The body is not the expected JSON.
    BadJson,
    /// No collection has this name, or there are several and none was named.
    UnknownCollection,
    /// The engine does not accept the search.
    SearchRefused,
    /// The Host header is missing where it is needed.
    NoHost,
    /// No token, or a wrong one.
    Unauthorized,
    /// The Host header names a host that this server does not answer for.
    ForbiddenHost,
    /// The request was made by a page of another origin.
    ForbiddenOrigin,
    /// The operation needs more than the right to search.
    ForbiddenOperation,
    /// A task is running already.
    TaskRunning,
    /// No such path.
    NotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// The body is larger than the limit.
    BodyTooLarge,
    /// The body is not declared to be JSON.
    NotJson,
    /// The embedder or the engine failed in a way that a repetition will not fix.
    SearchFailed,
    /// The embedder or the engine failed in a way that may pass.
    SearchUnavailable,
    /// Too many searches are waiting already.
    Busy,
    /// No answer within the time limit.
    TimedOut,
    /// The process is not ready yet, or not any more.
    NotReady,
    /// walvec's own state cannot be read.
    StateFailed,
}

impl Reason {
    /// Returns its stable name, title and status.
    pub(crate) const fn parts(self) -> (&'static str, &'static str, StatusCode) {
        match self {
            Self::EmptyQuery => ("empty-query", "The query is empty", StatusCode::BAD_REQUEST),
            Self::QueryTooLong => ("query-too-long", "The query is too long", StatusCode::BAD_REQUEST),
            Self::BadLimit => ("bad-limit", "The limit is not valid", StatusCode::BAD_REQUEST),
            Self::BadFilter => ("bad-filter", "The filter is not valid", StatusCode::BAD_REQUEST),
            Self::BadParameter => ("bad-parameter", "A parameter is not valid", StatusCode::BAD_REQUEST),
            Self::BadJson => ("bad-json", "The body is not valid", StatusCode::BAD_REQUEST),
            Self::UnknownCollection => ("unknown-collection", "Unknown collection", StatusCode::BAD_REQUEST),
            Self::SearchRefused => ("search-refused", "The search was refused", StatusCode::BAD_REQUEST),
            Self::NoHost => ("no-host", "The Host header is missing", StatusCode::BAD_REQUEST),
            Self::Unauthorized => ("unauthorized", "A token is needed", StatusCode::UNAUTHORIZED),
            Self::ForbiddenHost => ("forbidden-host", "This host name is not served", StatusCode::FORBIDDEN),
            Self::ForbiddenOrigin => ("forbidden-origin", "Requests of other sites are refused", StatusCode::FORBIDDEN),
            Self::ForbiddenOperation => {
                ("forbidden-operation", "This operation is not open to everybody", StatusCode::FORBIDDEN)
            }
            Self::TaskRunning => ("task-running", "A task is running", StatusCode::CONFLICT),
            Self::NotFound => ("not-found", "Not found", StatusCode::NOT_FOUND),
            Self::MethodNotAllowed => ("method-not-allowed", "Method not allowed", StatusCode::METHOD_NOT_ALLOWED),
            Self::BodyTooLarge => ("body-too-large", "The body is too large", StatusCode::PAYLOAD_TOO_LARGE),
            Self::NotJson => ("not-json", "The body is not JSON", StatusCode::UNSUPPORTED_MEDIA_TYPE),
            Self::SearchFailed => ("search-failed", "The search failed", StatusCode::INTERNAL_SERVER_ERROR),
            Self::SearchUnavailable => {
                ("search-unavailable", "The search failed for now", StatusCode::SERVICE_UNAVAILABLE)
            }
            Self::Busy => ("busy", "Too many searches at once", StatusCode::SERVICE_UNAVAILABLE),
            Self::TimedOut => ("timed-out", "No answer in time", StatusCode::SERVICE_UNAVAILABLE),
            Self::StateFailed => ("state-failed", "walvec's state failed", StatusCode::INTERNAL_SERVER_ERROR),
            Self::NotReady => ("not-ready", "Not ready", StatusCode::SERVICE_UNAVAILABLE),
        }
    }

    /// Returns the outcome of a search for the `result` label of the metrics.
    pub(crate) fn metric_label(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            other if other.parts().2.is_client_error() => "refused",
            _ => "error",
        }
    }
}

/// A problem that can be sent as an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct ApiProblem {
    reason: Reason,
    detail: String,
}

impl ApiProblem {
    /// Makes a problem of this kind. The detail says what was found and what would be right.
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// Returns its kind.
    pub(crate) const fn reason(&self) -> Reason {
        self.reason
    }

    /// Returns its status.
    pub(crate) const fn status(&self) -> StatusCode {
        self.reason.parts().2
    }

    /// Returns its kind in words.
    pub(crate) const fn title(&self) -> &'static str {
        self.reason.parts().1
    }

    /// Returns what exactly happened.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }
}
