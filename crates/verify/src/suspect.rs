//! Suspects, and what a point says of itself.

use serde_json::Value;
use walvec_model::{PointId, Position, RESERVED_KEY, RawPoint};

use crate::id::PointClaim;

/// A difference that may only come from reading the two sides at different moments.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Suspect {
    pub(crate) id: PointId,
    /// The key of the row that belongs under this id, if it is known.
    pub(crate) key: Option<Vec<Value>>,
}

/// Returns the version that a point claims to show.
pub(crate) fn version(point: &RawPoint) -> Option<Position> {
    point.payload.get(RESERVED_KEY)?.get("v")?.as_str()?.parse().ok()
}

/// Returns whether the point shows a record that another program wrote: its version is not a position in
/// PostgreSQL's WAL.
pub(crate) fn is_foreign(point: &RawPoint) -> bool {
    point.payload.get(RESERVED_KEY).and_then(|own| own.get("g")?.as_u64()) == Some(0)
}

/// Returns which row, and which chunk of it, a point claims to show.
pub(crate) fn claim(point: &RawPoint) -> PointClaim<'_> {
    let own = point.payload.get(RESERVED_KEY);
    PointClaim { key: own.and_then(|own| own.get("k")), chunk: own.and_then(|own| own.get("c")) }
}
