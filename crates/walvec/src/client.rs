//! Requests of a command to a walvec that runs on its data directory.
//!
//! The embedded engine belongs to one process. A running `walvec run` writes its address to `server.json` in the data directory, so that `search`
//! and `status` can ask it instead.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::announcement::{Announcement, KEY_HEADER, PermissionDenied};
use crate::api::dead_letters::DeadLetterPage;
use crate::api::tasks::Task;
use crate::config::{Config, Stage};
use crate::failure::Failure;

/// How long connecting to a running instance may take before it counts as gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The code of the error for an instance that requires a token.
const E_TOKEN: &str = "E_TOKEN";

/// The code of the error for an instance that is already running a task.
pub(crate) const E_TASK_RUNNING: &str = "E_TASK_RUNNING";

/// Returns the directories in which processes of a configuration leave their addresses, with a name for each.
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
    // The directory of all stages in one process, or of the one worker with the embedded engine.
    found.push(all);
    found
}

/// The health that a running instance reports.
pub(crate) struct ReportedHealth {
    pub(crate) is_ok: bool,
    /// `ready`, `alive`, or why it is neither.
    pub(crate) said: String,
    /// The part whose error is being retried.
    pub(crate) problem: Option<String>,
}

/// A client of a running walvec.
pub(crate) struct Client {
    address: SocketAddr,
    client: reqwest::Client,
    token: Option<SecretString>,
    /// The key, if this user can read the data directory.
    key: Option<SecretString>,
}

impl Client {
    /// Returns the instance that owns `directory`, if one is running and serves HTTP.
    pub(crate) async fn find(directory: &Path, token: Option<SecretString>) -> Option<Self> {
        let Announcement { address, key, .. } = Announcement::read(directory).ok().flatten()?;
        Self::at(address, token, Some(key.into())).await
    }

    /// Returns the instance at an address, if one answers.
    pub(crate) async fn at(
        address: SocketAddr,
        token: Option<SecretString>,
        key: Option<SecretString>,
    ) -> Option<Self> {
        // walvec does not serve TLS. Without certificates, a command need not read those of the system.
        let client =
            reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).no_proxy().tls_certs_only([]).build().ok()?;
        let running = Self { address, client, token, key };
        running.client.get(running.url("/livez")).send().await.ok()?;
        Some(running)
    }

    /// Returns the instance of a directory. If that belongs to another user, the configured address is tried.
    pub(crate) async fn of(config: &Config, directory: &Path) -> Option<Self> {
        let token = || config.server.token.clone();
        match Announcement::read(directory) {
            Ok(_) => Self::find(directory, token()).await,
            Err(PermissionDenied) => Self::at(config.server.listen, token(), None).await,
        }
    }

    /// Returns the instances of a configuration on this machine that are one of `stages`, with the names of their
    /// directories: first those of single stages, then the one of all stages.
    pub(crate) async fn all(config: &Config, stages: &[Stage]) -> Vec<(String, Self)> {
        let mut found = Vec::new();
        for (name, directory) in directories(config, stages) {
            if let Some(running) = Self::of(config, &directory).await {
                found.push((name, running));
            }
        }
        found
    }

    /// Returns the first instance of [`all`](Self::all).
    pub(crate) async fn first(config: &Config, stages: &[Stage]) -> Option<Self> {
        Self::all(config, stages).await.into_iter().next().map(|(_, running)| running)
    }

    /// Returns the instance that a command requires. `why` continues the message "no walvec runs on ...".
    pub(crate) async fn needed(config: &Config, stages: &[Stage], why: &str) -> Result<Self, Failure> {
        Self::first(config, stages).await.ok_or_else(|| {
            let what = format!("no walvec runs on {}{why}", config.sink.directory().display());
            let stage = stages.first().filter(|_| config.broker.is_some());
            let stage = stage.map(|stage| format!(" --stage {stage}")).unwrap_or_default();
            Failure::definite("E_NOT_RUNNING", what)
                .with_remedy(format!("start it in another terminal: walvec run{stage}"))
        })
    }

    /// Returns its address.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks `/livez` or `/readyz`, which need no token.
    pub(crate) async fn probe(&self, path: &str) -> ReportedHealth {
        let answer = async {
            let response = self.client.get(self.url(path)).send().await?;
            Ok((response.status().is_success(), response.json::<Value>().await?))
        };
        let (is_ok, body) = answer.await.unwrap_or_else(|error: reqwest::Error| {
            (false, serde_json::json!({"detail": format!("it does not answer: {error}")}))
        });
        let text = |member| body.get(member).and_then(Value::as_str).map(str::to_owned);
        let said = if is_ok { text("status") } else { text("detail") };
        ReportedHealth {
            is_ok,
            said: said.unwrap_or_else(|| "no answer of walvec".to_owned()),
            problem: text("problem"),
        }
    }

    /// Sends a GET and returns the answer, or the problem that came instead.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, Failure> {
        let mut url = reqwest::Url::parse(&self.url(path)).map_err(|error| Failure::definite("E_SERVER", error))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.answer(self.client.get(url)).await
    }

    /// Sends a POST, which may change what is stored, and returns the answer, or the problem that came instead.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.answer(self.client.post(self.url(path)).json(body)).await
    }

    /// Asks for a page of a collection's parked rows: those after this key.
    pub(crate) async fn dead_letters(
        &self,
        collection: &str,
        after: Option<Vec<Value>>,
    ) -> Result<DeadLetterPage, Failure> {
        let after = after.map(|key| Value::Array(key).to_string());
        let mut query = vec![("collection", collection)];
        query.extend(after.as_deref().map(|key| ("after", key)));
        self.get("/api/v1/dead-letters", &query).await
    }

    /// Asks for a task.
    pub(crate) async fn task(&self, id: u64) -> Result<Task, Failure> {
        self.get(&format!("/api/v1/tasks/{id}"), &[]).await
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
            return Err(self.unauthorized());
        }
        let problem: Value = response.json().await.map_err(unreachable)?;
        let detail = problem.get("detail").or_else(|| problem.get("title")).and_then(Value::as_str);
        let detail = detail.unwrap_or("refused");
        Err(match status {
            reqwest::StatusCode::CONFLICT => Failure::definite(E_TASK_RUNNING, detail),
            _ => Failure::new(2, "E_REQUEST", detail),
        })
    }

    /// Makes the failure of a user who has neither the token nor access to the key.
    fn unauthorized(&self) -> Failure {
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
