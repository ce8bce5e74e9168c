//! HTTP clients.

/// Starts to build an HTTP client. TLS uses ring, as everywhere in walvec. A process installs its cryptography provider once, so
/// this takes the one that is already installed.
pub(crate) fn client() -> reqwest::ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().user_agent(concat!("walvec/", env!("CARGO_PKG_VERSION")))
}
