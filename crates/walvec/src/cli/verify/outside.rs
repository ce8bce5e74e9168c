//! The running walvec and the stored points, for the comparison.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use walvec_model::{Fingerprint, PointId, RawPage, RawPoint};
use walvec_pipeline::status::{Phase, Status};
use walvec_sink::qdrant::Remote;
use walvec_sink::{Search, SinkError};
use walvec_verify::{Applied, BoxFuture, ParkedPage, ParkedRow, Points, RepairPortion, RepairState, VerifyError};

use crate::cli::Failure;
use crate::cli::running::{E_TASK_RUNNING, Running};
use crate::collection::Opened;
use crate::config::{CollectionConfig, Config};
use crate::http::dead_letters::Page;
use crate::tasks::{State, Task};

/// How often a repair is polled.
const ASK: Duration = Duration::from_millis(100);

impl From<Failure> for VerifyError {
    fn from(failure: Failure) -> Self {
        let (code, message, remedy) = failure.into_parts();
        Self::Outside { code, message, remedy }
    }
}

/// The walvec that fills the collections.
pub(super) struct Followed<'a>(pub(super) &'a Running);

#[derive(Deserialize)]
struct Accepted {
    task: u64,
}

impl walvec_verify::Running for Followed<'_> {
    fn applied(&self) -> BoxFuture<'_, Result<Applied, VerifyError>> {
        Box::pin(async {
            let status: Status = self.0.get("/api/v1/status", &[]).await?;
            let problem = status.problem.map(|problem| format!("{}: {}", problem.part, problem.message));
            Ok(Applied { lsn: status.applied_lsn, streaming: status.phase == Phase::Streaming, problem })
        })
    }

    fn parked(&self, collection: &str, after: Option<Vec<Value>>) -> BoxFuture<'_, Result<ParkedPage, VerifyError>> {
        let collection = collection.to_owned();
        Box::pin(async move {
            let after = after.map(|key| Value::Array(key).to_string());
            let mut query = vec![("collection", collection.as_str())];
            query.extend(after.as_deref().map(|key| ("after", key)));
            let page: Page = self.0.get("/api/v1/dead-letters", &query).await?;
            let letters = page.dead_letters.into_iter();
            let rows = letters.map(|letter| ParkedRow { key: letter.key, code: letter.code, reason: letter.reason });
            Ok(ParkedPage { rows: rows.collect(), next: page.next })
        })
    }

    fn repair<'a>(
        &'a self,
        portion: &'a RepairPortion,
        watch: &'a (dyn Fn(RepairState) + Send + Sync),
    ) -> BoxFuture<'a, Result<u64, VerifyError>> {
        let points: Vec<Value> =
            portion.points.iter().map(|(id, version)| json!({"id": id, "version": version})).collect();
        let body = json!({"collection": portion.collection, "rows": portion.rows, "points": points});
        Box::pin(async move {
            let id = loop {
                match self.0.post::<Accepted>("/api/v1/repair", &body).await {
                    Ok(accepted) => break accepted.task,
                    Err(failure) if failure.code() == E_TASK_RUNNING => watch(RepairState::Queued),
                    Err(failure) => return Err(failure.into()),
                }
                // The end of a task in another process can only be polled.
                tokio::time::sleep(ASK).await;
            };
            loop {
                let task: Task = self.0.get(&format!("/api/v1/tasks/{id}"), &[]).await?;
                match task.state {
                    State::Running => watch(RepairState::Running(task.rows)),
                    State::Done => return Ok(task.rows),
                    State::Failed => return Err(Failure::of_task(task).into()),
                }
                tokio::time::sleep(ASK).await;
            }
        })
    }
}

/// Where the points of a collection can be read.
pub(super) enum Stored<'a> {
    /// In the engine that the running walvec holds: through its API.
    Embedded { running: &'a Running, collection: &'a str },
    /// On a server, directly.
    Server { remote: Box<Remote>, collection: &'a str },
}

impl<'a> Stored<'a> {
    pub(super) async fn open(
        config: &Config,
        collection: &'a CollectionConfig,
        running: Option<&'a Running>,
        dimension: usize,
        fingerprint: &Fingerprint,
    ) -> Result<Self, Failure> {
        let name = collection.name.as_str();
        if let (None, Some(running)) = (&config.sink.qdrant, running) {
            return Ok(Self::Embedded { running, collection: name });
        }
        match Opened::find(config, collection, dimension, fingerprint).await? {
            Some(Opened::Remote(remote)) => Ok(Self::Server { remote: Box::new(remote), collection: name }),
            Some(Opened::Embedded(_)) | None => {
                let what = format!("the Qdrant server has no collection \"{name}\"");
                Err(Failure::definite("E_SINK", what).with_remedy("walvec status"))
            }
        }
    }
}

impl Points for Stored<'_> {
    fn page(&self, from: Option<PointId>, limit: usize) -> BoxFuture<'_, Result<RawPage, VerifyError>> {
        Box::pin(async move {
            match self {
                Self::Embedded { running, collection } => {
                    let (from, limit) = (from.map(|id| id.to_string()), limit.to_string());
                    let mut query = vec![("collection", *collection), ("limit", &limit)];
                    query.extend(from.as_deref().map(|from| ("from", from)));
                    Ok(running.get("/api/v1/points", &query).await?)
                }
                Self::Server { remote, collection } => {
                    remote.page(from, limit, false).await.map_err(|error| failed(collection, error))
                }
            }
        })
    }

    fn get(&self, ids: Vec<PointId>, with_vectors: bool) -> BoxFuture<'_, Result<Vec<RawPoint>, VerifyError>> {
        Box::pin(async move {
            match self {
                Self::Embedded { running, collection } => {
                    let body = json!({"collection": collection, "ids": ids, "vectors": with_vectors});
                    let page: RawPage = running.post("/api/v1/points", &body).await?;
                    Ok(page.points)
                }
                Self::Server { remote, collection } => {
                    remote.get(ids, with_vectors).await.map_err(|error| failed(collection, error))
                }
            }
        })
    }

    fn held_back(&self) -> BoxFuture<'_, Result<u64, VerifyError>> {
        Box::pin(async move {
            match self {
                Self::Embedded { .. } => Ok(0),
                Self::Server { remote, collection } => {
                    remote.held_back().await.map_err(|error| failed(collection, error))
                }
            }
        })
    }
}

fn failed(collection: &str, source: SinkError) -> VerifyError {
    Failure::from(walvec_pipeline::PipelineError::Sink { collection: collection.to_owned(), source }).into()
}
