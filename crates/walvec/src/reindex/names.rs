//! The names of collections: which are served, which are kept, which are new, and switching them.

use tokio_util::sync::CancellationToken;
use walvec_embed::Embedder;
use walvec_pipeline::PipelineError;
use walvec_sink::catalog::{number_of, numbered};
use walvec_sink::{Catalog, SinkError};

use super::pause;
use crate::assembly::collection::{E_FINGERPRINT, OpenCollection};
use crate::assembly::transform::fingerprint;
use crate::config::{CollectionConfig, Config};
use crate::failure::Failure;

/// Returns the own names of the collections that are served.
pub(super) async fn served(config: &Config, catalog: &dyn Catalog) -> Result<Vec<String>, Failure> {
    let mut served = Vec::with_capacity(config.collections.len());
    for CollectionConfig { name, .. } in &config.collections {
        let own = catalog.serving(name).await.map_err(|source| sink_failure(name, source))?;
        let own = own.filter(|own| number_of(name, own).is_some()).ok_or_else(|| {
            let what = format!(
                "\"{name}\" is a collection and not an alias of one, so that no other can take over its name without a gap"
            );
            let remedy = "give the collection another `name`, let `walvec run` fill it, then delete the old one";
            Failure::definite("E_ALIAS", what).with_remedy(remedy)
        })?;
        served.push(own);
    }
    Ok(served)
}

/// Returns the kept collections, if they fit the configuration.
pub(super) async fn kept(
    config: &Config,
    catalog: &dyn Catalog,
    embedder: &dyn Embedder,
    served: &[String],
) -> Result<Vec<String>, Failure> {
    let mut kept = Vec::with_capacity(served.len());
    for (collection, served) in config.collections.iter().zip(served) {
        let own_names = others(catalog, &collection.name, served).await?;
        kept.push(newest_fitting(config, collection, embedder, own_names).await?);
    }
    Ok(kept)
}

/// Returns the newest of some collections that fits the configuration.
async fn newest_fitting(
    config: &Config,
    collection: &CollectionConfig,
    embedder: &dyn Embedder,
    own_names: Vec<String>,
) -> Result<String, Failure> {
    let mut misfits = Vec::new();
    for own in own_names.iter().rev() {
        match misfit(config, collection, embedder, own).await? {
            None => return Ok(own.clone()),
            Some(why) => misfits.push(why),
        }
    }
    if own_names.is_empty() {
        return Err(Failure::definite("E_REINDEX", format!("no former collection of \"{}\" is kept", collection.name)));
    }
    let what = misfits.join("; ");
    let remedy = "put the former model and text back into the configuration, then type it again";
    Err(Failure::definite(E_FINGERPRINT, what).with_remedy(remedy))
}

/// Returns the collections that an earlier reindex has begun to fill, if they fit; else new ones.
pub(super) async fn next(
    config: &Config,
    catalog: &dyn Catalog,
    embedder: &dyn Embedder,
    served: &[String],
    generation: u64,
) -> Result<Vec<String>, Failure> {
    let mut begun = Vec::with_capacity(served.len());
    let mut number = generation;
    for (collection, served) in config.collections.iter().zip(served) {
        let numbers = catalog.numbers(&collection.name).await;
        let newest = numbers.map_err(|source| sink_failure(&collection.name, source))?.pop().unwrap_or(0);
        number = number.max(newest + 1);
        let own = numbered(&collection.name, newest);
        if own != *served && misfit(config, collection, embedder, &own).await?.is_none() {
            begun.push(own);
        }
    }
    if begun.len() == served.len() {
        return Ok(begun);
    }
    loop {
        let own_names: Vec<_> =
            config.collections.iter().map(|collection| numbered(&collection.name, number)).collect();
        let mut is_free = true;
        for own in &own_names {
            is_free &= !catalog.is_taken(own).await.map_err(|source| sink_failure(own, source))?;
        }
        if is_free {
            return Ok(own_names);
        }
        number += 1;
    }
}

/// Returns the own names of the collections of that name that are not served, oldest first.
pub(super) async fn others(catalog: &dyn Catalog, name: &str, served: &str) -> Result<Vec<String>, Failure> {
    let numbers = catalog.numbers(name).await.map_err(|source| sink_failure(name, source))?;
    Ok(numbers.into_iter().map(|number| numbered(name, number)).filter(|own| own != served).collect())
}

/// Says why a collection does not fit the configuration; `None` if it does.
async fn misfit(
    config: &Config,
    collection: &CollectionConfig,
    embedder: &dyn Embedder,
    own_name: &str,
) -> Result<Option<String>, Failure> {
    let fingerprint = fingerprint(embedder, collection);
    OpenCollection::misfit(config, collection, own_name, embedder.info().dimension, &fingerprint).await
}

/// Switches the names. If a server did not answer, whether it has switched them is found out by trying again.
pub(super) async fn switch(
    catalog: &dyn Catalog,
    names: &[(String, String)],
    stop: &CancellationToken,
) -> Result<(), Failure> {
    loop {
        match catalog.switch(names.to_vec()).await {
            Ok(()) => return Ok(()),
            Err(error @ SinkError::Missing { .. }) => return Err(sink_failure("*", error)),
            Err(error) if error.is_retryable() && !stop.is_cancelled() => {
                tracing::warn!(
                    "the new collections cannot take over yet, searches continue with the old ones: {error}"
                );
                pause(stop).await;
            }
            Err(error) => return Err(sink_failure("*", error)),
        }
    }
}

pub(super) fn sink_failure(collection: &str, source: SinkError) -> Failure {
    PipelineError::Sink { collection: collection.to_owned(), source }.into()
}
