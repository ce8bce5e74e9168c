//! Measures verify and reindex, and the cost of rows whose text stays the same, with the whole program.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::time::MissedTickBehavior;
use tokio_postgres::Client;
use walvec_test_qdrant::TestServer;

use crate::Plan;
use crate::embedding::{MODEL, texts};
use crate::program::{Settings, Walvec, command};
use crate::report::megabytes;
use crate::workbench::Workbench;

const VERIFIED: u32 = 200_000;
const REINDEXED: usize = 10_000;
/// The pause between searches: twenty searches a second.
const SEARCH_INTERVAL: Duration = Duration::from_millis(50);
/// How often to ask whether all changes have been applied.
const PAUSE: Duration = Duration::from_millis(20);

/// The results.
struct Operations {
    /// Rows per second of `walvec verify`, start of the program included.
    verify_rate: f64,
    /// Searches during the reindex, and how many of them failed.
    searches: u64,
    failed_searches: u64,
    /// How long the reindex took, in seconds.
    reindex_seconds: f64,
    /// The largest resident set of the program during it, in bytes.
    reindex_rss: u64,
    /// The seconds from the program's start until it follows the stream again, with the rows of the reindex.
    restart_seconds: f64,
    /// How many embeddings were computed after an update of every row that did not change the texts.
    repriced: u64,
    /// How many embeddings were computed for a new snapshot of the unchanged rows.
    again: u64,
}

/// Measures with the engine inside the program, with the Qdrant server for tests, and with a real one if there is one.
pub(crate) async fn measure(plan: &Plan, workbench: &Workbench) -> anyhow::Result<String> {
    let server = TestServer::start()?;
    let mut measured = vec![
        ("the engine inside the program", with(plan, workbench, None).await?),
        ("the Qdrant server for tests", with(plan, workbench, Some(&server.url())).await?),
    ];
    if let Some(url) = &plan.qdrant {
        measured.push(("a real Qdrant server", with(plan, workbench, Some(url)).await?));
    }
    Ok(section(&measured)?)
}

async fn with(plan: &Plan, workbench: &Workbench, qdrant: Option<&str>) -> anyhow::Result<Operations> {
    let verify_rate = verify(plan, workbench, qdrant).await?;
    let mut operations = Operations {
        verify_rate,
        searches: 0,
        failed_searches: 0,
        reindex_seconds: 0.0,
        reindex_rss: 0,
        restart_seconds: 0.0,
        repriced: 0,
        again: 0,
    };
    reindex(plan, workbench, qdrant, &mut operations).await?;
    Ok(operations)
}

async fn verify(plan: &Plan, workbench: &Workbench, qdrant: Option<&str>) -> anyhow::Result<f64> {
    const NAME: &str = "verify";
    let url = workbench.cluster.create_database(NAME).await?;
    let client = workbench.cluster.connect(NAME).await?;
    let table = "CREATE TABLE books (id integer PRIMARY KEY, body text NOT NULL)";
    let rows =
        format!("INSERT INTO books SELECT i, 'a book about ' || md5(i::text) FROM generate_series(1, {VERIFIED}) i");
    client.batch_execute(&format!("{table}; {rows}")).await?;
    let directory = tempfile::tempdir()?;
    // The model does not matter here, and a fast one fills the collection sooner.
    let settings = Settings { qdrant, ..Settings::new(&url, "{{ body }}", "hash/64") };
    if let Some(qdrant) = qdrant {
        settings.purge(qdrant).await?;
    }
    let walvec = Walvec::start(plan, &settings, directory.path()).await?;
    let began = Instant::now();
    let report = run(plan, directory.path(), &["verify", "--json"]).await?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(report["rows"] == VERIFIED && report["missing"] == 0, "verify: {report}");
    walvec.stop().await?;
    client.execute("SELECT pg_drop_replication_slot('walvec')", &[]).await?;
    drop(client);
    workbench.cluster.drop_database(NAME).await?;
    Ok(f64::from(VERIFIED) / seconds)
}

async fn reindex(
    plan: &Plan,
    workbench: &Workbench,
    qdrant: Option<&str>,
    operations: &mut Operations,
) -> anyhow::Result<()> {
    const NAME: &str = "reindex";
    let url = workbench.cluster.create_database(NAME).await?;
    let client = workbench.cluster.connect(NAME).await?;
    let table = "CREATE TABLE books (id integer PRIMARY KEY, body text NOT NULL, price integer NOT NULL DEFAULT 1)";
    client.batch_execute(table).await?;
    let insert = "INSERT INTO books SELECT i, body FROM unnest($1::text[]) WITH ORDINALITY AS t(body, i)";
    client.execute(insert, &[&texts(REINDEXED)?]).await?;
    let directory = tempfile::tempdir()?;
    // The collection is filled with a fast model, and reindexed with a real one.
    let settings = Settings { qdrant, ..Settings::new(&url, "{{ body }}", "hash/64") };
    if let Some(qdrant) = qdrant {
        settings.purge(qdrant).await?;
    }
    let walvec = Walvec::start(plan, &settings, directory.path()).await?;
    let settings = Settings { model: MODEL, ..settings };
    settings.write(directory.path())?;
    let began = Instant::now();
    let mut reindex = Box::pin(run(plan, directory.path(), &["reindex", "--json"]));
    let mut ticks = tokio::time::interval(SEARCH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let report = loop {
        tokio::select! {
            report = &mut reindex => break report?,
            _ = ticks.tick() => {
                operations.searches += 1;
                let answered = walvec.search("a lighthouse keeper who counts the ships", 10).await;
                operations.failed_searches += u64::from(!answered.is_ok_and(|hits| !hits.is_empty()));
            }
        }
    };
    operations.reindex_seconds = began.elapsed().as_secs_f64();
    operations.reindex_rss = walvec.peak_rss()?;
    ensure!(report["rows"] == REINDEXED, "reindex: {report}");
    walvec.stop().await?;
    unchanged(plan, &client, &settings, directory.path(), operations).await?;
    client.execute("SELECT pg_drop_replication_slot('walvec')", &[]).await?;
    drop(client);
    workbench.cluster.drop_database(NAME).await?;
    Ok(())
}

/// Changes all rows but not their texts, then reads all rows again, and counts the embeddings.
async fn unchanged(
    plan: &Plan,
    client: &Client,
    settings: &Settings<'_>,
    directory: &Path,
    operations: &mut Operations,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let walvec = Walvec::start(plan, settings, directory).await?;
    operations.restart_seconds = began.elapsed().as_secs_f64();
    let before = walvec.embeddings().await?;
    client.execute("UPDATE books SET price = 2", &[]).await?;
    walvec.reached(client, PAUSE).await?;
    operations.repriced = walvec.embeddings().await? - before;
    walvec.stop().await?;
    let reset = command(plan, directory, &["reset", "--force"])?.status().await?;
    ensure!(reset.success(), "walvec reset: {reset}");
    let walvec = Walvec::start(plan, settings, directory).await?;
    operations.again = walvec.embeddings().await?;
    let points = walvec.points().await?.len();
    ensure!(points == REINDEXED, "{points} points of {REINDEXED} rows");
    walvec.stop().await
}

async fn run(plan: &Plan, directory: &Path, arguments: &[&str]) -> anyhow::Result<Value> {
    let output = command(plan, directory, arguments)?.output().await?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "walvec {arguments:?} ended with {}: {told}", output.status);
    serde_json::from_slice(&output.stdout).context("its answer")
}

/// Returns the section for BENCHMARKS.md.
fn section(operations: &[(&str, Operations)]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(
        text,
        "## Verify and reindex\n\n`verify` of 200,000 rows, start of the program included; `reindex` of 10,000 rows with another model, while a \
         client\nsearches 20 times a second; after it, the start of the program until it follows the stream again; then embeddings that are \
         computed when the price of every row\nis changed, and for a new snapshot of all of them. Targets: verify ≥ 20,000 rows/s, no failed \
         search, memory ≤ 350 MB, start ≤ 0.5 s,\n0 embeddings.\n\n\
         | points in | verify | reindex | searches meanwhile | failed | peak memory | start | embeddings for other prices | for a new snapshot \
         |\n|---|---|---|---|---|---|---|---|---|"
    )?;
    for (sink, measured) in operations {
        let Operations { verify_rate, searches, failed_searches, reindex_seconds, .. } = measured;
        let Operations { reindex_rss, restart_seconds, repriced, again, .. } = measured;
        writeln!(
            text,
            "| {sink} | {verify_rate:.0} rows/s | {reindex_seconds:.0} s | {searches} | {failed_searches} | {} | {restart_seconds:.2} s | {repriced} | {again} |",
            megabytes(*reindex_rss)
        )?;
    }
    writeln!(text)?;
    Ok(text)
}
