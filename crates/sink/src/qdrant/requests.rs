//! Cutting a batch into requests, several of them in flight.
//!
//! A batch names each point once, so its requests may arrive in any order. A request that the server does not accept is
//! cut in half, and so on, until one point is left that is to blame: too large requests shrink by themselves this way.

use futures::{StreamExt as _, stream};
use prost::Message as _;
use qdrant_client::qdrant::points_update_operation::{DeletePoints, Operation, OverwritePayload, PointStructList};
use qdrant_client::qdrant::{PointStruct, PointsSelector, PointsUpdateOperation, UpdateBatchPoints};
use walvec_model::PointId;

use super::convert::{client_id, client_payload, client_vector};
use super::{Inner, ORDERING, collection};
use crate::{CollectionSpec, SinkError, Write};

/// A request is closed before it becomes larger than this. Proxies and servers refuse large messages, often from 4 MiB on.
const REQUEST_BYTES: usize = 3 << 20;
/// How many points share a request at most.
const REQUEST_POINTS: usize = 256;
/// How many requests are in flight: enough to hide the way to the server and back.
const IN_FLIGHT: usize = 4;

/// One write, in the client's terms.
#[derive(Clone, Debug)]
struct Item {
    id: PointId,
    operation: PointsUpdateOperation,
    bytes: usize,
}

/// Sends a batch; when it returns, the server has applied all of it.
pub(super) async fn send(inner: &Inner, batch: Vec<Write>) -> Result<(), SinkError> {
    let items = batch.into_iter().map(|write| item(write, &inner.spec)).collect::<Result<Vec<_>, _>>()?;
    let sent = stream::iter(requests(items)).map(|items| send_items(inner, items)).buffer_unordered(IN_FLIGHT);
    // All of them, whatever becomes of the first: one that is given up may still arrive, after the next batch.
    sent.collect::<Vec<_>>().await.into_iter().collect()
}

/// Sends one request, in halves if it is refused.
async fn send_items(inner: &Inner, items: Vec<Item>) -> Result<(), SinkError> {
    let mut rest = vec![items];
    while let Some(items) = rest.pop() {
        match send_request(inner, &items).await {
            Ok(()) => {}
            Err(error @ SinkError::BadRequest(_)) => match items.as_slice() {
                [] => return Err(error),
                [single] => {
                    // A collection that does not fit any more refuses every point: none of them is to blame.
                    collection::find(inner, &inner.name()).await?.ok_or_else(|| inner.place.missing())?;
                    return Err(SinkError::BadPoint { id: single.id, reason: error.to_string() });
                }
                several => {
                    let (left, right) = several.split_at(several.len() / 2);
                    rest.extend([right.to_vec(), left.to_vec()]);
                }
            },
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn send_request(inner: &Inner, items: &[Item]) -> Result<(), SinkError> {
    let Inner { client, place, .. } = inner;
    let operations = operations(items);
    let expected = operations.len();
    let request = UpdateBatchPoints {
        collection_name: inner.name(),
        wait: Some(true),
        operations,
        ordering: Some(ORDERING),
        ..UpdateBatchPoints::default()
    };
    let response = client.update_points_batch(request).await.map_err(|error| place.error(error))?;
    for result in &response.result {
        place.completed(Some(result))?;
    }
    if response.result.len() == expected { Ok(()) } else { place.completed(None) }
}

/// Deals items out into requests.
fn requests(items: Vec<Item>) -> Vec<Vec<Item>> {
    let mut requests: Vec<Vec<Item>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        let full =
            requests.last().is_none_or(|last| last.len() >= REQUEST_POINTS) || bytes + item.bytes > REQUEST_BYTES;
        if full {
            requests.push(Vec::new());
            bytes = 0;
        }
        bytes += item.bytes;
        if let Some(last) = requests.last_mut() {
            last.push(item);
        }
    }
    requests
}

/// The operations of a request: all upserts as one, all deletions as one, each payload for itself.
fn operations(items: &[Item]) -> Vec<PointsUpdateOperation> {
    let mut points = Vec::new();
    let mut deleted = Vec::new();
    let mut operations = Vec::new();
    for item in items {
        match &item.operation.operation {
            Some(Operation::Upsert(list)) => points.extend(list.points.iter().cloned()),
            Some(Operation::DeletePoints(_)) => deleted.push(client_id(item.id)),
            _ => operations.push(item.operation.clone()),
        }
    }
    if !points.is_empty() {
        operations.push(operation(Operation::Upsert(PointStructList { points, ..PointStructList::default() })));
    }
    if !deleted.is_empty() {
        operations.push(operation(Operation::DeletePoints(DeletePoints {
            points: Some(PointsSelector::from(deleted)),
            ..DeletePoints::default()
        })));
    }
    operations
}

const fn operation(operation: Operation) -> PointsUpdateOperation {
    PointsUpdateOperation { operation: Some(operation) }
}

fn item(write: Write, spec: &CollectionSpec) -> Result<Item, SinkError> {
    let id = write.id();
    let operation = operation(match write {
        Write::Upsert(point) => {
            crate::check_vector(&point.vector, spec.dimension).map_err(|reason| SinkError::BadPoint { id, reason })?;
            let payload = client_payload(id, point.payload, &point.provenance)?;
            let point = PointStruct::new(client_id(id), client_vector(spec.vector.as_ref(), point.vector), payload);
            Operation::Upsert(PointStructList { points: vec![point], ..PointStructList::default() })
        }
        Write::Payload { payload, provenance, .. } => Operation::OverwritePayload(OverwritePayload {
            payload: client_payload(id, payload, &provenance)?,
            points_selector: Some(PointsSelector::from(vec![client_id(id)])),
            ..OverwritePayload::default()
        }),
        Write::Delete(_) => Operation::DeletePoints(DeletePoints::default()),
    });
    let bytes = operation.encoded_len();
    Ok(Item { id, operation, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deletion(number: u64, bytes: usize) -> Item {
        let id = PointId::Num(number);
        Item { id, operation: operation(Operation::DeletePoints(DeletePoints::default())), bytes }
    }

    #[test]
    fn requests_are_bounded_by_points_and_by_bytes() {
        let lengths = |items: Vec<Item>| requests(items).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths((0..600).map(|number| deletion(number, 10)).collect()), [256, 256, 88]);
        assert_eq!(lengths((0..3).map(|number| deletion(number, REQUEST_BYTES / 2)).collect()), [2, 1]);
        assert_eq!(lengths(vec![deletion(1, REQUEST_BYTES * 2), deletion(2, 1)]), [1, 1]);
        assert!(lengths(Vec::new()).is_empty());
    }

    #[test]
    fn deletions_of_a_request_travel_together() {
        let operations = operations(&[deletion(1, 1), deletion(2, 1)]);
        assert_eq!(operations.len(), 1);
    }
}
