//! Starts, runs and stops the pipeline.
//!
//! Shutdown, in order: stop reading the slot → write the oldest batch in flight, and every other part whose vectors
//! have arrived by then → store the checkpoint → report the position to the slot → close. A change that was not written
//! was not confirmed, so the pipeline can stop at any moment without loss.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use walvec_capture::{CaptureError, LookupSpec, Remedy, Severity, Source, SourceConfig, Subject, Withheld};
use walvec_model::{Change, Generation, Lsn, Moment, Table, TableName};
use walvec_sink::{CollectionId, Sink, SinkError};
use walvec_transform::{Transform, TransformError};

use crate::anew::{self, CollectionFacts};
use crate::aside::Fitness;
use crate::checkpoint::Checkpointer;
use crate::error::PipelineError;
use crate::facts::{Before, ConfigDigest, facts};
use crate::filled_from;
use crate::follow::follow;
use crate::gap::{self, Held, OnGap};
use crate::letters::Letters;
use crate::owner::Owner;
use crate::policy::{self, During, Policy};
use crate::replay::Replay;
use crate::reread::{Jobs, Order};
use crate::retry::Retry;
use crate::rounds::answers;
use crate::snapshot;
use crate::start::{Facts, Refusal, Slot, Start, decide};
use crate::status::{CollectionStatus, Phase, ReadAgain, Status};
use crate::store::{Baseline, Checkpoint, SnapshotState, Store, Tables};
use crate::telemetry::Telemetry;
use crate::waits::showing_waits;
use crate::watch::{Leaves, Truncates, Watch, follow_replaced, is_any_replaced};
use crate::writer::{Batch, Guard, Purpose, Shared, Writer};

pub use crate::writer::Collection;

/// How long a collection may take to answer how many points it has.
const COUNT_LIMIT: Duration = Duration::from_secs(1);

/// How often the collections may build indexes over added points. A collection with few new points does nothing then.
const OPTIMIZE_INTERVAL: Duration = Duration::from_secs(2);

/// How long to wait after an index could not be built.
const OPTIMIZE_AGAIN: Duration = Duration::from_secs(60);

/// The settings of a pipeline, in addition to its collections.
pub struct PipelineConfig {
    /// The source.
    pub source: SourceConfig,
    /// Rows per batch.
    pub batch_rows: usize,
    /// How long rows of an unfinished transaction may wait for more rows to join their batch.
    pub batch_wait: Duration,
    /// The digest of the configuration that decides rows and payloads. When it changes, tables are read again.
    pub config_digest: ConfigDigest,
    /// What to do about a gap.
    pub on_gap: OnGap,
    /// Whether this pipeline sets the gauges. A pipeline that fills collections concurrently with another one (a
    /// reindex) does not.
    pub reports: bool,
}

/// Keeps collections in step with their tables.
pub struct Pipeline {
    config: PipelineConfig,
    run: Run,
    jobs: Jobs,
    during: During,
}

/// The parts of a pipeline that live as long as it does.
pub(crate) struct Run {
    pub(crate) shared: Shared,
    pub(crate) store: Arc<Store>,
    pub(crate) writers: Vec<Writer>,
    pub(crate) batch_rows: usize,
    pub(crate) batch_wait: Duration,
    pub(crate) on_gap: OnGap,
    owner: Arc<Owner>,
    /// Shows points that wait for an operator's decision.
    pub(crate) held: Option<Held>,
    /// Jobs to do concurrently with the stream.
    pub(crate) orders: mpsc::Receiver<Order>,
    /// The job that was running when the stream failed.
    pub(crate) interrupted: Option<Order>,
    /// The tables as they were when the source was connected, including those that are only looked up.
    pub(crate) tables: Vec<Arc<Table>>,
    /// Tables that are set aside; their collections stay as they are.
    aside: HashSet<TableName>,
    /// The indexes of the writers whose collections show each table.
    by_table: HashMap<TableName, Vec<usize>>,
    /// The [`tables`](Self::tables) by name.
    by_name: HashMap<TableName, Arc<Table>>,
}

impl Run {
    /// Returns the indexes of the writers whose collections show `table`; none if it is set aside.
    pub(crate) fn writers_of(&self, table: &TableName) -> Vec<usize> {
        self.showing(table).to_vec()
    }

    fn showing(&self, table: &TableName) -> &[usize] {
        if self.is_aside(table) {
            return &[];
        }
        self.by_table.get(table).map_or(&[], Vec::as_slice)
    }

    /// Returns whether a table is set aside.
    pub(crate) fn is_aside(&self, table: &TableName) -> bool {
        self.aside.contains(table)
    }

    /// Returns the writers of the collections whose tables are not set aside.
    pub(crate) fn followed(&mut self) -> Vec<&mut Writer> {
        let aside = &self.aside;
        self.writers.iter_mut().filter(|writer| !aside.contains(&writer.collection.table)).collect()
    }

    /// Returns all lookups of the collections.
    pub(crate) fn lookups(&self) -> Vec<LookupSpec> {
        let of = |writer: &Writer| {
            let (main, transform) = (writer.collection.table.clone(), Arc::clone(&writer.collection.transform));
            let lookups = transform.lookups().to_vec();
            lookups.into_iter().map(move |lookup| LookupSpec { main: main.clone(), lookup })
        };
        self.writers.iter().flat_map(of).collect()
    }

    /// Returns the tables whose rows each collection may hold: the stored ones, the ones found in its points, and the
    /// configured one.
    fn tables_of(&self, stored: Option<&Checkpoint>, found: Tables) -> Tables {
        let mut tables = stored.map(|checkpoint| checkpoint.tables.clone()).unwrap_or_default();
        for (collection, found) in found {
            tables.entry(collection).or_default().extend(found);
        }
        for Writer { collection, .. } in &self.writers {
            tables.entry(collection.name.clone()).or_default().insert(collection.table.clone());
        }
        tables
    }

    pub(crate) fn writer_of(&self, collection: &str) -> Option<usize> {
        self.writers.iter().position(|writer| writer.collection.name == collection)
    }

    /// Distributes changes to the writers whose collections show their tables, keeping the order.
    pub(crate) fn batches(&self, changes: Vec<Change>, purpose: Purpose) -> Vec<(usize, Batch)> {
        let mut dealt = BTreeMap::<usize, Vec<Change>>::new();
        for change in changes {
            for index in self.showing(&change.table.name) {
                dealt.entry(*index).or_default().push(self.writers[*index].reduced(&change));
            }
        }
        dealt.into_iter().map(|(index, changes)| (index, self.writers[index].batch(changes, purpose))).collect()
    }

    /// Fails if `table` differs from the table that the configuration was checked against and whose rows were copied.
    pub(crate) fn refuse_altered(&self, table: &Arc<Table>) -> Result<(), PipelineError> {
        match self.by_name.get(&table.name) {
            Some(known) if known != table => Err(PipelineError::Altered { table: table.name.clone() }),
            _ => Ok(()),
        }
    }

    pub(crate) fn begin_generation(&mut self, generation: Generation) {
        self.shared.telemetry.generation(generation);
        for writer in &mut self.writers {
            writer.begin_generation(generation);
        }
    }
}

impl Pipeline {
    /// Creates a pipeline. Connects to nothing yet.
    ///
    /// # Errors
    /// If the state file cannot be read.
    pub fn new(
        config: PipelineConfig,
        collections: Vec<Collection>,
        store: Arc<Store>,
        stop: CancellationToken,
    ) -> Result<Self, PipelineError> {
        let statuses = collections.iter().map(|collection| CollectionStatus {
            collection: collection.name.clone(),
            table: collection.table.to_string(),
            ..CollectionStatus::default()
        });
        let telemetry = Telemetry::new(statuses.collect(), config.reports);
        let letters: Arc<dyn Letters> = Arc::<Store>::clone(&store);
        let owner = Arc::new(Owner::default());
        let guard: Arc<dyn Guard> = Arc::<Owner>::clone(&owner);
        let (truncates, leaves) = (Truncates::default(), Leaves::default());
        let shared = Shared { guard: Some(guard), telemetry, letters, truncates, leaves, stop };
        let writers = collections
            .into_iter()
            .enumerate()
            .map(|(index, collection)| Writer::new(index, collection, shared.clone()))
            .collect::<Result<Vec<Writer>, _>>()?;
        let mut by_table = HashMap::<TableName, Vec<usize>>::new();
        for (index, writer) in writers.iter().enumerate() {
            by_table.entry(writer.collection.table.clone()).or_default().push(index);
        }
        let (batch_rows, batch_wait) = (config.batch_rows, config.batch_wait);
        let (jobs, orders) = Jobs::channel();
        let run = Run {
            shared,
            store,
            writers,
            batch_rows,
            batch_wait,
            on_gap: config.on_gap,
            owner,
            held: None,
            orders,
            interrupted: None,
            tables: Vec::new(),
            aside: HashSet::new(),
            by_table,
            by_name: HashMap::new(),
        };
        Ok(Self { config, run, jobs, during: During::FirstStart })
    }

    /// Continues the counters from the status of a pipeline that wrote the same collections before.
    #[must_use]
    pub fn counting_on(self, before: &Status) -> Self {
        self.run.shared.telemetry.count_on(before);
        self
    }

    /// Returns a handle that gives jobs to the pipeline while it runs.
    #[must_use]
    pub fn jobs(&self) -> Jobs {
        self.jobs.clone()
    }

    /// Returns a receiver of the pipeline's status, now and whenever it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.run.shared.telemetry.subscribe()
    }

    /// Runs until asked to stop or until a definite error.
    ///
    /// The first connection has to succeed, so that a wrong URL or password is reported at once. After that, the
    /// pipeline waits for a source that goes away.
    ///
    /// # Errors
    /// The definite error that ended it.
    #[must_use]
    pub fn run(self) -> BoxFuture<'static, Result<(), PipelineError>> {
        // Boxed: a bare future would be compiled in the crate that awaits it, with that crate's optimisation settings.
        Box::pin(self.run_sessions())
    }

    async fn run_sessions(mut self) -> Result<(), PipelineError> {
        let stop = self.run.shared.stop.clone();
        let mut retry = Retry::new(&self.run.shared.telemetry, &stop);
        let mut source = Some(self.connect().await?);
        loop {
            let outcome = match source.take() {
                Some(source) => Box::pin(self.session(source, &mut retry)).await,
                None => match self.connect().await {
                    Ok(source) => Box::pin(self.session(source, &mut retry)).await,
                    Err(error) => Err(error),
                },
            };
            match outcome {
                Ok(()) => return Ok(()),
                Err(PipelineError::Stopped) if stop.is_cancelled() => return Ok(()),
                Err(error) => {
                    self.run.shared.telemetry.phase(Phase::Starting);
                    match retry.after(error).await {
                        Ok(()) => {}
                        Err(PipelineError::Stopped) => return Ok(()),
                        Err(definite) => return Err(definite),
                    }
                }
            }
        }
    }

    async fn connect(&self) -> Result<Source, PipelineError> {
        let source = Source::connect(self.config.source.clone()).await?;
        Ok(source.spooling_in(self.run.store.directory()))
    }

    /// Runs one session, the lifetime of one connection: takes a snapshot if one is needed, then follows the stream.
    async fn session(&mut self, source: Source, retry: &mut Retry) -> Result<(), PipelineError> {
        let telemetry = self.run.shared.telemetry.clone();
        telemetry.phase(Phase::Starting);
        let locks = source.lock_watch();
        showing_waits(locks, &telemetry, Box::pin(self.begin(source, retry))).await
    }

    async fn begin(&mut self, source: Source, retry: &mut Retry) -> Result<(), PipelineError> {
        refuse_standby(&source, self.during, &self.run.store)?;
        let shared = self.run.shared.clone();
        let collections = self.run.writers.iter().map(|writer| &writer.collection);
        let fitness = Fitness::new(collections, Arc::clone(&self.run.store), self.run.on_gap);
        let source = Arc::new(shared.or_stop(fitness.set_aside(source, &shared.telemetry)).await?);
        self.run.aside = source.unfollowed().into_iter().collect();
        let outcome = Box::pin(self.follow_tables(&source, fitness.clone(), retry)).await;
        self.run.owner.set(None);
        let outcome = fitness.judged(&source, outcome).await;
        self.want_after(&outcome)?;
        outcome
    }

    async fn follow_tables(
        &mut self,
        source: &Arc<Source>,
        fitness: Fitness,
        retry: &mut Retry,
    ) -> Result<(), PipelineError> {
        let shared = self.run.shared.clone();
        let facts = shared.or_stop(self.prepare(source)).await?;
        let run = &mut self.run;
        let stored = run.store.checkpoint()?;
        let tables = run.tables.clone();
        let sinks: Vec<_> = run.writers.iter().map(|writer| Arc::clone(&writer.collection.sink)).collect();
        let telemetry = run.shared.telemetry.clone();
        let (store, on_gap) = (Arc::clone(&run.store), run.on_gap);
        let watch = Watch::new(source, &tables, &shared, &store, self.jobs.clone(), on_gap, fitness);
        let work = work(run, source, stored, facts, retry);
        tokio::select! {
            outcome = work => outcome,
            error = watch.run(&sinks) => Err(error),
            () = maintain(&sinks, telemetry.subscribe()) => Ok(()),
        }
    }

    /// Stores what the next session has to read again because of the error that ended this one.
    fn want_after(&self, outcome: &Result<(), PipelineError>) -> Result<(), PipelineError> {
        let store = &self.run.store;
        match outcome {
            Err(PipelineError::Altered { table } | PipelineError::Source(CaptureError::Altered { table, .. }))
                if self.reads_tables_one_by_one()? =>
            {
                anew::owe(store, table)
            }
            // The next session finds out which collection was replaced.
            Err(PipelineError::Sink { source: SinkError::Missing { .. }, .. }) if self.reads_tables_one_by_one()? => {
                Ok(())
            }
            outcome => want_snapshot_after(outcome, store),
        }
    }

    /// Returns whether the stored checkpoint has a digest for each table. Checkpoints of earlier versions of walvec do
    /// not.
    fn reads_tables_one_by_one(&self) -> Result<bool, PipelineError> {
        Ok(self.run.store.checkpoint()?.is_some_and(|checkpoint| !checkpoint.digests.is_empty()))
    }

    /// Makes sure that the tables can be followed and that the collections exist.
    async fn prepare(&mut self, source: &Source) -> Result<Facts, PipelineError> {
        let run = &mut self.run;
        follow_publication(source, &run.store, run.on_gap).await?;
        refuse_what_cannot_work(source, self.during).await?;
        self.during = During::Running;
        run.tables = source.followed_tables().await?;
        run.by_name = run.tables.iter().map(|table| (table.name.clone(), Arc::clone(table))).collect();
        for table in &run.tables {
            for index in run.writers_of(&table.name) {
                let Collection { name, transform, .. } = &run.writers[index].collection;
                check_columns(source, name, transform, table, &run.tables).await?;
            }
        }
        let (stored, baseline) = (run.store.checkpoint()?, run.store.baseline()?);
        let known = stored.as_ref().map(|checkpoint| checkpoint.collections.clone()).unwrap_or_default();
        let (mut collections, mut shown) = (BTreeMap::new(), BTreeMap::new());
        let mut shared = Vec::new();
        let prepared = answers(run.writers.iter().map(|writer| prepared(writer, &known).boxed()).collect()).await?;
        for (writer, (CollectionId(id), is_empty)) in run.writers.iter().zip(prepared) {
            let name = writer.collection.name.clone();
            if writer.collection.sink.is_shared() {
                shared.push((name.clone(), id.clone()));
            }
            let table = writer.collection.table.clone();
            if !run.is_aside(&table) {
                shown.insert(name.clone(), CollectionFacts { table, is_empty });
            }
            collections.insert(name, id);
        }
        if !shared.is_empty() {
            run.owner.set(Some(source.own(&shared).await?));
        }
        let before = Before { checkpoint: stored.as_ref(), baseline: baseline.as_ref() };
        let PipelineConfig { config_digest, source: SourceConfig { slot, .. }, .. } = &self.config;
        Ok(Facts { shown, ..facts(source, slot, config_digest, &run.tables, collections, before).await? })
    }
}

/// Creates the collection if it does not exist. Returns its id, and whether it is empty and not the `known` collection.
async fn prepared(writer: &Writer, known: &BTreeMap<String, String>) -> Result<(CollectionId, bool), PipelineError> {
    let id = writer.prepare().await?;
    let is_empty = known.get(&writer.collection.name) != Some(&id.0) && writer.is_empty().await?;
    Ok((id, is_empty))
}

/// Checks that a collection's templates name only columns that are read. If the table has the column, the error says
/// why it is not read.
///
/// # Errors
/// The first column that is missing.
pub async fn check_columns(
    source: &Source,
    collection: &str,
    transform: &Transform,
    table: &Table,
    tables: &[Arc<Table>],
) -> Result<(), PipelineError> {
    let Err(error) = transform.check_among(table, tables) else { return Ok(()) };
    if let TransformError::UnknownColumn { table, field, column, .. } = &error
        && let Some(Withheld { reason, remedy }) = source.withheld(table, column).await?
    {
        let what = format!("collection \"{collection}\": {table}: {field} uses column \"{column}\", {reason}");
        return Err(Refusal { code: error.code(), what, remedy }.into());
    }
    Err(PipelineError::Transform { collection: collection.to_owned(), source: error.into() })
}

async fn work(
    run: &mut Run,
    source: &Arc<Source>,
    stored: Option<Checkpoint>,
    facts: Facts,
    retry: &mut Retry,
) -> Result<(), PipelineError> {
    let mut replay = Replay::default();
    run.writers.iter().for_each(Writer::watch_late_writes);
    let start = decide(stored.as_ref(), &facts, run.on_gap)?;
    let former = stored.as_ref().map(|stored| &stored.source);
    let shared = run.shared.clone();
    shared.or_stop(filled_from::record(&run.writers, &facts.source, former)).await?;
    let checkpoint = match start {
        Start::Resume { checkpoint, anew } => {
            if stored.as_ref().is_some_and(|stored| stored.resync != checkpoint.resync) {
                gap::announce(checkpoint.resync.as_ref(), &run.shared.telemetry);
            }
            stored.iter().for_each(|stored| say_what_stays(stored, &facts));
            let checkpoint = anew::adopt(source, &run.store, *checkpoint, &facts, anew).await?;
            run.begin_generation(checkpoint.generation);
            for writer in &run.writers {
                writer.remember(checkpoint.witnesses.get(&writer.collection.name).cloned().unwrap_or_default());
            }
            run.shared.telemetry.resync(checkpoint.resync.as_ref());
            if let Slot::Ready { confirmed } = facts.slot {
                // The stream replays everything after this position. Until then, rows may be back whose deletion is
                // still to come.
                run.shared.telemetry.applied(confirmed);
                run.shared.telemetry.confirmed(confirmed);
                replay = Replay::new(confirmed, checkpoint.last_commit);
            }
            checkpoint
        }
        Start::Snapshot { generation, why, drop_slot, resync } => {
            stored.iter().for_each(|stored| say_what_stays(stored, &facts));
            let found = shared.or_stop(Found::look(run)).await?;
            let generation = generation.max(found.newest.next());
            let resync = resync.or_else(|| found.resync().filter(|_| stored.is_none()));
            gap::announce(resync.as_ref(), &run.shared.telemetry);
            tracing::info!(generation = generation.0, "taking a snapshot: {why}");
            let checkpoint = Checkpoint {
                digests: facts.digests(),
                source: facts.source,
                generation,
                snapshot: SnapshotState::Copying,
                applied: Lsn::ZERO,
                last_commit: Lsn::ZERO,
                written_to: None,
                resync,
                // Points that wait for an operator's decision go on waiting.
                sweep_waits: stored.as_ref().is_some_and(|stored| stored.sweep_waits),
                witnesses: BTreeMap::new(),
                tables: run.tables_of(stored.as_ref(), found.tables),
                publication: String::new(),
                config_digest: facts.config_digest,
                collections: facts.collections,
                written: BTreeMap::new(),
            };
            let checkpoint = snapshot::take(run, source, checkpoint, drop_slot).await?;
            // Count before the phase says that the rows are there.
            let sinks: Vec<_> = run.writers.iter().map(|writer| Arc::clone(&writer.collection.sink)).collect();
            count_points(&sinks, 0..sinks.len(), &run.shared.telemetry).await?;
            run.writers.iter().for_each(Writer::wrote_everything);
            checkpoint
        }
    };
    show_owed(source, run)?;
    run.held = if checkpoint.sweep_waits { gap::still_held(&run.followed(), &checkpoint.tables).await? } else { None };
    let on_gap = run.on_gap;
    let found_in = |error: PipelineError| gap::found_in(error, on_gap);
    let passed = passed(source, &run.store).await?;
    let stream = source.open_stream_passing(passed).await.map_err(|error| found_in(error.into()))?;
    run.shared.telemetry.phase(Phase::Streaming);
    retry.succeeded();
    tracing::info!(applied = %checkpoint.applied, "following the stream");
    let checkpointer = Checkpointer::open(Arc::clone(&run.store), Arc::clone(source), checkpoint)?;
    follow(run, source, stream, checkpointer, replay).await.map_err(found_in)
}

/// Shows which tables are to be read again, before the phase says that the stream is followed.
fn show_owed(source: &Source, run: &Run) -> Result<(), PipelineError> {
    let Baseline { owed, anew, .. } = run.store.baseline()?.unwrap_or_default();
    let tables: Vec<TableName> = owed.union(&anew).flat_map(|table| source.dependents(table)).collect();
    let is_owed = |name: &str| tables.iter().any(|table| table.to_string() == name);
    run.shared.telemetry.read_again(|table| is_owed(table).then(ReadAgain::default));
    Ok(())
}

/// Returns, by table, the position before which changes are passed over: the table was read whole since then, or will
/// be.
async fn passed(source: &Source, store: &Store) -> Result<HashMap<TableName, Lsn>, PipelineError> {
    let Baseline { floors, anew, .. } = store.baseline()?.unwrap_or_default();
    let now = source.server_position().await?.flushed;
    let floors = floors.into_iter().map(|(table, position)| (table, position.commit_lsn));
    Ok(floors.chain(anew.into_iter().map(|table| (table, now))).collect())
}

/// Logs what happens to the points of collections that are not configured any more.
fn say_what_stays(stored: &Checkpoint, facts: &Facts) {
    for collection in stored.collections.keys().filter(|name| !facts.collections.contains_key(*name)) {
        tracing::warn!(
            collection,
            "the collection is not configured any more; its points stay as they were. To remove it: on a Qdrant server, delete it there; \
             in a data directory, delete collections/{collection}__<number> while walvec is stopped"
        );
    }
}

/// The newest generation and the tables found in the collections before a snapshot. The state file may know less: it
/// may have been lost, or be an old copy.
struct Found {
    newest: Generation,
    tables: Tables,
}

impl Found {
    /// Reads all collections.
    async fn look(run: &Run) -> Result<Self, PipelineError> {
        let mut found = Self { newest: Generation::default(), tables: Tables::new() };
        let stored = answers(run.writers.iter().map(|writer| writer.stored().boxed()).collect()).await?;
        for (writer, (newest, tables)) in run.writers.iter().zip(stored) {
            found.newest = found.newest.max(newest);
            found.tables.insert(writer.collection.name.clone(), tables);
        }
        Ok(found)
    }

    /// Returns the resync that explains a first snapshot into collections that have points already. The points may be
    /// of another database.
    fn resync(&self) -> Option<gap::Resync> {
        (self.newest > Generation::default()).then(gap::Resync::of_lost_state)
    }
}

/// Stores that the next session has to read the tables again, if the error that ended this one requires it.
pub(crate) fn want_snapshot_after(outcome: &Result<(), PipelineError>, store: &Store) -> Result<(), PipelineError> {
    let resync = match outcome {
        Err(PipelineError::Resync(resync)) => Some(resync.clone()),
        Err(error) if error.policy(During::Running) == Policy::Restart => None,
        Ok(()) | Err(_) => return Ok(()),
    };
    match store.checkpoint()? {
        Some(checkpoint) if checkpoint.snapshot == SnapshotState::Done => {
            Ok(store.save_checkpoint(&Checkpoint { snapshot: SnapshotState::Again, resync, ..checkpoint })?)
        }
        _ => Ok(()),
    }
}

/// Restores walvec's own publication to its configured state, if gaps are closed by a resync. Otherwise changes the
/// publication only if another table has taken over a name: it then publishes that table.
pub(crate) async fn follow_publication(source: &Source, store: &Store, on_gap: OnGap) -> Result<(), PipelineError> {
    if on_gap == OnGap::Resync {
        source.mend_publication().await?;
        return Ok(());
    }
    let known = store.baseline()?.unwrap_or_default().shapes;
    if is_any_replaced(&known, &source.shapes_now().await?) {
        follow_replaced(source).await?;
    }
    Ok(())
}

/// Fails with a retryable error if the server is a standby: an address that leads to the primary may lead to a standby
/// until that one is promoted. At a first start with nothing stored it returns `Ok`, because preflight reports the
/// problem.
pub(crate) fn refuse_standby(source: &Source, during: During, store: &Store) -> Result<(), PipelineError> {
    if !source.server().in_recovery || (during == During::FirstStart && store.checkpoint()?.is_none()) {
        return Ok(());
    }
    Err(CaptureError::Standby { server: source.address() }.into())
}

/// Fails if preflight finds an error that retrying cannot fix.
///
/// It does not judge the slot: [`decide`] knows more about it, and a slot that is in use may become free a moment after a
/// kill. After the first start it does not judge a limit of the server either: our own dying session may count towards it,
/// and the attempt itself reports that error and is retried.
pub(crate) async fn refuse_what_cannot_work(source: &Source, during: During) -> Result<(), PipelineError> {
    let mut errors = Vec::new();
    let findings = match during {
        During::FirstStart => source.preflight().await?,
        During::Running | During::Job => source.preflight_again().await?,
    };
    for finding in findings {
        match (finding.severity, finding.subject) {
            (Severity::Error, Subject::Slot) => {}
            (Severity::Error, Subject::Limit(resource)) if policy::of_resource(resource, during) != Policy::Stop => {}
            (Severity::Error, Subject::Limit(_) | Subject::Published | Subject::Other) => errors.push(finding),
            (Severity::Warning, _) => {
                tracing::warn!(code = finding.code, remedy = %finding.remedy, "{}", finding.message)
            }
        }
    }
    let Some(first) = errors.first() else { return Ok(()) };
    let what = errors.iter().map(|finding| finding.message.clone()).collect::<Vec<_>>().join("; ");
    let words = errors.iter().filter_map(|finding| match &finding.remedy {
        Remedy::Words(words) => Some(words.clone()),
        Remedy::Statements(_) => None,
    });
    let script = source.script(&errors).map(|script| format!("paste this:\n{script}"));
    let remedy = words.chain(script).collect::<Vec<_>>().join("; ");
    Err(Refusal { code: first.code, what, remedy }.into())
}

/// Counts the points of the collections at these `places` in the status. Fails only if a collection is missing.
pub(crate) async fn count_points(
    sinks: &[Arc<dyn Sink>],
    places: Range<usize>,
    telemetry: &Telemetry,
) -> Result<(), PipelineError> {
    let sinks = sinks.iter().skip(places.start);
    let counted = places.zip(sinks);
    let counted = counted.map(|(index, sink)| count_points_of(index, sink.as_ref(), telemetry).boxed());
    answers(counted.collect()).await.map(drop)
}

async fn count_points_of(index: usize, sink: &dyn Sink, telemetry: &Telemetry) -> Result<(), PipelineError> {
    let counted = async {
        let points = sink.count().await?;
        Ok((points, sink.indexed().await?))
    };
    // A server that does not answer must not delay the other collections. The next write reports it.
    match tokio::time::timeout(COUNT_LIMIT, counted).await {
        Ok(Ok((points, indexed))) => telemetry.collection(index, |status| {
            status.points = Some(points);
            status.points_counted = Some(Moment::from(SystemTime::now()));
            status.points_indexed = indexed;
        }),
        Ok(Err(source @ SinkError::Missing { .. })) => {
            return Err(PipelineError::Sink { collection: telemetry.name_of(index), source });
        }
        Ok(Err(_)) | Err(_) => {}
    }
    Ok(())
}

/// Builds indexes of the collections periodically, during the snapshot and while the stream is followed.
pub(crate) async fn maintain(sinks: &[Arc<dyn Sink>], mut status: watch::Receiver<Status>) {
    loop {
        let Ok(phase) = status
            .wait_for(|status| matches!(status.phase, Phase::Snapshot | Phase::Streaming))
            .await
            .map(|now| now.phase)
        else {
            return std::future::pending().await;
        };
        let mut pause = OPTIMIZE_INTERVAL;
        for sink in sinks {
            let optimized = match phase {
                Phase::Snapshot => sink.optimize_while_filling().await,
                Phase::Starting | Phase::Streaming | Phase::Stopping => sink.optimize().await,
            };
            if let Err(error) = optimized {
                tracing::warn!("an index could not be built, searches stay exact but slower: {error}");
                pause = OPTIMIZE_AGAIN;
            }
        }
        tokio::time::sleep(pause).await;
    }
}
