//! HTTP requests to a hub: the listing of a model, and its files.
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

use super::{DownloadProgress, Hub, wanted::WantedFile};
use crate::{EmbedError, http};

/// How long connecting may take before the hub counts as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a download may stand still before it counts as broken off.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How many attempts in a row may bring no data before the download fails. Few, because a person waits for the answer.
const ATTEMPTS: u32 = 3;

/// The pause before the second attempt; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The hub's description of a model.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    /// The commit that the hub serves at present.
    #[serde(default)]
    sha: Option<String>,
    /// The library that the model was made for.
    #[serde(default)]
    pub(super) library_name: Option<String>,
    /// The model's other labels.
    #[serde(default)]
    pub(super) tags: Vec<String>,
    /// The model's files.
    #[serde(default)]
    pub(super) siblings: Vec<Sibling>,
}

/// A file in a listing.
#[derive(Debug, Deserialize)]
pub(super) struct Sibling {
    /// The file's path in the repository.
    pub(super) rfilename: String,
    /// The file's length in bytes. Mirrors may leave it out.
    #[serde(default)]
    size: Option<u64>,
    /// Present only for files in the large-file storage.
    #[serde(default)]
    lfs: Option<LargeFile>,
}

#[derive(Debug, Deserialize)]
struct LargeFile {
    /// The digest of the content, in hexadecimal digits.
    sha256: String,
}

/// One model on one hub.
pub(super) struct HubClient {
    name: String,
    endpoint: String,
    http: reqwest::Client,
}

impl HubClient {
    /// Creates a client for the model `name`, without sending a request.
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

    /// Lists the model's files, with their lengths and digests where the hub knows them.
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

    /// Fetches one file into `dir`, under its path in the repository.
    pub(super) async fn fetch(
        &self,
        listing: &Listing,
        wanted: &WantedFile,
        dir: &Path,
        on_progress: &(dyn Fn(&DownloadProgress) + Send + Sync),
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
            // A mirror may list files that it does not hold. Any other refusal does not tell whether the model has the file.
            Err(_) if download.is_missing && !wanted.required => {
                return fs::remove_file(&path).await.map_err(EmbedError::io(path));
            }
            other => other?,
        }
        download.check(said.and_then(|file| file.lfs.as_ref()))
    }

    /// Requests `address` from byte `from` on, and returns the response whatever its status.
    async fn ask(&self, address: &str, from: u64) -> Result<Response, EmbedError> {
        let mut request = self.http.get(address);
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        request.send().await.map_err(|error| self.unreachable(with_causes(&error)))
    }

    /// Returns the response if its status is a success, and an error that explains the refusal otherwise.
    fn accept(&self, address: &str, response: Response) -> Result<Response, EmbedError> {
        let status = response.status();
        match status {
            _ if status.is_success() => Ok(response),
            // The public hub answers 401 also for a model that does not exist.
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

    /// Makes an error that repeating the request would not change.
    pub(super) fn refused(&self, reason: String) -> EmbedError {
        EmbedError::HubRefused { endpoint: self.endpoint.clone(), name: self.name.clone(), reason }
    }

    fn unreachable(&self, reason: String) -> EmbedError {
        EmbedError::HubUnreachable { endpoint: self.endpoint.clone(), name: self.name.clone(), reason }
    }
}

/// The download of one file.
struct Download<'a> {
    client: &'a HubClient,
    address: String,
    file: &'a str,
    /// Its length in bytes, once it is known.
    expected: Option<u64>,
    on_progress: &'a (dyn Fn(&DownloadProgress) + Send + Sync),
    received: u64,
    /// The digest of all bytes received so far.
    digest: Sha256,
    /// Whether the hub said that it does not have the file.
    is_missing: bool,
}

impl Download<'_> {
    /// Fetches the file into `path` and resumes it when the transfer breaks off. Fails after [`ATTEMPTS`] attempts in a row that
    /// brought no data.
    async fn run(&mut self, path: &Path) -> Result<(), EmbedError> {
        let mut into = File::create(path).await.map_err(EmbedError::io(path))?;
        let (mut attempt, mut furthest) = (1, 0);
        loop {
            match self.attempt(&mut into, path).await {
                Ok(()) => break,
                // The connection broke off after the last byte.
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

    /// Receives the missing bytes until the connection ends.
    async fn attempt(&mut self, into: &mut File, path: &Path) -> Result<(), EmbedError> {
        let response = self.client.ask(&self.address, self.received).await?;
        self.is_missing = response.status() == StatusCode::NOT_FOUND;
        if !self.continues(&response) {
            self.begin_again(into).await.map_err(EmbedError::io(path))?;
            return Err(self
                .client
                .unreachable(format!("it does not continue the download of {} where it broke off", self.file)));
        }
        let mut response = self.client.accept(&self.address, response)?;
        let mut skip = 0;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            // The server sends the whole file again: skip the bytes that are here already.
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
            (self.on_progress)(&DownloadProgress { file: self.file.to_owned(), bytes: self.received, total_bytes });
        }
        match self.expected {
            Some(expected) if self.received < expected => Err(self.broke_off(expected)),
            _ => Ok(()),
        }
    }

    /// Returns whether the download can go on with this response. It cannot if a partial answer begins at another byte than the
    /// first missing one, or if the server has nothing from there on.
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

    /// Drops everything received, in the file and in the digest.
    async fn begin_again(&mut self, into: &mut File) -> std::io::Result<()> {
        into.set_len(0).await?;
        into.rewind().await?;
        (self.received, self.digest) = (0, Sha256::new());
        Ok(())
    }

    /// Checks that the received bytes are those that the hub listed.
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

/// Waits after attempt number `attempt`, before the next one.
async fn pause(attempt: u32) {
    tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(attempt - 1)).await;
}
