//! Fetching a model from a model hub (the file API that huggingface_hub and its mirrors speak).
//!
//! A pull downloads into a hidden directory of the models root, loads what it got to see that it works, and then moves
//! it into place by one rename. Whatever breaks before that leaves no trace, and an older copy of the model as it was.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hf_hub::{
    HFClient, HFError, HFRepository, RepoTypeModel,
    progress::{DownloadEvent, ProgressEvent, ProgressHandler},
};
use walvec_model::with_causes;

use crate::{EmbedError, model_dir, model2vec::files as static_files};

/// A hub that does not even accept the connection in this time is not reachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A download that stands still for this long has broken off.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Retries of one request, with growing pauses of a fraction of a second. People wait for the answer.
const RETRIES: usize = 3;

/// Which hub to ask, and as whom. It has no `Debug`: the token must not reach a log.
#[derive(Clone, Default)]
pub struct Hub {
    /// Base URL; by default what `HF_ENDPOINT` says, else the public hub.
    pub endpoint: Option<String>,
    /// Access token; by default what the hub's own tools would use (`HF_TOKEN`, or the file their login wrote).
    pub token: Option<String>,
}

/// How far the download of one file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The file, as the hub calls it.
    pub file: String,
    /// Bytes received.
    pub bytes: u64,
    /// Bytes in all; 0 when the hub does not say.
    pub total_bytes: u64,
}

/// Called for every piece received; it must not block.
pub type OnProgress = Arc<dyn Fn(&Progress) + Send + Sync>;

/// Fetches the model `name` and installs it under the models root `root`; answers its directory. A model that is
/// installed already is replaced by the hub's present version.
///
/// # Errors
/// [`EmbedError::ModelName`], [`EmbedError::HubRefused`], [`EmbedError::HubUnreachable`], [`EmbedError::Io`], and
/// [`EmbedError::Model`] for a model that was fetched but cannot be run here.
pub async fn pull(name: &str, root: &Path, hub: &Hub, on_progress: OnProgress) -> Result<PathBuf, EmbedError> {
    model_dir::check_name(name)?;
    let download = Download::new(name, hub)?;
    fs::create_dir_all(root).map_err(EmbedError::io(root))?;
    let staging = tempfile::Builder::new().prefix(".pull-").tempdir_in(root);
    let staging = staging.map_err(EmbedError::io(root))?;
    let staged = staging.path().join("model");

    let (revision, files) = Box::pin(download.list()).await?;
    for file in files {
        Box::pin(download.file(&file, revision.clone(), &staged, Arc::clone(&on_progress))).await?;
    }
    let target = root.join(name);
    let installing = {
        let target = target.clone();
        // The staging directory moves along, and is removed when this ends, whichever way.
        tokio::task::spawn_blocking(move || install(staging, &staged, &target))
    };
    installing.await.map_err(|error| EmbedError::Failed(format!("installing the model ended: {error}")))??;
    Ok(target)
}

/// A file to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
struct WantedFile {
    path: String,
    /// Whether the model is of no use without it.
    required: bool,
}

/// One model on one hub.
struct Download {
    name: String,
    endpoint: String,
    repository: HFRepository<RepoTypeModel>,
}

impl Download {
    fn new(name: &str, hub: &Hub) -> Result<Self, EmbedError> {
        let refused = |error: HFError| EmbedError::HubRefused {
            endpoint: hub.endpoint.clone().unwrap_or_else(|| "HF_ENDPOINT".to_owned()),
            name: name.to_owned(),
            reason: with_causes(&error),
        };
        let http = reqwest::Client::builder()
            .user_agent(concat!("walvec/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(STALL_TIMEOUT)
            .build()
            .map_err(|error| refused(error.into()))?;
        let mut builder = HFClient::builder().client(http).cache_enabled(false).retry_max_attempts(RETRIES);
        if let Some(endpoint) = &hub.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if let Some(token) = &hub.token {
            builder = builder.token(token);
        }
        let client = builder.build().map_err(refused)?;
        let (owner, model) = hf_hub::split_id(name);
        Ok(Self {
            name: name.to_owned(),
            endpoint: client.endpoint().to_owned(),
            repository: client.model(owner, model),
        })
    }

    /// The commit that the hub shows now, and the files of it to fetch.
    async fn list(&self) -> Result<(Option<String>, Vec<WantedFile>), EmbedError> {
        let info = self.repository.info().send().await.map_err(|error| self.error(error))?;
        let listing: Vec<String> = info.siblings.into_iter().flatten().map(|file| file.rfilename).collect();
        let library = info.library_name.as_deref();
        let is_static = library == Some(static_files::LIBRARY)
            || info.tags.iter().flatten().any(|tag| tag == static_files::LIBRARY);
        let files = wanted(&listing, is_static).map_err(|reason| self.refused(reason))?;
        Ok((info.sha, files))
    }

    /// Fetches one file into `dir`, under its own path.
    async fn file(
        &self,
        file: &WantedFile,
        revision: Option<String>,
        dir: &Path,
        on_progress: OnProgress,
    ) -> Result<(), EmbedError> {
        let watch = Arc::new(Watch { file: file.path.clone(), expected: AtomicU64::new(0), on_progress });
        let request = self.repository.download_file().filename(&file.path).local_dir(dir).maybe_revision(revision);
        let path = match request.progress(Arc::clone(&watch)).send().await {
            Ok(path) => path,
            // A mirror may list what it does not hold.
            Err(HFError::EntryNotFound { .. }) if !file.required => return Ok(()),
            Err(HFError::Io(error)) => return Err(EmbedError::io(dir.join(&file.path))(error)),
            Err(error) => return Err(self.error(error)),
        };
        let received = fs::metadata(&path).map_err(EmbedError::io(path))?.len();
        let expected = watch.expected.load(Ordering::Relaxed);
        if expected != 0 && received != expected {
            return Err(self.unreachable(format!("{} broke off: {received} of {expected} bytes", file.path)));
        }
        Ok(())
    }

    /// Sorts what the client reports into "no" and "not now".
    fn error(&self, error: HFError) -> EmbedError {
        match &error {
            // The public hub answers so for a model that does not exist, too.
            HFError::AuthRequired { .. } => {
                self.refused("there is no such model, or access to it needs a token".to_owned())
            }
            HFError::RepoNotFound { .. } => self.refused("there is no such model".to_owned()),
            HFError::RevisionNotFound { .. }
            | HFError::EntryNotFound { .. }
            | HFError::Forbidden { .. }
            | HFError::InvalidParameter(_) => self.refused(with_causes(&error)),
            HFError::Http { context } if context.status.is_client_error() => self.refused(with_causes(&error)),
            _ => self.unreachable(with_causes(&error)),
        }
    }

    fn refused(&self, reason: String) -> EmbedError {
        EmbedError::HubRefused { endpoint: self.endpoint.clone(), name: self.name.clone(), reason }
    }

    fn unreachable(&self, reason: String) -> EmbedError {
        EmbedError::HubUnreachable { endpoint: self.endpoint.clone(), name: self.name.clone(), reason }
    }
}

/// Passes progress on, and remembers how long the file should be.
struct Watch {
    file: String,
    expected: AtomicU64,
    on_progress: OnProgress,
}

impl Watch {
    fn report(&self, bytes: u64, total_bytes: u64) {
        (self.on_progress)(&Progress { file: self.file.clone(), bytes, total_bytes });
    }
}

impl ProgressHandler for Watch {
    fn on_progress(&self, event: &ProgressEvent) {
        match event {
            ProgressEvent::Download(DownloadEvent::Start { total_bytes, .. }) => {
                self.expected.store(*total_bytes, Ordering::Relaxed);
            }
            ProgressEvent::Download(DownloadEvent::Progress { files }) => {
                for file in files {
                    self.report(file.bytes_completed, file.total_bytes);
                }
            }
            ProgressEvent::Download(DownloadEvent::AggregateProgress { bytes_completed, total_bytes, .. }) => {
                self.report(*bytes_completed, *total_bytes);
            }
            _ => {}
        }
    }
}

/// What to fetch of the files that a model has: one network with its weights, or the table of a static model, the
/// tokenizer, the configuration. A static model may have an ONNX export beside its table, which is of no use here.
fn wanted(listing: &[String], is_static: bool) -> Result<Vec<WantedFile>, String> {
    let has = |file: &str| listing.iter().any(|listed| listed == file);
    let table = static_files::TABLE_FILES.into_iter().find(|file| has(file));
    let required = match (table, model_dir::ONNX_FILES.into_iter().find(|file| has(file))) {
        // Its name says what it is, whatever the hub says about the model.
        (Some(table), _) if is_static || table != static_files::TABLE_FILES[0] => {
            vec![static_files::tokenizer_of(table), table.to_owned()]
        }
        (_, Some(network)) => {
            let weights = listing.iter().filter(|file| model_dir::is_weights_of(file, network)).cloned();
            [model_dir::TOKENIZER_FILE, network].into_iter().map(str::to_owned).chain(weights).collect()
        }
        (_, None) => {
            return Err(format!(
                "it has no ONNX export ({}), and is no static model",
                model_dir::ONNX_FILES.join(", ")
            ));
        }
    };
    if let Some(missing) = required.iter().find(|file| !has(file)) {
        return Err(format!("it has no {missing}"));
    }
    // The small files first: what is wrong with them shows before the large ones are fetched.
    let optional = model_dir::CONFIG_FILES.into_iter().map(str::to_owned).filter(|file| has(file));
    let file = |required: bool| move |path: String| WantedFile { path, required };
    Ok(optional.map(file(false)).chain(required.into_iter().map(file(true))).collect())
}

/// Moves the model in `staged` to `target` if it works, in place of an older one. `staging` lies on the same file
/// system as `target`, and is removed at the end.
fn install(staging: tempfile::TempDir, staged: &Path, target: &Path) -> Result<(), EmbedError> {
    crate::load_dir(staged, None).map_err(|error| match error {
        EmbedError::Model { reason, .. } => EmbedError::Model { path: target.to_owned(), reason },
        other => other,
    })?;
    replace(&staging, staged, target).map_err(EmbedError::io(target))
}

fn replace(staging: &tempfile::TempDir, staged: &Path, target: &Path) -> std::io::Result<()> {
    sync(staged)?;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::rename(target, staging.path().join("replaced")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(staged, target)
}

/// Brings files to the disk before the rename does, so that a power cut cannot leave the name without the content.
fn sync(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sync(&path)?;
        } else {
            fs::File::open(path)?.sync_all()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(listing: &[&str]) -> Result<Vec<String>, String> {
        paths_if(listing, false)
    }

    fn paths_if(listing: &[&str], is_static: bool) -> Result<Vec<String>, String> {
        let listing: Vec<_> = listing.iter().map(|file| (*file).to_owned()).collect();
        wanted(&listing, is_static).map(|files| files.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn only_the_files_of_one_network_are_fetched() {
        let listing = [
            "README.md",
            "config.json",
            "model.safetensors",
            "onnx/model.onnx",
            "onnx/model.onnx_data",
            "onnx/model_quantized.onnx",
            "tokenizer.json",
        ];
        let expected = ["config.json", "tokenizer.json", "onnx/model.onnx", "onnx/model.onnx_data"];
        assert_eq!(paths(&listing).unwrap(), expected);
    }

    #[test]
    fn of_a_static_model_the_table_is_fetched_and_not_its_onnx_export() {
        let listing = ["config.json", "model.safetensors", "onnx/model.onnx", "tokenizer.json"];
        assert_eq!(paths_if(&listing, true).unwrap(), ["config.json", "tokenizer.json", "model.safetensors"]);
        let folder = ["modules.json", "0_StaticEmbedding/model.safetensors", "0_StaticEmbedding/tokenizer.json"];
        assert_eq!(paths(&folder).unwrap(), ["modules.json", folder[2], folder[1]]);
        assert!(paths(&folder[..2]).unwrap_err().contains("0_StaticEmbedding/tokenizer.json"));
    }

    #[test]
    fn a_model_without_an_onnx_export_or_a_tokenizer_is_refused_before_anything_is_fetched() {
        assert!(paths(&["model.safetensors", "tokenizer.json"]).unwrap_err().contains("ONNX"));
        assert!(paths(&["model.onnx", "vocab.txt"]).unwrap_err().contains("tokenizer.json"));
    }
}
