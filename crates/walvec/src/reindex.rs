//! Fills other collections beside the ones that are served, and lets them take over their names.
//!
//! ```text
//! slot walvec ──▶ pipeline ──▶ books__1 ◀── searches        (1) both follow the stream
//! slot walvec_reindex ──▶ pipeline beside ──▶ books__2
//!
//!                 (stopped)    books__1 ◀── searches        (2) the second catches up with where the first has stopped
//!                 (stopped)    books__1   books__2 ◀── searches   (3) the names change hands, in one step
//! slot walvec ──▶ pipeline ──────────────▶ books__2         (4) the first slot goes on
//! ```
//!
//! The first slot has confirmed at most what the second collection holds by then, so what it repeats is known already. A
//! crash before (3) leaves everything as it was, and the next start goes on with the reindex; after (3), the new
//! collections are the served ones, whatever was not cleaned up.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use walvec_capture::{Source, SourceConfig};
use walvec_embed::Embedder;
use walvec_model::Lsn;
use walvec_pipeline::status::Phase;
use walvec_pipeline::store::{Checkpoint, SnapshotState};
use walvec_pipeline::{PipelineError, Status, Store};
use walvec_sink::catalog::{number_of, numbered};
use walvec_sink::{Catalog, SinkError};

use crate::app::{self, Parts};
use crate::cli::Failure;
use crate::collection::{self, Opened};
use crate::config::{CollectionConfig, Config};
use crate::http::Serving;
use crate::remembered::{self, UnderWay, reindex_directory};
use crate::supervise::{Live, ended};
use crate::tasks::Handle;

/// Catching up that takes no longer than this is near enough: the rest is done while the first pipeline stands still.
const NEAR: Duration = Duration::from_secs(1);

/// How often catching up is tried before the first pipeline stops for it: it may be the one that keeps the second behind.
const CHASES: u32 = 20;

/// How long to wait before a server is asked again to switch.
const SWITCH_AGAIN: Duration = Duration::from_secs(1);

/// Slot names end here.
const SLOT_NAME_BYTES: usize = 63;

/// Other collections and the pipeline that fills them.
pub(crate) struct Beside {
    parts: Parts,
    store: Arc<Store>,
    source: SourceConfig,
    live: Live,
    /// Name and own name of each collection.
    names: Vec<(String, String)>,
    /// The own names of the collections that are served meanwhile.
    served: Vec<String>,
}

impl Beside {
    /// Fills the collections of `config`, which may be new or kept ones, until they are about as far as the served ones.
    pub(crate) async fn fill(
        current: &Parts,
        config: Config,
        store: &Arc<Store>,
        rollback: bool,
        task: &Handle,
        primary: &Live,
        stop: &CancellationToken,
    ) -> Result<Self, Failure> {
        refuse_other_rows(&current.config, &config)?;
        let nothing = || Failure::definite("E_REINDEX", "nothing has been stored yet that could be built anew");
        let checkpoint = store.checkpoint().map_err(PipelineError::from)?;
        let checkpoint = checkpoint.filter(|checkpoint| checkpoint.snapshot == SnapshotState::Done);
        let checkpoint = checkpoint.ok_or_else(nothing)?;
        task.step("loading the model");
        let embedder = load_embedder(current, &config).await?;
        let catalog = collection::catalog(&config);
        let served = served(&config, catalog.as_ref()).await?;
        let own_names = if rollback {
            kept(&config, catalog.as_ref(), embedder.as_ref(), &served).await?
        } else {
            next(&config, catalog.as_ref(), embedder.as_ref(), &served, checkpoint.generation.0 + 1).await?
        };
        let parts = Parts::assemble(config, embedder, Some(&own_names)).await?;

        remembered::begin(&parts.config, &UnderWay { rollback })
            .map_err(|error| Failure::definite("E_SINK", format!("noting the reindex: {error}")))?;
        let source = beside_source(&parts.config);
        let store = seed(&reindex_directory(&parts.config), checkpoint, &source.slot)?;
        let live = Live::start(&parts, source.clone(), &store, false, stop)?;
        let names = parts.config.collections.iter().map(|collection| collection.name.clone()).zip(own_names).collect();
        let mut beside = Self { parts, store, source, live, names, served };
        beside.copy(task).await?;
        beside.catch_up(task, primary).await?;
        Ok(beside)
    }

    /// Waits for the end of the snapshot.
    async fn copy(&mut self, task: &Handle) -> Result<(), Failure> {
        task.step("copying");
        let progress = |status: &Status| {
            task.update(|task| {
                task.rows = status.collections.iter().map(|collection| collection.snapshot_rows_copied).sum();
                let estimated = status.collections.iter().map(|collection| collection.snapshot_rows_estimated).sum();
                task.rows_estimated = Some(estimated);
                if let Some(problem) = &status.problem {
                    task.step = format!("waiting: {}", problem.message);
                }
            });
            status.phase == Phase::Streaming
        };
        self.wait_for(progress).await
    }

    async fn catch_up(&mut self, task: &Handle, primary: &Live) -> Result<(), Failure> {
        task.step("catching up");
        for _ in 0..CHASES {
            let begun = Instant::now();
            let target = primary.status.borrow().applied_lsn;
            self.wait_until(target).await?;
            if begun.elapsed() < NEAR {
                break;
            }
        }
        Ok(())
    }

    async fn wait_until(&mut self, applied: Lsn) -> Result<(), Failure> {
        self.wait_for(|status| status.applied_lsn >= applied).await
    }

    /// Waits for a status; fails if the pipeline ends first.
    async fn wait_for(&mut self, wanted: impl FnMut(&Status) -> bool) -> Result<(), Failure> {
        if self.live.status.wait_for(wanted).await.is_ok() {
            return Ok(());
        }
        ended((&mut self.live.task).await)?;
        Err(Failure::definite("E_STOPPED", "the reindex was stopped; it goes on with the next start"))
    }

    /// Comes to where the first pipeline has stopped, takes over the names and the position, and cleans up.
    pub(crate) async fn take_over(
        mut self,
        main: &Store,
        serving: &watch::Sender<Arc<Serving>>,
        stop: &CancellationToken,
    ) -> Result<Parts, Failure> {
        let store_failed = |error| Failure::from(PipelineError::from(error));
        let stopped_at = main.checkpoint().map_err(store_failed)?.map_or(Lsn::ZERO, |checkpoint| checkpoint.applied);
        self.wait_until(stopped_at).await?;
        let Self { parts, store, source, live, names, served } = self;
        live.stop().await?;
        let checkpoint = store.checkpoint().map_err(store_failed)?;
        let checkpoint = checkpoint
            .filter(|checkpoint| checkpoint.snapshot == SnapshotState::Done && checkpoint.applied >= stopped_at)
            .ok_or_else(|| Failure::definite("E_REINDEX", "the new collections have not caught up"))?;

        let catalog = collection::catalog(&parts.config);
        switch(catalog.as_ref(), &names, stop).await?;
        // From here on there is no way back. Whoever starts after a crash sees other collections than the state file knows, and
        // reads the tables again.
        let mut letters = Vec::new();
        for (name, _) in &names {
            letters.extend(store.dead_letters(name).map_err(store_failed)?);
        }
        let slot = parts.config.source.slot.clone();
        let source_identity = walvec_pipeline::store::SourceIdentity { slot, ..checkpoint.source.clone() };
        let checkpoint = Checkpoint { source: source_identity, ..checkpoint };
        main.take_over(&checkpoint, &letters).map_err(store_failed)?;
        let parts = parts.served().map_err(|source| sink_failure("*", source))?;
        serving.send_replace(Arc::new(parts.serving()));
        drop(store);
        drop_leftovers(&parts.config, source).await;
        remove_older(catalog.as_ref(), &names, &served).await;
        Ok(parts)
    }
}

/// A reindex changes what points look like, not which rows there are: both pipelines read the same publication.
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
    if rows(current) == rows(next) && place(current) == place(next) {
        return Ok(());
    }
    let what = "the configuration differs in more than a reindex can change: collections, tables, `where`, slot, \
                publication or the place of the collections";
    let remedy = "put those back, reindex, then change them and start `walvec run` again";
    Err(Failure::new(2, "E_CONFIG", what).with_remedy(remedy))
}

/// The configured model; the one that is loaded already if it is the same.
async fn load_embedder(current: &Parts, config: &Config) -> Result<Arc<dyn Embedder>, Failure> {
    let embedder = app::load_embedder(config).await?;
    let same = embedder.info() == current.embedder.info();
    Ok(if same { Arc::clone(&current.embedder) } else { embedder })
}

/// The own names of the collections that are served.
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

/// The kept collections, if they are those of the configuration.
async fn kept(
    config: &Config,
    catalog: &dyn Catalog,
    embedder: &dyn Embedder,
    served: &[String],
) -> Result<Vec<String>, Failure> {
    let mut kept = Vec::with_capacity(served.len());
    for (collection, served) in config.collections.iter().zip(served) {
        let own_names = others(catalog, &collection.name, served).await?;
        let newest = own_names.last().cloned().ok_or_else(|| {
            Failure::definite("E_REINDEX", format!("no former collection of \"{}\" is kept", collection.name))
        })?;
        if !fits(config, collection, embedder, &newest).await? {
            let what = format!("{newest} was built with another model or text than the configuration says now");
            let remedy = "put the former model and text back into the configuration, then type it again";
            return Err(Failure::definite(collection::E_FINGERPRINT, what).with_remedy(remedy));
        }
        kept.push(newest);
    }
    Ok(kept)
}

/// What an earlier reindex has begun to fill, if it fits; else new ones.
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
        if own != *served && fits(config, collection, embedder, &own).await? {
            begun.push(own);
        }
    }
    if begun.len() == served.len() {
        return Ok(begun);
    }
    Ok(config.collections.iter().map(|collection| numbered(&collection.name, number)).collect())
}

/// The own names of the collections of that name that are not served, oldest first.
async fn others(catalog: &dyn Catalog, name: &str, served: &str) -> Result<Vec<String>, Failure> {
    let numbers = catalog.numbers(name).await.map_err(|source| sink_failure(name, source))?;
    Ok(numbers.into_iter().map(|number| numbered(name, number)).filter(|own| own != served).collect())
}

async fn fits(
    config: &Config,
    collection: &CollectionConfig,
    embedder: &dyn Embedder,
    own_name: &str,
) -> Result<bool, Failure> {
    let fingerprint = app::fingerprint(embedder, &app::transform(collection)?);
    Opened::fits(config, collection, own_name, embedder.info().dimension, &fingerprint).await
}

/// The same source, read through a slot of its own.
fn beside_source(config: &Config) -> SourceConfig {
    const SUFFIX: &str = "_reindex";
    let source = app::source_config(config);
    let kept = source.slot.len().min(SLOT_NAME_BYTES - SUFFIX.len());
    // Slot names are ASCII.
    SourceConfig { slot: format!("{}{SUFFIX}", &source.slot[..kept]), ..source }
}

/// The state of the pipeline beside. It begins with a snapshot, unless an earlier attempt has come further.
fn seed(directory: &Path, checkpoint: Checkpoint, slot: &str) -> Result<Arc<Store>, Failure> {
    let store = Store::open(directory).map_err(PipelineError::from)?;
    if store.checkpoint().map_err(PipelineError::from)?.is_none() {
        let source = walvec_pipeline::store::SourceIdentity { slot: slot.to_owned(), ..checkpoint.source };
        let checkpoint = Checkpoint { source, snapshot: SnapshotState::Wanted, ..checkpoint };
        store.save_checkpoint(&checkpoint).map_err(PipelineError::from)?;
    }
    Ok(Arc::new(store))
}

/// Lets the names change hands. Whether a server that did not answer has done it is found out by doing it again.
async fn switch(catalog: &dyn Catalog, names: &[(String, String)], stop: &CancellationToken) -> Result<(), Failure> {
    loop {
        match catalog.switch(names.to_vec()).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_retryable() && !stop.is_cancelled() => {
                tracing::warn!("the new collections cannot take over yet, searches go on with the old ones: {error}");
                tokio::select! {
                    () = tokio::time::sleep(SWITCH_AGAIN) => {}
                    () = stop.cancelled() => {}
                }
            }
            Err(error) => return Err(sink_failure("*", error)),
        }
    }
}

/// Removes what a reindex needed until it ended or was given up. The collections stay, for the next one.
pub(crate) async fn forget(config: &Config) {
    drop_leftovers(config, beside_source(config)).await;
}

async fn drop_leftovers(config: &Config, source: SourceConfig) {
    let dropped = async { Source::connect(source).await?.drop_slot().await };
    if let Err(error) = dropped.await {
        tracing::warn!("the slot of the reindex stays and holds back WAL until the next one: {error}");
    }
    match std::fs::remove_dir_all(reindex_directory(config)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!("the state of the reindex could not be removed: {error}");
        }
        _ => {}
    }
}

/// Keeps the collections that were served until now, for a rollback, and removes those before them.
async fn remove_older(catalog: &dyn Catalog, names: &[(String, String)], served: &[String]) {
    for ((name, own), served) in names.iter().zip(served) {
        let Ok(others) = others(catalog, name, own).await else { continue };
        for older in others.iter().filter(|other| *other != served) {
            if let Err(error) = catalog.remove(older).await {
                tracing::warn!("{older} could not be removed: {error}");
            }
        }
    }
}

fn sink_failure(collection: &str, source: SinkError) -> Failure {
    PipelineError::Sink { collection: collection.to_owned(), source }.into()
}
