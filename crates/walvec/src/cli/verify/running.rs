//! The running walvec and the stored points, for the comparison.

use std::time::Duration;

use serde_json::Value;
use walvec_model::{Fingerprint, PointId, RawPage, RawPoint};
use walvec_pipeline::observe::status::{Phase, Status};
use walvec_sink::qdrant::Remote;
use walvec_sink::{Search, SinkError};
use walvec_verify::{Applied, BoxFuture, ParkedPage, ParkedRow, Points, RepairPortion, RepairState, VerifyError};

use crate::api::points::PointsRequest;
use crate::api::tasks::{Accepted, PointVersion, RepairRequest, TaskState};
use crate::assembly::collection::OpenCollection;
use crate::client::{Client, E_TASK_RUNNING};
use crate::config::{CollectionConfig, Config};
use crate::failure::Failure;

/// How often a repair is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

impl From<Failure> for VerifyError {
    fn from(failure: Failure) -> Self {
        let (code, message, remedy) = failure.into_parts();
        Self::Outside { code, message, remedy }
    }
}

/// The walvec that fills the collections.
pub(super) struct RunningWalvec<'a>(pub(super) &'a Client);

impl walvec_verify::Running for RunningWalvec<'_> {
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
            let page = self.0.dead_letters(&collection, after).await?;
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
        let points = portion.points.iter().cloned().map(|(id, version)| PointVersion { id, version }).collect();
        let body = RepairRequest { collection: portion.collection.clone(), rows: portion.rows.clone(), points };
        Box::pin(async move {
            let id = loop {
                match self.0.post::<Accepted>("/api/v1/repair", &body).await {
                    Ok(accepted) => break accepted.task,
                    Err(failure) if failure.code() == E_TASK_RUNNING => watch(RepairState::Queued),
                    Err(failure) => return Err(failure.into()),
                }
                // The end of a task in another process can only be polled.
                tokio::time::sleep(POLL_INTERVAL).await;
            };
            loop {
                let task = self.0.task(id).await?;
                match task.state {
                    TaskState::Running => watch(RepairState::Running(task.rows)),
                    TaskState::Done => return Ok(task.rows),
                    TaskState::Failed => return Err(task.into_failure().into()),
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        })
    }
}

/// Where the points of a collection can be read.
pub(super) enum StoredPoints<'a> {
    /// In the engine that the running walvec holds: through its API.
    Embedded { running: &'a Client, collection: &'a str },
    /// On a server, directly.
    Server { remote: Box<Remote>, collection: &'a str },
}

impl<'a> StoredPoints<'a> {
    pub(super) async fn open(
        config: &Config,
        collection: &'a CollectionConfig,
        running: Option<&'a Client>,
        dimension: usize,
        fingerprint: &Fingerprint,
    ) -> Result<Self, Failure> {
        let name = collection.name.as_str();
        if let (None, Some(running)) = (&config.sink.qdrant, running) {
            return Ok(Self::Embedded { running, collection: name });
        }
        match OpenCollection::find(config, collection, dimension, fingerprint).await? {
            Some(OpenCollection::Remote(remote)) => Ok(Self::Server { remote: Box::new(remote), collection: name }),
            Some(OpenCollection::Embedded(_)) | None => {
                let what = format!("the Qdrant server has no collection \"{name}\"");
                Err(Failure::definite("E_SINK", what).with_remedy("walvec status"))
            }
        }
    }
}

impl Points for StoredPoints<'_> {
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
                    let collection = Some((*collection).to_owned());
                    let body = PointsRequest { collection, ids, vectors: with_vectors };
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
