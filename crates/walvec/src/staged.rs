//! Runs the stages of a process that works through a broker.

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use walvec_pipeline::index::Indexer;
use walvec_pipeline::publish::Publisher;
use walvec_pipeline::reread::Jobs;
use walvec_pipeline::status::Phase;
use walvec_pipeline::{PipelineError, Status};

use crate::app::Parts;
use crate::failure::Failure;
use crate::supervise::{forward, show};
use crate::tasks::{TaskHandle, TaskRequest};

/// The stages that run in this process.
pub(crate) struct Stages {
    pub(crate) publisher: Option<Publisher>,
    pub(crate) indexer: Option<Indexer>,
    /// The collections that searches use; closed at the end.
    pub(crate) parts: Option<Parts>,
    /// The status of the process.
    pub(crate) status: watch::Sender<Status>,
    pub(crate) requests: mpsc::Receiver<(TaskRequest, TaskHandle)>,
    pub(crate) stop: CancellationToken,
}

impl Stages {
    /// Runs until asked to stop or until a definite error of one of the stages.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let Self { publisher, indexer, parts, status, requests, stop } = self;
        let jobs = publisher.as_ref().map(|publisher| (publisher.jobs(), publisher.status()));
        let shown = indexer.as_ref().map(Indexer::status).or_else(|| publisher.as_ref().map(Publisher::status));
        // The status is that of the workers; the publisher adds which tables are set aside.
        let aside = indexer.is_some().then(|| publisher.as_ref().map(Publisher::status)).flatten();
        let forwarding = shown.map(|shown| tokio::spawn(forward_with(shown, aside, status)));
        let attending = tokio::spawn(attend(requests, jobs));
        let mut stages = JoinSet::new();
        let published = publisher.as_ref().map(Publisher::status);
        if let Some(publisher) = publisher {
            stages.spawn(publisher.run());
        }
        if let Some(indexer) = indexer {
            stages.spawn(index(indexer, published, stop.clone()));
        }
        let outcome = ended(&mut stages, &stop).await;
        forwarding.iter().for_each(JoinHandle::abort);
        attending.abort();
        // Searches are answered until here.
        if let Some(parts) = parts {
            parts.close().await;
        }
        outcome
    }
}

/// Forwards the status of the workers, with the tables that the publisher of this process has set
/// aside.
async fn forward_with(
    mut shown: watch::Receiver<Status>,
    aside: Option<watch::Receiver<Status>>,
    to: watch::Sender<Status>,
) {
    let Some(mut aside) = aside else { return forward(shown, to).await };
    loop {
        let mut status = shown.borrow_and_update().clone();
        for (collection, source) in status.collections.iter_mut().zip(&aside.borrow_and_update().collections) {
            collection.set_aside.clone_from(&source.set_aside);
        }
        to.send_replace(status);
        let changed = tokio::select! {
            changed = shown.changed() => changed,
            changed = aside.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Reads topics, once the publisher of this process, if it has one, has created them.
async fn index(
    indexer: Indexer,
    published: Option<watch::Receiver<Status>>,
    stop: CancellationToken,
) -> Result<(), PipelineError> {
    if let Some(mut published) = published {
        let has_begun = published.wait_for(|status| !matches!(status.phase, Phase::Starting | Phase::Stopping));
        tokio::select! {
            // On an error the publisher has ended, and reports why.
            begun = has_begun => if begun.is_err() { return Ok(()) },
            () = stop.cancelled() => return Ok(()),
        }
    }
    indexer.run().await
}

/// Waits for all stages. When one ends, the others are stopped; the first error is returned.
async fn ended(stages: &mut JoinSet<Result<(), PipelineError>>, stop: &CancellationToken) -> Result<(), Failure> {
    let mut outcome = Ok(());
    while let Some(stage) = stages.join_next().await {
        stop.cancel();
        let ended = stage.map_err(|panic| Failure::definite("E_INTERNAL", panic));
        let ended = ended.and_then(|ended| ended.map_err(Failure::from));
        outcome = outcome.and(ended);
    }
    outcome
}

/// Handles requests: runs jobs in a process with the capture stage, and refuses everything else.
async fn attend(
    mut requests: mpsc::Receiver<(TaskRequest, TaskHandle)>,
    jobs: Option<(Jobs, watch::Receiver<Status>)>,
) {
    while let Some((request, task)) = requests.recv().await {
        let refused = |what: &str, remedy: &str| Failure::definite("E_STAGE", what).with_remedy(remedy.to_owned());
        match (request, &jobs) {
            (TaskRequest::Job(job), Some((jobs, status))) => match jobs.give(job) {
                Ok(progress) => drop(tokio::spawn(show(progress, status.clone(), task))),
                Err(busy) => task.end(Err(&Failure::definite("E_BUSY", busy))),
            },
            (TaskRequest::Job(_), None) => {
                let what = "this stage does not read PostgreSQL";
                task.end(Err(&refused(what, "type it where `walvec run --stage capture` runs")));
            }
            (TaskRequest::Reindex { .. }, _) => {
                let what = "collections behind a broker are not reindexed in place";
                let remedy = "give the collection another `name` and the workers another `broker.kafka.group`: they fill it from \
                              the topics, which have to hold every row (`compact: true`, or a snapshot written again)";
                task.end(Err(&refused(what, remedy)));
            }
        }
    }
}
