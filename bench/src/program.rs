//! walvec itself, as a child process.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio_postgres::Client;
use walvec_model::Lsn;
use walvec_pipeline::observe::status::Phase;
use walvec_sink::qdrant::{Remote, Server};
use walvec_test_program::wait::Pauses;
use walvec_test_program::{CONFIGURATION, Start, memory, stage_directory, wal_position};

use crate::Plan;

/// How often to ask whether the position has been reached. It is also the error of each measured latency.
pub(crate) const POLL: Duration = Duration::from_micros(500);

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

/// Returns the variables with which walvec runs here.
fn variables(models: &Path) -> anyhow::Result<[(&'static str, &str); 2]> {
    Ok([("WALVEC_MODELS", models.to_str().context("a directory with a plain name")?), ("WALVEC_LOG", "warn")])
}

/// Returns a command of walvec that runs in the directory of walvec.yaml.
pub(crate) fn command(plan: &Plan, directory: &Path, arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = walvec_test_program::command(directory, arguments)?;
    command.envs(variables(&plan.models()?)?);
    Ok(command)
}

/// A running `walvec run`.
pub(crate) struct Walvec(walvec_test_program::Walvec);

impl Deref for Walvec {
    type Target = walvec_test_program::Walvec;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Walvec {
    /// Writes walvec.yaml, starts the program, and waits until it follows the stream.
    pub(crate) async fn start(plan: &Plan, settings: &Settings<'_>, directory: &Path) -> anyhow::Result<Self> {
        settings.write(directory)?;
        Self::spawn(plan, directory, &["run"], &directory.join("data")).await
    }

    /// Starts one stage as a process of its own.
    pub(crate) async fn start_stage(
        plan: &Plan,
        settings: &Settings<'_>,
        directory: &Path,
        stage: &str,
        instance: &str,
    ) -> anyhow::Result<Self> {
        settings.write(directory)?;
        let state = stage_directory(&directory.join("data"), stage, instance, settings.qdrant.is_some());
        Self::spawn(plan, directory, &["run", "--stage", stage, "--instance", instance], &state).await
    }

    /// Starts `walvec <arguments>` with the walvec.yaml that is there, and waits until it follows the stream.
    pub(crate) async fn spawn(plan: &Plan, directory: &Path, arguments: &[&str], state: &Path) -> anyhow::Result<Self> {
        let (models, pauses) = (plan.models()?, Pauses::of(POLL));
        let start = Start { directory, arguments, state, variables: &variables(&models)?, pauses };
        let mut walvec = walvec_test_program::Walvec::start(&start).await?;
        // The program announces its address before it answers requests.
        while !walvec.status().await.is_ok_and(|status| status.phase == Phase::Streaming) {
            walvec.is_alive()?;
            tokio::time::sleep(POLL).await;
        }
        Ok(Self(walvec))
    }

    /// Returns the program's largest resident set so far, in bytes.
    pub(crate) fn peak_rss(&self) -> anyhow::Result<u64> {
        memory(self.pid(), "VmHWM")
    }

    /// Returns how many embeddings the program has computed since its start.
    pub(crate) async fn embeddings(&self) -> anyhow::Result<u64> {
        Ok(self.status().await?.collections.first().context("no collection")?.embeddings_computed)
    }

    /// Waits until everything that is committed now can be found.
    pub(crate) async fn reached(&self, client: &Client, pause: Duration) -> anyhow::Result<()> {
        self.reached_after(client, Duration::ZERO, pause).await
    }

    /// Waits until everything that is committed now can be found, and sends no request before `quiet` has passed.
    pub(crate) async fn reached_after(&self, client: &Client, quiet: Duration, pause: Duration) -> anyhow::Result<()> {
        let now = wal_position(client).await?;
        tokio::time::sleep(quiet).await;
        self.applied(now, pause).await
    }

    /// Waits until everything before a position can be found.
    pub(crate) async fn applied(&self, position: Lsn, pause: Duration) -> anyhow::Result<()> {
        while self.status().await?.applied_lsn < position {
            // The runtime's timer knows whole milliseconds only, which are a part of what is measured.
            tokio::task::spawn_blocking(move || std::thread::sleep(pause)).await?;
        }
        Ok(())
    }

    /// Returns whether the collection has the point with this id.
    pub(crate) async fn has(&self, id: u64) -> anyhow::Result<bool> {
        self.has_in(COLLECTION, id).await
    }

    /// Returns whether the collection of this name has the point with this id.
    pub(crate) async fn has_in(&self, collection: &str, id: u64) -> anyhow::Result<bool> {
        let page = self.page(collection, Some(id), 1).await?;
        Ok(page.first().is_some_and(|(found, _)| *found == id))
    }

    /// Returns the texts of all points, by id.
    pub(crate) async fn points(&self) -> anyhow::Result<BTreeMap<u64, String>> {
        let mut all = BTreeMap::new();
        let mut from = None;
        loop {
            let page = self.page(COLLECTION, from, 1000).await?;
            let is_last = page.len() < 1000;
            all.extend(page);
            from = all.last_key_value().map(|(id, _)| id + 1);
            if is_last {
                return Ok(all);
            }
        }
    }

    async fn page(&self, collection: &str, from: Option<u64>, limit: u32) -> anyhow::Result<Vec<(u64, String)>> {
        let (limit, from) = (limit.to_string(), from.map(|from| from.to_string()));
        let mut query = vec![("collection", collection), ("limit", &limit)];
        query.extend(from.as_deref().map(|from| ("from", from)));
        let page: Value = self.get_json("/api/v1/points", &query).await?;
        let points = page["points"].as_array().context("no points")?;
        let point = |point: &Value| {
            let id = point["id"].as_u64().context("an id that is no number")?;
            Ok((id, point["payload"]["body"].as_str().unwrap_or_default().to_owned()))
        };
        points.iter().map(point).collect()
    }

    pub(crate) async fn kill(self) -> anyhow::Result<()> {
        self.0.kill().await
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.0.stop().await
    }
}
