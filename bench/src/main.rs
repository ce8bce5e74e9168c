//! What `make bench` runs: measures walvec against PostgreSQL's own programs in the same run and writes BENCHMARKS.md.
//!
//! - [`stage`]: the server, its tables and slots
//! - [`child`]: readers that run as processes of their own, so that their memory can be told
//! - [`capture`]: the stream against `pg_recvlogical`, the snapshot against `COPY`, and how both grow
//! - [`embedding`]: texts and tokens per second
//! - [`sync`]: the whole program: a flood of rows, and single rows
//! - [`report`]: medians, and the tables of BENCHMARKS.md

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a program that reports")]

mod capture;
mod child;
mod embedding;
mod report;
mod stage;
mod sync;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;

/// Measure walvec and write BENCHMARKS.md.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    child: Option<child::Child>,
    #[command(flatten)]
    plan: Plan,
}

/// What to measure, and how often.
#[derive(clap::Args, Clone)]
pub(crate) struct Plan {
    /// Rounds of each measurement; medians are reported.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The largest number of rows in the growth measurement.
    #[arg(long, default_value_t = 3_000_000)]
    largest: u64,
    /// Where to write the report of a run that measured everything.
    #[arg(long, default_value = "BENCHMARKS.md")]
    output: PathBuf,
    /// The directory of the models.
    #[arg(long, env = "WALVEC_MODELS")]
    models: Option<PathBuf>,
    /// Only these parts; the report is printed and not written.
    #[arg(long, value_delimiter = ',', value_parser = ["capture", "growth", "embedding", "sync"])]
    only: Vec<String>,
}

impl Plan {
    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == part)
    }

    fn models(&self) -> anyhow::Result<PathBuf> {
        let set = std::env::var_os;
        let root = walvec_embed::model_dir::root_from(None, set("XDG_CACHE_HOME"), set("HOME"));
        self.models.clone().or(root).context("no home directory; set WALVEC_MODELS")
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.child {
        Some(child) => runtime.block_on(child.run()),
        None => runtime.block_on(measure(&arguments.plan)),
    }
}

async fn measure(plan: &Plan) -> anyhow::Result<()> {
    let mut report = report::Report::default();
    if plan.wants("embedding") {
        eprintln!("==> embedding");
        report.embedding = Some(embedding::measure(plan).await?);
    }
    let stage = stage::Stage::start().await?;
    report.server = stage.version();
    if plan.wants("sync") {
        eprintln!("==> rows until they can be found");
        report.sync = Some(sync::measure(plan, &stage).await?);
    }
    if plan.wants("capture") {
        eprintln!("==> stream and snapshot against PostgreSQL's own programs");
        report.capture = Some(capture::against_postgres(plan, &stage).await?);
    }
    if plan.wants("growth") {
        eprintln!("==> growth");
        report.growth = capture::growth(plan, &stage).await?;
    }
    stage.close().await?;
    let text = report.render(plan)?;
    println!("{text}");
    if !plan.only.is_empty() {
        return Ok(());
    }
    std::fs::write(&plan.output, text).with_context(|| plan.output.display().to_string())
}
