//! A running `walvec run`.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::process::Child;
use tokio_postgres::Client;
use walvec_model::Lsn;
use walvec_pipeline::observe::status::{CollectionStatus, Phase, Status};

use crate::command::{command, last_words};
use crate::memory::memory;
use crate::wait::{self, Pauses};

/// How long one answer of the API may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// The content of `server.json`, which `walvec run` leaves in its data directory.
#[derive(Deserialize)]
struct Announcement {
    address: SocketAddr,
    pid: u32,
}

/// A running `walvec run`. Killed when dropped.
#[derive(Debug)]
pub struct Walvec {
    process: Child,
    pid: Pid,
    address: SocketAddr,
    http: reqwest::Client,
    log: PathBuf,
}

/// How to start a `walvec run`.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The directory of walvec.yaml and of the logs.
    pub directory: &'a Path,
    /// The arguments of the program.
    pub arguments: &'a [&'a str],
    /// Where these arguments make it keep its state.
    pub state: &'a Path,
    /// Environment variables.
    pub variables: &'a [(&'a str, &'a str)],
    /// How often to ask whether it has begun to serve.
    pub pauses: Pauses,
}

impl Walvec {
    /// Starts the program and waits until it has announced its address.
    ///
    /// # Errors
    /// If the program ends instead; the error has its log.
    pub async fn start(start: &Start<'_>) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let log = start.directory.join(format!("walvec-{:03}.log", NEXT.fetch_add(1, Ordering::Relaxed)));
        let output = File::create(&log)?;
        let mut command = command(start.directory, start.arguments)?;
        command.envs(start.variables.iter().copied());
        let mut process = command.stdout(output.try_clone()?).stderr(output).spawn()?;
        let id = process.id().context("the program has no process id")?;
        let pid = Pid::from_raw(i32::try_from(id)?).context("the program's process id is 0")?;
        let address = wait::until_with(start.pauses, "walvec told its address", async || {
            ended(&mut process, &log)?;
            // The file of an earlier process may still be there.
            let text = fs::read(start.state.join("server.json")).unwrap_or_default();
            let announcement = serde_json::from_slice::<Announcement>(&text).ok();
            Ok(announcement.filter(|found| found.pid == id).map(|found| found.address))
        })
        .await?;
        // No server here speaks TLS, and reading the system's certificates takes longer than most tests' requests.
        let http = reqwest::Client::builder().timeout(REQUEST_LIMIT).no_proxy().tls_certs_only([]).build()?;
        Ok(Self { process, pid, address, http, log })
    }

    /// Returns the address at which the program serves.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a GET of `path`, e.g. `/metrics`, and returns the response with any status.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<reqwest::Response> {
        let mut url = reqwest::Url::parse(&format!("http://{}{path}", self.address))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(self.http.get(url).send().await?)
    }

    /// Returns the JSON that the program answers to a GET.
    ///
    /// # Errors
    /// If the program does not answer, or not with such JSON.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T> {
        let response = self.get(path, query).await?;
        let (status, text) = (response.status(), response.text().await?);
        if !status.is_success() {
            bail!("GET {path}: {status}: {text}");
        }
        serde_json::from_str(&text).with_context(|| format!("GET {path}: {text}"))
    }

    /// Returns the status that the pipeline reports.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn status(&self) -> Result<Status> {
        self.get_json("/api/v1/status", &[]).await
    }

    /// Returns the hits of a search, best first, as the API answers them.
    ///
    /// # Errors
    /// If there is no answer, or an error.
    pub async fn search(&self, text: &str, limit: usize) -> Result<Vec<Value>> {
        let limit = limit.to_string();
        let mut answer: Value = self.get_json("/api/v1/search", &[("q", text), ("limit", &limit)]).await?;
        match answer["hits"].take() {
            Value::Array(hits) => Ok(hits),
            other => bail!("a search answered {other} as its hits"),
        }
    }

    /// Waits until the status is as `wanted`.
    ///
    /// # Errors
    /// If the program ends, or [`wait::LIMIT`] passes; the error has the last status.
    pub async fn wait_for(&mut self, what: &str, wanted: impl Fn(&Status) -> bool) -> Result<Status> {
        let mut last = None;
        let waited = wait::until(what, async || {
            ended(&mut self.process, &self.log)?;
            // While the program shuts down or is held up, it does not answer.
            let Ok(status) = self.status().await else { return Ok(None) };
            let done = wanted(&status);
            last = Some(status.clone());
            Ok(done.then_some(status))
        });
        waited.await.map_err(|error| anyhow!("{error:#}; the last status was {last:?}"))
    }

    /// Waits until the answer to a GET of `path`, with any status, is as `wanted`.
    ///
    /// # Errors
    /// If the program ends, or [`wait::LIMIT`] passes.
    pub async fn wait_for_answer(&mut self, what: &str, path: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        wait::until(what, async || {
            ended(&mut self.process, &self.log)?;
            let Ok(response) = self.get(path, &[]).await else { return Ok(None) };
            Ok(wanted(&response.text().await?).then_some(()))
        })
        .await
    }

    /// Waits until everything that is committed on this server now can be found.
    ///
    /// # Errors
    /// If the program ends, or [`wait::LIMIT`] passes; the error has the last status.
    pub async fn caught_up(&mut self, server: &impl AsRef<Client>) -> Result<Status> {
        let position = wal_position(server.as_ref()).await?;
        let is_read = |collection: &CollectionStatus| collection.read_again.is_none();
        let caught_up = |status: &Status| {
            status.phase == Phase::Streaming && status.applied_lsn >= position && status.collections.iter().all(is_read)
        };
        self.wait_for(&format!("everything up to {position} can be found"), caught_up).await
    }

    /// Fails if the program has ended.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn is_alive(&mut self) -> Result<()> {
        ended(&mut self.process, &self.log)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If the program has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid, signal)?)
    }

    /// Returns the id of the program's process.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Returns the program's anonymous memory in bytes: what it holds itself, without the files that it has mapped.
    ///
    /// # Errors
    /// If the program has ended.
    pub fn anonymous_memory(&self) -> Result<u64> {
        memory(self.pid(), "RssAnon")
    }

    /// Kills the program (SIGKILL), without a shutdown.
    ///
    /// # Errors
    /// If it has ended already.
    pub async fn kill(mut self) -> Result<()> {
        ended(&mut self.process, &self.log)?;
        Ok(self.process.kill().await?)
    }

    /// Asks the program to stop (SIGTERM), waits until it ends, and checks that it ended in order.
    ///
    /// # Errors
    /// If it ended before, or in another way than with exit code 0.
    pub async fn stop(mut self) -> Result<()> {
        ended(&mut self.process, &self.log)?;
        self.signal(Signal::TERM)?;
        let log = self.log.clone();
        let status = self.end().await?;
        if !status.success() {
            bail!("asked to stop, walvec ended with {status}: {}", last_words(&log)?);
        }
        Ok(())
    }

    /// Waits until the program ends.
    ///
    /// # Errors
    /// If [`wait::LIMIT`] passes.
    pub async fn end(mut self) -> Result<ExitStatus> {
        let ended = tokio::time::timeout(wait::LIMIT, self.process.wait()).await;
        Ok(ended.context("waited in vain for the program's end")??)
    }

    /// Waits until the program ends by itself with this exit code, and returns the end of its log.
    ///
    /// # Errors
    /// If [`wait::LIMIT`] passes, or it ends in another way.
    pub async fn fails_with(self, code: i32) -> Result<String> {
        let log = self.log.clone();
        let status = self.end().await?;
        let words = last_words(&log)?;
        if status.code() != Some(code) {
            bail!("walvec ended with {status} instead of {code}: {words}");
        }
        Ok(words)
    }

    /// Returns the path of the file with everything that the program has printed.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }
}

/// Fails if the program has ended.
fn ended(process: &mut Child, log: &Path) -> Result<()> {
    if let Some(status) = process.try_wait()? {
        bail!("walvec ended with {status}: {}", last_words(log)?);
    }
    Ok(())
}

/// Returns the WAL position that is safe on the server's disk: everything committed so far lies before it.
///
/// It is not the insert position: at the start of a page that position is after the page's header, where no commit ends.
///
/// # Errors
/// If the server does not answer.
pub async fn wal_position(sql: &Client) -> Result<Lsn> {
    let row = sql.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?;
    Ok(row.get::<_, String>(0).parse()?)
}
