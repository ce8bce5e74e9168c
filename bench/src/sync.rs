//! The whole program: a flood of rows, and single rows, until they can be found.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::process::Command;
use tokio_postgres::Client;
use walvec_model::Lsn;

use crate::Plan;
use crate::child::peak_rss_of;
use crate::embedding::{MODEL, texts};
use crate::report::{median, percentile};
use crate::stage::Stage;

const FLOOD: usize = 2_000;
const SINGLES: usize = 200;
/// How often to ask whether the position has been reached; the error of each latency.
const POLL: Duration = Duration::from_micros(500);
/// The same for the flood, which takes seconds: asking all the time would take a part of the cores that are being measured.
const FLOOD_POLL: Duration = Duration::from_millis(20);

/// Rates in rows per second; latencies in milliseconds; memory in bytes.
pub(crate) struct Sync {
    pub(crate) flood_rate: f64,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) rss: u64,
}

pub(crate) async fn measure(plan: &Plan, stage: &Stage) -> anyhow::Result<Sync> {
    let (mut rates, mut rss, mut latencies) = (Vec::new(), 0, Vec::new());
    for round in 0..plan.rounds {
        let name = format!("sync_{round}");
        let url = stage.cluster.create_database(&name).await?;
        let client = stage.cluster.connect(&name).await?;
        client.batch_execute("CREATE TABLE books (id integer PRIMARY KEY, body text NOT NULL)").await?;
        let directory = tempfile::tempdir()?;
        let walvec = Walvec::start(plan, &url, directory.path()).await?;
        rates.push(flood(&client, &walvec).await?);
        for _ in 0..SINGLES / plan.rounds + 1 {
            latencies.push(single(&client, &walvec).await?);
        }
        rss = rss.max(peak_rss_of(walvec.pid)?);
        walvec.stop().await?;
        client.execute("SELECT pg_drop_replication_slot('walvec')", &[]).await?;
    }
    Ok(Sync {
        flood_rate: median(rates),
        p50: percentile(&mut latencies, 50),
        p95: percentile(&mut latencies, 95),
        p99: percentile(&mut latencies, 99),
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

/// Milliseconds from before the commit until the row can be found.
async fn single(client: &Client, walvec: &Walvec) -> anyhow::Result<f64> {
    let began = Instant::now();
    let update = "INSERT INTO books SELECT max(id) + 1, 'A single row, number ' || max(id) || ', about a lighthouse \
                  keeper who counts the ships that pass on winter nights and writes them down.' FROM books";
    client.execute(update, &[]).await?;
    walvec.reached(client, POLL).await?;
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

/// A running `walvec run`.
struct Walvec {
    child: tokio::process::Child,
    pid: u32,
    address: SocketAddr,
    http: reqwest::Client,
}

impl Walvec {
    async fn start(plan: &Plan, url: &str, directory: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?.with_file_name("walvec");
        let data = directory.join("data");
        let config = directory.join("walvec.yaml");
        std::fs::write(
            &config,
            format!(
                "source: {{ url: \"{url}\" }}\ncollections:\n  - {{ name: books, table: public.books, text: \"{{{{ body }}}}\" }}\n\
                 embedding: {{ model: {MODEL} }}\nsink: {{ embedded: {{ path: {} }} }}\nserver: {{ listen: 127.0.0.1:0 }}\n",
                data.display()
            ),
        )?;
        let child = Command::new(&program)
            .args(["run", "--config"])
            .arg(&config)
            .env("WALVEC_MODELS", plan.models()?)
            .env("WALVEC_LOG", "warn")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} (build it: make build)", program.display()))?;
        let pid = child.id().context("walvec ended")?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let mut walvec = Self { child, pid, address: SocketAddr::from(([127, 0, 0, 1], 0)), http };
        walvec.address = walvec.announced(&data).await?;
        walvec.streaming().await?;
        Ok(walvec)
    }

    async fn announced(&mut self, data: &Path) -> anyhow::Result<SocketAddr> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("walvec ended: {status}");
            }
            if let Ok(text) = std::fs::read(data.join("server.json")) {
                let announcement: Value = serde_json::from_slice(&text)?;
                return Ok(announcement["address"].as_str().context("no address")?.parse()?);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn status(&self) -> anyhow::Result<Value> {
        Ok(self.http.get(format!("http://{}/api/v1/status", self.address)).send().await?.json().await?)
    }

    async fn streaming(&mut self) -> anyhow::Result<()> {
        while self.status().await?["phase"] != "streaming" {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits until everything that is committed now can be found.
    async fn reached(&self, client: &Client, pause: Duration) -> anyhow::Result<()> {
        let now: String = client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?.get(0);
        let now: Lsn = now.parse()?;
        loop {
            let applied: Lsn = self.status().await?["applied_lsn"].as_str().context("no position")?.parse()?;
            if applied >= now {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        Command::new("kill").arg(self.pid.to_string()).status().await?;
        self.child.wait().await?;
        Ok(())
    }
}
