//! The reindex that a start continues.

use walvec_pipeline::PipelineError;
use walvec_sink::{Catalog, SinkError};

use super::state::{self, UnfinishedReindex};
use super::{RETRY_PAUSE, cleanup};
use crate::assembly::collection;
use crate::config::Config;
use crate::failure::Failure;

/// Returns the configuration to start with, and the reindex to continue.
pub(crate) async fn at_start(config: Config) -> Result<(Config, Option<UnfinishedReindex>), Failure> {
    let Some(unfinished) = state::unfinished(&config) else { return Ok((config, None)) };
    let served = state::served(&config);
    let is_put_back = served
        .as_ref()
        .is_some_and(|served| served.collections == config.collections && served.embedding == config.embedding);
    if unfinished.is_over || is_put_back || has_switched(&config, &unfinished).await? {
        if let Err(error) = cleanup::clean_up(&config).await {
            tracing::warn!("the slot of the reindex stays and holds back WAL until the next start: {error}");
        }
        return Ok((config, None));
    }
    match served {
        Some(served) => {
            tracing::info!("a reindex was not finished: it continues, and searches are answered as before");
            Ok((served, Some(unfinished)))
        }
        None => Ok((config, None)),
    }
}

/// Returns whether the names stand for the new collections. Waits for a server that does not answer.
async fn has_switched(config: &Config, unfinished: &UnfinishedReindex) -> Result<bool, Failure> {
    let catalog = collection::catalog(config);
    loop {
        match served_names(config, catalog.as_ref()).await {
            Ok(names) => return Ok(names == unfinished.names),
            Err(error) if error.is_retryable() => {
                tracing::warn!("what is served cannot be looked up, trying again: {error}");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(source) => return Err(PipelineError::Sink { collection: "*".to_owned(), source }.into()),
        }
    }
}

async fn served_names(config: &Config, catalog: &dyn Catalog) -> Result<Vec<String>, SinkError> {
    let mut names = Vec::with_capacity(config.collections.len());
    for collection in &config.collections {
        names.extend(catalog.serving(&collection.name).await?);
    }
    Ok(names)
}
