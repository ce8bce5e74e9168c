//! Runs the pipeline for as long as the process lives, and handles requests for long work.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use walvec_pipeline::observe::status::Phase;
use walvec_pipeline::{PipelineError, Status, Store};

use super::progress::{forward_status, show_job};
use super::{PreparedStages, QueuedTask, TaskQueue, load_checked_embedder};
use crate::api::tasks::TaskKind;
use crate::assembly::Parts;
use crate::assembly::running::{PipelineSetup, RunningPipeline};
use crate::assembly::source::source_config;
use crate::config::Config;
use crate::failure::Failure;
use crate::http::dead_letters;
use crate::reindex::candidate::{ReindexCandidate, ServedPipeline, Takeover, TakeoverError};
use crate::reindex::state::{self, UnfinishedReindex};
use crate::reindex::{cleanup, resume};
use crate::search::serving::Serving;
use crate::tasks::{TaskHandle, TaskRequest};

/// Reads the configuration again.
pub(crate) type Reload = Box<dyn Fn() -> Result<Config, Failure> + Send + Sync>;

/// Prepares all stages in this process, without a broker.
pub(super) async fn prepare(
    config: Config,
    status: watch::Sender<Status>,
    TaskQueue { tasks, requests, queue }: TaskQueue,
    reload: Reload,
    stop: &CancellationToken,
) -> Result<PreparedStages, Failure> {
    let (config, unfinished) = resume::at_start(config).await?;
    let store = Arc::new(Store::open(config.sink.directory()).map_err(PipelineError::from)?);
    let (embedder, is_checked) = load_checked_embedder(&config).await?;
    let parts = Parts::assemble(config, embedder, None).await?;
    let (serving, served) = watch::channel(Arc::new(parts.serving()));
    if let Some(UnfinishedReindex { rollback, .. }) = unfinished
        && let Some(task) = tasks.begin(TaskKind::Reindex)
    {
        // The queue is new, so it has room.
        requests.try_send((TaskRequest::Reindex { rollback }, task)).ok();
    }
    let dead_letters = dead_letters::from_store(&store);
    let stop = stop.clone();
    let supervisor =
        Supervisor { parts, store, serving, status, requests: queue, reload, stop, cleaning: None, unfinished: None };
    Ok(PreparedStages { run: Box::pin(supervisor.run()), is_checked, serving: served, dead_letters })
}

/// The owner of everything that runs.
struct Supervisor {
    parts: Parts,
    store: Arc<Store>,
    /// The collections and the model that searches use.
    serving: watch::Sender<Arc<Serving>>,
    /// The status of the process.
    status: watch::Sender<Status>,
    requests: mpsc::Receiver<QueuedTask>,
    reload: Reload,
    stop: CancellationToken,
    /// The clean-up after a reindex.
    cleaning: Option<AbortOnDropHandle<()>>,
    /// A reindex that continues with the next pipeline.
    unfinished: Option<QueuedTask>,
}

/// How long a reindex waits before another attempt.
const REINDEX_RETRY_PAUSE: Duration = Duration::from_secs(5);

impl Supervisor {
    /// Runs until asked to stop or until a definite error, then closes the collections.
    async fn run(mut self) -> Result<(), Failure> {
        let outcome = self.run_pipelines().await;
        // Searches are answered until here.
        self.parts.close().await;
        outcome
    }

    async fn run_pipelines(&mut self) -> Result<(), Failure> {
        let mut before = None;
        loop {
            let source = source_config(&self.parts.config);
            let setup = PipelineSetup { source, store: &self.store, reports: true, before: before.as_ref() };
            let mut pipeline = RunningPipeline::start(&self.parts, setup, &self.stop)?;
            let forwarding = tokio::spawn(forward_status(pipeline.status.clone(), self.status.clone()));
            let wanted = self.handle_requests(&pipeline).await;
            let outcome = match wanted {
                Some((candidate, task)) => {
                    // The status does not show this stop: searches are still answered.
                    forwarding.abort();
                    pipeline.halt().await?;
                    let kept = pipeline.status.borrow().clone();
                    self.switch_to(candidate, task).await.map(|filled| before = Some(filled.unwrap_or(kept)))
                }
                None => pipeline.ended().await,
            };
            forwarding.abort();
            if outcome.is_err() || self.stop.is_cancelled() {
                return outcome;
            }
        }
    }

    /// Handles requests until the pipeline ends, or until other collections are ready to take over once it is stopped.
    async fn handle_requests(&mut self, pipeline: &RunningPipeline) -> Option<(ReindexCandidate, TaskHandle)> {
        let mut is_remembered = false;
        loop {
            let (request, task) = match self.unfinished.take() {
                Some(unfinished) => unfinished,
                None => tokio::select! {
                    () = has_ended(&pipeline.status) => return None,
                    Some(request) = self.requests.recv() => request,
                    true = streams(&pipeline.status), if !is_remembered => {
                        is_remembered = true;
                        if let Err(error) = state::store_served(&self.parts.config) {
                            tracing::warn!("the configuration could not be remembered for a reindex: {error}");
                        }
                        self.parts.remember_columns();
                        continue;
                    }
                },
            };
            match request {
                TaskRequest::Reindex { rollback } => match self.reindexed(rollback, &task, pipeline).await? {
                    Ok(candidate) => return Some((candidate, task)),
                    Err(failure) => self.give_up(&failure, task).await,
                },
                TaskRequest::Job(job) => match pipeline.jobs.give(job) {
                    Ok(progress) => drop(tokio::spawn(show_job(progress, pipeline.status.clone(), task))),
                    Err(busy) => task.end(Err(&Failure::definite("E_BUSY", busy))),
                },
            }
        }
    }

    /// Fills other collections. `None`: the pipeline ended first.
    async fn reindexed(
        &mut self,
        rollback: bool,
        task: &TaskHandle,
        pipeline: &RunningPipeline,
    ) -> Option<Result<ReindexCandidate, Failure>> {
        if let Some(cleaning) = self.cleaning.take() {
            cleaning.abort();
            // The result does not matter: the clean-up was aborted on purpose.
            let _ = cleaning.await;
        }
        // A reindex that a restart continues has no person watching it, and the rows that it has copied are worth waiting
        // for.
        let is_continued = state::is_unfinished(&self.parts.config);
        loop {
            let filled = tokio::select! {
                filled = self.fill(rollback, task, pipeline) => filled,
                () = has_ended(&pipeline.status) => return None,
            };
            let failure = match filled {
                Err(failure) if is_continued => failure,
                filled => return Some(filled),
            };
            if failure.passes {
                tracing::warn!("the reindex waits: {failure}");
                task.update(|task| task.step = format!("waiting: {failure}"));
            }
            // The cause of the failure may end the pipeline as well. Then the reindex continues with the next start.
            match tokio::time::timeout(REINDEX_RETRY_PAUSE, has_ended(&pipeline.status)).await {
                Ok(()) => return None,
                Err(_) if failure.passes => {}
                Err(_) => return Some(Err(failure)),
            }
        }
    }

    async fn fill(
        &self,
        rollback: bool,
        task: &TaskHandle,
        pipeline: &RunningPipeline,
    ) -> Result<ReindexCandidate, Failure> {
        let config = (self.reload)()?;
        let served = ServedPipeline { parts: &self.parts, store: &self.store, pipeline };
        ReindexCandidate::fill(served, config, rollback, task, &self.stop).await
    }

    /// Lets other collections take over, and returns the status of the pipeline that filled them. If they cannot, the next
    /// pipeline continues with the present ones.
    async fn switch_to(&mut self, candidate: ReindexCandidate, task: TaskHandle) -> Result<Option<Status>, Failure> {
        task.step("switching");
        let request = candidate.request();
        match candidate.take_over(&self.store, &self.serving, &self.stop).await {
            Ok(Takeover { parts, leftovers, filled }) => {
                self.parts = parts;
                // Runs concurrently with the next pipeline, which need not wait for it. The next start does what is left
                // undone here.
                self.cleaning = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                    task.step("cleaning up");
                    leftovers.remove().await;
                    task.end(Ok(()));
                })));
                Ok(Some(filled))
            }
            Err(TakeoverError::BeforeSwitch(failure)) if failure.passes => {
                tracing::warn!("the new collections could not take over: {failure}");
                self.unfinished = Some((request, task));
                Ok(None)
            }
            Err(TakeoverError::BeforeSwitch(failure)) => {
                self.give_up(&failure, task).await;
                Ok(None)
            }
            Err(TakeoverError::AfterSwitch(failure)) => {
                task.end(Err(&failure));
                Err(failure)
            }
        }
    }

    async fn give_up(&mut self, failure: &Failure, task: TaskHandle) {
        // A reindex that a shutdown interrupts continues with the next start.
        if !self.stop.is_cancelled() {
            tracing::warn!("the reindex failed, the collections stay as they are: {failure}");
            if cleanup::clean_up(&self.parts.config).await.is_err() {
                let config = self.parts.config.clone();
                let cleaning = async move { cleanup::clean_up_with_retries(&config).await };
                self.cleaning = Some(AbortOnDropHandle::new(tokio::spawn(cleaning)));
            }
        }
        task.end(Err(failure));
    }
}

/// Waits until a pipeline has ended, which drops the sender of its status.
async fn has_ended(status: &watch::Receiver<Status>) {
    let mut status = status.clone();
    while status.changed().await.is_ok() {}
}

async fn streams(status: &watch::Receiver<Status>) -> bool {
    status.clone().wait_for(|status| status.phase == Phase::Streaming).await.is_ok()
}
