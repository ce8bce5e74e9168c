//! The address of a server, the layout of new collections, and the client for everything but writes.

use std::time::Duration;

use qdrant_client::Qdrant;
use secrecy::{ExposeSecret as _, SecretString};

use super::answer::CollectionPlace;
use super::channel::Connections;
use crate::SinkError;

/// The address of a server, and how collections are made there.
#[derive(Clone, Debug)]
pub struct Server {
    /// `http://` or `https://`, host and the port of gRPC, usually 6334.
    pub url: String,
    /// The API key, if the server requires one.
    pub api_key: Option<SecretString>,
    /// How new collections are made; existing ones are never changed.
    pub layout: CollectionLayout,
    /// The shared connections to the server.
    pub connections: Connections,
}

impl Server {
    /// Describes the server at this URL, without a key and with the server's defaults for new collections.
    #[must_use]
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            api_key: None,
            layout: CollectionLayout::default(),
            connections: Connections::default(),
        }
    }
}

/// How a new collection is laid out over the server's memory, disks and nodes. `None`: the server's own default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectionLayout {
    /// Whether vectors lie on disk, read through the page cache.
    pub on_disk: Option<bool>,
    /// Whether there are compressed vectors, which are searched first.
    pub quantization: Option<Quantization>,
    /// How many shards.
    pub shards: Option<u32>,
    /// How many copies of each shard.
    pub replicas: Option<u32>,
    /// How many copies must confirm a write.
    pub write_consistency: Option<u32>,
    /// The field, under the user's name, whose value decides which shard a point is in: for tenants. `None`: the point's id decides.
    pub shard_key: Option<String>,
}

/// How vectors are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// One byte per dimension.
    Scalar,
    /// One bit per dimension.
    Binary,
}

/// How long an answer may take. A write waits for the server to apply it, which an index build can hold up.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The default address of a server on this machine.
pub const LOCAL: &str = "http://localhost:6334";

/// Returns the version of the Qdrant server at [`LOCAL`], if one answers at once.
pub async fn local_version() -> Option<String> {
    let client = Qdrant::from_url(LOCAL).skip_compatibility_check().build().ok()?;
    let reply = tokio::time::timeout(Duration::from_millis(300), client.health_check()).await;
    Some(reply.ok()?.ok()?.version)
}

/// Makes the client for everything but writes; all collections of a server share it.
pub(super) fn connect(server: &Server, place: &CollectionPlace) -> Result<Qdrant, SinkError> {
    server.connections.client(|| new_client(server, place))
}

fn new_client(server: &Server, place: &CollectionPlace) -> Result<Qdrant, SinkError> {
    let key = server.api_key.as_ref().map(|key| key.expose_secret());
    if key.is_some_and(|key| key.is_empty() || !key.chars().all(|character| character.is_ascii_graphic())) {
        // The client's own error would repeat the key.
        let reason = "the API key is empty or holds something else than visible ASCII, perhaps a line break at its end";
        return Err(SinkError::Server { url: place.url.clone(), reason: reason.to_owned() });
    }
    Qdrant::from_url(&server.url)
        .api_key(key.map(str::to_owned))
        .timeout(TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        // The client would send the check, and print to stderr, at an unexpected time; `prepare` checks the version.
        .skip_compatibility_check()
        .build()
        .map_err(|error| place.error(error))
}
