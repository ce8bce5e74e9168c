//! Workers that share partitions, and one that is killed again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_postgres::Client;
use walvec_test_kafka::TestBroker;
use walvec_test_qdrant::TestServer;

use super::{POLL, ThroughBroker, books, kafka, remove, wait_for_points};
use crate::Plan;
use crate::program::{Settings, Walvec};
use crate::stats::milliseconds;
use crate::workbench::Workbench;

const SHARED: u64 = 40_000;

/// A model that waits 50 ms per batch, as a provider on the network would.
const WAITING: &str = "hash/64/wait/50";

/// How long a worker is killed again and again, and how often.
const KILLING: Duration = Duration::from_secs(120);

const KILL_EVERY: Duration = Duration::from_secs(10);

/// Measures rows that are committed at once, indexed by one worker and by two that wait for their embedder.
pub(super) async fn sharing(
    plan: &Plan,
    workbench: &Workbench,
    broker: &TestBroker,
    measured: &mut ThroughBroker,
) -> anyhow::Result<()> {
    measured.one_worker = shared(plan, workbench, broker, 1).await?;
    measured.two_workers = shared(plan, workbench, broker, 2).await?;
    Ok(())
}

/// Returns the rows per second of this many workers, from the commit until all points are stored. The commit comes when
/// everything runs and each worker has its partitions.
#[expect(clippy::cast_precision_loss, reason = "a rate")]
async fn shared(plan: &Plan, workbench: &Workbench, broker: &TestBroker, workers: usize) -> anyhow::Result<f64> {
    let name = format!("broker_sharing_{workers}");
    let (url, client) = books(workbench, &name).await?;
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
    remove(workbench, &name, client).await?;
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
pub(super) async fn killing(
    plan: &Plan,
    workbench: &Workbench,
    broker: &TestBroker,
    measured: &mut ThroughBroker,
) -> anyhow::Result<()> {
    const NAME: &str = "broker_killing";
    let (url, client) = books(workbench, NAME).await?;
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
    let load = tokio::spawn(change(workbench.cluster.connect(NAME).await?));
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
        measured.recovery = measured.recovery.max(milliseconds(killed.elapsed()));
        tokio::time::sleep_until(next_kill.into()).await;
    }
    load.abort();
    measured.mismatches = settled(&client, &steady).await?;
    for walvec in [victim, steady, capture] {
        walvec.stop().await?;
    }
    remove(workbench, NAME, client).await
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
