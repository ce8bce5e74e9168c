//! What a hub is asked over HTTP: a listing, and files.
//!
//! A transfer that breaks off is resumed where it stopped. A file counts as fetched when it has the length, and for files in the
//! hub's large-file storage the SHA-256, that the listing names.

use std::path::Path;
use std::time::Duration;

use reqwest::{Response, StatusCode, header};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::fs::{self, File};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};
use walvec_model::with_causes;

use super::{Hub, Progress, wanted::WantedFile};
use crate::{EmbedError, http};

/// A hub that does not even accept the connection in this time is not reachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A download that stands still for this long has broken off.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How often in a row something is tried that brings nothing. People wait for the answer.
const ATTEMPTS: u32 = 3;

/// The pause before the second attempt; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// What a hub says about a model.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    /// The commit that it shows now.
    #[serde(default)]
    sha: Option<String>,
    /// The library that the model is made for.
    #[serde(default)]
    pub(super) library_name: Option<String>,
    /// What else the model is labelled with.
    #[serde(default)]
    pub(super) tags: Vec<String>,
    /// Its files.
    #[serde(default)]
    pub(super) siblings: Vec<Sibling>,
}

/// A file in a listing.
#[derive(Debug, Deserialize)]
pub(super) struct Sibling {
    /// Its path in the repository.
    pub(super) rfilename: String,
    /// Its length in bytes. Mirrors may leave it out.
    #[serde(default)]
    size: Option<u64>,
    /// Only for files in the large-file storage.
    #[serde(default)]
    lfs: Option<LargeFile>,
}

#[derive(Debug, Deserialize)]
struct LargeFile {
    /// The digest of the content, in hexadecimal digits.
    sha256: String,
}

/// One model on one hub.
pub(super) struct Client {
    name: String,
    endpoint: String,
    http: reqwest::Client,
}

impl Client {
    /// A client for the model `name`. Nothing is asked yet.
    pub(super) fn new(name: &str, hub: &Hub) -> Result<Self, EmbedError> {
        let endpoint = hub.endpoint();
        let refused =
            |reason: String| EmbedError::HubRefused { endpoint: endpoint.clone(), name: name.to_owned(), reason };
        let mut headers = header::HeaderMap::new();
        if let Some(token) = hub.token() {
            let value = header::HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()));
            let mut value =
                value.map_err(|_| refused("the access token has characters that no token has".to_owned()))?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let http = http::client()
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(STALL_TIMEOUT)
            .build()
            .map_err(|error| refused(with_causes(&error)))?;
        Ok(Self { name: name.to_owned(), endpoint, http })
    }

    /// The model's files, with their lengths and digests where the hub knows them.
    pub(super) async fn list(&self) -> Result<Listing, EmbedError> {
        let address = format!("{}/api/models/{}?blobs=true", self.endpoint, self.name);
        let mut attempt = 1;
        loop {
            let asked = self.ask(&address, 0).await;
            let answer = match asked.and_then(|response| self.accept(&address, response)) {
                Ok(response) => response.json().await.map_err(|error| self.unreachable(with_causes(&error))),
                Err(error) => Err(error),
            };
            match answer {
                Err(error) if error.is_retryable() && attempt < ATTEMPTS => pause(attempt).await,
                answer => return answer,
            }
            attempt += 1;
        }
    }

    /// Fetches one file into `dir`, under its own path.
    pub(super) async fn fetch(
        &self,
        listing: &Listing,
        wanted: &WantedFile,
        dir: &Path,
        on_progress: &(dyn Fn(&Progress) + Send + Sync),
    ) -> Result<(), EmbedError> {
        let revision = listing.sha.as_deref().unwrap_or("main");
        let said = listing.siblings.iter().find(|file| file.rfilename == wanted.path);
        let mut download = Download {
            client: self,
            address: format!("{}/{}/resolve/{revision}/{}", self.endpoint, self.name, wanted.path),
            file: &wanted.path,
            expected: said.and_then(|file| file.size),
            on_progress,
            received: 0,
            digest: Sha256::new(),
            is_missing: false,
        };
        let path = dir.join(&wanted.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).await.map_err(EmbedError::io(parent))?;
        }
        match download.run(&path).await {
            // A mirror may list what it does not hold. Any other refusal says nothing about what the model has.
            Err(_) if download.is_missing && !wanted.required => {
                return fs::remove_file(&path).await.map_err(EmbedError::io(path));
            }
            other => other?,
        }
        download.check(said.and_then(|file| file.lfs.as_ref()))
    }

    /// Asks for `address` from byte `from` on, whatever the answer is.
    async fn ask(&self, address: &str, from: u64) -> Result<Response, EmbedError> {
        let mut request = self.http.get(address);
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        request.send().await.map_err(|error| self.unreachable(with_causes(&error)))
    }

    /// The answer, if it is what was asked for.
    fn accept(&self, address: &str, response: Response) -> Result<Response, EmbedError> {
        let status = response.status();
        match status {
            _ if status.is_success() => Ok(response),
            // The public hub answers so for a model that does not exist, too.
            StatusCode::UNAUTHORIZED => {
                Err(self.refused("there is no such model, or access to it needs a token".to_owned()))
            }
            StatusCode::FORBIDDEN => {
                Err(self.refused("access to it is restricted, and the token does not open it".to_owned()))
            }
            StatusCode::NOT_FOUND => {
                let path = address.strip_prefix(&self.endpoint).unwrap_or(address);
                Err(self.refused(format!("there is no {}", path.split('?').next().unwrap_or(path))))
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Err(self.unreachable(format!("it answers {status}")))
            }
            _ if status.is_client_error() => Err(self.refused(format!("it answers {status}"))),
            _ => Err(self.unreachable(format!("it answers {status}"))),
        }
    }

    /// An error that stays however often the hub is asked.
    pub(super) fn refused(&self, reason: String) -> EmbedError {
        EmbedError::HubRefused { endpoint: self.endpoint.clone(), name: self.name.clone(), reason }
    }

    fn unreachable(&self, reason: String) -> EmbedError {
        EmbedError::HubUnreachable { endpoint: self.endpoint.clone(), name: self.name.clone(), reason }
    }
}

/// One file on its way.
struct Download<'a> {
    client: &'a Client,
    address: String,
    file: &'a str,
    /// Its length in bytes, as soon as it is known.
    expected: Option<u64>,
    on_progress: &'a (dyn Fn(&Progress) + Send + Sync),
    received: u64,
    /// Over everything received.
    digest: Sha256,
    /// Whether the hub said that it does not have the file.
    is_missing: bool,
}

impl Download<'_> {
    /// Fetches the file into `path`. What breaks off is resumed; it fails after [`ATTEMPTS`] that brought nothing.
    async fn run(&mut self, path: &Path) -> Result<(), EmbedError> {
        let mut into = File::create(path).await.map_err(EmbedError::io(path))?;
        let (mut attempt, mut furthest) = (1, 0);
        loop {
            match self.attempt(&mut into, path).await {
                Ok(()) => break,
                // It broke off behind the last byte.
                Err(_) if self.received > 0 && self.expected == Some(self.received) => break,
                Err(error) if !error.is_retryable() || matches!(error, EmbedError::Io { .. }) => return Err(error),
                Err(_) if self.received > furthest => (attempt, furthest) = (1, self.received),
                Err(error) if attempt == ATTEMPTS => return Err(error),
                Err(_) => attempt += 1,
            }
            pause(attempt).await;
        }
        into.flush().await.map_err(EmbedError::io(path))
    }

    /// Receives what is missing, as far as the connection lasts.
    async fn attempt(&mut self, into: &mut File, path: &Path) -> Result<(), EmbedError> {
        let response = self.client.ask(&self.address, self.received).await?;
        self.is_missing = response.status() == StatusCode::NOT_FOUND;
        if !self.continues(&response) {
            self.begin_again(into).await.map_err(EmbedError::io(path))?;
            return Err(self.client.unreachable(format!("it does not go on with {} where it broke off", self.file)));
        }
        let mut response = self.client.accept(&self.address, response)?;
        let mut skip = 0;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            // It sends everything again: what is here already is passed over.
            skip = self.received;
            self.expected = self.expected.or(response.content_length());
        }
        while let Some(chunk) = response.chunk().await.map_err(|error| self.client.unreachable(with_causes(&error)))? {
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= known as u64;
            let new = &chunk[known..];
            into.write_all(new).await.map_err(EmbedError::io(path))?;
            self.digest.update(new);
            self.received += new.len() as u64;
            let total_bytes = self.expected.unwrap_or(0);
            (self.on_progress)(&Progress { file: self.file.to_owned(), bytes: self.received, total_bytes });
        }
        match self.expected {
            Some(expected) if self.received < expected => Err(self.broke_off(expected)),
            _ => Ok(()),
        }
    }

    /// Whether an answer goes on at the first byte that is missing, or says something else than to go on.
    fn continues(&self, response: &Response) -> bool {
        match response.status() {
            StatusCode::RANGE_NOT_SATISFIABLE => self.received == 0,
            // RFC 9110, section 14.4: `bytes 0-99/200`.
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
                let first = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
                first == Some(self.received)
            }
            _ => true,
        }
    }

    /// Forgets what was received.
    async fn begin_again(&mut self, into: &mut File) -> std::io::Result<()> {
        into.set_len(0).await?;
        into.rewind().await?;
        (self.received, self.digest) = (0, Sha256::new());
        Ok(())
    }

    /// Whether what was received is what the hub listed.
    fn check(self, listed: Option<&LargeFile>) -> Result<(), EmbedError> {
        if let Some(expected) = self.expected.filter(|&expected| expected != self.received) {
            return Err(self.broke_off(expected));
        }
        let Some(LargeFile { sha256 }) = listed else { return Ok(()) };
        let found: String = self.digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if !found.eq_ignore_ascii_case(sha256) {
            let reason = format!("{} arrived with the SHA-256 {found} instead of {sha256}", self.file);
            return Err(self.client.unreachable(reason));
        }
        Ok(())
    }

    fn broke_off(&self, expected: u64) -> EmbedError {
        self.client.unreachable(format!("{} broke off: {} of {expected} bytes", self.file, self.received))
    }
}

/// Waits before the attempt after number `attempt`.
async fn pause(attempt: u32) {
    tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(attempt - 1)).await;
}
