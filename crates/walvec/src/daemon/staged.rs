//! Runs the stages of a process that works through a broker.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use walvec_embed::hash::HashEmbedder;
use walvec_pipeline::index::Indexer;
use walvec_pipeline::observe::status::Phase;
use walvec_pipeline::publish::Publisher;
use walvec_pipeline::source::reread::Jobs;
use walvec_pipeline::{PipelineError, Status, Store};
use walvec_sink::embedded::create_private_dir;

use super::progress::{forward_status, show_job};
use super::{PreparedStages, QueuedTask, load_checked_embedder};
use crate::assembly::Parts;
use crate::assembly::broker::Broker;
use crate::config::{Config, KafkaSettings, Stage};
use crate::failure::Failure;
use crate::http::dead_letters;
use crate::search::serving::Serving;
use crate::tasks::TaskRequest;

/// Prepares the stages of this process that work through a broker.
pub(super) async fn prepare(
    config: Config,
    kafka: &KafkaSettings,
    status: watch::Sender<Status>,
    requests: mpsc::Receiver<QueuedTask>,
    stop: &CancellationToken,
) -> Result<PreparedStages, Failure> {
    let broker = Broker::connect(&config, kafka).await?;
    let publisher = match config.stage {
        Stage::All | Stage::Capture => {
            let directory = config.directory_of(Stage::Capture);
            create_private_dir(&directory)
                .map_err(|error| Failure::definite("E_STATE", format!("{}: {error}", directory.display())))?;
            let store = Arc::new(Store::open(&directory).map_err(PipelineError::from)?);
            Some(broker.publisher(&store, stop.child_token()))
        }
        Stage::Index | Stage::Embed | Stage::Sink => None,
    };
    let (mut parts, mut indexer, mut is_checked) = (None, None, true);
    // Without collections, no query is embedded.
    let mut serving =
        Serving { collections: Vec::new(), embedder: Arc::new(HashEmbedder::new(1).map_err(PipelineError::from)?) };
    match config.stage {
        Stage::Capture => {}
        Stage::Embed => {
            (serving.embedder, is_checked) = load_checked_embedder(&config).await?;
            let collections = broker.collections_in_topic(&serving.embedder)?;
            indexer = Some(broker.indexer(collections, stop.child_token()));
        }
        Stage::All | Stage::Index | Stage::Sink => {
            let (embedder, known) = load_checked_embedder(&config).await?;
            is_checked = known;
            let assembled = Parts::assemble(config.clone(), embedder, None).await?;
            indexer = Some(broker.indexer(assembled.collections(), stop.child_token()));
            serving = assembled.serving();
            parts = Some(assembled);
        }
    }
    let dead_letters = dead_letters::from_topic(broker.letters());
    // The value never changes: these stages build no other collections.
    let serving = watch::Sender::new(Arc::new(serving)).subscribe();
    let stages = Stages { publisher, indexer, parts, status, requests, stop: stop.clone() };
    Ok(PreparedStages { run: Box::pin(stages.run()), is_checked, serving, dead_letters })
}

/// The stages that run in this process.
struct Stages {
    publisher: Option<Publisher>,
    indexer: Option<Indexer>,
    /// The collections that searches use; closed at the end.
    parts: Option<Parts>,
    /// The status of the process.
    status: watch::Sender<Status>,
    requests: mpsc::Receiver<QueuedTask>,
    stop: CancellationToken,
}

impl Stages {
    /// Runs until asked to stop or until a definite error of one of the stages.
    async fn run(self) -> Result<(), Failure> {
        let Self { publisher, indexer, parts, status, requests, stop } = self;
        let jobs = publisher.as_ref().map(|publisher| (publisher.jobs(), publisher.status()));
        let shown = indexer.as_ref().map(Indexer::status).or_else(|| publisher.as_ref().map(Publisher::status));
        // The status is that of the workers; the publisher adds which tables are set aside.
        let aside = indexer.is_some().then(|| publisher.as_ref().map(Publisher::status)).flatten();
        let forwarding = shown.map(|shown| tokio::spawn(forward_with_set_aside(shown, aside, status)));
        let requests_task = tokio::spawn(handle_requests(requests, jobs));
        let mut stages = JoinSet::new();
        let published = publisher.as_ref().map(Publisher::status);
        if let Some(publisher) = publisher {
            stages.spawn(publisher.run());
        }
        if let Some(indexer) = indexer {
            stages.spawn(index(indexer, published, stop.clone()));
        }
        let outcome = wait_for_all(&mut stages, &stop).await;
        forwarding.iter().for_each(JoinHandle::abort);
        requests_task.abort();
        // Searches are answered until here.
        if let Some(parts) = parts {
            parts.close().await;
        }
        outcome
    }
}

/// Forwards the status of the workers, with the tables that the publisher of this process has set
/// aside.
async fn forward_with_set_aside(
    mut shown: watch::Receiver<Status>,
    aside: Option<watch::Receiver<Status>>,
    to: watch::Sender<Status>,
) {
    let Some(mut aside) = aside else { return forward_status(shown, to).await };
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
async fn wait_for_all(
    stages: &mut JoinSet<Result<(), PipelineError>>,
    stop: &CancellationToken,
) -> Result<(), Failure> {
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
async fn handle_requests(mut requests: mpsc::Receiver<QueuedTask>, jobs: Option<(Jobs, watch::Receiver<Status>)>) {
    while let Some((request, task)) = requests.recv().await {
        let refused = |what: &str, remedy: &str| Failure::definite("E_STAGE", what).with_remedy(remedy.to_owned());
        match (request, &jobs) {
            (TaskRequest::Job(job), Some((jobs, status))) => match jobs.give(job) {
                Ok(progress) => drop(tokio::spawn(show_job(progress, status.clone(), task))),
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
