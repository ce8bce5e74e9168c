//! Where vectors are stored.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;
use walvec_sink::qdrant::{Connections, Quantization};

use super::values::optional_secret;
use crate::config::names;

/// Where vectors are stored: one of the two. Default: the engine inside this process.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SinkSettings {
    /// Qdrant's engine inside this process.
    pub(crate) embedded: Option<EmbeddedSettings>,
    /// A Qdrant server or cluster, version 1.16 or newer.
    pub(crate) qdrant: Option<QdrantSettings>,
}

impl SinkSettings {
    /// Returns the directory of walvec's own state, and of the collections if they are not on a server.
    pub(crate) fn directory(&self) -> &Path {
        match (&self.qdrant, &self.embedded) {
            (Some(qdrant), _) => &qdrant.state,
            (None, Some(embedded)) => &embedded.path,
            (None, None) => Path::new(DEFAULT_DIRECTORY),
        }
    }
}

/// The default directory of state.
const DEFAULT_DIRECTORY: &str = "./walvec-data";

/// Qdrant's engine inside this process.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EmbeddedSettings {
    /// The directory that holds the collections and walvec's own state. One process at a time uses it.
    pub(crate) path: PathBuf,
}

impl Default for EmbeddedSettings {
    fn default() -> Self {
        Self { path: PathBuf::from(DEFAULT_DIRECTORY) }
    }
}

/// A Qdrant server or cluster. The settings of a collection's layout apply when walvec creates it; those of an existing one are never changed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct QdrantSettings {
    /// The address of its gRPC interface: `http://localhost:6334`, or `https://...` for TLS.
    pub(crate) url: String,
    /// The API key, if the server asks for one. Best written as `${QDRANT_API_KEY}`.
    #[serde(deserialize_with = "optional_secret")]
    #[schemars(with = "Option<String>")]
    pub(crate) api_key: Option<SecretString>,
    /// The directory of walvec's own state: its position and the parked rows. One process at a time uses it.
    pub(crate) state: PathBuf,
    /// Whether vectors are kept on disk and read through the page cache. Default: the server's.
    pub(crate) on_disk: Option<bool>,
    /// The compression of vectors for searching: `scalar` (one byte per dimension) or `binary` (one bit). Default: none.
    pub(crate) quantization: Option<QuantizationKind>,
    /// The number of shards of a collection; with `shard_key`, of each of its values. Default: the server's, one per node.
    pub(crate) shard_number: Option<u32>,
    /// Copies of each shard, on different nodes. Default: the server's, one.
    pub(crate) replication_factor: Option<u32>,
    /// How many copies must confirm a write. Default: the server's, one.
    pub(crate) write_consistency_factor: Option<u32>,
    /// For tenants on a cluster: the payload field whose value decides which shard a point is in. Each value gets a shard of its own (`shard_number`
    /// of them), created with the first row that has it; rows without a value share one. Searches with a filter `field=value` ask that shard alone.
    /// Every collection needs the field. Default: a point's id decides.
    pub(crate) shard_key: Option<String>,
    /// The connections to the server, shared by everything that is made from these settings.
    #[serde(skip)]
    #[schemars(skip)]
    pub(crate) connections: Connections,
}

impl QdrantSettings {
    /// Returns whether the API key goes over a network unencrypted.
    pub(crate) fn shows_its_key(&self) -> bool {
        let host = self.url.strip_prefix("http://").map(|rest| rest.rsplit_once(':').map_or(rest, |(host, _)| host));
        self.api_key.is_some() && host.is_some_and(|host| !names::is_loopback(host))
    }
}

/// How vectors are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum QuantizationKind {
    /// One byte per dimension.
    Scalar,
    /// One bit per dimension.
    Binary,
}

impl From<QuantizationKind> for Quantization {
    fn from(kind: QuantizationKind) -> Self {
        match kind {
            QuantizationKind::Scalar => Self::Scalar,
            QuantizationKind::Binary => Self::Binary,
        }
    }
}

impl Default for QdrantSettings {
    fn default() -> Self {
        Self {
            url: String::new(),
            api_key: None,
            state: PathBuf::from(DEFAULT_DIRECTORY),
            on_disk: None,
            quantization: None,
            shard_number: None,
            replication_factor: None,
            write_consistency_factor: None,
            shard_key: None,
            connections: Connections::default(),
        }
    }
}
