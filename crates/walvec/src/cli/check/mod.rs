//! `walvec check`: everything that would stop `run`, each with its remedy, and what `run` will do.
//!
//! - [`local`]: model, templates, stored collections, port: what can be checked without PostgreSQL
//! - [`source`]: server, rights, tables
//! - [`lengths`]: whether the model reads the rows' texts to their ends
//! - [`next`]: whether `run` reads tables, and why
//! - [`report`]: the results of the checks, and how they are printed

mod lengths;
mod local;
mod next;
mod report;
mod source;

use std::process::ExitCode;

use clap::Args;
use secrecy::ExposeSecret as _;

use self::report::CheckReport;
use super::{ConfigArgs, Failure};
use crate::client::Client;
use crate::config::Stage;

#[derive(Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Check only what needs no PostgreSQL.
    #[arg(long)]
    offline: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: CheckArgs) -> Result<ExitCode, Failure> {
    let config = args.config.load()?;
    let mut report = CheckReport::default();
    report.ok("configuration", "valid");
    let is_running = Client::first(&config, &[Stage::Capture, Stage::Index]).await.is_some();
    let (missing, embedder) = local::check(&config, is_running, &mut report).await;
    if let (false, Some(broker)) = (args.offline, &config.broker) {
        report.result("broker", local::broker(&config, &broker.kafka).await);
    }
    if !args.offline && !config.source.url.expose_secret().is_empty() {
        source::check(&config, is_running, missing.as_deref(), embedder.as_ref(), &mut report).await;
    }
    report.print(args.json)
}
