//! From a batch to requests, several of them in flight.
//!
//! A batch names each point once, so its requests may arrive in any order. A request that the server does not accept is cut in half, and
//! again, until the one point that is to blame is left. Requests that are too large become smaller in this way.
//!
//! Where the server limits how much it takes in a minute (`pace`), it may let a part of a batch through. The error says which part, so
//! that the caller can go on with the rest.

use std::collections::HashMap;
use std::future::ready;
use std::mem::discriminant;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{StreamExt as _, stream};
use prost::Message as _;
use qdrant_client::qdrant::points_update_operation::{DeletePoints, Operation, OverwritePayload, PointStructList};
use qdrant_client::qdrant::shard_key::Key;
use qdrant_client::qdrant::{
    PointId as ClientId, PointStruct, PointsSelector, PointsUpdateOperation, UpdateBatchPoints,
};
use walvec_model::PointId;

use super::convert::{client_id, client_payload, client_vectors};
use super::tenants::{self, RoutedWrite, selector};
use super::{ORDERING, RemoteCollection, collection};
use crate::{CollectionSpec, SinkError, Write, names_each_point_once};

/// The most bytes of a request. Proxies and servers refuse large messages, often from 4 MiB on.
const REQUEST_BYTES: usize = 3 << 20;
/// The most points of a request.
const REQUEST_POINTS: usize = 256;
/// The most requests in flight: enough to hide the round trip to the server.
const IN_FLIGHT: usize = 4;

/// One write, in the client's types.
#[derive(Clone, Debug)]
struct WriteItem {
    id: PointId,
    operation: PointsUpdateOperation,
    bytes: usize,
    /// The shard that it goes to; `None` where the collection is not sharded by a field.
    shard: Option<Key>,
    /// The shard that the point must be removed from first.
    leaves: Option<Key>,
}

/// Sends a batch; when it returns, the server has applied all of it.
pub(super) async fn send(inner: &RemoteCollection, batch: &[Write]) -> Result<(), SinkError> {
    debug_assert!(names_each_point_once(batch), "requests of a batch may arrive in any order");
    let (mut rest, mut written) = (batch, Vec::new());
    while !rest.is_empty() {
        // Finding out where points are counts as reading.
        let most = if inner.tenants.is_some() { inner.pace.reads.of(rest.len()) } else { rest.len() };
        let (some, later) = rest.split_at(most);
        send_some(inner, some, &mut written).await.map_err(|error| with_written(error, &mut written))?;
        rest = later;
    }
    inner.pace.writes.passed(batch.len());
    if inner.tenants.is_some() {
        inner.pace.reads.passed(batch.len());
    }
    Ok(())
}

/// Sends a part of a batch, and adds to `written` what the server has applied of it.
async fn send_some(inner: &RemoteCollection, some: &[Write], written: &mut Vec<PointId>) -> Result<(), SinkError> {
    let routed = match &inner.tenants {
        None => some.iter().map(RoutedWrite::anywhere).collect(),
        Some(tenants) => tenants.route(inner, some).await?,
    };
    let items = routed.into_iter().map(|routed| item(routed, &inner.spec)).collect::<Result<Vec<_>, _>>()?;
    let size = &inner.pace.writes;
    let requests = if size.is_limited() {
        uniform_requests(items, size.of(REQUEST_POINTS))
    } else {
        requests(items, REQUEST_POINTS)
    };
    let is_limited = AtomicBool::new(false);
    let sent = stream::iter(requests)
        // After a refusal by the limit there is no room for further requests.
        .take_while(|_| ready(!is_limited.load(Ordering::Relaxed)))
        .map(|items| send_items(inner, items, &is_limited))
        .buffer_unordered(IN_FLIGHT);
    // Await all requests even if the first one fails: one that is abandoned may still arrive, after the next batch.
    let mut answer = Ok(());
    for (some, sent) in sent.collect::<Vec<_>>().await {
        written.extend(some);
        answer = first_error(answer, sent);
    }
    answer
}

/// Returns the first error. Any other error takes precedence over that of a limit.
fn first_error(first: Result<(), SinkError>, other: Result<(), SinkError>) -> Result<(), SinkError> {
    match first {
        Ok(()) => other,
        Err(SinkError::Limited(_)) if other.is_err() => other,
        Err(_) => first,
    }
}

fn with_written(mut error: SinkError, written: &mut Vec<PointId>) -> SinkError {
    if let SinkError::Limited(limited) = &mut error {
        limited.written = std::mem::take(written);
    }
    error
}

/// Sends one request, in halves if it is refused; returns what the server has applied of it.
async fn send_items(
    inner: &RemoteCollection,
    items: Vec<WriteItem>,
    is_limited: &AtomicBool,
) -> (Vec<PointId>, Result<(), SinkError>) {
    let mut written = Vec::with_capacity(items.len());
    let sent = send_halves(inner, items, &mut written).await;
    if matches!(sent, Err(SinkError::Limited(_))) {
        is_limited.store(true, Ordering::Relaxed);
    }
    (written, sent)
}

async fn send_halves(
    inner: &RemoteCollection,
    items: Vec<WriteItem>,
    written: &mut Vec<PointId>,
) -> Result<(), SinkError> {
    let mut rest = vec![items];
    while let Some(items) = rest.pop() {
        match send_request(inner, &items).await {
            Ok(()) => written.extend(items.iter().map(|item| item.id)),
            Err(SinkError::Limited(limited)) if inner.pace.writes.refused(&limited, items.len()) => {
                rest.extend(halves(&items));
            }
            Err(error @ SinkError::BadRequest(_)) => match items.as_slice() {
                [] => return Err(error),
                [single] => {
                    // A collection that does not fit any more refuses every point, so none of them is to blame.
                    collection::find(inner, &inner.name()).await?.ok_or_else(|| inner.place.missing())?;
                    tenants::check(inner, single.shard.as_ref()).await?;
                    return Err(SinkError::BadPoint { id: single.id, reason: error.to_string() });
                }
                several => rest.extend(halves(several)),
            },
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns the halves of a request in the order of a stack: the first half is last, and taken next.
fn halves(items: &[WriteItem]) -> [Vec<WriteItem>; 2] {
    let (left, right) = items.split_at(items.len() / 2);
    [right.to_vec(), left.to_vec()]
}

async fn send_request(inner: &RemoteCollection, items: &[WriteItem]) -> Result<(), SinkError> {
    let place = &inner.place;
    let operations = operations(items);
    let expected = operations.len();
    let request = UpdateBatchPoints {
        collection_name: inner.name(),
        wait: Some(true),
        operations,
        ordering: Some(ORDERING),
        ..UpdateBatchPoints::default()
    };
    let mut writes = inner.server.connections.writes().get(&inner.server, place)?;
    let response = writes.update_batch(request).await.map_err(|status| inner.write_failed(&status))?.into_inner();
    for result in &response.result {
        place.completed(Some(result))?;
    }
    if response.result.len() == expected { Ok(()) } else { place.completed(None) }
}

/// Groups items into requests of one operation each, as far as possible. Of a request with several operations, a limit may refuse the
/// last and count the others each time that the request is repeated.
fn uniform_requests(items: Vec<WriteItem>, most: usize) -> Vec<Vec<WriteItem>> {
    let (mut joined, mut alone) = (HashMap::<_, Vec<WriteItem>>::new(), Vec::new());
    for item in items {
        match &item.operation.operation {
            Some(operation @ (Operation::Upsert(_) | Operation::DeletePoints(_))) if item.leaves.is_none() => {
                joined.entry((discriminant(operation), item.shard.clone())).or_default().push(item);
            }
            _ => alone.push(vec![item]),
        }
    }
    joined.into_values().flat_map(|items| requests(items, most)).chain(alone).collect()
}

/// Groups items into requests of at most `most` points.
fn requests(items: Vec<WriteItem>, most: usize) -> Vec<Vec<WriteItem>> {
    let mut requests: Vec<Vec<WriteItem>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        let full = requests.last().is_none_or(|last| last.len() >= most) || bytes + item.bytes > REQUEST_BYTES;
        if full {
            requests.push(Vec::new());
            bytes = 0;
        }
        bytes += item.bytes;
        if let Some(last) = requests.last_mut() {
            last.push(item);
        }
    }
    debug_assert!(requests.iter().all(|request| request.len() <= most), "a request names at most {most} points");
    requests
}

/// Returns the operations of a request, in the order in which the server applies them: first deletions, one operation for each shard,
/// which makes way for points that change their shard; then payloads, one operation each; then upserts, one operation for each shard.
fn operations(items: &[WriteItem]) -> Vec<PointsUpdateOperation> {
    let mut deleted: HashMap<Option<&Key>, Vec<ClientId>> = HashMap::new();
    let mut payloads = Vec::new();
    let mut stored: HashMap<Option<&Key>, Vec<PointStruct>> = HashMap::new();
    for item in items {
        if let Some(shard) = &item.leaves {
            deleted.entry(Some(shard)).or_default().push(client_id(item.id));
        }
        let shard = item.shard.as_ref();
        match &item.operation.operation {
            Some(Operation::Upsert(list)) => stored.entry(shard).or_default().extend(list.points.iter().cloned()),
            Some(Operation::DeletePoints(_)) => deleted.entry(shard).or_default().push(client_id(item.id)),
            _ => payloads.push(item.operation.clone()),
        }
    }
    let deletions = deleted.into_iter().map(|(shard, ids)| {
        let points = Some(PointsSelector::from(ids));
        operation(Operation::DeletePoints(DeletePoints { points, shard_key_selector: shard.map(selector) }))
    });
    let upserts = stored.into_iter().map(|(shard, points)| {
        let shard_key_selector = shard.map(selector);
        operation(Operation::Upsert(PointStructList { points, shard_key_selector, ..PointStructList::default() }))
    });
    deletions.chain(payloads).chain(upserts).collect()
}

const fn operation(operation: Operation) -> PointsUpdateOperation {
    PointsUpdateOperation { operation: Some(operation) }
}

fn item(routed: RoutedWrite<'_>, spec: &CollectionSpec) -> Result<WriteItem, SinkError> {
    let RoutedWrite { write, shard, leaves } = routed;
    let id = write.id();
    let operation = operation(match &*write {
        Write::Upsert(point) => {
            crate::check_vector(&point.vector, spec.dimension).map_err(|reason| SinkError::BadPoint { id, reason })?;
            let payload = client_payload(id, &point.payload, &point.provenance)?;
            let vectors = client_vectors(spec, point.vector.clone(), point.keywords.clone());
            let point = PointStruct::new(client_id(id), vectors, payload);
            Operation::Upsert(PointStructList { points: vec![point], ..PointStructList::default() })
        }
        Write::Payload { payload, provenance, .. } => Operation::OverwritePayload(OverwritePayload {
            payload: client_payload(id, payload, provenance)?,
            points_selector: Some(PointsSelector::from(vec![client_id(id)])),
            shard_key_selector: shard.as_ref().map(selector),
            ..OverwritePayload::default()
        }),
        Write::Delete(_) => Operation::DeletePoints(DeletePoints::default()),
    });
    let bytes = operation.encoded_len();
    Ok(WriteItem { id, operation, bytes, shard, leaves })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deletion(number: u64, bytes: usize) -> WriteItem {
        let id = PointId::Num(number);
        let operation = operation(Operation::DeletePoints(DeletePoints::default()));
        WriteItem { id, operation, bytes, shard: None, leaves: None }
    }

    #[test]
    fn requests_are_bounded_by_points_and_by_bytes() {
        let lengths = |items: Vec<WriteItem>| requests(items, REQUEST_POINTS).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths((0..600).map(|number| deletion(number, 10)).collect()), [256, 256, 88]);
        assert_eq!(lengths((0..3).map(|number| deletion(number, REQUEST_BYTES / 2)).collect()), [2, 1]);
        assert_eq!(lengths(vec![deletion(1, REQUEST_BYTES * 2), deletion(2, 1)]), [1, 1]);
        assert!(lengths(Vec::new()).is_empty());
    }

    #[test]
    fn under_a_limit_a_request_holds_one_operation() {
        let upsert = |number| WriteItem {
            operation: operation(Operation::Upsert(PointStructList::default())),
            ..deletion(number, 1)
        };
        let payload = |number| WriteItem {
            operation: operation(Operation::OverwritePayload(OverwritePayload::default())),
            ..deletion(number, 1)
        };
        let items = vec![upsert(1), deletion(2, 1), payload(3), upsert(4), deletion(5, 1), payload(6), upsert(7)];
        let requests = uniform_requests(items, 2);
        assert!(requests.iter().all(|request| operations(request).len() == 1));
        let mut lengths: Vec<usize> = requests.iter().map(Vec::len).collect();
        lengths.sort_unstable();
        assert_eq!(lengths, [1, 1, 1, 2, 2]);
    }

    #[test]
    fn a_point_leaves_its_old_shard_before_it_arrives_in_the_new_one() {
        let key = |name: &str| Some(Key::Keyword(name.to_owned()));
        let list = PointStructList { points: vec![PointStruct::default()], ..PointStructList::default() };
        let moved = |number| WriteItem {
            operation: operation(Operation::Upsert(list.clone())),
            shard: key("new"),
            leaves: key("old"),
            ..deletion(number, 1)
        };
        let stays = WriteItem { leaves: None, ..moved(3) };
        let operations = operations(&[moved(1), stays, moved(2)]).into_iter().map(|it| it.operation.unwrap());
        let [Operation::DeletePoints(deletion), Operation::Upsert(upsert)] =
            <[_; 2]>::try_from(operations.collect::<Vec<_>>()).unwrap()
        else {
            panic!("in another order")
        };
        assert_eq!(
            deletion.points.unwrap(),
            PointsSelector::from([1, 2].map(|id| client_id(PointId::Num(id))).to_vec())
        );
        assert_eq!(deletion.shard_key_selector, key("old").as_ref().map(selector));
        assert_eq!((upsert.points.len(), upsert.shard_key_selector), (3, key("new").as_ref().map(selector)));
    }

    #[test]
    fn deletions_of_a_request_travel_together() {
        let operations = operations(&[deletion(1, 1), deletion(2, 1)]);
        assert_eq!(operations.len(), 1);
    }
}
