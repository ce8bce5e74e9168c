//! Documents: what transform renders from a row.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Payload, PointId, RowKey, TableName};

/// A digest of the exact text that was embedded: 32 lower-case hexadecimal digits (128 bits of BLAKE3).
///
/// Stored with the point. If both the hash and the [`Fingerprint`](crate::Fingerprint) are equal, the stored vector can
/// be kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InputHash(pub String);

impl InputHash {
    /// Returns the digest of an embedding input.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(blake3::hash(text.as_bytes()).to_hex()[..32].to_owned())
    }
}

impl fmt::Display for InputHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A row, or a chunk of one, ready to be embedded and stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The id of the point that will store it.
    pub id: PointId,
    /// The table that the row is from.
    pub table: TableName,
    /// The row's key.
    pub key: RowKey,
    /// The text to embed.
    pub text: String,
    /// The digest of `text`.
    pub input_hash: InputHash,
    /// The selected and computed fields, laid out as configured, without walvec's own field.
    pub payload: Payload,
    /// The chunk's number inside its row, from 0.
    pub chunk: u32,
    /// How many chunks the row has.
    pub chunks: u32,
}
