//! Shards by a key: which ones there are, and which points are in them.
//!
//! A real server stores each shard separately, and holds a point twice if it is in two of them. Here the engine holds all
//! points together, and a `Book` records in which shard each is.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use qdrant_client::qdrant::points_selector::PointsSelectorOneOf;
use qdrant_client::qdrant::points_update_operation::Operation;
use qdrant_client::qdrant::shard_key::Key;
use qdrant_client::qdrant::{Filter, PointsSelector, ShardKey, ShardKeySelector};
use qdrant_edge::{Condition, HasIdCondition, PointId};
use tonic::Status;

use crate::convert::{client_id, edge_id, invalid};
use crate::filter::edge_filter;

/// The shards of a collection that was created with the sharding method `custom`.
#[derive(Debug, Default)]
pub(crate) struct Sharding(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    keys: HashSet<Key>,
    places: HashMap<PointId, HashSet<Key>>,
}

impl Sharding {
    /// Creates a shard.
    pub(crate) fn create(&self, key: Option<ShardKey>) -> Result<(), Status> {
        let key = key.and_then(|key| key.key).ok_or_else(|| invalid("a shard key is missing"))?;
        let text = text(&key);
        if self.lock().keys.insert(key) {
            Ok(())
        } else {
            Err(invalid(format_args!("Sharding key {text} already exists")))
        }
    }

    pub(crate) fn keys(&self) -> Vec<ShardKey> {
        self.lock().keys.iter().map(|key| ShardKey { key: Some(key.clone()) }).collect()
    }

    /// Returns the shard that holds a point.
    pub(crate) fn shard_of(&self, point: PointId) -> Option<ShardKey> {
        let key = self.lock().places.get(&point)?.iter().next().cloned();
        Some(ShardKey { key })
    }

    /// Adds a condition to a filter, so that it matches only points in these shards.
    pub(crate) fn restrict(
        &self,
        filter: Option<qdrant_edge::Filter>,
        selector: Option<&ShardKeySelector>,
    ) -> Result<Option<qdrant_edge::Filter>, Status> {
        let Some(selector) = selector else { return Ok(filter) };
        let book = self.lock();
        let wanted = book.selected(Some(selector))?;
        let inside = book.places.iter().filter(|(_, keys)| !keys.is_disjoint(&wanted)).map(|(id, _)| *id);
        let inside: HasIdCondition = inside.collect::<HashSet<_>>().into_iter().collect();
        let mut filter = filter.unwrap_or_default();
        filter.must.get_or_insert_default().push(Condition::HasId(inside));
        Ok(Some(filter))
    }

    /// Records operations in the `Book`, and returns those that the engine has to carry out. Records all of them, or none if a
    /// shard is missing.
    pub(crate) fn route(&self, operations: Vec<Operation>) -> Result<Vec<Operation>, Status> {
        let mut book = self.lock();
        let shards: Vec<HashSet<Key>> =
            operations.iter().map(|operation| book.selected(shard_keys(operation))).collect::<Result<_, _>>()?;
        operations.into_iter().zip(shards).map(|(operation, shards)| book.enter(operation, &shards)).collect()
    }

    /// Removes points from the `Book` that a filter has deleted.
    pub(crate) fn forget(&self, exists: impl Fn(&[PointId]) -> HashSet<PointId>) {
        let mut book = self.lock();
        let ids: Vec<PointId> = book.places.keys().copied().collect();
        let left = exists(&ids);
        book.places.retain(|id, _| left.contains(id));
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn selected(&self, selector: Option<&ShardKeySelector>) -> Result<HashSet<Key>, Status> {
        let Some(selector) = selector else { return Err(invalid("Shard key not specified")) };
        let keys: HashSet<Key> = selector.shard_keys.iter().filter_map(|key| key.key.clone()).collect();
        match keys.iter().find(|key| !self.keys.contains(key)) {
            Some(missing) => Err(invalid(format_args!("Shard key {} not found", text(missing)))),
            None if keys.is_empty() => Err(invalid("Empty shard keys selection")),
            None => Ok(keys),
        }
    }

    fn enter(&mut self, mut operation: Operation, shards: &HashSet<Key>) -> Result<Operation, Status> {
        match &mut operation {
            Operation::Upsert(list) => {
                for id in list.points.iter().filter_map(|point| point.id.clone()) {
                    let place = self.places.entry(edge_id(id)?).or_default();
                    place.extend(shards.iter().cloned());
                    assert_eq!(place.len(), 1, "a real server would hold this point twice: {place:?}");
                }
            }
            Operation::DeletePoints(delete) => {
                match delete.points.as_mut().and_then(|it| it.points_selector_one_of.take()) {
                    Some(PointsSelectorOneOf::Points(list)) => {
                        let ids = list.ids.into_iter().map(edge_id).collect::<Result<Vec<_>, _>>()?;
                        let gone = ids.into_iter().filter(|id| self.leave(*id, shards)).map(client_id);
                        delete.points = Some(PointsSelector::from(gone.collect::<Vec<_>>()));
                    }
                    Some(PointsSelectorOneOf::Filter(filter)) if *shards == self.keys => {
                        delete.points = Some(PointsSelector::from(filter));
                    }
                    _ => return Err(Status::unimplemented("the test server deletes by filter from all shards only")),
                }
            }
            Operation::OverwritePayload(set) => {
                let Some(PointsSelectorOneOf::Points(list)) =
                    set.points_selector.as_ref().and_then(|it| it.points_selector_one_of.as_ref())
                else {
                    return Err(Status::unimplemented("the test server sets payloads by id only"));
                };
                for id in &list.ids {
                    let id = edge_id(id.clone())?;
                    if self.places.get(&id).is_none_or(|keys| keys.is_disjoint(shards)) {
                        return Err(Status::not_found(format!("Not found: No point with id {id} found")));
                    }
                }
            }
            other => return Err(Status::unimplemented(format!("the test server does not route {other:?}"))),
        }
        Ok(operation)
    }

    /// Removes a point from these shards, and returns whether it is in no shard any more.
    fn leave(&mut self, id: PointId, shards: &HashSet<Key>) -> bool {
        let Some(place) = self.places.get_mut(&id) else { return false };
        place.retain(|key| !shards.contains(key));
        let gone = place.is_empty();
        if gone {
            self.places.remove(&id);
        }
        gone
    }
}

/// Returns the engine's filter for a request that may name shards.
pub(crate) fn within(
    sharding: Option<&Sharding>,
    filter: Option<Filter>,
    selector: Option<&ShardKeySelector>,
) -> Result<Option<qdrant_edge::Filter>, Status> {
    let filter = filter.map(edge_filter).transpose()?;
    match (sharding, selector) {
        (Some(sharding), _) => sharding.restrict(filter, selector),
        (None, Some(_)) => Err(invalid("Shard key not found")),
        (None, None) => Ok(filter),
    }
}

fn shard_keys(operation: &Operation) -> Option<&ShardKeySelector> {
    match operation {
        Operation::Upsert(list) => list.shard_key_selector.as_ref(),
        Operation::OverwritePayload(set) => set.shard_key_selector.as_ref(),
        Operation::DeletePoints(delete) => delete.shard_key_selector.as_ref(),
        _ => None,
    }
}

fn text(key: &Key) -> String {
    match key {
        Key::Keyword(text) => text.clone(),
        Key::Number(number) => number.to_string(),
    }
}
