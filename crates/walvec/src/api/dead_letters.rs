//! Parked rows, page by page.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use walvec_model::Value;
use walvec_pipeline::state::dead_letters::DeadLetter;

/// The answer of `GET /api/v1/dead-letters`.
#[derive(Serialize, Deserialize, ToSchema)]
pub(crate) struct DeadLetterPage {
    /// The rows of this page, in the order of their keys.
    #[schema(value_type = Vec<Object>)]
    pub(crate) dead_letters: Vec<DeadLetter>,
    /// The key after which the next page begins; null at the end.
    #[schema(required)]
    pub(crate) next: Option<Vec<Value>>,
}
