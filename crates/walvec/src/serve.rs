//! Runs the pipeline and its HTTP server until they are told to stop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use walvec_embed::Embedder;
use walvec_embed::hash::HashEmbedder;
use walvec_pipeline::status::CollectionStatus;
use walvec_pipeline::telemetry::{COMMIT_TO_PUBLISHED, COMMIT_TO_SEARCHABLE, STAGE_SECONDS};
use walvec_pipeline::{PipelineError, Status, Store};
use walvec_sink::embedded::{DataDir, create_private_dir};

use crate::api::announcement::Announced;
use crate::api::tasks::TaskKind;
use crate::app::{self, Parts};
use crate::broker::Broker;
use crate::config::{Config, KafkaSettings, Stage};
use crate::failure::Failure;
use crate::http::AppState;
use crate::http::dead_letters::{self, DeadLetters};
use crate::http::tasks::Operations;
use crate::last_run;
use crate::remembered::{self, UnderWay};
use crate::search::searcher::SEARCH_SECONDS;
use crate::search::serving::Serving;
use crate::staged::Stages;
use crate::supervise::{Reload, Supervisor};
use crate::swapped::{self, Watch};
use crate::tasks::{TaskHandle, TaskRequest, Tasks};

/// Bucket bounds for the time from commit to searchable, in seconds: fine around the target, wide for backlogs.
const LATENCY_BUCKETS: [f64; 14] = [0.005, 0.01, 0.015, 0.02, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];
/// Bucket bounds for one stage of one batch, in seconds.
const STAGE_BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 10.0];

/// A terminal that is closed, a launcher and a service manager may each send a signal: signals within this time count as one.
const ONE_WISH: Duration = Duration::from_secs(1);

/// A running pipeline and its server.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) stop: CancellationToken,
    directory: PathBuf,
    signals: Signals,
    pipeline: tokio::task::JoinHandle<Result<(), Failure>>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Service {
    /// Starts both. The port is bound before the pipeline starts, so that a port in use costs nothing. `reload` reads the configuration
    /// again, for a reindex.
    pub(crate) async fn start(config: Config, examples: Vec<String>, reload: Reload) -> Result<Self, Failure> {
        let metrics = install_metrics()?;
        // The directory is locked before the port is bound: a second process should report that another one is running.
        let directory = config.directory();
        let data_dir = app::lock(&directory)?;
        last_run::begin(&directory);
        let started = Self::start_in(&directory, data_dir, config, (metrics, examples), reload).await;
        started.inspect_err(|failure| last_run::end(&directory, Err(failure)))
    }

    /// Starts both in a directory that this process has locked.
    async fn start_in(
        directory: &Path,
        data_dir: DataDir,
        config: Config,
        (metrics, examples): (PrometheusHandle, Vec<String>),
        reload: Reload,
    ) -> Result<Self, Failure> {
        let listener = listen(config.server.listen).await?;
        let address = listener.local_addr().map_err(|error| Failure::definite("E_LISTEN", error))?;
        let key = uuid::Uuid::new_v4().to_string();
        let stop = CancellationToken::new();
        let (status_in, status) = watch::channel(status_at_start(&config));
        let (requests, queue) = mpsc::channel(1);
        let tasks = Tasks::default();
        let (token, allowed_hosts) = (config.server.token.clone(), config.server.allowed_hosts.clone());
        if let Some(why) = config.server.weak_token() {
            tracing::warn!(
                "{why}: programs of this machine can guess it; `openssl rand -hex 32` makes one that nobody guesses"
            );
        }
        let samples = swapped::file(&config);
        let ready = match config.broker.clone() {
            None => direct(config, status_in, (requests.clone(), queue), &tasks, reload, &stop).await?,
            Some(broker) => staged(config, &broker.kafka, status_in, queue, &stop).await?,
        };
        // Signals are handled before the address is announced: a process that finds the address may ask this one to stop.
        let signals = Signals::listen()?;
        let announced = Announced::write(directory, address, &key)
            .map_err(|error| Failure::definite("E_SINK", format!("server.json: {error}")))?;
        let watched = ready.serving.clone();
        let state = AppState {
            serving: ready.serving,
            operations: Operations { tasks, requests, key: key.into() },
            dead_letters: ready.dead_letters,
            status: status.clone(),
            metrics,
            token,
            allowed_hosts,
            examples,
        };
        // The server outlives the pipeline: searches are answered until everything is durable.
        let closing = CancellationToken::new();
        let server = tokio::spawn(crate::http::serve(listener, state, closing.clone()));
        let directory = directory.to_owned();
        let (run, ended_in, stopping) = (ready.run, directory.clone(), stop.clone());
        let another_model = Watch::new(samples, watched, status.clone()).another_model(ready.is_checked);
        let pipeline = tokio::spawn(async move {
            let _closing = closing.drop_guard();
            let outcome = run_watched(run, another_model, &stopping).await;
            last_run::end(&ended_in, outcome.as_ref().copied());
            drop(announced);
            drop(data_dir);
            outcome
        });
        Ok(Self { address, status, stop, directory, signals, pipeline, server })
    }

    /// Waits for a definite error, or for a signal and the ordered shutdown after it. A second signal exits at once.
    pub(crate) async fn finish(self) -> Result<ExitCode, Failure> {
        let Self { stop, directory, mut signals, mut pipeline, server, .. } = self;
        let outcome = tokio::select! {
            outcome = &mut pipeline => outcome,
            () = signals.next() => {
                tracing::info!("stopping; once more to leave at once");
                stop.cancel();
                let again = async {
                    tokio::time::sleep(ONE_WISH).await;
                    // Signals that came meanwhile do not count.
                    Signals::listen()?.next().await;
                    Ok::<_, Failure>(())
                };
                tokio::select! {
                    outcome = &mut pipeline => outcome,
                    _ = again => {
                        last_run::end(&directory, Ok(()));
                        return Ok(ExitCode::from(130));
                    }
                }
            }
        };
        // The server closes when the pipeline ends, after the requests in flight.
        match server.await {
            Ok(Err(error)) => tracing::warn!("the HTTP server ended early: {error}"),
            Err(panic) => tracing::warn!("the HTTP server ended early: {panic}"),
            Ok(Ok(())) => {}
        }
        outcome.map_err(|panic| Failure::definite("E_INTERNAL", panic))??;
        Ok(ExitCode::SUCCESS)
    }

    /// Waits for the end, with an ordered shutdown after a signal, and returns its reason.
    pub(crate) async fn ended(&mut self) -> Failure {
        let outcome = tokio::select! {
            outcome = &mut self.pipeline => outcome,
            () = self.signals.next() => {
                self.stop.cancel();
                (&mut self.pipeline).await
            }
        };
        match outcome.map_err(|panic| Failure::definite("E_INTERNAL", panic)) {
            Ok(Err(failure)) | Err(failure) => failure,
            Ok(Ok(())) => Failure::definite("E_STOPPED", "the pipeline stopped"),
        }
    }

    /// Shuts down in order and waits for that.
    pub(crate) async fn shut_down(self) -> Result<ExitCode, Failure> {
        self.stop.cancel();
        self.finish().await
    }

    /// Waits until the status satisfies `wanted`; fails if the pipeline ends first.
    pub(crate) async fn wait_for(&mut self, wanted: impl FnMut(&Status) -> bool) -> Result<Status, Failure> {
        tokio::select! {
            status = self.status.wait_for(wanted) => status
                .map(|status| status.clone())
                .map_err(|_| Failure::definite("E_INTERNAL", "the pipeline ended without a word")),
            outcome = &mut self.pipeline => {
                outcome.map_err(|panic| Failure::definite("E_INTERNAL", panic))??;
                Err(Failure::definite("E_STOPPED", "the pipeline stopped"))
            }
            () = self.signals.next() => Err(Failure::definite("E_STOPPED", "it was asked to stop")),
        }
    }
}

/// A request, and its task.
type Asked = (TaskRequest, TaskHandle);

/// Stages that run until they are told to stop, or until a definite error.
type Run = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// Runs stages to their end. If a provider has another model now, they are stopped in order: what they have written until then is of
/// the time that the failure names.
async fn run_watched(
    mut run: Run,
    another_model: impl Future<Output = Failure>,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let failure = tokio::select! {
        outcome = &mut run => return outcome,
        failure = another_model => failure,
        // During a shutdown the model does not matter any more.
        () = stop.cancelled() => return run.await,
    };
    tracing::error!("stopping: {failure}");
    stop.cancel();
    if let Err(other) = run.await {
        tracing::warn!("while stopping: {other}");
    }
    Err(failure)
}

/// The stages, ready to run, and what the server needs of them.
struct Ready {
    run: Run,
    /// Whether the model is known to be that of the collections; `false` if its provider has not answered yet.
    is_checked: bool,
    serving: watch::Receiver<Arc<Serving>>,
    dead_letters: DeadLetters,
}

/// Prepares all stages in this process, without a broker.
async fn direct(
    config: Config,
    status: watch::Sender<Status>,
    (requests, queue): (mpsc::Sender<Asked>, mpsc::Receiver<Asked>),
    tasks: &Tasks,
    reload: Reload,
    stop: &CancellationToken,
) -> Result<Ready, Failure> {
    let (config, under_way) = remembered::at_start(config).await?;
    let store = Arc::new(Store::open(config.sink.directory()).map_err(PipelineError::from)?);
    let (embedder, is_checked) = same_embedder(&config).await?;
    let parts = Parts::assemble(config, embedder, None).await?;
    let (serving, served) = watch::channel(Arc::new(parts.serving()));
    if let Some(UnderWay { rollback, .. }) = under_way
        && let Some(task) = tasks.begin(TaskKind::Reindex)
    {
        // The queue is new, so it has room.
        requests.try_send((TaskRequest::Reindex { rollback }, task)).ok();
    }
    let dead_letters = dead_letters::of(&store);
    let stop = stop.clone();
    let supervisor =
        Supervisor { parts, store, serving, status, requests: queue, reload, stop, cleaning: None, unfinished: None };
    Ok(Ready { run: Box::pin(supervisor.run()), is_checked, serving: served, dead_letters })
}

/// Loads the model and checks that the collections were built with it; also returns whether that is known yet.
async fn same_embedder(config: &Config) -> Result<(Arc<dyn Embedder>, bool), Failure> {
    let embedder = app::load_embedder(config).await?;
    let is_checked = swapped::refuse_another_model(config, embedder.as_ref()).await?;
    Ok((embedder, is_checked))
}

/// Prepares the stages of this process that work through a broker.
async fn staged(
    config: Config,
    kafka: &KafkaSettings,
    status: watch::Sender<Status>,
    requests: mpsc::Receiver<Asked>,
    stop: &CancellationToken,
) -> Result<Ready, Failure> {
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
            (serving.embedder, is_checked) = same_embedder(&config).await?;
            let collections = broker.collections_in_topic(&serving.embedder)?;
            indexer = Some(broker.indexer(collections, stop.child_token()));
        }
        Stage::All | Stage::Index | Stage::Sink => {
            let (embedder, known) = same_embedder(&config).await?;
            is_checked = known;
            let assembled = Parts::assemble(config.clone(), embedder, None).await?;
            indexer = Some(broker.indexer(assembled.collections(), stop.child_token()));
            serving = assembled.serving();
            parts = Some(assembled);
        }
    }
    let dead_letters = dead_letters::shared(broker.letters());
    // The value never changes: these stages build no other collections.
    let serving = watch::Sender::new(Arc::new(serving)).subscribe();
    let stages = Stages { publisher, indexer, parts, status, requests, stop: stop.clone() };
    Ok(Ready { run: Box::pin(stages.run()), is_checked, serving, dead_letters })
}

/// Returns the status before anything runs, which already lists the collections.
fn status_at_start(config: &Config) -> Status {
    let collections = config.collections.iter().map(|collection| CollectionStatus {
        collection: collection.name.clone(),
        table: collection.table.to_string(),
        ..CollectionStatus::default()
    });
    Status { collections: collections.collect(), ..Status::default() }
}

/// Binds the address; for a port in use the error has a remedy.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::definite("E_LISTEN", format!("cannot serve the page at {address}: {error}; nothing was started"))
            .with_remedy("stop what uses the port, or choose another: --listen 127.0.0.1:8083 (or `server.listen`)")
    })
}

/// The signals that ask this process to stop. Once this exists, they no longer kill the process, and are queued until they are awaited.
#[derive(Debug)]
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::definite("E_SIGNAL", error));
        let hangup = if hangup_is_ignored() { None } else { Some(listen(SignalKind::hangup())?) };
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())?, hangup })
    }

    /// Waits for one of the signals.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            // The terminal was closed.
            Some(_) = async { self.hangup.as_mut()?.recv().await } => {}
        }
    }
}

/// Returns whether this process was started to outlive its terminal, for example by `nohup`. Listening for the signal would undo that.
fn hangup_is_ignored() -> bool {
    const SIGHUP: u64 = 1;
    static IS_IGNORED: LazyLock<bool> = LazyLock::new(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        // On other systems than Linux it is not known, and the signal keeps its usual effect.
        ignored.is_none_or(|mask| mask & (1 << (SIGHUP - 1)) != 0)
    });
    *IS_IGNORED
}

fn install_metrics() -> Result<PrometheusHandle, Failure> {
    let failed = |error: metrics_exporter_prometheus::BuildError| Failure::definite("E_METRICS", error);
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(COMMIT_TO_SEARCHABLE.to_owned()), &LATENCY_BUCKETS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Full(COMMIT_TO_PUBLISHED.to_owned()), &LATENCY_BUCKETS)
        })
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Full(STAGE_SECONDS.to_owned()), &STAGE_BUCKETS))
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Full(SEARCH_SECONDS.to_owned()), &STAGE_BUCKETS))
        .map_err(failed)?
        .install_recorder()
        .map_err(failed)?;
    walvec_pipeline::telemetry::describe();
    Ok(handle)
}
