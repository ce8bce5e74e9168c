//! Runs the pipeline and its HTTP server until they are told to stop.
//!
//! - [`direct`]: all stages in this process, and requests for long work
//! - [`staged`]: the stages of a process that works through a broker
//! - [`progress`]: what the process shows of its pipelines and jobs
//! - [`signals`], [`metrics`]: those of the process
//! - [`last_run`]: how the last run on a data directory ended

pub(crate) mod direct;
pub(crate) mod last_run;
mod metrics;
mod progress;
mod signals;
mod staged;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use walvec_embed::Embedder;
use walvec_pipeline::Status;
use walvec_pipeline::observe::status::CollectionStatus;
use walvec_sink::embedded::DataDir;

use self::direct::Reload;
use self::signals::Signals;
use crate::api::announcement::AnnouncementGuard;
use crate::config::Config;
use crate::failure::Failure;
use crate::http::AppState;
use crate::http::dead_letters::DeadLetters;
use crate::http::tasks::Operations;
use crate::model_check::{self, ModelWatch};
use crate::search::serving::Serving;
use crate::tasks::{TaskHandle, TaskRequest, Tasks};
use crate::{assembly, ui};

/// A terminal that is closed, a launcher and a service manager may each send a signal: signals within this time count as one.
const SIGNAL_DEBOUNCE: Duration = Duration::from_secs(1);

/// A running pipeline and its server.
pub(crate) struct Daemon {
    pub(crate) address: SocketAddr,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) stop: CancellationToken,
    directory: PathBuf,
    signals: Signals,
    pipeline: tokio::task::JoinHandle<Result<(), Failure>>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Daemon {
    /// Starts both. The port is bound before the pipeline starts, so that a port in use costs nothing. `reload` reads the configuration
    /// again, for a reindex.
    pub(crate) async fn start(config: Config, examples: Vec<String>, reload: Reload) -> Result<Self, Failure> {
        let metrics = metrics::install()?;
        // The directory is locked before the port is bound: a second process should report that another one is running.
        let directory = config.directory();
        let data_dir = assembly::lock(&directory)?;
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
                "{why}: programs of this machine can guess it; `openssl rand -hex 32` makes one that cannot be guessed"
            );
        }
        let samples = model_check::file(&config);
        let prepared = match config.broker.clone() {
            None => {
                let queue = TaskQueue { tasks: tasks.clone(), requests: requests.clone(), queue };
                direct::prepare(config, status_in, queue, reload, &stop).await?
            }
            Some(broker) => staged::prepare(config, &broker.kafka, status_in, queue, &stop).await?,
        };
        // Signals are handled before the address is announced: a process that finds the address may ask this one to stop.
        let signals = Signals::listen()?;
        let announced = AnnouncementGuard::write(directory, address, &key)
            .map_err(|error| Failure::definite("E_SINK", format!("server.json: {error}")))?;
        let watched = prepared.serving.clone();
        let state = AppState {
            serving: prepared.serving,
            operations: Operations { tasks, requests, key: key.into() },
            dead_letters: prepared.dead_letters,
            status: status.clone(),
            metrics,
            token,
            allowed_hosts,
            examples,
            sign_in_page: ui::sign_in_page,
        };
        // The server outlives the pipeline: searches are answered until everything is durable.
        let closing = CancellationToken::new();
        let server = tokio::spawn(crate::http::serve(listener, state, ui::routes(), closing.clone()));
        let directory = directory.to_owned();
        let (run, ended_in, stopping) = (prepared.run, directory.clone(), stop.clone());
        let another_model = ModelWatch::new(samples, watched, status.clone()).another_model(prepared.is_checked);
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
                    tokio::time::sleep(SIGNAL_DEBOUNCE).await;
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
type QueuedTask = (TaskRequest, TaskHandle);

/// The way of long work to the owner of the pipeline.
struct TaskQueue {
    tasks: Tasks,
    requests: mpsc::Sender<QueuedTask>,
    queue: mpsc::Receiver<QueuedTask>,
}

/// Stages that run until they are told to stop, or until a definite error.
type StagesRun = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// Runs stages to their end. If a provider has another model now, they are stopped in order: what they have written until then is of
/// the time that the failure names.
async fn run_watched(
    mut run: StagesRun,
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

/// The stages, prepared to run, and what the server needs of them.
struct PreparedStages {
    run: StagesRun,
    /// Whether the model is known to be that of the collections; `false` if its provider has not answered yet.
    is_checked: bool,
    serving: watch::Receiver<Arc<Serving>>,
    dead_letters: DeadLetters,
}

/// Loads the model and checks that the collections were built with it; also returns whether that is known yet.
async fn load_checked_embedder(config: &Config) -> Result<(Arc<dyn Embedder>, bool), Failure> {
    let embedder = assembly::load_embedder(config).await?;
    let is_checked = model_check::refuse_another_model(config, embedder.as_ref()).await?;
    Ok((embedder, is_checked))
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
