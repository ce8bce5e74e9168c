//! Shards by the value of a field: which shard a point belongs in, and which one it is in.
//!
//! With such shards the server tells points apart by their ids inside one shard only, and refuses a write that does not name
//! its shard. A point whose value changes must leave its old shard, or there would be two of it. It leaves before it
//! arrives: after a crash in between, the point is missing, and the repeated batch writes it. In the opposite order there
//! would be two, and the repetition would see only one of them.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use qdrant_client::qdrant::shard_key::Key;
use qdrant_client::qdrant::{
    CollectionClusterInfoRequest, CreateShardKey, CreateShardKeyRequest, ShardKey, ShardKeySelector,
};
use walvec_model::{Payload, Point, PointId, Value};

use super::RemoteCollection;
use super::convert::point_id;
use super::read::{retrieved, vectors};
use crate::{Condition, Filter, SinkError, Write};

/// The shard of points without a value. It always exists: a server (1.18) answers no search of a collection without any
/// shard, and never completes an index there.
const NOBODY: &str = "_none";

/// The shards of a collection that is sharded by a field.
#[derive(Debug)]
pub(super) struct Tenants {
    /// The user's name of the field.
    field: String,
    /// Shards that are known to exist.
    known: Mutex<HashSet<Key>>,
}

/// A write, and the shard that it goes to.
#[derive(Debug)]
pub(super) struct RoutedWrite<'w> {
    pub(super) write: Cow<'w, Write>,
    /// The shard; `None` where the collection is not sharded by a field.
    pub(super) shard: Option<Key>,
    /// The shard that the point must be removed from first.
    pub(super) leaves: Option<Key>,
}

impl<'w> RoutedWrite<'w> {
    /// Wraps a write to a collection that is not sharded by a field.
    pub(super) const fn anywhere(write: &'w Write) -> Self {
        Self { write: Cow::Borrowed(write), shard: None, leaves: None }
    }
}

impl Tenants {
    pub(super) fn new(field: String) -> Self {
        Self { field, known: Mutex::default() }
    }

    /// Returns the shard of a point with this payload. `nesting`: the payload field that holds the user's fields, if there
    /// is one.
    fn shard_of(&self, nesting: Option<&str>, payload: &Payload) -> Result<Key, String> {
        let fields = match nesting {
            None => Some(payload),
            Some(nesting) => payload.get(nesting).and_then(Value::as_object),
        };
        let value = fields.and_then(|fields| fields.get(&self.field));
        let value = value.ok_or_else(|| format!("it has no field \"{}\", by which it would be sharded", self.field))?;
        key_of(value).ok_or_else(|| format!("its field \"{}\" holds {value}, which names no shard", self.field))
    }

    /// Returns the shard that holds everything that the filter finds, if the filter names one.
    pub(super) fn shard_of_filter(&self, filter: &Filter) -> Option<Key> {
        filter.0.iter().find_map(|condition| match condition {
            Condition::Equals { field, value } if field.name == self.field && field.steps.is_empty() => key_of(value),
            _ => None,
        })
    }

    fn knows(&self, key: &Key) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    fn learn(&self, keys: HashSet<Key>) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Returns whether the shard exists; asks the server unless that is known.
    pub(super) async fn exists(&self, inner: &RemoteCollection, key: &Key) -> Result<bool, SinkError> {
        if !self.knows(key) {
            self.learn(shards(inner).await?);
        }
        Ok(self.knows(key))
    }

    /// Lists the shards, and creates the one for points without a value.
    pub(super) async fn prepare(&self, inner: &RemoteCollection) -> Result<(), SinkError> {
        self.learn(shards(inner).await?);
        let made = self.ensure(inner, &Key::Keyword(NOBODY.to_owned())).await;
        made.map_err(|error| match error {
            SinkError::BadRequest(reason) => {
                let reason = format!(
                    "it makes no shards: {reason}; `sink.qdrant.shard_key` needs a server that runs as a cluster"
                );
                SinkError::Server { url: inner.place.url.clone(), reason }
            }
            other => other,
        })
    }

    /// Creates a shard, unless it exists. [`SinkError::BadRequest`] if the server does not take the key.
    async fn ensure(&self, inner: &RemoteCollection, key: &Key) -> Result<(), SinkError> {
        if self.knows(key) {
            return Ok(());
        }
        let request = CreateShardKeyRequest {
            collection_name: inner.name(),
            request: Some(CreateShardKey { shard_key: Some(client_key(key)), ..CreateShardKey::default() }),
            ..CreateShardKeyRequest::default()
        };
        let created = inner.client.create_shard_key(request).await.map_err(|error| inner.place.error(error));
        match created {
            // Another worker may have created it first.
            Err(SinkError::BadRequest(_)) if self.exists(inner, key).await? => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
                Ok(())
            }
        }
    }

    /// Finds the shard of each write of a batch, and creates the shards that are missing.
    pub(super) async fn route<'w>(
        &self,
        inner: &RemoteCollection,
        batch: &'w [Write],
    ) -> Result<Vec<RoutedWrite<'w>>, SinkError> {
        let ids: Vec<PointId> = batch.iter().map(Write::id).collect();
        let present = locate(inner, &ids).await?;
        let mut routed = Vec::with_capacity(batch.len());
        for write in batch {
            let id = write.id();
            let present = present.get(&id).cloned();
            let payload = match write {
                Write::Upsert(point) => &point.payload,
                Write::Payload { payload, .. } => payload,
                Write::Delete(_) => {
                    // A point that is in no shard does not exist any more.
                    let routes = |shard| RoutedWrite { shard: Some(shard), ..RoutedWrite::anywhere(write) };
                    routed.extend(present.map(routes));
                    continue;
                }
            };
            let shard = self.shard_of(inner.spec.nesting.as_deref(), payload);
            let shard = shard.map_err(|reason| SinkError::BadPoint { id, reason })?;
            self.ensure(inner, &shard).await.map_err(|error| match error {
                SinkError::BadRequest(reason) => SinkError::BadPoint { id, reason },
                other => other,
            })?;
            let leaves = present.filter(|present| *present != shard);
            routed.push(RoutedWrite { write: Cow::Borrowed(write), shard: Some(shard), leaves });
        }
        with_vectors(inner, routed).await
    }
}

/// Returns the shard of a value; `None` for lists and objects, which filters do not compare as a whole.
fn key_of(value: &Value) -> Option<Key> {
    match value {
        Value::Null => Some(Key::Keyword(NOBODY.to_owned())),
        Value::String(text) if text.is_empty() => Some(Key::Keyword(NOBODY.to_owned())),
        Value::String(text) => Some(Key::Keyword(text.clone())),
        Value::Number(number) => Some(number.as_u64().map_or_else(|| Key::Keyword(number.to_string()), Key::Number)),
        Value::Bool(flag) => Some(Key::Keyword(flag.to_string())),
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn client_key(key: &Key) -> ShardKey {
    ShardKey { key: Some(key.clone()) }
}

/// Selects this shard in a request.
pub(super) fn selector(key: &Key) -> ShardKeySelector {
    ShardKeySelector { shard_keys: vec![client_key(key)], fallback: None }
}

/// Returns an error if the shard does not exist any more. Then the collection was made again, and no point is to blame.
pub(super) async fn check(inner: &RemoteCollection, shard: Option<&Key>) -> Result<(), SinkError> {
    match shard {
        Some(shard) if !shards(inner).await?.contains(shard) => Err(inner.place.missing()),
        _ => Ok(()),
    }
}

/// Selects all shards, for a request that changes what a filter finds; `None` where the collection is not sharded by a
/// field.
pub(super) async fn everywhere(inner: &RemoteCollection) -> Result<Option<ShardKeySelector>, SinkError> {
    match &inner.tenants {
        None => Ok(None),
        Some(_) => {
            let shard_keys = shards(inner).await?.iter().map(client_key).collect();
            Ok(Some(ShardKeySelector { shard_keys, fallback: None }))
        }
    }
}

/// Lists the shards of the collection.
async fn shards(inner: &RemoteCollection) -> Result<HashSet<Key>, SinkError> {
    let request = CollectionClusterInfoRequest { collection_name: inner.name() };
    let info = inner.client.collection_cluster_info(request).await.map_err(|error| inner.place.error(error))?;
    let local = info.local_shards.into_iter().map(|shard| shard.shard_key);
    let remote = info.remote_shards.into_iter().map(|shard| shard.shard_key);
    Ok(local.chain(remote).filter_map(|key| key?.key).collect())
}

/// Returns the shards that these points are in; points that do not exist are left out.
async fn locate(inner: &RemoteCollection, ids: &[PointId]) -> Result<HashMap<PointId, Key>, SinkError> {
    let mut present = HashMap::with_capacity(ids.len());
    for point in retrieved(inner, ids, &false.into(), false).await? {
        if let Some(key) = point.shard_key.and_then(|key| key.key) {
            present.insert(point_id(point.id)?, key);
        }
    }
    Ok(present)
}

/// Turns payload writes whose points change their shard into writes of whole points, with the stored vector.
async fn with_vectors<'w>(
    inner: &RemoteCollection,
    mut writes: Vec<RoutedWrite<'w>>,
) -> Result<Vec<RoutedWrite<'w>>, SinkError> {
    let moves = |routed: &RoutedWrite<'_>| routed.leaves.is_some() && matches!(*routed.write, Write::Payload { .. });
    let ids: Vec<PointId> = writes.iter().filter(|routed| moves(routed)).map(|routed| routed.write.id()).collect();
    let mut stored = HashMap::with_capacity(ids.len());
    for point in retrieved(inner, &ids, &false.into(), true).await? {
        stored.extend(point.vectors.map(|of_point| Ok((point_id(point.id)?, vectors(inner, of_point)))).transpose()?);
    }
    for routed in writes.iter_mut().filter(|routed| moves(routed)) {
        let Write::Payload { id, payload, provenance } = routed.write.clone().into_owned() else { continue };
        let Some((Some(vector), keywords)) = stored.remove(&id) else {
            return Err(SinkError::BadPoint { id, reason: "its vector could not be read".to_owned() });
        };
        routed.write = Cow::Owned(Write::Upsert(Point { id, vector, keywords, payload, provenance }));
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_point_and_a_filter_with_the_same_value_lead_to_the_same_shard() {
        let tenants = Tenants::new("tenant".to_owned());
        for (value, shard) in [
            (json!("acme"), Key::Keyword("acme".to_owned())),
            (json!(7), Key::Number(7)),
            (json!(-7), Key::Keyword("-7".to_owned())),
            (json!(true), Key::Keyword("true".to_owned())),
            (json!(""), Key::Keyword(NOBODY.to_owned())),
        ] {
            let payload = Payload::from_iter([("tenant".to_owned(), value.clone())]);
            assert_eq!(tenants.shard_of(None, &payload), Ok(shard.clone()));
            let nested = Payload::from_iter([("metadata".to_owned(), payload.into())]);
            assert_eq!(tenants.shard_of(Some("metadata"), &nested), Ok(shard.clone()));
            let filter = Filter(vec![Condition::Equals { field: "tenant".into(), value }]);
            assert_eq!(tenants.shard_of_filter(&filter), Some(shard));
        }
    }

    #[test]
    fn a_value_that_filters_do_not_compare_names_no_shard_and_a_missing_field_is_not_null() {
        let tenants = Tenants::new("tenant".to_owned());
        let of = |value| tenants.shard_of(None, &Payload::from_iter([("tenant".to_owned(), value)]));
        assert!(of(json!(["a"])).is_err() && of(json!({})).is_err());
        assert_eq!(of(Value::Null), Ok(Key::Keyword(NOBODY.to_owned())));
        assert!(tenants.shard_of(None, &Payload::new()).is_err());
        let other = Condition::Equals { field: "other".into(), value: json!("acme") };
        assert_eq!(tenants.shard_of_filter(&Filter(vec![other])), None);
    }
}
