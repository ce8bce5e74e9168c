//! Points exactly as they are stored.

use serde::{Deserialize, Serialize};
use walvec_model::PointId;

/// The body of `POST /api/v1/points`: asks for points by their ids.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PointsRequest {
    /// The name of the collection; not needed if there is only one.
    pub(crate) collection: Option<String>,
    /// The ids of the points.
    pub(crate) ids: Vec<PointId>,
    /// Whether the answer has their vectors.
    #[serde(default)]
    pub(crate) vectors: bool,
}
