//! walvec itself, as a child process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio_postgres::Client;
use walvec_model::Lsn;
use walvec_sink::qdrant::{Remote, Server};

use crate::Plan;
use crate::child::{memory_of, peak_rss_of};

/// How often to ask whether the position has been reached. It is also the error of each measured latency.
pub(crate) const POLL: Duration = Duration::from_micros(500);

pub(crate) const CONFIGURATION: &str = "walvec.yaml";
const COLLECTION: &str = "books";

/// The settings of a walvec: what it syncs, and how.
#[derive(Clone)]
pub(crate) struct Settings<'a> {
    /// The database, with a table that has a column `body`.
    pub(crate) url: &'a str,
    /// The table, `public.books` by default.
    pub(crate) table: &'a str,
    /// The slot, `walvec` by default.
    pub(crate) slot: &'a str,
    /// The section `broker`.
    pub(crate) broker: Option<Value>,
    /// The template of the text.
    pub(crate) text: &'a str,
    /// The model.
    pub(crate) model: &'a str,
    /// Further keys of the section `embedding`.
    pub(crate) embedding: Option<Value>,
    /// A Qdrant server; without one, the engine inside the program.
    pub(crate) qdrant: Option<&'a str>,
}

impl<'a> Settings<'a> {
    /// Returns settings for the table `public.books`, with points in the engine inside the program.
    pub(crate) const fn new(url: &'a str, text: &'a str, model: &'a str) -> Self {
        Self { url, table: "public.books", slot: "walvec", broker: None, text, model, embedding: None, qdrant: None }
    }

    /// Writes walvec.yaml.
    pub(crate) fn write(&self, directory: &Path) -> anyhow::Result<()> {
        let data = directory.join("data");
        let sink = match self.qdrant {
            Some(url) => json!({"qdrant": {"url": url, "state": data}}),
            None => json!({"embedded": {"path": data}}),
        };
        let mut config = json!({
            "source": {"url": self.url, "slot": self.slot},
            "collections": [{"name": COLLECTION, "table": self.table, "text": self.text}],
            "embedding": self.embedding.clone().unwrap_or_else(|| json!({})),
            "sink": sink,
            "server": {"listen": "127.0.0.1:0"},
        });
        config["embedding"]["model"] = json!(self.model);
        if let Some(broker) = &self.broker {
            config["broker"] = broker.clone();
        }
        // JSON is YAML.
        Ok(std::fs::write(directory.join(CONFIGURATION), format!("{config:#}"))?)
    }

    /// Removes the collections that an earlier run has left on a server.
    pub(crate) async fn purge(&self, qdrant: &str) -> anyhow::Result<()> {
        Remote::purge(Server::at(qdrant), COLLECTION).await?;
        Ok(())
    }
}

/// Returns a command of walvec that runs in the directory of walvec.yaml.
pub(crate) fn command(plan: &Plan, directory: &Path, arguments: &[&str]) -> anyhow::Result<Command> {
    let program = std::env::current_exe()?.with_file_name("walvec");
    let mut command = Command::new(&program);
    command
        .args(arguments)
        .current_dir(directory)
        .env("WALVEC_MODELS", plan.models()?)
        .env("WALVEC_LOG", "warn")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    Ok(command)
}

/// A running `walvec run`.
pub(crate) struct Walvec {
    child: tokio::process::Child,
    pid: u32,
    address: SocketAddr,
    http: reqwest::Client,
}

impl Walvec {
    pub(crate) async fn start(plan: &Plan, settings: &Settings<'_>, directory: &Path) -> anyhow::Result<Self> {
        Self::start_with(plan, settings, directory, &["run"], &directory.join("data")).await
    }

    /// Starts one stage as a process of its own.
    pub(crate) async fn start_stage(
        plan: &Plan,
        settings: &Settings<'_>,
        directory: &Path,
        stage: &str,
        instance: &str,
    ) -> anyhow::Result<Self> {
        let arguments = ["run", "--stage", stage, "--instance", instance];
        let data = directory.join("data");
        let home = match (stage, settings.qdrant) {
            ("capture", _) => data.join("capture"),
            (_, Some(_)) => data.join(format!("{stage}-{instance}")),
            (_, None) => data,
        };
        // A killed process leaves a file that names an address at which no process answers.
        let _ = std::fs::remove_file(home.join("server.json"));
        Self::start_with(plan, settings, directory, &arguments, &home).await
    }

    async fn start_with(
        plan: &Plan,
        settings: &Settings<'_>,
        directory: &Path,
        arguments: &[&str],
        data: &Path,
    ) -> anyhow::Result<Self> {
        settings.write(directory)?;
        Self::spawn(plan, directory, arguments, data).await
    }

    /// Starts `walvec <arguments>` with the walvec.yaml that is there, and waits until it follows the stream.
    pub(crate) async fn spawn(plan: &Plan, directory: &Path, arguments: &[&str], data: &Path) -> anyhow::Result<Self> {
        let child =
            command(plan, directory, arguments)?.spawn().context("walvec cannot be started; build it: make build")?;
        let pid = child.id().context("walvec ended")?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let mut walvec = Self { child, pid, address: SocketAddr::from(([127, 0, 0, 1], 0)), http };
        walvec.address = walvec.announced(data).await?;
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

    pub(crate) async fn status(&self) -> anyhow::Result<Value> {
        Ok(self.http.get(format!("http://{}/api/v1/status", self.address)).send().await?.json().await?)
    }

    async fn streaming(&mut self) -> anyhow::Result<()> {
        // The program announces its address before it answers requests.
        while !self.status().await.is_ok_and(|status| status["phase"] == "streaming") {
            if let Some(status) = self.child.try_wait()? {
                bail!("walvec ended: {status}");
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Returns the program's largest resident set so far, in bytes.
    pub(crate) fn peak_rss(&self) -> anyhow::Result<u64> {
        peak_rss_of(self.pid)
    }

    /// Returns the program's present anonymous memory, without the files that it has mapped, in bytes.
    pub(crate) fn anonymous_memory(&self) -> anyhow::Result<u64> {
        memory_of(self.pid, "RssAnon:")
    }

    /// Returns the id of the program's process.
    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns how many embeddings the program has computed since its start.
    pub(crate) async fn embeddings(&self) -> anyhow::Result<u64> {
        self.status().await?["collections"][0]["embeddings_computed"].as_u64().context("no count of embeddings")
    }

    /// Returns how many hits a search has; fails if it is not answered.
    pub(crate) async fn search(&self, text: &str) -> anyhow::Result<usize> {
        let url = reqwest::Url::parse_with_params(&format!("http://{}/api/v1/search", self.address), [("q", text)])?;
        let answer: Value = self.http.get(url).send().await?.error_for_status()?.json().await?;
        Ok(answer["hits"].as_array().map_or(0, Vec::len))
    }

    /// Waits until everything that is committed now can be found.
    pub(crate) async fn reached(&self, client: &Client, pause: Duration) -> anyhow::Result<()> {
        self.reached_after(client, Duration::ZERO, pause).await
    }

    /// Waits until everything that is committed now can be found, and sends no request before `quiet` has passed.
    pub(crate) async fn reached_after(&self, client: &Client, quiet: Duration, pause: Duration) -> anyhow::Result<()> {
        let now: String = client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?.get(0);
        let now: Lsn = now.parse()?;
        tokio::time::sleep(quiet).await;
        loop {
            // Null before the first snapshot is complete.
            let applied: Lsn = self.status().await?["applied_lsn"].as_str().unwrap_or("0/0").parse()?;
            if applied >= now {
                return Ok(());
            }
            // The runtime's timer knows whole milliseconds only, which are a part of what is measured.
            tokio::task::spawn_blocking(move || std::thread::sleep(pause)).await?;
        }
    }

    /// Returns whether the collection has the point with this id.
    pub(crate) async fn has(&self, id: u64) -> anyhow::Result<bool> {
        Ok(self.page(Some(id), 1).await?.first().is_some_and(|(found, _)| *found == id))
    }

    /// Returns the texts of all points, by id.
    pub(crate) async fn points(&self) -> anyhow::Result<BTreeMap<u64, String>> {
        let mut all = BTreeMap::new();
        let mut from = None;
        loop {
            let page = self.page(from, 1000).await?;
            let is_last = page.len() < 1000;
            all.extend(page);
            from = all.last_key_value().map(|(id, _)| id + 1);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// Returns whether the collection of this name has the point with this id.
    pub(crate) async fn has_in(&self, collection: &str, id: u64) -> anyhow::Result<bool> {
        let query = [("collection", collection.to_owned()), ("limit", "1".to_owned()), ("from", id.to_string())];
        let url = reqwest::Url::parse_with_params(&format!("http://{}/api/v1/points", self.address), query)?;
        let page: Value = self.http.get(url).send().await?.error_for_status()?.json().await?;
        Ok(page["points"][0]["id"] == id)
    }

    async fn page(&self, from: Option<u64>, limit: u32) -> anyhow::Result<Vec<(u64, String)>> {
        let mut query = vec![("collection", COLLECTION.to_owned()), ("limit", limit.to_string())];
        query.extend(from.map(|from| ("from", from.to_string())));
        let url = reqwest::Url::parse_with_params(&format!("http://{}/api/v1/points", self.address), query)?;
        let page: Value = self.http.get(url).send().await?.error_for_status()?.json().await?;
        let points = page["points"].as_array().context("no points")?;
        let point = |point: &Value| {
            let id = point["id"].as_u64().context("an id that is no number")?;
            Ok((id, point["payload"]["body"].as_str().unwrap_or_default().to_owned()))
        };
        points.iter().map(point).collect()
    }

    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        Command::new("kill").arg(self.pid.to_string()).status().await?;
        self.child.wait().await?;
        Ok(())
    }
}
