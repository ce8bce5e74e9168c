//! Runs the pipeline and its HTTP server until they are told to stop.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use walvec_pipeline::telemetry::{COMMIT_TO_SEARCHABLE, STAGE_SECONDS};
use walvec_pipeline::{PipelineError, Status, Store};

use crate::app::{self, Parts};
use crate::cli::Failure;
use crate::cli::running::Announced;
use crate::config::Config;
use crate::http::tasks::{Operations, Request};
use crate::http::{AppState, SEARCH_SECONDS, dead_letters};
use crate::remembered::{self, UnderWay};
use crate::supervise::{Reload, Supervisor};
use crate::tasks::{Kind, Tasks};

/// Bucket bounds for commit → searchable, in seconds: fine around the target, wide for backlogs.
const LATENCY_BUCKETS: [f64; 14] = [0.005, 0.01, 0.015, 0.02, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];
/// Bucket bounds for one stage of one batch, in seconds.
const STAGE_BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 10.0];

/// A pipeline and a server that run.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) stop: CancellationToken,
    pipeline: tokio::task::JoinHandle<Result<(), Failure>>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Service {
    /// Starts both. The port is taken before the pipeline starts, so that a port in use costs nothing. `reload` reads the
    /// configuration again, for a reindex.
    pub(crate) async fn start(config: Config, examples: Vec<String>, reload: Reload) -> Result<Self, Failure> {
        let metrics = install_metrics()?;
        // The directory before the port: a second process should hear that it is the second one.
        let data_dir = app::lock(config.sink.directory())?;
        let listener = listen(config.server.listen).await?;
        let address = listener.local_addr().map_err(|error| Failure::definite("E_LISTEN", error))?;
        let (config, under_way) = remembered::at_start(config).await?;
        let store = Arc::new(Store::open(config.sink.directory()).map_err(PipelineError::from)?);
        let embedder = app::load_embedder(&config).await?;
        let parts = Parts::assemble(config, embedder, None).await?;
        let config = parts.config.clone();
        let (stop, key) = (CancellationToken::new(), uuid::Uuid::new_v4().to_string());
        let announced = Announced::write(config.sink.directory(), address, &key)
            .map_err(|error| Failure::definite("E_SINK", format!("server.json: {error}")))?;

        let (serving, served) = watch::channel(Arc::new(parts.serving()));
        let (status_in, status) = watch::channel(Status::default());
        let (requests, queue) = mpsc::channel(1);
        let tasks = Tasks::default();
        if let Some(UnderWay { rollback, .. }) = under_way
            && let Some(task) = tasks.begin(Kind::Reindex)
        {
            // The queue is new, so there is room.
            requests.try_send((Request::Reindex { rollback }, task)).ok();
        }
        let state = AppState {
            serving: served,
            operations: Operations { tasks, requests, key: key.into() },
            dead_letters: dead_letters::of(&store),
            status: status.clone(),
            metrics,
            token: config.server.token.clone(),
            examples,
        };
        let supervisor = Supervisor {
            parts,
            store,
            serving,
            status: status_in,
            requests: queue,
            reload,
            stop: stop.clone(),
            cleaning: None,
        };
        // The server outlives the pipeline: searches are answered until everything is durable.
        let closing = CancellationToken::new();
        let server = tokio::spawn(crate::http::serve(listener, state, closing.clone()));
        let pipeline = tokio::spawn(async move {
            let _closing = closing.drop_guard();
            let outcome = supervisor.run().await;
            drop(announced);
            drop(data_dir);
            outcome
        });
        Ok(Self { address, status, stop, pipeline, server })
    }

    /// Waits for the end: a definite error, or a signal and the ordered shutdown after it. A second signal leaves at once.
    pub(crate) async fn finish(self) -> Result<ExitCode, Failure> {
        let Self { stop, mut pipeline, server, .. } = self;
        let outcome = tokio::select! {
            outcome = &mut pipeline => outcome,
            signal = shutdown_signal() => {
                signal?;
                tracing::info!("stopping; once more to leave at once");
                stop.cancel();
                tokio::select! {
                    outcome = &mut pipeline => outcome,
                    _ = shutdown_signal() => return Ok(ExitCode::from(130)),
                }
            }
        };
        // It closes when the pipeline ends, after the requests that are under way.
        match server.await {
            Ok(Err(error)) => tracing::warn!("the HTTP server ended early: {error}"),
            Err(panic) => tracing::warn!("the HTTP server ended early: {panic}"),
            Ok(Ok(())) => {}
        }
        outcome.map_err(|panic| Failure::definite("E_INTERNAL", panic))??;
        Ok(ExitCode::SUCCESS)
    }

    /// Waits for the end that nobody asked for, and says why.
    pub(crate) async fn ended(&mut self) -> Failure {
        let outcome = (&mut self.pipeline).await;
        match outcome.map_err(|panic| Failure::definite("E_INTERNAL", panic)) {
            Ok(Err(failure)) | Err(failure) => failure,
            Ok(Ok(())) => Failure::definite("E_STOPPED", "the pipeline stopped"),
        }
    }

    /// Stops in order and waits for it.
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
        }
    }
}

/// Takes the address; a port in use has a remedy.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::definite("E_LISTEN", format!("cannot serve the page at {address}: {error}; nothing was started"))
            .with_remedy("stop what uses the port, or choose another: --listen 127.0.0.1:8083 (or `server.listen`)")
    })
}

async fn shutdown_signal() -> Result<(), Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::definite("E_SIGNAL", error));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

fn install_metrics() -> Result<PrometheusHandle, Failure> {
    let failed = |error: metrics_exporter_prometheus::BuildError| Failure::definite("E_METRICS", error);
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(COMMIT_TO_SEARCHABLE.to_owned()), &LATENCY_BUCKETS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Full(STAGE_SECONDS.to_owned()), &STAGE_BUCKETS))
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Full(SEARCH_SECONDS.to_owned()), &STAGE_BUCKETS))
        .map_err(failed)?
        .install_recorder()
        .map_err(failed)?;
    walvec_pipeline::telemetry::describe();
    Ok(handle)
}
