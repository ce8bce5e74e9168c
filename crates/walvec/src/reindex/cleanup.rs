//! Removes what a reindex needed until it ended.

use walvec_pipeline::{During, PipelineError, Policy};

use super::names::others;
use super::slot::drop_slot;
use super::state::{self, UnfinishedReindex};
use crate::assembly::collection;
use crate::config::Config;

/// The collections and the state to clean up once the names are switched.
pub(crate) struct Leftovers {
    pub(super) config: Config,
    pub(super) names: Vec<(String, String)>,
    pub(super) served: Vec<String>,
}

impl Leftovers {
    /// Removes what is not needed any more. The collections that were served until now are kept for a rollback; older ones are
    /// removed.
    pub(crate) async fn remove(self) {
        let Self { config, names, served } = self;
        clean_up_with_retries(&config).await;
        let catalog = collection::catalog(&config);
        for ((name, own), served) in names.iter().zip(&served) {
            let Ok(others) = others(catalog.as_ref(), name, own).await else { continue };
            for older in others.iter().filter(|other| *other != served) {
                if let Err(error) = catalog.remove(older).await {
                    tracing::warn!("{older} could not be removed: {error}");
                }
            }
        }
    }
}

/// Removes what a reindex needed until it ended or was given up, as soon as that is possible. The collections stay, for the next
/// reindex. The next start does what could not be done here.
pub(crate) async fn clean_up_with_retries(config: &Config) {
    let mut is_reported = false;
    while let Err(error) = clean_up(config).await {
        if error.policy(During::Running) != Policy::Retry {
            tracing::warn!("the slot of the reindex stays and holds back WAL until the next start: {error}");
            return;
        }
        if !std::mem::replace(&mut is_reported, true) {
            tracing::warn!("the slot of the reindex holds back WAL until it can be dropped: {error}");
        }
    }
}

/// Removes what a reindex needed until it ended or was given up. Retries for some seconds if a server does not answer.
pub(crate) async fn clean_up(config: &Config) -> Result<(), PipelineError> {
    let Some(unfinished) = state::unfinished(config) else { return Ok(()) };
    if let Err(error) = state::store_unfinished(config, &UnfinishedReindex { is_over: true, ..unfinished }) {
        tracing::warn!("the end of the reindex could not be noted: {error}");
    }
    drop_slot(config).await?;
    match std::fs::remove_dir_all(state::directory(config)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!("the state of the reindex could not be removed: {error}");
        }
        _ => {}
    }
    Ok(())
}
