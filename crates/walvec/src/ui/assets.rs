//! Style sheet, scripts and icon, under names that change with their content, so that browsers may cache them for
//! ever.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::Path;
use axum::http::Uri;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::api::problem::{ApiProblem, Reason};
use crate::http::App;

/// One file.
pub(super) struct Asset {
    name: String,
    media_type: &'static str,
    content: &'static str,
}

impl Asset {
    fn new(stem: &str, extension: &str, media_type: &'static str, content: &'static str) -> Self {
        let digest = blake3::hash(content.as_bytes()).to_hex();
        Self { name: format!("{stem}.{}.{extension}", &digest[..12]), media_type, content }
    }

    /// Returns the path that serves it.
    pub(super) fn path(&self) -> String {
        format!("/assets/{}", self.name)
    }
}

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

pub(super) static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("page", "css", "text/css; charset=utf-8", include_str!("assets/page.css")));
pub(super) static THEME: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("theme", "js", JAVASCRIPT, include_str!("assets/theme.js")));
pub(super) static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("page", "js", JAVASCRIPT, include_str!("assets/page.js")));
pub(super) static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon", "svg", "image/svg+xml", include_str!("assets/icon.svg")));

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/assets/{name}", get(serve))
}

async fn serve(Path(name): Path<String>, uri: Uri) -> Response {
    let assets = [&*STYLE, &*THEME, &*SCRIPT, &*ICON];
    match assets.into_iter().find(|asset| asset.name == name) {
        Some(asset) => {
            let headers = [(CONTENT_TYPE, asset.media_type), (CACHE_CONTROL, "public, max-age=31536000, immutable")];
            (headers, asset.content).into_response()
        }
        None => ApiProblem::new(Reason::NotFound, format!("there is nothing at {}", uri.path())).into_response(),
    }
}
