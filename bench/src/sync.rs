//! Measures the whole program: the time until many rows inserted at once, and single rows, can be found.
//!
//! A single row takes as long as the embedding of its text, plus the time of the other steps. Machines differ in how fast they embed.
//! So the same text is embedded as a query before, by the same model in this process: the rest of the time is walvec's. Both come after
//! the same rest, because a processor that has just embedded something needs only two thirds of the time.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use walvec_embed::{Embedder, Options};

use crate::Plan;
use crate::embedding::{MODEL, texts};
use crate::program::{POLL, Settings, Walvec};
use crate::report::megabytes;
use crate::stats::{median, milliseconds, percentile};
use crate::workbench::Workbench;

const FLOOD: usize = 2_000;
const SINGLES: usize = 200;
/// How often to ask while many rows are synced, which takes seconds: asking all the time would use the cores that are measured.
const FLOOD_POLL: Duration = Duration::from_millis(20);

/// How long the processor rests before a query and before a single row.
const REST: Duration = Duration::from_millis(25);

/// Rates in rows per second; latencies in milliseconds; memory in bytes.
struct Sync {
    flood_rate: f64,
    p50: f64,
    p95: f64,
    p99: f64,
    /// The median latency of embedding the same texts as queries.
    query: f64,
    /// How much longer than that a single row may take at the median.
    allowed: f64,
    rss: u64,
}

/// Measures with the engine inside the program, and with a real Qdrant server if there is one.
pub(crate) async fn measure(plan: &Plan, workbench: &Workbench) -> anyhow::Result<String> {
    let mut text = section("the engine inside the program", &with(plan, workbench, None).await?)?;
    if let Some(url) = &plan.qdrant {
        text.push_str(&section("a real Qdrant server", &with(plan, workbench, Some(url)).await?)?);
    }
    Ok(text)
}

async fn with(plan: &Plan, workbench: &Workbench, qdrant: Option<&str>) -> anyhow::Result<Sync> {
    let (mut rates, mut rss, mut latencies, mut queries) = (Vec::new(), 0, Vec::new(), Vec::new());
    let embedder = walvec_embed::open(MODEL, &plan.models()?, Options::default()).await?;
    for round in 0..plan.rounds {
        let name = format!("sync_{}_{round}", if qdrant.is_some() { "server" } else { "embedded" });
        let url = workbench.cluster.create_database(&name).await?;
        let client = workbench.cluster.connect(&name).await?;
        client.batch_execute("CREATE TABLE books (id integer PRIMARY KEY, body text NOT NULL)").await?;
        let directory = tempfile::tempdir()?;
        let settings = Settings { qdrant, ..Settings::new(&url, "{{ body }}", MODEL) };
        if let Some(qdrant) = qdrant {
            settings.purge(qdrant).await?;
        }
        let walvec = Walvec::start(plan, &settings, directory.path()).await?;
        rates.push(flood(&client, &walvec).await?);
        for number in 0..SINGLES / plan.rounds + 1 {
            let text = format!(
                "A single row, number {number}, about a lighthouse keeper who counts the ships that pass on winter nights and writes \
                 them down."
            );
            let query = query(embedder.as_ref(), &text).await?;
            queries.push(milliseconds(query));
            latencies.push(milliseconds(single(&client, &walvec, &text, query).await?));
        }
        rss = rss.max(walvec.peak_rss()?);
        walvec.stop().await?;
        client.execute("SELECT pg_drop_replication_slot('walvec')", &[]).await?;
    }
    Ok(Sync {
        flood_rate: median(rates),
        p50: percentile(&mut latencies, 50),
        p95: percentile(&mut latencies, 95),
        p99: percentile(&mut latencies, 99),
        query: median(queries),
        allowed: if qdrant.is_some() { 6.0 } else { 8.0 },
        rss,
    })
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
async fn flood(client: &Client, walvec: &Walvec) -> anyhow::Result<f64> {
    let bodies = texts(FLOOD)?;
    let began = Instant::now();
    let insert = "INSERT INTO books SELECT i, body FROM unnest($1::text[]) WITH ORDINALITY AS t(body, i)";
    client.execute(insert, &[&bodies]).await?;
    walvec.reached(client, FLOOD_POLL).await?;
    let rate = FLOOD as f64 / began.elapsed().as_secs_f64();
    Ok(rate)
}

/// Returns how long the embedding of a query takes.
async fn query(embedder: &dyn Embedder, text: &str) -> anyhow::Result<Duration> {
    tokio::time::sleep(REST).await;
    let began = Instant::now();
    embedder.embed_query(text.to_owned()).await?;
    Ok(began.elapsed())
}

/// Returns the time from before the commit until the row can be found. `query`: how long its text takes as a query.
async fn single(client: &Client, walvec: &Walvec, text: &str, query: Duration) -> anyhow::Result<Duration> {
    tokio::time::sleep(REST).await;
    let began = Instant::now();
    client.execute("INSERT INTO books SELECT max(id) + 1, $1::text FROM books", &[&text]).await?;
    // The row cannot be found earlier, and asking would use the cores that are measured.
    walvec.reached_after(client, query.mul_f64(0.75), POLL).await?;
    Ok(began.elapsed())
}

/// Returns the section for BENCHMARKS.md.
fn section(sink: &str, sync: &Sync) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(
        text,
        "## PostgreSQL to searchable, the whole program, points in {sink}\n\n| | measured | target |\n|---|---|---|\n\
         | 2,000 rows inserted at once | {:.0} rows/s | ≥ 100 |\n\
         | single rows, p50 | {:.1} ms | ≤ 25 |\n| single rows, p95 | {:.1} ms | |\n| single rows, p99 | {:.1} ms | ≤ 60 |\n\
         | the same texts embedded as queries, p50 | {:.1} ms | |\n\
         | a single row takes longer than its text as a query, p50 | {:.1} ms | ≤ {:.0} |\n\
         | peak memory | {} | ≤ 300 MB |\n\n\
         A single row counts from before its INSERT until the status reports its position as applied, over HTTP. Its text is embedded \
         as a query before, in another\nprocess. Both come after 25 ms of rest.\n",
        sync.flood_rate,
        sync.p50,
        sync.p95,
        sync.p99,
        sync.query,
        sync.p50 - sync.query,
        sync.allowed,
        megabytes(sync.rss),
    )?;
    Ok(text)
}
