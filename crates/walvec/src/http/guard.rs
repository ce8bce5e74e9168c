//! Access control: host allow-list, origin, token and session, security headers, time limit.
//!
//! | Path | Host | Origin | Token, where one is configured |
//! |---|---|---|---|
//! | `/livez`, `/readyz` | checked | – | not needed: orchestrators have none, and learn nothing but the phase |
//! | `/assets/…` | checked | – | not needed: part of the published source, and the sign-in page uses them |
//! | `/login` | checked | checked | that is where it is given |
//! | everything else, `/metrics` included | checked | checked unless GET or HEAD | bearer header, session cookie, or the key of `server.json` |

use std::sync::Arc;

use axum::Form;
use axum::extract::rejection::FormRejection;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, HOST, LOCATION, ORIGIN, REFERRER_POLICY, SET_COOKIE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::state::{AccessCheck, AllowedHosts, App, SignInPage};
use crate::api::problem::{ApiProblem, Reason};

/// The path to which the sign-in page sends the token. It goes in a body, because addresses end up in histories and logs.
pub(crate) const LOGIN_PATH: &str = "/login";

const SESSION_COOKIE: &str = "walvec_session";

/// The content security policy: nothing from other origins, nothing inline, and no embedding in frames.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Adds the security headers to every answer, errors included.
pub(super) async fn add_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Not `no-referrer`: that would make browsers send `Origin: null` with our own sign-in form. Other sites get no referrer in either case.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    let resource_policy = HeaderName::from_static("cross-origin-resource-policy");
    headers.insert(resource_policy, HeaderValue::from_static("same-origin"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Answers 503 when a request takes too long, and drops it. Covers slow bodies as well as slow searches.
pub(super) async fn limit_time(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let limit = app.limits.time;
    tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(|_| {
        ApiProblem::new(Reason::TimedOut, format!("there was no answer within {limit:?}")).into_response()
    })
}

/// Admits a request, or says why not.
pub(super) async fn admit(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let host = host(request.headers(), request.uri());
    if let Err(problem) =
        check_host(&app.allowed_hosts, host).and_then(|()| check_origin(request.method(), request.headers(), host))
    {
        return problem.into_response();
    }
    let path = request.uri().path();
    let open = matches!(path, "/livez" | "/readyz" | LOGIN_PATH) || path.starts_with("/assets/");
    // A caller that can read the key can read the data directory, and with it everything that the token protects.
    let knows = |access| is_signed_in(access, request.headers()) || app.operations.is_from_owner(request.headers());
    if open || app.access.as_ref().is_none_or(knows) {
        return next.run(request).await;
    }
    refuse(path, app.sign_in_page)
}

fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    // An absolute request target replaces the Host header (RFC 9112, section 3.2.2).
    uri.authority()
        .map(axum::http::uri::Authority::as_str)
        .or_else(|| headers.get(HOST).and_then(|value| value.to_str().ok()))
}

fn check_host(allowed: &AllowedHosts, host: Option<&str>) -> Result<(), ApiProblem> {
    match host {
        None => Err(ApiProblem::new(Reason::NoHost, "the request does not say which host it is for")),
        Some(host) if !allowed.allows(host) => Err(ApiProblem::new(
            Reason::ForbiddenHost,
            format!(
                "this server does not answer for the host \"{host}\"; use localhost or 127.0.0.1, or name the host in \
                 `server.allowed_hosts` of its configuration"
            ),
        )),
        Some(_) => Ok(()),
    }
}

/// Refuses changing requests from pages of other origins. Browsers send the header with requests that may change something; programs do not
/// send it.
fn check_origin(method: &Method, headers: &HeaderMap, host: Option<&str>) -> Result<(), ApiProblem> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    // The scheme is ignored: behind a proxy that ends TLS the page is https and this server is not.
    let origin_host = origin.split_once("://").map(|(_, host)| host);
    match (origin_host, host) {
        (Some(origin_host), Some(host)) if origin_host.eq_ignore_ascii_case(host) => Ok(()),
        _ => {
            Err(ApiProblem::new(Reason::ForbiddenOrigin, format!("the request comes from \"{origin}\", not from here")))
        }
    }
}

fn is_signed_in(access: &AccessCheck, headers: &HeaderMap) -> bool {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    let mut cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    bearer.is_some_and(|token| access.knows_token(token))
        || cookies.any(|line| {
            let mut pairs = line.split(';').filter_map(|pair| pair.trim().split_once('='));
            pairs.any(|(name, value)| name == SESSION_COOKIE && access.knows_session(value))
        })
}

/// Refuses a request without a token: a browser gets a form, a program gets a problem.
fn refuse(path: &str, sign_in_page: SignInPage) -> Response {
    let problem = ApiProblem::new(
        Reason::Unauthorized,
        "send the configured token as \"Authorization: Bearer …\", or sign in at /",
    );
    match path {
        "/" => sign_in_page(false),
        _ => problem.into_response(),
    }
}

/// The sign-in form.
#[derive(Deserialize)]
pub(super) struct SignIn {
    token: String,
}

/// Answers `GET /login`, which a browser requests when the answer to a wrong token is reloaded.
pub(super) async fn to_page() -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, "/")]).into_response()
}

/// Answers `POST /login`: the right token gives the browser a session, which is not the token itself.
pub(super) async fn login(State(app): State<Arc<App>>, form: Result<Form<SignIn>, FormRejection>) -> Response {
    let Some(access) = &app.access else { return to_page().await };
    match form {
        Ok(Form(form)) if access.knows_token(form.token.trim()) => {
            let cookie = format!("{SESSION_COOKIE}={}; Path=/; HttpOnly; SameSite=Strict", access.session());
            (StatusCode::SEE_OTHER, [(LOCATION, "/".to_owned()), (SET_COOKIE, cookie)]).into_response()
        }
        _ => (app.sign_in_page)(true),
    }
}
