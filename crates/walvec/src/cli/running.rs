//! Talking to a walvec that is already running on the same data directory.
//!
//! The embedded engine belongs to one process. A running `walvec run` leaves its address in `server.json` beside the
//! data, so that `search` and `status` can ask it instead.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Failure;
use crate::config::{Config, Stage};
use crate::http::tasks::KEY_HEADER;
use crate::remembered::write_private;

/// How long a running instance may take to accept a connection before it counts as gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The code of the error that says that a running instance lets in only whom it knows.
const E_TOKEN: &str = "E_TOKEN";

/// The code of the error that says that a running instance does one task at a time.
pub(crate) const E_TASK_RUNNING: &str = "E_TASK_RUNNING";

/// The contents of `server.json`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Announcement {
    /// Where the HTTP API is served.
    pub(crate) address: SocketAddr,
    /// The process.
    pub(crate) pid: u32,
    /// What callers show in place of a token, and to change what is stored. The file is for the owner's eyes only.
    pub(crate) key: String,
}

impl Announcement {
    /// What the process of a directory has announced, if there is one. `Err`: it is not for this user to know.
    fn read(directory: &Path) -> Result<Option<Self>, PermissionDenied> {
        match std::fs::read(directory.join("server.json")) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(PermissionDenied),
            read => Ok(read.ok().and_then(|text| serde_json::from_slice(&text).ok())),
        }
    }
}

/// The data directory belongs to another user.
struct PermissionDenied;

/// Tells other processes where this one serves, until dropped.
pub(crate) struct Announced(PathBuf);

impl Announced {
    /// Writes `server.json`, atomically.
    pub(crate) fn write(directory: &Path, address: SocketAddr, key: &str) -> std::io::Result<Self> {
        let path = directory.join("server.json");
        let announcement = Announcement { address, pid: std::process::id(), key: key.to_owned() };
        write_private(&path, &serde_json::to_vec(&announcement)?)?;
        Ok(Self(path))
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        // A file that stays behind is recognised by the connection that fails.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Where processes of a configuration leave their addresses, with a name for each.
pub(crate) fn directories(config: &Config, stages: &[Stage]) -> Vec<(String, PathBuf)> {
    let base = config.sink.directory();
    let all = (Stage::All.name().to_owned(), base.to_owned());
    if config.broker.is_none() {
        return vec![all];
    }
    let mut found = Vec::new();
    let entries = std::fs::read_dir(base).into_iter().flatten().flatten();
    let mut others: Vec<(String, PathBuf)> =
        entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect();
    others.sort();
    let is_of = |name: &str, stage: &Stage| {
        name == stage.name() || name.strip_prefix(stage.name()).is_some_and(|rest| rest.starts_with('-'))
    };
    for stage in stages {
        found.extend(others.iter().filter(|(name, _)| is_of(name, stage)).cloned());
    }
    // All stages in one process, or the one worker of the embedded engine.
    found.push(all);
    found
}

/// What a running instance says of its health.
pub(crate) struct Answered {
    pub(crate) is_ok: bool,
    /// `ready`, `alive`, or why it is not.
    pub(crate) said: String,
    /// The part whose error is being retried.
    pub(crate) problem: Option<String>,
}

/// A running instance.
pub(crate) struct Running {
    address: SocketAddr,
    client: reqwest::Client,
    token: Option<SecretString>,
    /// Known to the owner of the data directory only.
    key: Option<SecretString>,
}

impl Running {
    /// The instance that owns `directory`, if one is running and serves HTTP.
    pub(crate) async fn find(directory: &Path, token: Option<SecretString>) -> Option<Self> {
        let Announcement { address, key, .. } = Announcement::read(directory).ok().flatten()?;
        Self::at(address, token, Some(key.into())).await
    }

    /// What answers at an address.
    pub(crate) async fn at(
        address: SocketAddr,
        token: Option<SecretString>,
        key: Option<SecretString>,
    ) -> Option<Self> {
        // walvec serves no TLS: without certificates a command need not read those of the system.
        let client =
            reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).no_proxy().tls_certs_only([]).build().ok()?;
        let running = Self { address, client, token, key };
        running.client.get(running.url("/livez")).send().await.ok()?;
        Some(running)
    }

    /// The instance of a directory. That of another user is looked for at the configured address.
    pub(crate) async fn of(config: &Config, directory: &Path) -> Option<Self> {
        let token = || config.server.token.clone();
        match Announcement::read(directory) {
            Ok(_) => Self::find(directory, token()).await,
            Err(PermissionDenied) => Self::at(config.server.listen, token(), None).await,
        }
    }

    /// Those that run for a configuration on this machine and are one of `stages`, with the names of their directories: those
    /// of single stages, then the one of all stages.
    pub(crate) async fn all(config: &Config, stages: &[Stage]) -> Vec<(String, Self)> {
        let mut found = Vec::new();
        for (name, directory) in directories(config, stages) {
            if let Some(running) = Self::of(config, &directory).await {
                found.push((name, running));
            }
        }
        found
    }

    /// The first of [`all`](Self::all).
    pub(crate) async fn first(config: &Config, stages: &[Stage]) -> Option<Self> {
        Self::all(config, stages).await.into_iter().next().map(|(_, running)| running)
    }

    /// The instance that a command cannot do without. `why` goes on after "no walvec runs on ...".
    pub(crate) async fn needed(config: &Config, stages: &[Stage], why: &str) -> Result<Self, Failure> {
        Self::first(config, stages).await.ok_or_else(|| {
            let what = format!("no walvec runs on {}{why}", config.sink.directory().display());
            let stage = stages.first().filter(|_| config.broker.is_some());
            let stage = stage.map(|stage| format!(" --stage {stage}")).unwrap_or_default();
            Failure::definite("E_NOT_RUNNING", what)
                .with_remedy(format!("start it in another terminal: walvec run{stage}"))
        })
    }

    /// Where it serves.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What `/livez` or `/readyz` say, which nobody needs a token for.
    pub(crate) async fn probe(&self, path: &str) -> Answered {
        let answer = async {
            let response = self.client.get(self.url(path)).send().await?;
            Ok((response.status().is_success(), response.json::<Value>().await?))
        };
        let (is_ok, body) = answer.await.unwrap_or_else(|error: reqwest::Error| {
            (false, serde_json::json!({"detail": format!("it does not answer: {error}")}))
        });
        let text = |member| body.get(member).and_then(Value::as_str).map(str::to_owned);
        let said = if is_ok { text("status") } else { text("detail") };
        Answered { is_ok, said: said.unwrap_or_else(|| "no answer of walvec".to_owned()), problem: text("problem") }
    }

    /// The answer of a GET, or the problem that was answered.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, Failure> {
        let mut url = reqwest::Url::parse(&self.url(path)).map_err(|error| Failure::definite("E_SERVER", error))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.answer(self.client.get(url)).await
    }

    /// The answer of a POST, which may change what is stored, or the problem that was answered.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        self.answer(self.client.post(self.url(path)).json(body)).await
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn answer<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, Failure> {
        let request = match (&self.key, &self.token) {
            (Some(key), _) => request.header(KEY_HEADER, key.expose_secret()),
            (None, Some(token)) => request.bearer_auth(token.expose_secret()),
            (None, None) => request,
        };
        let unreachable = |error: reqwest::Error| {
            Failure::definite("E_SERVER", format!("the running walvec at {} did not answer: {error}", self.address))
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return response.json().await.map_err(unreachable);
        }
        if status == reqwest::StatusCode::UNAUTHORIZED {
            return Err(self.not_let_in());
        }
        let problem: Value = response.json().await.map_err(unreachable)?;
        let detail = problem.get("detail").or_else(|| problem.get("title")).and_then(Value::as_str);
        let detail = detail.unwrap_or("refused");
        Err(match status {
            reqwest::StatusCode::CONFLICT => Failure::definite(E_TASK_RUNNING, detail),
            _ => Failure::new(2, "E_REQUEST", detail),
        })
    }

    /// The instance asks for its token, and this user cannot show the key instead.
    fn not_let_in(&self) -> Failure {
        let what = match (&self.token, &self.key) {
            (Some(_), None) => {
                format!("WALVEC_TOKEN, or `server.token`, is not the token of the walvec at {}", self.address)
            }
            _ => format!("the walvec at {} asks for its token", self.address),
        };
        let remedy = "set WALVEC_TOKEN to its `server.token`, or type the command as the user that runs walvec";
        Failure::new(2, E_TOKEN, what).with_remedy(remedy)
    }
}
