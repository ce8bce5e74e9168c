//! Clients of HTTP.

/// Begins a client. TLS is by ring, as everywhere in walvec; a process chooses its cryptography once, so this takes the one that
/// is there already.
pub(crate) fn client() -> reqwest::ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().user_agent(concat!("walvec/", env!("CARGO_PKG_VERSION")))
}
