//! Points exactly as they are stored.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use walvec_model::PointId;

use super::schema::IdSchema;

/// The body of `POST /api/v1/points`: asks for points by their ids.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PointsRequest {
    /// The name of the collection; not needed if there is only one.
    pub(crate) collection: Option<String>,
    /// The ids of the points.
    #[schema(value_type = Vec<IdSchema>, max_items = 1000)]
    pub(crate) ids: Vec<PointId>,
    /// Whether the answer has their vectors.
    #[serde(default)]
    #[schema(default = false)]
    pub(crate) vectors: bool,
}
