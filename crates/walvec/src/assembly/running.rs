//! A pipeline that runs.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use walvec_capture::SourceConfig;
use walvec_pipeline::source::reread::Jobs;
use walvec_pipeline::{PipelineError, Status, Store};

use super::Parts;
use crate::failure::Failure;

/// What a pipeline reads, and where it keeps its state.
pub(crate) struct PipelineSetup<'a> {
    /// The database, with the slot of this pipeline.
    pub(crate) source: SourceConfig,
    pub(crate) store: &'a Arc<Store>,
    /// Whether it writes the metrics of the process.
    pub(crate) reports: bool,
    /// The status of the pipeline that wrote the collections until now, if there was one.
    pub(crate) before: Option<&'a Status>,
}

/// A running pipeline.
pub(crate) struct RunningPipeline {
    task: JoinHandle<Result<(), PipelineError>>,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) jobs: Jobs,
    stop: CancellationToken,
}

impl RunningPipeline {
    /// Starts a pipeline, which stops at the latest with `stop`.
    pub(crate) fn start(parts: &Parts, setup: PipelineSetup<'_>, stop: &CancellationToken) -> Result<Self, Failure> {
        let stop = stop.child_token();
        let pipeline = parts.pipeline(setup, stop.clone())?;
        let (status, jobs) = (pipeline.status(), pipeline.jobs());
        Ok(Self { task: tokio::spawn(pipeline.run()), status, jobs, stop })
    }

    /// Stops it in order and waits for that.
    pub(crate) async fn halt(&mut self) -> Result<(), Failure> {
        self.stop.cancel();
        self.ended().await
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> Result<(), Failure> {
        Ok((&mut self.task).await.map_err(|panic| Failure::definite("E_INTERNAL", panic))??)
    }
}

impl Drop for RunningPipeline {
    /// Stops the pipeline without waiting for it.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
