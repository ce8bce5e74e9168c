//! Errors as answers: `application/problem+json` (RFC 9457).

use axum::http::HeaderValue;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::problem::{ApiProblem, Reason};

/// An error (RFC 9457, section 3.1).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody {
    /// The kind, `urn:walvec:problem:…`. It is stable.
    #[schema(format = "uri")]
    r#type: String,
    /// The kind in words.
    title: &'static str,
    /// The status of the answer.
    status: u16,
    /// What exactly happened, and what would be right.
    detail: String,
}

impl IntoResponse for ApiProblem {
    fn into_response(self) -> Response {
        let (name, title, status) = self.reason().parts();
        let body = ProblemBody {
            r#type: format!("urn:walvec:problem:{name}"),
            title,
            status: status.as_u16(),
            detail: self.detail().to_owned(),
        };
        // A struct of strings always serialises; the empty object stands in for a case that cannot happen.
        let json = serde_json::to_vec(&body).unwrap_or_else(|_| b"{}".to_vec());
        let mut response = (status, [(CONTENT_TYPE, "application/problem+json")], json).into_response();
        if let Some((name, value)) = match self.reason() {
            Reason::Busy | Reason::TimedOut | Reason::NotReady | Reason::SearchUnavailable => Some((RETRY_AFTER, "1")),
            Reason::Unauthorized => Some((WWW_AUTHENTICATE, "Bearer")),
            _ => None,
        } {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
