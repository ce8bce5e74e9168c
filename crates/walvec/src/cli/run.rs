//! `walvec run`

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use tokio::sync::watch;
use walvec_pipeline::Status;
use walvec_pipeline::observe::status::Phase;

use super::{ConfigArgs, Failure};
use crate::config::{self, Overrides, Stage};
use crate::daemon::Daemon;
use crate::terminal::progress::{Meter, ReportTo};

const EXAMPLE: &str = "\
Example: one capture and two workers on one machine, with
  broker: { kafka: { bootstrap: \"localhost:9092\" } }
  sink: { qdrant: { url: \"http://localhost:6334\" } }
in walvec.yaml (the embedded engine would belong to one worker). On machines of their own workers
need no --listen, but still an --instance each.
  walvec run --stage capture
  walvec run --stage index --instance a --listen 127.0.0.1:8083
  walvec run --stage index --instance b --listen 127.0.0.1:8084";

/// Sync until stopped: take a snapshot if there is none yet, then follow every change.
///
/// By default one process does everything, from PostgreSQL to the collections. With `broker` in walvec.yaml the changes go
/// through topics of Kafka or Redpanda, and --stage starts a single stage: capture continues even if later stages stop, up to
/// one index worker per partition shares the work, and other programs can read the topics too.
///
/// The stages embed and sink together do what index does, with a topic of vectors between them: one group of workers runs the
/// model, the other writes points.
#[derive(Args)]
#[command(after_long_help = EXAMPLE)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// What this process does. Each stage except all needs `broker` in the configuration.
    #[arg(long, value_enum, env = "WALVEC_STAGE", default_value_t)]
    stage: Stage,
    /// The name of this worker, unique within its stage. Keep it across restarts: the worker's directory and its membership in
    /// the consumer group depend on it. Letters, digits, dots, - and _
    #[arg(long, value_name = "NAME", env = "WALVEC_INSTANCE", default_value = "1", value_parser = config::instance)]
    instance: String,
    /// Serve the page and the API at this address instead of `server.listen`.
    #[arg(long, value_name = "ADDR", env = "WALVEC_LISTEN")]
    listen: Option<SocketAddr>,
}

pub(crate) async fn execute(args: RunArgs) -> Result<ExitCode, Failure> {
    let RunArgs { config, stage, instance, listen } = args;
    let load = move || {
        let instance = Some(instance.clone());
        config.load_with(Overrides { listen, stage: Some(stage), instance, ..Overrides::default() })
    };
    let service = Daemon::start(load()?, Vec::new(), Box::new(load)).await?;
    tracing::info!("search page: http://{}/", service.address);
    let progress = tokio::spawn(show_snapshot(service.status.clone(), ReportTo::Log));
    let outcome = service.finish().await;
    progress.abort();
    outcome
}

/// Shows the progress of the snapshot while one is being taken.
pub(crate) async fn show_snapshot(mut status: watch::Receiver<Status>, report_to: ReportTo) {
    let mut meter = None;
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update().clone();
        if now.phase == Phase::Snapshot {
            let (copied, estimated) = now.snapshot_rows();
            meter.get_or_insert_with(|| Meter::new("snapshot", report_to)).show(copied, Some(estimated));
        } else {
            meter = None;
        }
    }
}
