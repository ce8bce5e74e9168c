//! The database that a collection is filled from, recorded in its metadata.
//!
//! Two databases in one collection would overwrite and remove each other's rows, and each has its own advisory lock, which the other
//! does not see.

use std::collections::HashMap;

use qdrant_client::qdrant::UpdateCollection;
use serde_json::Value;
use walvec_model::RESERVED_KEY;

use super::RemoteCollection;
use crate::SinkError;

const FIELD: &str = "filled_from";

/// Writes `database` into the collection's metadata, unless that names another database than `database` and `former`.
pub(super) async fn record(inner: &RemoteCollection, database: &str, former: Option<&str>) -> Result<(), SinkError> {
    let RemoteCollection { client, place, .. } = inner;
    let response = client.collection_info(place.name()).await.map_err(|error| place.error(error))?;
    let config = response.result.and_then(|info| info.config).ok_or_else(|| place.missing())?;
    let Some(own) = config.metadata.get(RESERVED_KEY) else { return Err(place.missing()) };
    let mut own: Value = own.clone().into();
    match own.get(FIELD).and_then(Value::as_str) {
        Some(stored) if stored == database => return Ok(()),
        Some(stored) if former != Some(stored) => {
            let (collection, url) = (inner.spec.name.clone(), place.url.clone());
            let (stored, found) = (stored.to_owned(), database.to_owned());
            return Err(SinkError::OtherDatabase { collection, url, stored, found });
        }
        _ => {}
    }
    if let Some(own) = own.as_object_mut() {
        own.insert(FIELD.to_owned(), database.into());
    }
    let request = UpdateCollection {
        collection_name: place.name(),
        metadata: HashMap::from([(RESERVED_KEY.to_owned(), own.into())]),
        ..UpdateCollection::default()
    };
    match client.update_collection(request).await.map_err(|error| place.error(error)) {
        // A key that may write points may lack the right to change collections.
        Err(SinkError::Server { reason, .. }) => {
            tracing::warn!(
                collection = inner.spec.name,
                "the server does not let walvec record which database the collection is filled from, so that another database \
                 that is written to it will not be noticed: {reason}"
            );
            Ok(())
        }
        answer => answer.map(drop),
    }
}
