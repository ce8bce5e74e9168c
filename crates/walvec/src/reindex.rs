//! Fills other collections while the present ones are served, and lets them take over the names.
//!
//! ```text
//! slot walvec ──▶ pipeline ──▶ books__1 ◀── searches        (1) both follow the stream
//! slot walvec_reindex ──▶ second pipeline ──▶ books__2
//!
//!                 (stopped)    books__1 ◀── searches        (2) the second catches up with where the first has stopped
//!                 (stopped)    books__1   books__2 ◀── searches   (3) the names are switched, in one step
//! slot walvec ──▶ pipeline ──────────────▶ books__2         (4) the first slot goes on
//! ```
//!
//! The first slot has confirmed at most what the second collection holds by then, so the changes that it repeats are known
//! already. A crash before (3) leaves everything as it was, and the next start continues the reindex. After (3) the new
//! collections are the served ones, even if something was not cleaned up.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use walvec_capture::{Source, SourceConfig};
use walvec_embed::Embedder;
use walvec_model::Lsn;
use walvec_pipeline::status::Phase;
use walvec_pipeline::store::{Baseline, Checkpoint, DeadLetter, SnapshotState, SourceIdentity};
use walvec_pipeline::{During, PipelineError, Policy, Status, Store};
use walvec_sink::catalog::{number_of, numbered};
use walvec_sink::{Catalog, SinkError};

use crate::app::{self, Parts};
use crate::collection::{self, Opened};
use crate::config::{CollectionConfig, Config};
use crate::failure::Failure;
use crate::remembered::{self, UnderWay, reindex_directory};
use crate::search::serving::Serving;
use crate::supervise::Live;
use crate::swapped::{self, Given};
use crate::tasks::{TaskHandle, TaskRequest};
use crate::terminal::progress::{Meter, Voice};

/// If catching up takes no longer than this, the second pipeline is near enough: the rest is done while the first one is
/// stopped.
const NEAR: Duration = Duration::from_secs(1);

/// How often catching up is tried before the first pipeline is stopped in any case: it may be the cause of the delay.
const CHASES: u32 = 20;

/// How long the first pipeline may be stopped while the second catches up.
const STANDSTILL: Duration = Duration::from_secs(60);

/// The pause before a step that failed, and may succeed next time, is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// How often dropping the slot is tried: its last reader may need some seconds to release it.
const DROPS: u32 = 10;

/// The step in which the rows are copied.
const COPYING: &str = "copying";
const CATCHING_UP: &str = "catching up";

/// The longest name of a slot, in bytes.
const SLOT_NAME_BYTES: usize = 63;

/// The collections and the state to clean up once the names are switched.
pub(crate) struct Leftovers {
    config: Config,
    names: Vec<(String, String)>,
    served: Vec<String>,
}

/// The result of a reindex whose collections have taken over.
pub(crate) struct Taken {
    /// The parts that are served now.
    pub(crate) parts: Parts,
    /// The leftovers to be removed.
    pub(crate) leftovers: Leftovers,
    /// The last status of the pipeline that filled the collections.
    pub(crate) filled: Status,
}

/// Why other collections have not taken over.
pub(crate) enum NotTaken {
    /// The names were not switched: everything is as it was.
    Before(Failure),
    /// The names were switched, and a later step failed. The next start continues from there.
    After(Failure),
}

/// Other collections and the pipeline that fills them.
pub(crate) struct Beside {
    parts: Parts,
    store: Arc<Store>,
    live: Live,
    /// Name and own name of each collection.
    names: Vec<(String, String)>,
    /// The own names of the collections that are served meanwhile.
    served: Vec<String>,
    /// Whether they are kept collections, which were served before.
    rollback: bool,
    /// The model's sample, by which a replaced model is noticed.
    sample: Option<Given>,
}

impl Beside {
    /// Fills the collections of `config`, which may be new or kept ones, until they have almost caught up with the served ones.
    pub(crate) async fn fill(
        current: &Parts,
        config: Config,
        store: &Arc<Store>,
        rollback: bool,
        task: &TaskHandle,
        primary: &Live,
        stop: &CancellationToken,
    ) -> Result<Self, Failure> {
        refuse_other_rows(&current.config, &config)?;
        let nothing =
            || Failure::definite("E_REINDEX", "nothing has been stored yet that could be built anew").passing();
        let checkpoint = store.checkpoint().map_err(PipelineError::from)?;
        let checkpoint = checkpoint.filter(|checkpoint| checkpoint.snapshot == SnapshotState::Done);
        let checkpoint = checkpoint.ok_or_else(nothing)?;
        task.step("loading the model");
        let embedder = load_embedder(current, &config).await?;
        let sample = swapped::given(embedder.as_ref()).await;
        let catalog = collection::catalog(&config);
        let served = served(&config, catalog.as_ref()).await?;
        let own_names = if rollback {
            kept(&config, catalog.as_ref(), embedder.as_ref(), &served).await?
        } else {
            next(&config, catalog.as_ref(), embedder.as_ref(), &served, checkpoint.generation.0 + 1).await?
        };
        let parts = Parts::assemble(config, embedder, Some(&own_names)).await?;

        remembered::note(&parts.config, &UnderWay { rollback, names: own_names.clone(), is_over: false })
            .map_err(|error| Failure::definite("E_SINK", format!("noting the reindex: {error}")).passing())?;
        let source = beside_source(&parts.config);
        let store = seed(&reindex_directory(&parts.config), &checkpoint, &source.slot)?;
        let live = Live::start(&parts, source, &store, false, None, stop)?;
        let names = parts.config.collections.iter().map(|collection| collection.name.clone()).zip(own_names).collect();
        let mut beside = Self { parts, store, live, names, served, rollback, sample };
        beside.copy(task).await?;
        refuse_other_source(&checkpoint, &beside.checkpoint()?)?;
        beside.catch_up(task, primary).await?;
        Ok(beside)
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
        let mut meter = Meter::new("reindex", Voice::Log);
        let progress = |status: &Status| {
            let (copied, estimated) = status.snapshot_rows();
            meter.show(copied, Some(estimated));
            task.reach(COPYING, status.problem.as_ref(), copied, Some(estimated));
            status.phase == Phase::Streaming
        };
        self.wait_for(progress).await
    }

    async fn catch_up(&mut self, task: &TaskHandle, primary: &Live) -> Result<(), Failure> {
        task.step(CATCHING_UP);
        for _ in 0..CHASES {
            // A pipeline that reads its own tables again would be stopped in the middle of that.
            let streams = |status: &Status| status.phase == Phase::Streaming;
            let applied = primary.status.clone().wait_for(streams).await.map(|status| status.applied_lsn);
            let target = applied.map_err(|_| Failure::definite("E_STOPPED", "the pipeline has ended"))?;
            let begun = Instant::now();
            self.wait_until(target, task).await?;
            if begun.elapsed() < NEAR {
                break;
            }
        }
        Ok(())
    }

    async fn wait_until(&mut self, applied: Lsn, task: &TaskHandle) -> Result<(), Failure> {
        let progress = |status: &Status| {
            let (copied, _) = status.snapshot_rows();
            task.reach(CATCHING_UP, status.problem.as_ref(), copied, None);
            status.phase == Phase::Streaming && status.applied_lsn >= applied
        };
        self.wait_for(progress).await
    }

    /// Waits for a status; fails if the pipeline ends first.
    async fn wait_for(&mut self, mut wanted: impl FnMut(&Status) -> bool) -> Result<(), Failure> {
        let aside = |status: &Status| status.collections.iter().find_map(|found| found.set_aside.clone());
        let waited = self.live.status.wait_for(|status| aside(status).is_some() || wanted(status)).await;
        if let Ok(aside) = waited.map(|status| aside(&status)) {
            // The new collection would lack the rows of a table that is set aside.
            return match aside {
                Some(aside) => Err(Failure::definite(&aside.code, aside.message).with_remedy(aside.remedy)),
                None => Ok(()),
            };
        }
        // The pipeline's own remedies are about the served collections, which are intact.
        let command = self.command();
        self.live.ended().await.map_err(|failure| failure.with_remedy(command))?;
        Err(Failure::definite("E_STOPPED", "the reindex was stopped; it goes on with the next start"))
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
    ) -> Result<Taken, NotTaken> {
        let taking = self.come_to(main, stop).await.map_err(NotTaken::Before)?;
        let Self { parts, live, names, served, sample, .. } = self;
        let filled = live.status.borrow().clone();
        drop(live);
        let parts = parts.served().map_err(|source| NotTaken::Before(sink_failure("*", source)))?;
        let catalog = collection::catalog(&parts.config);
        switch(catalog.as_ref(), &names, stop).await.map_err(NotTaken::Before)?;
        // From here on there is no way back. After a crash, the next start finds other collections than the state file names,
        // and reads the tables again.
        keep_state(main, &taking, stop).await.map_err(NotTaken::After)?;
        if let Err(error) = remembered::store(&parts.config) {
            tracing::warn!("the configuration could not be remembered for a reindex: {error}");
        }
        // The watch of the model compares with this sample at once.
        swapped::replace(&parts.config, sample);
        serving.send_replace(Arc::new(parts.serving()));
        let leftovers = Leftovers { config: parts.config.clone(), names, served };
        Ok(Taken { parts, leftovers, filled })
    }

    /// Catches up to where the first pipeline has stopped, and stops there.
    async fn come_to(&mut self, main: &Store, stop: &CancellationToken) -> Result<State, Failure> {
        let command = self.command();
        let stopped = main.checkpoint().map_err(PipelineError::from)?;
        let stopped = stopped.filter(|checkpoint| checkpoint.snapshot == SnapshotState::Done);
        let incomplete = || Failure::definite("E_REINDEX", "the served collections are being read again").passing();
        let stopped = stopped.ok_or_else(|| incomplete().with_remedy(format!("{command}, once that is done")))?;
        let late = |_| {
            let what = format!("the new collections could not catch up within {} s", STANDSTILL.as_secs());
            Failure::definite("E_REINDEX", what).with_remedy(format!("{command}, when the table changes less"))
        };
        // The position that counts is not what was ever applied, but what was confirmed since the stream was last opened: in the
        // middle of a replay, a row may be back whose deletion is still to come.
        let is_there = |status: &Status| status.phase == Phase::Streaming && status.confirmed_lsn >= stopped.applied;
        let until = tokio::time::Instant::now() + STANDSTILL;
        loop {
            tokio::time::timeout_at(until, self.wait_for(is_there)).await.map_err(late)??;
            self.live.halt().await?;
            let status = self.live.status.borrow().clone();
            if status.confirmed_lsn >= stopped.applied {
                break;
            }
            // The stream was interrupted at the last moment, and began again further back.
            let source = beside_source(&self.parts.config);
            self.live = Live::start(&self.parts, source, &self.store, false, Some(&status), stop)?;
        }
        let checkpoint = self.checkpoint()?;
        refuse_other_source(&stopped, &checkpoint)?;
        let mut letters = Vec::new();
        for (name, _) in &self.names {
            letters.extend(self.store.dead_letters(name).map_err(PipelineError::from)?);
        }
        let baseline = self.store.baseline().map_err(PipelineError::from)?.unwrap_or_default();
        Ok((Checkpoint { source: stopped.source, ..checkpoint }, baseline, letters))
    }
}

/// The state of collections: their position, the shapes of their tables, and the parked rows.
type State = (Checkpoint, Baseline, Vec<DeadLetter>);

/// Stores the state of the new collections. Waits while the disk is full.
async fn keep_state(
    main: &Store,
    (checkpoint, baseline, letters): &State,
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

async fn pause(stop: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(AGAIN) => {}
        () = stop.cancelled() => {}
    }
}

/// Refuses two different databases, because their positions cannot be compared.
fn refuse_other_source(main: &Checkpoint, beside: &Checkpoint) -> Result<(), Failure> {
    // A standby may have been promoted meanwhile: both pipelines follow it.
    if main.source.is_same_database(&beside.source) {
        return Ok(());
    }
    let what = "walvec.yaml names another database than the one that the served collections are filled from";
    Err(Failure::definite("E_SOURCE", what).with_remedy("put the former `source.url` back, then reindex"))
}

/// Refuses a change of which rows there are: a reindex changes only what points look like, and both pipelines read the same
/// publication.
fn refuse_other_rows(current: &Config, next: &Config) -> Result<(), Failure> {
    let rows = |config: &Config| -> Vec<_> {
        let rows = |collection: &CollectionConfig| {
            (collection.name.clone(), collection.table.to_string(), collection.filter.clone())
        };
        config.collections.iter().map(rows).collect()
    };
    let place = |config: &Config| {
        let url = config.sink.qdrant.as_ref().map(|qdrant| qdrant.url.clone());
        (config.source.slot.clone(), config.source.publication.clone(), config.sink.directory().to_owned(), url)
    };
    let (published, wanted) = (app::published(current), app::published(next));
    if let Some(table) = wanted.symmetric_difference(&published).next().filter(|_| rows(current) == rows(next)) {
        let what = format!(
            "the lookups need another publication, with or without {table}: it cannot be altered under a stream that is being read"
        );
        let remedy =
            "stop walvec, alter the publication as `walvec check` says, then `walvec reset --purge` and `walvec run`";
        return Err(Failure::new(2, "E_CONFIG", what).with_remedy(remedy));
    }
    if rows(current) == rows(next) && place(current) == place(next) {
        return Ok(());
    }
    let what = "the configuration differs in more than a reindex can change: collections, tables, `where`, slot, \
                publication or the place of the collections";
    let remedy = "put those back, reindex, then change them and start `walvec run` again";
    Err(Failure::new(2, "E_CONFIG", what).with_remedy(remedy))
}

/// Loads the configured model. Returns the one in use instead if it is the same model, reached in the same way.
async fn load_embedder(current: &Parts, config: &Config) -> Result<Arc<dyn Embedder>, Failure> {
    let embedder = app::load_embedder(config).await?;
    let same = embedder.info() == current.embedder.info() && current.config.embedding.is_used_as(&config.embedding);
    Ok(if same { Arc::clone(&current.embedder) } else { embedder })
}

/// Returns the own names of the collections that are served.
async fn served(config: &Config, catalog: &dyn Catalog) -> Result<Vec<String>, Failure> {
    let mut served = Vec::with_capacity(config.collections.len());
    for CollectionConfig { name, .. } in &config.collections {
        let own = catalog.serving(name).await.map_err(|source| sink_failure(name, source))?;
        let own = own.filter(|own| number_of(name, own).is_some()).ok_or_else(|| {
            let what = format!(
                "\"{name}\" is a collection and not an alias of one, so that no other can take over its name without a gap"
            );
            let remedy = "give the collection another `name`, let `walvec run` fill it, then delete the old one";
            Failure::definite("E_ALIAS", what).with_remedy(remedy)
        })?;
        served.push(own);
    }
    Ok(served)
}

/// Returns the kept collections, if they fit the configuration.
async fn kept(
    config: &Config,
    catalog: &dyn Catalog,
    embedder: &dyn Embedder,
    served: &[String],
) -> Result<Vec<String>, Failure> {
    let mut kept = Vec::with_capacity(served.len());
    for (collection, served) in config.collections.iter().zip(served) {
        let own_names = others(catalog, &collection.name, served).await?;
        kept.push(newest_fitting(config, collection, embedder, own_names).await?);
    }
    Ok(kept)
}

/// Returns the newest of some collections that fits the configuration.
async fn newest_fitting(
    config: &Config,
    collection: &CollectionConfig,
    embedder: &dyn Embedder,
    own_names: Vec<String>,
) -> Result<String, Failure> {
    let mut misfits = Vec::new();
    for own in own_names.iter().rev() {
        match misfit(config, collection, embedder, own).await? {
            None => return Ok(own.clone()),
            Some(why) => misfits.push(why),
        }
    }
    if own_names.is_empty() {
        return Err(Failure::definite("E_REINDEX", format!("no former collection of \"{}\" is kept", collection.name)));
    }
    let what = misfits.join("; ");
    let remedy = "put the former model and text back into the configuration, then type it again";
    Err(Failure::definite(collection::E_FINGERPRINT, what).with_remedy(remedy))
}

/// Returns the collections that an earlier reindex has begun to fill, if they fit; else new ones.
async fn next(
    config: &Config,
    catalog: &dyn Catalog,
    embedder: &dyn Embedder,
    served: &[String],
    generation: u64,
) -> Result<Vec<String>, Failure> {
    let mut begun = Vec::with_capacity(served.len());
    let mut number = generation;
    for (collection, served) in config.collections.iter().zip(served) {
        let numbers = catalog.numbers(&collection.name).await;
        let newest = numbers.map_err(|source| sink_failure(&collection.name, source))?.pop().unwrap_or(0);
        number = number.max(newest + 1);
        let own = numbered(&collection.name, newest);
        if own != *served && misfit(config, collection, embedder, &own).await?.is_none() {
            begun.push(own);
        }
    }
    if begun.len() == served.len() {
        return Ok(begun);
    }
    loop {
        let own_names: Vec<_> =
            config.collections.iter().map(|collection| numbered(&collection.name, number)).collect();
        let mut is_free = true;
        for own in &own_names {
            is_free &= !catalog.is_taken(own).await.map_err(|source| sink_failure(own, source))?;
        }
        if is_free {
            return Ok(own_names);
        }
        number += 1;
    }
}

/// Returns the own names of the collections of that name that are not served, oldest first.
async fn others(catalog: &dyn Catalog, name: &str, served: &str) -> Result<Vec<String>, Failure> {
    let numbers = catalog.numbers(name).await.map_err(|source| sink_failure(name, source))?;
    Ok(numbers.into_iter().map(|number| numbered(name, number)).filter(|own| own != served).collect())
}

/// Says why a collection does not fit the configuration; `None` if it does.
async fn misfit(
    config: &Config,
    collection: &CollectionConfig,
    embedder: &dyn Embedder,
    own_name: &str,
) -> Result<Option<String>, Failure> {
    let fingerprint = app::fingerprint(embedder, collection);
    Opened::misfit(config, collection, own_name, embedder.info().dimension, &fingerprint).await
}

/// Returns the source with the slot of the reindex.
fn beside_source(config: &Config) -> SourceConfig {
    const SUFFIX: &str = "_reindex";
    let source = app::source_config(config);
    let kept = source.slot.len().min(SLOT_NAME_BYTES - SUFFIX.len());
    // Slot names are ASCII.
    SourceConfig { slot: format!("{}{SUFFIX}", &source.slot[..kept]), ..source }
}

/// Returns the slot that a reindex reads.
pub(crate) fn slot(config: &Config) -> String {
    beside_source(config).slot
}

/// Prepares the state of the second pipeline. It begins with a snapshot, unless an earlier attempt has come further.
fn seed(directory: &Path, checkpoint: &Checkpoint, slot: &str) -> Result<Arc<Store>, Failure> {
    let store = Store::open(directory).map_err(PipelineError::from)?;
    if store.checkpoint().map_err(PipelineError::from)?.is_none() {
        let source = SourceIdentity { slot: slot.to_owned(), ..checkpoint.source.clone() };
        let checkpoint = Checkpoint {
            source,
            snapshot: SnapshotState::Wanted,
            resync: None,
            sweep_waits: false,
            ..checkpoint.clone()
        };
        store.save_checkpoint(&checkpoint).map_err(PipelineError::from)?;
    }
    Ok(Arc::new(store))
}

/// Switches the names. If a server did not answer, whether it has switched them is found out by trying again.
async fn switch(catalog: &dyn Catalog, names: &[(String, String)], stop: &CancellationToken) -> Result<(), Failure> {
    loop {
        match catalog.switch(names.to_vec()).await {
            Ok(()) => return Ok(()),
            Err(error @ SinkError::Missing { .. }) => return Err(sink_failure("*", error)),
            Err(error) if error.is_retryable() && !stop.is_cancelled() => {
                tracing::warn!("the new collections cannot take over yet, searches go on with the old ones: {error}");
                pause(stop).await;
            }
            Err(error) => return Err(sink_failure("*", error)),
        }
    }
}

impl Leftovers {
    /// Removes what is not needed any more. The collections that were served until now are kept for a rollback; older ones are
    /// removed.
    pub(crate) async fn remove(self) {
        let Self { config, names, served } = self;
        forget_in_time(&config).await;
        let catalog = collection::catalog(&config);
        for ((name, own), served) in names.iter().zip(&served) {
            let Ok(others) = others(catalog.as_ref(), name, own).await else { continue };
            for older in others.iter().filter(|other| *other != served) {
                if let Err(error) = catalog.remove(older).await {
                    tracing::warn!("{older} could not be removed: {error}");
                }
            }
        }
    }
}

/// Removes what a reindex needed until it ended or was given up, as soon as that is possible. The collections stay, for the next
/// reindex. The next start does what could not be done here.
pub(crate) async fn forget_in_time(config: &Config) {
    let mut is_told = false;
    while let Err(error) = forget(config).await {
        if error.policy(During::Running) != Policy::Retry {
            tracing::warn!("the slot of the reindex stays and holds back WAL until the next start: {error}");
            return;
        }
        if !std::mem::replace(&mut is_told, true) {
            tracing::warn!("the slot of the reindex holds back WAL until it can be dropped: {error}");
        }
    }
}

/// Removes what a reindex needed until it ended or was given up. Retries for some seconds if a server does not answer.
pub(crate) async fn forget(config: &Config) -> Result<(), PipelineError> {
    let Some(under_way) = remembered::under_way(config) else { return Ok(()) };
    if let Err(error) = remembered::note(config, &UnderWay { is_over: true, ..under_way }) {
        tracing::warn!("the end of the reindex could not be noted: {error}");
    }
    drop_slot(beside_source(config)).await?;
    match std::fs::remove_dir_all(reindex_directory(config)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!("the state of the reindex could not be removed: {error}");
        }
        _ => {}
    }
    Ok(())
}

async fn drop_slot(source: SourceConfig) -> Result<(), PipelineError> {
    let mut tried = 0;
    loop {
        let dropped = async { Ok::<_, PipelineError>(Source::connect(source.clone()).await?.drop_slot().await?) };
        tried += 1;
        match dropped.await {
            Err(error) if tried < DROPS && error.policy(During::Running) == Policy::Retry => {
                tokio::time::sleep(AGAIN).await;
            }
            dropped => return dropped,
        }
    }
}

fn sink_failure(collection: &str, source: SinkError) -> Failure {
    PipelineError::Sink { collection: collection.to_owned(), source }.into()
}
