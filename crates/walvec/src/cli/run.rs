//! `walvec run`

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;
use walvec_pipeline::Status;
use walvec_pipeline::status::Phase;

use super::{ConfigArgs, Failure, output};
use crate::config::Overrides;
use crate::serve::Service;

#[derive(Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Serve the page and the API at this address instead of `server.listen`.
    #[arg(long, value_name = "ADDR", env = "WALVEC_LISTEN")]
    listen: Option<SocketAddr>,
}

pub(crate) async fn execute(args: RunArgs) -> Result<ExitCode, Failure> {
    let load = move || args.config.load_with(Overrides { listen: args.listen });
    let service = Service::start(load()?, Vec::new(), Box::new(load)).await?;
    tracing::info!("search page: http://{}/", service.address);
    let progress = tokio::spawn(show_snapshot(service.status.clone()));
    let outcome = service.finish().await;
    progress.abort();
    outcome
}

/// Shows the snapshot's progress: a bar on a terminal, a line of log now and then elsewhere.
pub(crate) async fn show_snapshot(mut status: watch::Receiver<Status>) {
    let mut bar: Option<ProgressBar> = None;
    let mut last_logged = 0;
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update().clone();
        let copied: u64 = now.collections.iter().map(|collection| collection.snapshot_rows_copied).sum();
        let estimated: u64 = now.collections.iter().map(|collection| collection.snapshot_rows_estimated).sum();
        if now.phase != Phase::Snapshot {
            if let Some(bar) = bar.take() {
                bar.finish_and_clear();
            }
            continue;
        }
        if std::io::stderr().is_terminal() {
            let bar = bar.get_or_insert_with(new_bar);
            bar.set_length(estimated.max(copied));
            bar.set_position(copied);
        } else if copied >= last_logged + 10_000 {
            last_logged = copied;
            tracing::info!(copied, estimated, "snapshot");
        }
    }
}

fn new_bar() -> ProgressBar {
    let bar = output::bars().add(ProgressBar::new(0));
    let template = "  snapshot {bar:32} {pos}/{len} rows  {per_sec}  about {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
