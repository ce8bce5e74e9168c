//! Measures the path through a broker, a real Kafka on the same cores.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio_postgres::Client;
use walvec_model::Lsn;
use walvec_test_kafka::{Options, TestBroker};
use walvec_test_qdrant::TestServer;

use crate::Plan;
use crate::child;
use crate::embedding::MODEL;
use crate::program::{Settings, Walvec};
use crate::report::{median, percentile};
use crate::stage::{Database, Stage};

const CAPTURED: u64 = 300_000;
const SINGLES: u32 = 200;
const SHARED: u64 = 40_000;
/// A model that waits 50 ms per batch, as a provider on the network would.
const WAITING: &str = "hash/64/wait/50";
/// How long a worker is killed again and again, and how often.
const KILLING: Duration = Duration::from_secs(120);
const KILL_EVERY: Duration = Duration::from_secs(10);
/// How often a status is asked for while something takes seconds.
const POLL: Duration = Duration::from_millis(20);
/// How often a row that was just committed is searched for.
const FINE_POLL: Duration = Duration::from_millis(1);
/// The time without a heartbeat, in milliseconds, after which the broker gives a worker's partitions to others. Kafka's
/// default is 45 s.
const SESSION_MS: u32 = 6_000;

/// The results. Rates in rows per second, times in milliseconds.
#[derive(Default)]
pub(crate) struct ThroughBroker {
    /// The rates of the stream into nothing, of the stream into the broker, and of the Debezium engine to its caller.
    pub(crate) nothing: f64,
    pub(crate) kafka: f64,
    pub(crate) debezium: f64,
    pub(crate) to_nothing: f64,
    pub(crate) to_debezium: f64,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) one_worker: f64,
    pub(crate) two_workers: f64,
    pub(crate) kills: usize,
    pub(crate) mismatches: usize,
    /// The longest time from a kill until a row that was committed after it can be found.
    pub(crate) recovery: f64,
}

pub(crate) async fn measure(plan: &Plan, stage: &Stage) -> anyhow::Result<ThroughBroker> {
    let options = Options { group_session_timeout_ms: Some(SESSION_MS), ..Options::default() };
    let broker = TestBroker::start(options).await?;
    let mut measured = ThroughBroker::default();
    capture(plan, stage, &broker, &mut measured).await?;
    singles(plan, stage, &broker, &mut measured).await?;
    sharing(plan, stage, &broker, &mut measured).await?;
    killing(plan, stage, &broker, &mut measured).await?;
    broker.stop().await?;
    Ok(measured)
}

fn kafka(broker: &TestBroker, prefix: &str) -> Value {
    json!({"kafka": {"bootstrap": broker.bootstrap(), "topic_prefix": prefix, "group": prefix}})
}

/// Measures how fast each reader reads the same backlog of changes, from a slot of its own.
#[expect(clippy::cast_precision_loss, reason = "a rate")]
async fn capture(plan: &Plan, stage: &Stage, broker: &TestBroker, measured: &mut ThroughBroker) -> anyhow::Result<()> {
    let database = stage.database("published").await?;
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
    let ratio = |ours: &[f64], theirs: &[f64]| median(ours.iter().zip(theirs).map(|(a, b)| a / b).collect());
    measured.to_nothing = ratio(&kafkas, &nothing);
    measured.to_debezium = ratio(&kafkas, &debezium);
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
async fn books(stage: &Stage, name: &str) -> anyhow::Result<(String, Client)> {
    let url = stage.cluster.create_database(name).await?;
    let client = stage.cluster.connect(name).await?;
    client.batch_execute("CREATE TABLE books (id integer PRIMARY KEY, body text NOT NULL)").await?;
    Ok((url, client))
}

async fn remove(stage: &Stage, name: &str, client: Client) -> anyhow::Result<()> {
    client
        .query(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()",
            &[],
        )
        .await?;
    drop(client);
    Ok(stage.cluster.drop_database(name).await?)
}

/// Measures single rows, with capture and one worker as processes of their own, and a real model.
async fn singles(plan: &Plan, stage: &Stage, broker: &TestBroker, measured: &mut ThroughBroker) -> anyhow::Result<()> {
    const NAME: &str = "broker_singles";
    let (url, client) = books(stage, NAME).await?;
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
        latencies.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    measured.p50 = percentile(&mut latencies, 50);
    measured.p95 = percentile(&mut latencies, 95);
    measured.p99 = percentile(&mut latencies, 99);
    index.stop().await?;
    capture.stop().await?;
    remove(stage, NAME, client).await
}

async fn wait_for_points(walvec: &Walvec, points: u64) -> anyhow::Result<()> {
    while walvec.status().await?.collections.first().and_then(|collection| collection.points) < Some(points) {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Measures rows that are committed at once, indexed by one worker and by two that wait for their embedder.
async fn sharing(plan: &Plan, stage: &Stage, broker: &TestBroker, measured: &mut ThroughBroker) -> anyhow::Result<()> {
    measured.one_worker = shared(plan, stage, broker, 1).await?;
    measured.two_workers = shared(plan, stage, broker, 2).await?;
    Ok(())
}

/// Returns the rows per second of this many workers, from the commit until all points are stored. The commit comes when
/// everything runs and each worker has its partitions.
#[expect(clippy::cast_precision_loss, reason = "a rate")]
async fn shared(plan: &Plan, stage: &Stage, broker: &TestBroker, workers: usize) -> anyhow::Result<f64> {
    let name = format!("broker_sharing_{workers}");
    let (url, client) = books(stage, &name).await?;
    let (server, directory) = (TestServer::start()?, tempfile::tempdir()?);
    let qdrant = server.url();
    let settings = Settings {
        broker: Some(kafka(broker, &name)),
        qdrant: Some(&qdrant),
        slot: &name,
        ..Settings::new(&url, "{{ body }}", WAITING)
    };
    let capture = Walvec::start_stage(plan, &settings, directory.path(), "capture", "1").await?;
    let mut running = Vec::new();
    for worker in 0..workers {
        running.push(Walvec::start_stage(plan, &settings, directory.path(), "index", &worker.to_string()).await?);
    }
    while !share(&running).await? {
        tokio::time::sleep(POLL).await;
    }
    let rows =
        format!("INSERT INTO books SELECT i, 'a book about ' || md5(i::text) FROM generate_series(1, {SHARED}) i");
    client.batch_execute(&rows).await?;
    let begun = Instant::now();
    wait_for_points(&running[0], SHARED).await?;
    let rate = SHARED as f64 / begun.elapsed().as_secs_f64();
    for walvec in running.into_iter().chain([capture]) {
        walvec.stop().await?;
    }
    remove(stage, &name, client).await?;
    Ok(rate)
}

/// Returns whether all workers have equally many partitions.
async fn share(workers: &[Walvec]) -> anyhow::Result<bool> {
    let mut counts = BTreeSet::new();
    for worker in workers {
        let status: Value = worker.get_json("/api/v1/status", &[]).await?;
        counts.insert(status["broker"]["partitions"].as_array().map_or(0, Vec::len));
    }
    Ok(counts.len() == 1 && !counts.contains(&0))
}

/// Runs two workers while rows change, and kills and restarts one of them every ten seconds.
async fn killing(plan: &Plan, stage: &Stage, broker: &TestBroker, measured: &mut ThroughBroker) -> anyhow::Result<()> {
    const NAME: &str = "broker_killing";
    let (url, client) = books(stage, NAME).await?;
    client
        .batch_execute("INSERT INTO books SELECT i, 'a book about ' || md5(i::text) FROM generate_series(1, 2000) i")
        .await?;
    let server = TestServer::start()?;
    let (qdrant, directory) = (server.url(), tempfile::tempdir()?);
    let settings = Settings {
        broker: Some(kafka(broker, NAME)),
        qdrant: Some(&qdrant),
        ..Settings::new(&url, "{{ body }}", WAITING)
    };
    let capture = Walvec::start_stage(plan, &settings, directory.path(), "capture", "1").await?;
    let steady = Walvec::start_stage(plan, &settings, directory.path(), "index", "steady").await?;
    let mut victim = Walvec::start_stage(plan, &settings, directory.path(), "index", "victim").await?;
    let load = tokio::spawn(change(stage.cluster.connect(NAME).await?));
    let begun = Instant::now();
    let mut probe = 1_000_000;
    while begun.elapsed() < KILLING {
        let next_kill = Instant::now() + KILL_EVERY;
        victim.kill().await?;
        let killed = Instant::now();
        measured.kills += 1;
        // The rows are in all partitions, including those of the killed worker.
        let probes: Vec<i32> = (probe..probe + 24).collect();
        probe += 24;
        client.execute("INSERT INTO books SELECT i, 'a probe ' || i FROM unnest($1::int[]) i", &[&probes]).await?;
        victim = Walvec::start_stage(plan, &settings, directory.path(), "index", "victim").await?;
        for id in probes {
            while !steady.has(u64::try_from(id)?).await? {
                tokio::time::sleep(POLL).await;
            }
        }
        measured.recovery = measured.recovery.max(killed.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep_until(next_kill.into()).await;
    }
    load.abort();
    measured.mismatches = settled(&client, &steady).await?;
    for walvec in [victim, steady, capture] {
        walvec.stop().await?;
    }
    remove(stage, NAME, client).await
}

/// Inserts, updates and deletes rows and changes their keys, until the task is aborted.
async fn change(client: Client) -> anyhow::Result<()> {
    let mut round: i32 = 0;
    loop {
        round += 1;
        let statements = format!(
            "INSERT INTO books SELECT 10000 + {round} * 20 + i, 'new in round {round}, ' || i FROM generate_series(1, 20) i;
             UPDATE books SET body = 'changed in round {round}: ' || md5(body) WHERE id % 97 = {round} % 97 AND id < 1000000;
             DELETE FROM books WHERE id BETWEEN 10000 + ({round} - 30) * 20 AND 10000 + ({round} - 30) * 20 + 10;
             UPDATE books SET id = 500000 + id WHERE id = 10000 + ({round} - 5) * 20 + 15"
        );
        client.batch_execute(&statements).await?;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Waits until the collection equals the table, at most a minute, and returns how many points still differ.
async fn settled(client: &Client, walvec: &Walvec) -> anyhow::Result<usize> {
    let rows: BTreeMap<u64, String> = client
        .query("SELECT id, body FROM books", &[])
        .await?
        .iter()
        .map(|row| Ok((u64::try_from(row.get::<_, i32>(0))?, row.get(1))))
        .collect::<anyhow::Result<_>>()?;
    let patience = Instant::now();
    loop {
        let points = walvec.points().await?;
        let ids: BTreeSet<&u64> = rows.keys().chain(points.keys()).collect();
        let differing = ids.into_iter().filter(|id| rows.get(id) != points.get(id)).count();
        if differing == 0 || patience.elapsed() > Duration::from_secs(60) {
            return Ok(differing);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
