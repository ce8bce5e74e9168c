//! A pipeline that runs.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use walvec_capture::SourceConfig;
use walvec_pipeline::reread::Jobs;
use walvec_pipeline::{PipelineError, Status, Store};

use super::Parts;
use crate::failure::Failure;

/// A running pipeline.
pub(crate) struct RunningPipeline {
    task: JoinHandle<Result<(), PipelineError>>,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) jobs: Jobs,
    stop: CancellationToken,
}

impl RunningPipeline {
    /// Starts a pipeline, which stops at the latest with `stop`. `before`: the status of the pipeline that wrote these
    /// collections until now, if there was one.
    pub(crate) fn start(
        parts: &Parts,
        source: SourceConfig,
        store: &Arc<Store>,
        reports: bool,
        before: Option<&Status>,
        stop: &CancellationToken,
    ) -> Result<Self, Failure> {
        let stop = stop.child_token();
        let pipeline = parts.pipeline(source, store, reports, stop.clone())?;
        let pipeline = match before {
            Some(before) => pipeline.counting_on(before),
            None => pipeline,
        };
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
