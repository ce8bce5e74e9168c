//! Runs the pipeline for as long as the process lives, and handles requests for long work.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use walvec_capture::SourceConfig;
use walvec_pipeline::reread::{Jobs, Progress};
use walvec_pipeline::status::Phase;
use walvec_pipeline::{PipelineError, Status, Store};

use crate::app::{self, Parts};
use crate::config::Config;
use crate::failure::Failure;
use crate::reindex::{self, Beside, NotTaken, Taken};
use crate::remembered;
use crate::search::serving::Serving;
use crate::tasks::{TaskHandle, TaskRequest};
use crate::terminal::progress::{Meter, Voice};

/// Reads the configuration again.
pub(crate) type Reload = Box<dyn Fn() -> Result<Config, Failure> + Send + Sync>;

/// A running pipeline.
pub(crate) struct Live {
    task: JoinHandle<Result<(), PipelineError>>,
    pub(crate) status: watch::Receiver<Status>,
    jobs: Jobs,
    stop: CancellationToken,
}

impl Live {
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

impl Drop for Live {
    /// Stops the pipeline without waiting for it.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The owner of everything that runs.
pub(crate) struct Supervisor {
    pub(crate) parts: Parts,
    pub(crate) store: Arc<Store>,
    /// The collections and the model that searches use.
    pub(crate) serving: watch::Sender<Arc<Serving>>,
    /// The status of the process.
    pub(crate) status: watch::Sender<Status>,
    pub(crate) requests: mpsc::Receiver<(TaskRequest, TaskHandle)>,
    pub(crate) reload: Reload,
    pub(crate) stop: CancellationToken,
    /// The clean-up after a reindex.
    pub(crate) cleaning: Option<AbortOnDropHandle<()>>,
    /// A reindex that continues with the next pipeline.
    pub(crate) unfinished: Option<(TaskRequest, TaskHandle)>,
}

/// How long a reindex waits before another attempt.
const REINDEX_AGAIN: Duration = Duration::from_secs(5);

impl Supervisor {
    /// Runs until asked to stop or until a definite error, then closes the collections.
    pub(crate) async fn run(mut self) -> Result<(), Failure> {
        let outcome = self.run_pipelines().await;
        // Searches are answered until here.
        self.parts.close().await;
        outcome
    }

    async fn run_pipelines(&mut self) -> Result<(), Failure> {
        let mut before = None;
        loop {
            let source = app::source_config(&self.parts.config);
            let mut live = Live::start(&self.parts, source, &self.store, true, before.as_ref(), &self.stop)?;
            let forwarding = tokio::spawn(forward(live.status.clone(), self.status.clone()));
            let wanted = self.attend(&live).await;
            let outcome = match wanted {
                Some((beside, task)) => {
                    // The status does not show this stop: searches are still answered.
                    forwarding.abort();
                    live.halt().await?;
                    let kept = live.status.borrow().clone();
                    self.give_way(beside, task).await.map(|filled| before = Some(filled.unwrap_or(kept)))
                }
                None => live.ended().await,
            };
            forwarding.abort();
            if outcome.is_err() || self.stop.is_cancelled() {
                return outcome;
            }
        }
    }

    /// Handles requests until the pipeline ends, or until other collections are ready to take over once it is stopped.
    async fn attend(&mut self, live: &Live) -> Option<(Beside, TaskHandle)> {
        let mut is_remembered = false;
        loop {
            let (request, task) = match self.unfinished.take() {
                Some(unfinished) => unfinished,
                None => tokio::select! {
                    () = finished(&live.status) => return None,
                    Some(request) = self.requests.recv() => request,
                    true = streams(&live.status), if !is_remembered => {
                        is_remembered = true;
                        if let Err(error) = remembered::store(&self.parts.config) {
                            tracing::warn!("the configuration could not be remembered for a reindex: {error}");
                        }
                        self.parts.remember_columns();
                        continue;
                    }
                },
            };
            match request {
                TaskRequest::Reindex { rollback } => match self.reindexed(rollback, &task, live).await? {
                    Ok(beside) => return Some((beside, task)),
                    Err(failure) => self.keep(&failure, task).await,
                },
                TaskRequest::Job(job) => match live.jobs.give(job) {
                    Ok(progress) => drop(tokio::spawn(show(progress, live.status.clone(), task))),
                    Err(busy) => task.end(Err(&Failure::definite("E_BUSY", busy))),
                },
            }
        }
    }

    /// Fills other collections. `None`: the pipeline ended first.
    async fn reindexed(&mut self, rollback: bool, task: &TaskHandle, live: &Live) -> Option<Result<Beside, Failure>> {
        if let Some(cleaning) = self.cleaning.take() {
            cleaning.abort();
            // The result does not matter: the clean-up was aborted on purpose.
            let _ = cleaning.await;
        }
        // A reindex that a restart continues has no person watching it, and the rows that it has copied are worth waiting
        // for.
        let goes_on = remembered::is_under_way(&self.parts.config);
        loop {
            let filled = tokio::select! {
                filled = self.fill(rollback, task, live) => filled,
                () = finished(&live.status) => return None,
            };
            let failure = match filled {
                Err(failure) if goes_on => failure,
                filled => return Some(filled),
            };
            if failure.passes {
                tracing::warn!("the reindex waits: {failure}");
                task.update(|task| task.step = format!("waiting: {failure}"));
            }
            // The cause of the failure may end the pipeline as well. Then the reindex continues with the next start.
            match tokio::time::timeout(REINDEX_AGAIN, finished(&live.status)).await {
                Ok(()) => return None,
                Err(_) if failure.passes => {}
                Err(_) => return Some(Err(failure)),
            }
        }
    }

    async fn fill(&self, rollback: bool, task: &TaskHandle, live: &Live) -> Result<Beside, Failure> {
        let config = (self.reload)()?;
        Beside::fill(&self.parts, config, &self.store, rollback, task, live, &self.stop).await
    }

    /// Lets other collections take over, and returns the status of the pipeline that filled them. If they cannot, the next
    /// pipeline continues with the present ones.
    async fn give_way(&mut self, beside: Beside, task: TaskHandle) -> Result<Option<Status>, Failure> {
        task.step("switching");
        let request = beside.request();
        match beside.take_over(&self.store, &self.serving, &self.stop).await {
            Ok(Taken { parts, leftovers, filled }) => {
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
            Err(NotTaken::Before(failure)) if failure.passes => {
                tracing::warn!("the new collections could not take over: {failure}");
                self.unfinished = Some((request, task));
                Ok(None)
            }
            Err(NotTaken::Before(failure)) => {
                self.keep(&failure, task).await;
                Ok(None)
            }
            Err(NotTaken::After(failure)) => {
                task.end(Err(&failure));
                Err(failure)
            }
        }
    }

    async fn keep(&mut self, failure: &Failure, task: TaskHandle) {
        // A reindex that a shutdown interrupts continues with the next start.
        if !self.stop.is_cancelled() {
            tracing::warn!("the reindex failed, the collections stay as they are: {failure}");
            if reindex::forget(&self.parts.config).await.is_err() {
                let config = self.parts.config.clone();
                let cleaning = async move { reindex::forget_in_time(&config).await };
                self.cleaning = Some(AbortOnDropHandle::new(tokio::spawn(cleaning)));
            }
        }
        task.end(Err(failure));
    }
}

/// Waits until a pipeline has ended, which drops the sender of its status.
async fn finished(status: &watch::Receiver<Status>) {
    let mut status = status.clone();
    while status.changed().await.is_ok() {}
}

async fn streams(status: &watch::Receiver<Status>) -> bool {
    status.clone().wait_for(|status| status.phase == Phase::Streaming).await.is_ok()
}

/// Forwards one pipeline's status as that of the process. A pipeline that takes over from another is shown once it follows
/// the stream or has a problem: until then searches are answered as before.
pub(crate) async fn forward(mut from: watch::Receiver<Status>, to: watch::Sender<Status>) {
    let takes_over = to.borrow().phase == Phase::Streaming || to.borrow().phase == Phase::Stopping;
    let mut is_shown = !takes_over;
    loop {
        let status = from.borrow_and_update().clone();
        is_shown |= status.phase == Phase::Streaming || status.problem.is_some();
        if is_shown {
            to.send_replace(status);
        }
        if from.changed().await.is_err() {
            return;
        }
    }
}

/// Shows the progress of a job, and what holds it up, until it ends.
pub(crate) async fn show(
    mut progress: watch::Receiver<Progress>,
    mut status: watch::Receiver<Status>,
    task: TaskHandle,
) {
    const READING: &str = "reading rows again";
    task.step(READING);
    let mut meter = Meter::new(READING, Voice::Log);
    loop {
        let now = progress.borrow_and_update().clone();
        let problem = status.borrow_and_update().problem.clone();
        meter.show(now.rows, now.rows_estimated);
        task.reach(READING, problem.as_ref(), now.rows, now.rows_estimated);
        if let Some(ended) = now.ended {
            let failure = ended.map_err(|ended| {
                let failure = Failure::definite(&ended.code, ended.message);
                ended.remedy.into_iter().fold(failure, Failure::with_remedy)
            });
            return task.end(failure.as_ref().copied());
        }
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return },
            // If the pipeline ends, the job ends as well.
            Ok(()) = status.changed() => {}
        }
    }
}
