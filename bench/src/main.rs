//! The program that `make bench` runs: it measures walvec against PostgreSQL's own programs in the same run, and writes
//! BENCHMARKS.md.
//!
//! - [`workbench`]: the server, its tables and slots
//! - [`child`]: readers that run as processes of their own, so that their memory can be measured
//! - [`capture`]: the stream against `pg_recvlogical`, the snapshot against `COPY`, and how both grow
//! - [`broker`]: the whole program through a real Kafka: capture, single rows, two workers, a worker that is killed again
//!   and again
//! - [`engine`]: the engine inside the program with many points: index, searches, writes, stop and start, memory
//! - [`embedding`]: tokens per second, against ONNX Runtime on the same model and texts
//! - [`provider`]: a provider with a limit of requests per second
//! - [`program`]: walvec itself, as a child process
//! - [`sync`]: the whole program: a flood of rows, and single rows
//! - [`points`]: points into a Qdrant server, against the official Python client
//! - [`operations`]: verify and reindex
//! - [`tables`]: a thousand tables in one process
//! - [`transaction`]: one transaction over a whole table (`make bench ARGS=scale`)
//! - [`quality`]: how good searches are (`make quality`)
//! - [`stats`]: medians and percentiles
//! - [`report`]: BENCHMARKS.md, of the sections that the parts write

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a program that reports")]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod broker;
mod capture;
mod child;
mod embedding;
mod engine;
mod operations;
mod points;
mod program;
mod provider;
mod quality;
mod report;
mod stats;
mod sync;
mod tables;
mod transaction;
mod workbench;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Parser;

/// Measure walvec and write BENCHMARKS.md.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    plan: Plan,
}

/// Anything but measuring how fast walvec is.
#[derive(clap::Subcommand, Clone)]
enum Command {
    /// Measure how good searches are.
    Quality(quality::Arguments),
    /// Measure what a million points and transactions of a million rows cost, and print it.
    Scale(transaction::Arguments),
    #[command(flatten)]
    Child(child::Child),
}

/// What to measure, and how often.
#[derive(clap::Args, Clone)]
pub(crate) struct Plan {
    /// Rounds of each measurement; medians are reported.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How many texts are embedded.
    #[arg(long, default_value_t = 2_000)]
    texts: usize,
    /// The largest number of rows in the growth measurement.
    #[arg(long, default_value_t = 3_000_000)]
    largest: u64,
    /// Where to write the report of a run that measured everything.
    #[arg(long, default_value = "BENCHMARKS.md")]
    output: PathBuf,
    /// The directory of the models.
    #[arg(long, env = "WALVEC_MODELS")]
    models: Option<PathBuf>,
    /// A real Qdrant server to measure against as well: the address of its gRPC interface.
    #[arg(long, env = "WALVEC_TEST_QDRANT_URL")]
    qdrant: Option<String>,
    /// A Python that has the packages of bench/python/requirements.txt.
    #[arg(long, env = "WALVEC_BENCH_PYTHON")]
    python: Option<PathBuf>,
    /// How many tables the measurement of many tables has.
    #[arg(long, default_value_t = 1_000)]
    tables: u32,
    /// Only these parts, of which `transaction` belongs to `scale` alone; the report is printed and not written.
    #[arg(long, value_delimiter = ',', value_parser = ["capture", "growth", "embedding", "provider", "sync", "points", "operations", "broker", "engine", "tables", "tables-server", "transaction"])]
    only: Vec<String>,
}

impl Plan {
    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == part)
    }

    fn python(&self) -> anyhow::Result<&Path> {
        self.python.as_deref().context("no Python; `make bench` gives one, or see --python")
    }

    fn models(&self) -> anyhow::Result<PathBuf> {
        models(self.models.as_ref())
    }
}

/// The directory of the models: the given one, or where walvec looks for it.
fn models(given: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    let set = std::env::var_os;
    let root = walvec_embed::model_dir::root_from(None, set("XDG_CACHE_HOME"), set("HOME"));
    given.cloned().or(root).context("no home directory; set WALVEC_MODELS")
}

/// The allocator of walvec: the measurements of the engine run in a process of this program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // The HTTP clients use no TLS here, but cannot be created without a cryptography provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.command {
        Some(Command::Quality(arguments)) => runtime.block_on(quality::measure(&arguments)),
        Some(Command::Scale(arguments)) => runtime.block_on(scale(&arguments)),
        Some(Command::Child(child)) => runtime.block_on(child.run()),
        None => runtime.block_on(measure(&arguments.plan)),
    }
}

/// The numbers of points with which the engine is measured: normally, and in `scale`.
const ENGINE_POINTS: u64 = 100_000;
const MANY_POINTS: u64 = 1_000_000;

async fn scale(arguments: &transaction::Arguments) -> anyhow::Result<()> {
    if arguments.plan.wants("engine") {
        eprintln!("==> the engine inside the program, {MANY_POINTS} points");
        println!("{}", engine::measure(MANY_POINTS).await?);
    }
    if arguments.plan.wants("transaction") {
        eprintln!("==> transactions over a whole table");
        transaction::measure(arguments).await?;
    }
    Ok(())
}

async fn measure(plan: &Plan) -> anyhow::Result<()> {
    let mut report = report::Report::default();
    if plan.wants("embedding") {
        eprintln!("==> embedding");
        report.add("embedding", embedding::measure(plan).await?);
    }
    if plan.wants("points") {
        eprintln!("==> points into a Qdrant server");
        report.add("points", points::measure(plan).await?);
    }
    if plan.wants("engine") {
        eprintln!("==> the engine inside the program, {ENGINE_POINTS} points");
        report.add("engine", engine::measure(ENGINE_POINTS).await?);
    }
    let workbench = workbench::Workbench::start().await?;
    on_server(plan, &workbench, &mut report).await?;
    let server = workbench.version();
    workbench.close().await?;
    let text = report.render(plan, &server);
    println!("{text}");
    if !plan.only.is_empty() {
        return Ok(());
    }
    std::fs::write(&plan.output, text).with_context(|| plan.output.display().to_string())
}

/// Measures what needs a PostgreSQL server.
async fn on_server(plan: &Plan, workbench: &workbench::Workbench, report: &mut report::Report) -> anyhow::Result<()> {
    if plan.wants("sync") {
        eprintln!("==> rows until they can be found");
        report.add("sync", sync::measure(plan, workbench).await?);
    }
    if plan.wants("provider") {
        eprintln!("==> a provider at its limit");
        report.add("provider", provider::measure(plan, workbench).await?);
    }
    if plan.wants("operations") {
        eprintln!("==> verify and reindex");
        report.add("operations", operations::measure(plan, workbench).await?);
    }
    if plan.wants("broker") {
        eprintln!("==> through a broker");
        match walvec_test_kafka::available() {
            Ok(()) => report.add("broker", broker::measure(plan, workbench).await?),
            Err(missing) => eprintln!("    SKIPPED: {missing}"),
        }
    }
    if plan.wants("tables") || plan.wants("tables-server") {
        report.add("tables", tables::measure(plan).await?);
    }
    if plan.wants("capture") {
        eprintln!("==> stream and snapshot against PostgreSQL's own programs");
        report.add("capture", capture::against_postgres(plan, workbench).await?);
    }
    if plan.wants("growth") {
        eprintln!("==> growth");
        report.add("growth", capture::growth(plan, workbench).await?);
    }
    Ok(())
}
