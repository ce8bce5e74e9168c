//! Fetching a model from a model hub (the file API that huggingface_hub and its mirrors speak).
//!
//! - [`Hub`] (`address`): which hub, and with which token
//! - `client`: the HTTP requests
//! - `wanted`: which of a model's files are fetched
//!
//! A pull downloads into a hidden directory of the models root, loads the model to see that it works, and then moves
//! it into place by one rename. A failure before the rename leaves no trace, and leaves an older copy of the model as
//! it was.

mod address;
mod client;
mod wanted;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use address::Hub;

use self::{client::HubClient, wanted::wanted_of};
use crate::{EmbedError, model_dir};

/// How far the download of one file has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownloadProgress {
    /// The file's path in the hub's repository.
    pub file: String,
    /// Bytes received.
    pub bytes: u64,
    /// Length of the file in bytes; 0 when the hub does not say.
    pub total_bytes: u64,
}

/// A callback that is called for every piece received; it must not block.
pub type OnProgress = Arc<dyn Fn(&DownloadProgress) + Send + Sync>;

/// Fetches the model `name`, installs it under the models root `root`, and returns its directory. A model that is
/// installed already is replaced by the hub's present version.
///
/// # Errors
/// [`EmbedError::ModelName`], [`EmbedError::HubRefused`], [`EmbedError::HubUnreachable`], [`EmbedError::Io`],
/// [`EmbedError::Model`] for a model that was fetched but cannot be run here, and [`EmbedError::NotBuilt`].
pub async fn pull(name: &str, root: &Path, hub: &Hub, on_progress: OnProgress) -> Result<PathBuf, EmbedError> {
    model_dir::check_name(name)?;
    crate::check_built(name)?;
    let client = HubClient::new(name, hub)?;
    fs::create_dir_all(root).map_err(EmbedError::io(root))?;
    let staging = tempfile::Builder::new().prefix(".pull-").tempdir_in(root);
    let staging = staging.map_err(EmbedError::io(root))?;
    let staged = staging.path().join("model");

    let listing = client.list().await?;
    for file in wanted_of(&listing).map_err(|reason| client.refused(reason))? {
        client.fetch(&listing, &file, &staged, &*on_progress).await?;
    }
    let target = root.join(name);
    let installing = {
        let target = target.clone();
        // The closure owns the staging directory, so that it is removed however the closure ends.
        tokio::task::spawn_blocking(move || install(staging, &staged, &target))
    };
    installing.await.map_err(|error| EmbedError::Failed(format!("installing the model ended: {error}")))??;
    Ok(target)
}

/// Moves the model in `staged` to `target` if it works, replacing an older one. `staging` lies on the same file system
/// as `target`, and is removed at the end.
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

/// Makes the files durable before the rename, so that a power cut cannot leave the name without the content.
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
