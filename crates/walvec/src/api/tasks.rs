//! Long work that a running walvec is asked for: the requests, and the task as it is shown.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use walvec_model::PointId;

use super::schema::IdSchema;
use crate::failure::Failure;

/// The kind of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TaskKind {
    /// Reads rows of a table again.
    Backfill,
    /// Rewrites rows and removes points that `verify` found different.
    Repair,
    /// Has all tables read again.
    Resync,
    /// Fills new collections and lets them take over the names.
    Reindex,
}

/// The state of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TaskState {
    /// It has not ended.
    Running,
    /// Everything is done.
    Done,
    /// It was given up; `error` says why.
    Failed,
}

/// A task, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Task {
    /// Counts the tasks of this process, from 1.
    pub(crate) id: u64,
    /// What it does.
    pub(crate) kind: TaskKind,
    /// The task's state.
    pub(crate) state: TaskState,
    /// What it is doing, in words.
    pub(crate) step: String,
    /// Rows read so far.
    pub(crate) rows: u64,
    /// Rows in all by the server's statistics, if they have it.
    #[schema(required)]
    pub(crate) rows_estimated: Option<u64>,
    /// The code of the error, if it failed.
    #[schema(required)]
    pub(crate) code: Option<String>,
    /// The error in words.
    #[schema(required)]
    pub(crate) error: Option<String>,
    /// What to type, if anything helps.
    #[schema(required)]
    pub(crate) remedy: Option<String>,
}

impl Task {
    /// Records the failure that ended it.
    pub(crate) fn fail(&mut self, failure: &Failure) {
        let (code, error, remedy) = failure.clone().into_parts();
        self.state = TaskState::Failed;
        (self.code, self.error, self.remedy) = (Some(code), Some(error), remedy);
    }

    /// Returns the failure that ended it, maybe in another process.
    pub(crate) fn into_failure(self) -> Failure {
        let code = self.code.unwrap_or_else(|| "E_SERVER".to_owned());
        let error = self.error.unwrap_or_else(|| "the task ended without a word".to_owned());
        let failure = Failure::new(if code == "E_CONFIG" { 2 } else { 3 }, &code, error);
        self.remedy.into_iter().fold(failure, Failure::with_remedy)
    }
}

/// The answer to a request that was accepted.
#[derive(Serialize, Deserialize, ToSchema)]
pub(crate) struct Accepted {
    /// The number of the task.
    pub(crate) task: u64,
}

/// The body of `POST /api/v1/backfill`: reads rows of a table again.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackfillRequest {
    /// The table, as a configuration writes it.
    pub(crate) table: String,
    /// Selects the rows, in SQL.
    #[serde(rename = "where")]
    pub(crate) filter: Option<String>,
}

/// The body of `POST /api/v1/repair`: reads rows again, and removes points.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RepairRequest {
    /// The name of the collection.
    pub(crate) collection: String,
    /// The keys of the rows.
    #[serde(default)]
    pub(crate) rows: Vec<Vec<Value>>,
    /// The points to remove.
    #[serde(default)]
    pub(crate) points: Vec<PointVersion>,
}

/// A point that is removed if it still has this version.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PointVersion {
    /// The id.
    #[schema(value_type = IdSchema)]
    pub(crate) id: PointId,
    /// The value of `_walvec.v` that was found; null if walvec did not write the point.
    pub(crate) version: Option<String>,
}

/// The body of `POST /api/v1/resync`: reads all tables again.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResyncRequest {
    /// Whether points without a row are removed even if they are most of a collection.
    #[serde(default)]
    #[schema(default = false)]
    pub(crate) force: bool,
}

/// The body of `POST /api/v1/reindex`: fills new collections, which take over the names.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReindexRequest {
    /// Whether to go back to the kept collections.
    #[serde(default)]
    #[schema(default = false)]
    pub(crate) rollback: bool,
}
