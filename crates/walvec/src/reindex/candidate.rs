//! The collections that a reindex fills, and the pipeline that fills them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use walvec_capture::SourceConfig;
use walvec_embed::Embedder;
use walvec_model::Lsn;
use walvec_pipeline::observe::status::Phase;
use walvec_pipeline::state::dead_letters::DeadLetter;
use walvec_pipeline::state::records::{Baseline, Checkpoint, SnapshotState};
use walvec_pipeline::{PipelineError, Status, Store};

use super::cleanup::Leftovers;
use super::names::{self, sink_failure, switch};
use super::slot::reindex_source;
use super::state::{self, UnfinishedReindex};
use super::{pause, refused};
use crate::assembly::running::{PipelineSetup, RunningPipeline};
use crate::assembly::{self, Parts, collection};
use crate::config::Config;
use crate::failure::Failure;
use crate::model_check::{self, NewSample};
use crate::search::serving::Serving;
use crate::tasks::{TaskHandle, TaskRequest};
use crate::terminal::progress::{Meter, ReportTo};

/// If catching up takes no longer than this, the second pipeline is near enough: the rest is done while the first one is
/// stopped.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(1);

/// How often catching up is tried before the first pipeline is stopped in any case: it may be the cause of the delay.
const CATCH_UP_ATTEMPTS: u32 = 20;

/// How long the first pipeline may be stopped while the second catches up.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(60);

/// The step in which the rows are copied.
const COPYING: &str = "copying";
const CATCHING_UP: &str = "catching up";

/// The result of a reindex whose collections have taken over.
pub(crate) struct Takeover {
    /// The parts that are served now.
    pub(crate) parts: Parts,
    /// The leftovers to be removed.
    pub(crate) leftovers: Leftovers,
    /// The last status of the pipeline that filled the collections.
    pub(crate) filled: Status,
}

/// Why other collections have not taken over.
pub(crate) enum TakeoverError {
    /// The names were not switched: everything is as it was.
    BeforeSwitch(Failure),
    /// The names were switched, and a later step failed. The next start continues from there.
    AfterSwitch(Failure),
}

/// What is served while other collections are filled.
pub(crate) struct ServedPipeline<'a> {
    pub(crate) parts: &'a Parts,
    pub(crate) store: &'a Arc<Store>,
    pub(crate) pipeline: &'a RunningPipeline,
}

/// Other collections and the pipeline that fills them.
pub(crate) struct ReindexCandidate {
    parts: Parts,
    store: Arc<Store>,
    pipeline: RunningPipeline,
    /// Name and own name of each collection.
    names: Vec<(String, String)>,
    /// The own names of the collections that are served meanwhile.
    served: Vec<String>,
    /// Whether they are kept collections, which were served before.
    rollback: bool,
    /// The model's sample, by which a replaced model is noticed.
    sample: Option<NewSample>,
}

impl ReindexCandidate {
    /// Fills the collections of `config`, which may be new or kept ones, until they have almost caught up with the served ones.
    pub(crate) async fn fill(
        served: ServedPipeline<'_>,
        config: Config,
        rollback: bool,
        task: &TaskHandle,
        stop: &CancellationToken,
    ) -> Result<Self, Failure> {
        let ServedPipeline { parts: current, store, pipeline: primary } = served;
        refused::refuse_other_rows(&current.config, &config)?;
        let nothing =
            || Failure::definite("E_REINDEX", "nothing has been stored yet that could be built again").passing();
        let checkpoint = store.checkpoint().map_err(PipelineError::from)?;
        let checkpoint = checkpoint.filter(|checkpoint| checkpoint.snapshot == SnapshotState::Done);
        let checkpoint = checkpoint.ok_or_else(nothing)?;
        task.step("loading the model");
        let embedder = load_or_share_embedder(current, &config).await?;
        let sample = model_check::take_sample(embedder.as_ref()).await;
        let catalog = collection::catalog(&config);
        let served = names::served(&config, catalog.as_ref()).await?;
        let own_names = if rollback {
            names::kept(&config, catalog.as_ref(), embedder.as_ref(), &served).await?
        } else {
            names::next(&config, catalog.as_ref(), embedder.as_ref(), &served, checkpoint.generation.0 + 1).await?
        };
        let parts = Parts::assemble(config, embedder, Some(&own_names)).await?;

        state::store_unfinished(
            &parts.config,
            &UnfinishedReindex { rollback, names: own_names.clone(), is_over: false },
        )
        .map_err(|error| Failure::definite("E_SINK", format!("noting the reindex: {error}")).passing())?;
        let source = reindex_source(&parts.config);
        let store = state::seed(&state::directory(&parts.config), &checkpoint, &source.slot)?;
        let pipeline = RunningPipeline::start(&parts, setup(source, &store, None), stop)?;
        let names = parts.config.collections.iter().map(|collection| collection.name.clone()).zip(own_names).collect();
        let mut candidate = Self { parts, store, pipeline, names, served, rollback, sample };
        candidate.copy(task).await?;
        refused::refuse_other_source(&checkpoint, &candidate.checkpoint()?)?;
        candidate.catch_up(task, primary).await?;
        Ok(candidate)
    }

    /// Returns the request that this answers.
    pub(crate) const fn request(&self) -> TaskRequest {
        TaskRequest::Reindex { rollback: self.rollback }
    }

    /// Returns the command that repeats it.
    const fn command(&self) -> &'static str {
        if self.rollback { "walvec reindex --rollback" } else { "walvec reindex" }
    }

    /// Waits for the end of the snapshot.
    async fn copy(&mut self, task: &TaskHandle) -> Result<(), Failure> {
        task.step(COPYING);
        let mut meter = Meter::new("reindex", ReportTo::Log);
        let progress = |status: &Status| {
            let (copied, estimated) = status.snapshot_rows();
            meter.show(copied, Some(estimated));
            task.report_progress(COPYING, status.problem.as_ref(), copied, Some(estimated));
            status.phase == Phase::Streaming
        };
        self.wait_for(progress).await
    }

    async fn catch_up(&mut self, task: &TaskHandle, primary: &RunningPipeline) -> Result<(), Failure> {
        task.step(CATCHING_UP);
        for _ in 0..CATCH_UP_ATTEMPTS {
            // A pipeline that reads its own tables again would be stopped in the middle of that.
            let streams = |status: &Status| status.phase == Phase::Streaming;
            let applied = primary.status.clone().wait_for(streams).await.map(|status| status.applied_lsn);
            let target = applied.map_err(|_| Failure::definite("E_STOPPED", "the pipeline has ended"))?;
            let begun = Instant::now();
            self.wait_until(target, task).await?;
            if begun.elapsed() < CAUGHT_UP_WITHIN {
                break;
            }
        }
        Ok(())
    }

    async fn wait_until(&mut self, applied: Lsn, task: &TaskHandle) -> Result<(), Failure> {
        let progress = |status: &Status| {
            let (copied, _) = status.snapshot_rows();
            task.report_progress(CATCHING_UP, status.problem.as_ref(), copied, None);
            status.phase == Phase::Streaming && status.applied_lsn >= applied
        };
        self.wait_for(progress).await
    }

    /// Waits for a status; fails if the pipeline ends first.
    async fn wait_for(&mut self, mut wanted: impl FnMut(&Status) -> bool) -> Result<(), Failure> {
        let aside = |status: &Status| status.collections.iter().find_map(|found| found.set_aside.clone());
        let waited = self.pipeline.status.wait_for(|status| aside(status).is_some() || wanted(status)).await;
        if let Ok(aside) = waited.map(|status| aside(&status)) {
            // The new collection would lack the rows of a table that is set aside.
            return match aside {
                Some(aside) => Err(Failure::definite(&aside.code, aside.message).with_remedy(aside.remedy)),
                None => Ok(()),
            };
        }
        // The pipeline's own remedies are about the served collections, which are intact.
        let command = self.command();
        self.pipeline.ended().await.map_err(|failure| failure.with_remedy(command))?;
        Err(Failure::definite("E_STOPPED", "the reindex was stopped; it continues at the next start"))
    }

    fn checkpoint(&self) -> Result<Checkpoint, Failure> {
        let checkpoint = self.store.checkpoint().map_err(PipelineError::from)?;
        let done = checkpoint.filter(|checkpoint| checkpoint.snapshot == SnapshotState::Done);
        done.ok_or_else(|| Failure::definite("E_REINDEX", "the new collections are not complete"))
    }

    /// Catches up to where the first pipeline has stopped, and takes over the names and the position.
    pub(crate) async fn take_over(
        mut self,
        main: &Store,
        serving: &watch::Sender<Arc<Serving>>,
        stop: &CancellationToken,
    ) -> Result<Takeover, TakeoverError> {
        let state_to_store = self.catch_up_and_stop(main, stop).await.map_err(TakeoverError::BeforeSwitch)?;
        let Self { parts, pipeline, names, served, sample, .. } = self;
        let filled = pipeline.status.borrow().clone();
        drop(pipeline);
        let parts = parts.served().map_err(|source| TakeoverError::BeforeSwitch(sink_failure("*", source)))?;
        let catalog = collection::catalog(&parts.config);
        switch(catalog.as_ref(), &names, stop).await.map_err(TakeoverError::BeforeSwitch)?;
        // From here on there is no way back. After a crash, the next start finds other collections than the state file names,
        // and reads the tables again.
        store_state(main, &state_to_store, stop).await.map_err(TakeoverError::AfterSwitch)?;
        if let Err(error) = state::store_served(&parts.config) {
            tracing::warn!("the configuration could not be remembered for a reindex: {error}");
        }
        // The watch of the model compares with this sample at once.
        model_check::replace_samples(&parts.config, sample);
        serving.send_replace(Arc::new(parts.serving()));
        let leftovers = Leftovers { config: parts.config.clone(), names, served };
        Ok(Takeover { parts, leftovers, filled })
    }

    /// Catches up to where the first pipeline has stopped, and stops there.
    async fn catch_up_and_stop(&mut self, main: &Store, stop: &CancellationToken) -> Result<CollectionState, Failure> {
        let command = self.command();
        let stopped = main.checkpoint().map_err(PipelineError::from)?;
        let stopped = stopped.filter(|checkpoint| checkpoint.snapshot == SnapshotState::Done);
        let incomplete = || Failure::definite("E_REINDEX", "the served collections are being read again").passing();
        let stopped = stopped.ok_or_else(|| incomplete().with_remedy(format!("{command}, once that is done")))?;
        let late = |_| {
            let what = format!("the new collections could not catch up within {} s", SWITCH_TIMEOUT.as_secs());
            Failure::definite("E_REINDEX", what).with_remedy(format!("{command}, when the table changes less"))
        };
        // The position that counts is not what was ever applied, but what was confirmed since the stream was last opened: in the
        // middle of a replay, a row may be back whose deletion is still to come.
        let has_caught_up =
            |status: &Status| status.phase == Phase::Streaming && status.confirmed_lsn >= stopped.applied;
        let until = tokio::time::Instant::now() + SWITCH_TIMEOUT;
        loop {
            tokio::time::timeout_at(until, self.wait_for(has_caught_up)).await.map_err(late)??;
            self.pipeline.halt().await?;
            let status = self.pipeline.status.borrow().clone();
            if status.confirmed_lsn >= stopped.applied {
                break;
            }
            // The stream was interrupted at the last moment, and began again further back.
            let source = reindex_source(&self.parts.config);
            self.pipeline = RunningPipeline::start(&self.parts, setup(source, &self.store, Some(&status)), stop)?;
        }
        let checkpoint = self.checkpoint()?;
        refused::refuse_other_source(&stopped, &checkpoint)?;
        let mut letters = Vec::new();
        for (name, _) in &self.names {
            letters.extend(self.store.dead_letters(name).map_err(PipelineError::from)?);
        }
        let baseline = self.store.baseline().map_err(PipelineError::from)?.unwrap_or_default();
        Ok((Checkpoint { source: stopped.source, ..checkpoint }, baseline, letters))
    }
}

/// Sets up the second pipeline. The metrics of the process are those of the first one.
const fn setup<'a>(source: SourceConfig, store: &'a Arc<Store>, before: Option<&'a Status>) -> PipelineSetup<'a> {
    PipelineSetup { source, store, reports: false, before }
}

/// Loads the configured model. Returns the one in use instead if it is the same model, reached in the same way.
async fn load_or_share_embedder(current: &Parts, config: &Config) -> Result<Arc<dyn Embedder>, Failure> {
    let embedder = assembly::load_embedder(config).await?;
    let same = embedder.info() == current.embedder.info() && current.config.embedding.is_used_as(&config.embedding);
    Ok(if same { Arc::clone(&current.embedder) } else { embedder })
}

/// The state of collections: their position, the shapes of their tables, and the parked rows.
type CollectionState = (Checkpoint, Baseline, Vec<DeadLetter>);

/// Stores the state of the new collections. Waits while the disk is full.
async fn store_state(
    main: &Store,
    (checkpoint, baseline, letters): &CollectionState,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    loop {
        match main.take_over(checkpoint, baseline, letters) {
            Err(error) if error.is_retryable() && !stop.is_cancelled() => {
                tracing::warn!("the state of the new collections cannot be stored yet: {error}");
                pause(stop).await;
            }
            stored => return Ok(stored.map_err(PipelineError::from)?),
        }
    }
}
