//! Measures the path through a broker, a real Kafka on the same cores.
//!
//! - [`workers`]: several workers, and one that is killed
//! - this file: capture and single rows

mod workers;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio_postgres::Client;
use walvec_model::Lsn;
use walvec_test_kafka::{Options, TestBroker};

use self::workers::{killing, sharing};
use crate::Plan;
use crate::child;
use crate::embedding::MODEL;
use crate::program::{Settings, Walvec};
use crate::stats::{median, median_ratio, milliseconds, percentile};
use crate::workbench::{Database, Workbench};

const CAPTURED: u64 = 300_000;
const SINGLES: u32 = 200;
/// How often a status is asked for while something takes seconds.
const POLL: Duration = Duration::from_millis(20);
/// How often a row that was just committed is searched for.
const FINE_POLL: Duration = Duration::from_millis(1);
/// The time without a heartbeat, in milliseconds, after which the broker gives a worker's partitions to others. Kafka's
/// default is 45 s.
const SESSION_MS: u32 = 6_000;

/// The results. Rates in rows per second, times in milliseconds.
#[derive(Default)]
struct ThroughBroker {
    /// The rates of the stream into nothing, of the stream into the broker, and of the Debezium engine to its caller.
    nothing: f64,
    kafka: f64,
    debezium: f64,
    to_nothing: f64,
    to_debezium: f64,
    p50: f64,
    p95: f64,
    p99: f64,
    one_worker: f64,
    two_workers: f64,
    kills: usize,
    mismatches: usize,
    /// The longest time from a kill until a row that was committed after it can be found.
    recovery: f64,
}

pub(crate) async fn measure(plan: &Plan, workbench: &Workbench) -> anyhow::Result<String> {
    let options = Options { group_session_timeout_ms: Some(SESSION_MS), ..Options::default() };
    let broker = TestBroker::start(options).await?;
    let mut measured = ThroughBroker::default();
    capture(plan, workbench, &broker, &mut measured).await?;
    singles(plan, workbench, &broker, &mut measured).await?;
    sharing(plan, workbench, &broker, &mut measured).await?;
    killing(plan, workbench, &broker, &mut measured).await?;
    broker.stop().await?;
    Ok(section(&measured)?)
}

fn kafka(broker: &TestBroker, prefix: &str) -> Value {
    json!({"kafka": {"bootstrap": broker.bootstrap(), "topic_prefix": prefix, "group": prefix}})
}

/// Measures how fast each reader reads the same backlog of changes, from a slot of its own.
#[expect(clippy::cast_precision_loss, reason = "a rate")]
async fn capture(
    plan: &Plan,
    workbench: &Workbench,
    broker: &TestBroker,
    measured: &mut ThroughBroker,
) -> anyhow::Result<()> {
    let database = workbench.database("published").await?;
    let directory = tempfile::tempdir()?;
    let (mut nothing, mut kafkas, mut debezium) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        let prefix = format!("capture{round}");
        let home = directory.path().join(&prefix);
        std::fs::create_dir(&home)?;
        let settings = Settings {
            table: "public.bench",
            broker: Some(kafka(broker, &prefix)),
            slot: &prefix,
            ..Settings::new(&database.url, "{{ body }}", "hash/64")
        };
        database.client.batch_execute("TRUNCATE bench").await?;
        // The snapshot of the empty table creates the slot.
        Walvec::start_stage(plan, &settings, &home, "capture", "1").await?.stop().await?;
        let (slot, theirs) = (format!("nothing_{round}"), format!("debezium_{round}"));
        database.create_slot(&slot).await?;
        database.create_slot(&theirs).await?;
        let until = database.insert(CAPTURED, CAPTURED).await?;
        let reading = child::spawn(&["stream", &database.url, &slot, &until]).await?;
        nothing.push(reading.rows_per_second());
        kafkas.push(CAPTURED as f64 / published(plan, &settings, &home, &until).await?);
        debezium.push(engine(&database, &theirs, &home).await?);
    }
    database.drop().await?;
    measured.to_nothing = median_ratio(&kafkas, &nothing);
    measured.to_debezium = median_ratio(&kafkas, &debezium);
    (measured.nothing, measured.kafka, measured.debezium) = (median(nothing), median(kafkas), median(debezium));
    Ok(())
}

/// Returns the seconds from the start of the program until the broker has acknowledged everything before `until`.
async fn published(plan: &Plan, settings: &Settings<'_>, home: &Path, until: &str) -> anyhow::Result<f64> {
    let until: Lsn = until.parse()?;
    let began = Instant::now();
    let walvec = Walvec::start_stage(plan, settings, home, "capture", "1").await?;
    walvec.applied(until, POLL).await?;
    let seconds = began.elapsed().as_secs_f64();
    walvec.stop().await?;
    Ok(seconds)
}

/// Returns the records per second of the Debezium engine into nothing, from its first record to its last.
#[expect(clippy::cast_precision_loss, reason = "a rate")]
async fn engine(database: &Database<'_>, slot: &str, home: &Path) -> anyhow::Result<f64> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/debezium-recorder.sh");
    let count = CAPTURED.to_string();
    let output = tokio::process::Command::new(script)
        .args(["count", "--url", &database.url, "--tables", "public.bench", "--slot", slot, "--publication", "bench"])
        .args(["--state", &home.join("debezium").display().to_string(), "--stop-after", &count])
        .args(["-P", "snapshot.mode=no_data"])
        .stderr(Stdio::null())
        .output()
        .await?;
    ensure!(output.status.success(), "the Debezium engine ended with {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().find(|line| line.starts_with('{')).context("the Debezium engine counted nothing")?;
    let counted: Value = serde_json::from_str(line)?;
    let milliseconds = counted["elapsed_ms"].as_f64().context("no time")?;
    Ok(CAPTURED as f64 * 1000.0 / milliseconds)
}

/// Creates a database with a table of books.
async fn books(workbench: &Workbench, name: &str) -> anyhow::Result<(String, Client)> {
    let url = workbench.cluster.create_database(name).await?;
    let client = workbench.cluster.connect(name).await?;
    client.batch_execute("CREATE TABLE books (id integer PRIMARY KEY, body text NOT NULL)").await?;
    Ok((url, client))
}

async fn remove(workbench: &Workbench, name: &str, client: Client) -> anyhow::Result<()> {
    client
        .query(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()",
            &[],
        )
        .await?;
    drop(client);
    Ok(workbench.cluster.drop_database(name).await?)
}

/// Measures single rows, with capture and one worker as processes of their own, and a real model.
async fn singles(
    plan: &Plan,
    workbench: &Workbench,
    broker: &TestBroker,
    measured: &mut ThroughBroker,
) -> anyhow::Result<()> {
    const NAME: &str = "broker_singles";
    let (url, client) = books(workbench, NAME).await?;
    client.batch_execute("INSERT INTO books VALUES (0, 'a first book')").await?;
    let directory = tempfile::tempdir()?;
    let settings = Settings { broker: Some(kafka(broker, NAME)), ..Settings::new(&url, "{{ body }}", MODEL) };
    let capture = Walvec::start_stage(plan, &settings, directory.path(), "capture", "1").await?;
    let index = Walvec::start_stage(plan, &settings, directory.path(), "index", "1").await?;
    wait_for_points(&index, 1).await?;
    let mut latencies = Vec::new();
    for id in 1..=SINGLES {
        let began = Instant::now();
        let insert = "INSERT INTO books VALUES ($1::int, 'A single row, number ' || $1::int || ', about a lighthouse keeper who \
                      counts the ships that pass on winter nights and writes them down.')";
        client.execute(insert, &[&i32::try_from(id)?]).await?;
        while !index.has(id.into()).await? {
            tokio::time::sleep(FINE_POLL).await;
        }
        latencies.push(milliseconds(began.elapsed()));
    }
    measured.p50 = percentile(&mut latencies, 50);
    measured.p95 = percentile(&mut latencies, 95);
    measured.p99 = percentile(&mut latencies, 99);
    index.stop().await?;
    capture.stop().await?;
    remove(workbench, NAME, client).await
}

async fn wait_for_points(walvec: &Walvec, points: u64) -> anyhow::Result<()> {
    while walvec.status().await?.collections.first().and_then(|collection| collection.points) < Some(points) {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Returns the section for BENCHMARKS.md.
fn section(broker: &ThroughBroker) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(
        text,
        "## Through a broker\n\nApache Kafka 4.3, one node, on the same cores. Capture: 300,000 rows of 250 bytes that wait in the slot, until the \
         broker\nhas acknowledged them, start of the program included; Debezium's engine gives its JSON to a counter, with no broker behind \
         it.\n\n\
         | | rows/s | ratio | target |\n|---|---|---|---|\n\
         | walvec, into nothing | {:.0} | | |\n\
         | walvec, into Kafka | {:.0} | {:.2} of into nothing | ≥ 0.6 |\n\
         | Debezium 3.6.3 engine, into nothing | {:.0} | walvec into Kafka is {:.2} of it | ≥ 2 |\n\n\
         | | measured | target |\n|---|---|---|\n\
         | commit → searchable, p50 | {:.1} ms | ≤ 50 |\n| p95 | {:.1} ms | |\n| p99 | {:.1} ms | ≤ 150 |\n\
         | one worker, 40,000 rows at once, an embedder that waits 50 ms per batch | {:.0} rows/s | |\n\
         | two workers | {:.0} rows/s, {:.2} × | ≥ 1.8 × |\n\
         | a worker killed {} times in two minutes under load: points that differ | {} | 0 |\n\
         | from a kill until all rows of then can be found, the longest | {:.1} s | ≤ 10 |\n",
        broker.nothing,
        broker.kafka,
        broker.to_nothing,
        broker.debezium,
        broker.to_debezium,
        broker.p50,
        broker.p95,
        broker.p99,
        broker.one_worker,
        broker.two_workers,
        broker.two_workers / broker.one_worker,
        broker.kills,
        broker.mismatches,
        broker.recovery / 1000.0,
    )?;
    Ok(text)
}
