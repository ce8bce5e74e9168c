//! Writes in the engine's terms: checked as a whole, then applied one by one.

use qdrant_client::qdrant::points_selector::PointsSelectorOneOf;
use qdrant_client::qdrant::points_update_operation::{Operation, PointStructList};
use qdrant_client::qdrant::{PointId, PointsSelector, UpsertPoints};
use qdrant_edge::{EdgeShard, PayloadOps, PointInsertOperations, PointOperations, SetPayloadOp, UpdateOperation};
use tonic::Status;

use crate::convert::{edge_ids, edge_payload, edge_point, id_text, json_path, status};
use crate::filter::edge_filter;
use crate::registry::VectorSpec;

/// Returns an upsert as the equivalent operation of a batch.
pub(crate) fn upsert(request: UpsertPoints) -> Operation {
    Operation::Upsert(PointStructList {
        points: request.points,
        shard_key_selector: request.shard_key_selector,
        update_filter: request.update_filter,
        update_mode: request.update_mode,
    })
}

/// Returns the points that an operation names. An operation by filter names none.
pub(crate) fn named(operation: &Operation) -> Vec<String> {
    let ids = |selector: Option<&PointsSelector>| match selector.and_then(|it| it.points_selector_one_of.as_ref()) {
        Some(PointsSelectorOneOf::Points(list)) => texts(list.ids.iter()),
        _ => Vec::new(),
    };
    match operation {
        Operation::Upsert(list) => texts(list.points.iter().filter_map(|point| point.id.as_ref())),
        Operation::SetPayload(set) => ids(set.points_selector.as_ref()),
        Operation::OverwritePayload(set) => ids(set.points_selector.as_ref()),
        Operation::DeletePoints(delete) => ids(delete.points.as_ref()),
        _ => Vec::new(),
    }
}

fn texts<'a>(ids: impl Iterator<Item = &'a PointId>) -> Vec<String> {
    ids.map(id_text).collect()
}

/// Returns the engine's operation, or why there is none. Changes nothing.
pub(crate) fn edge_operation(operation: Operation, vector: &VectorSpec) -> Result<UpdateOperation, Status> {
    match operation {
        Operation::Upsert(list) => {
            if list.update_filter.is_some() || list.update_mode.is_some() {
                return Err(unknown("an upsert on a condition"));
            }
            let points = list.points.into_iter().map(|point| edge_point(point, vector));
            let points = points.collect::<Result<Vec<_>, Status>>()?;
            Ok(UpdateOperation::PointOperation(PointOperations::UpsertPoints(PointInsertOperations::PointsList(
                points,
            ))))
        }
        Operation::SetPayload(set) => {
            let operation = set_payload(edge_payload(set.payload), set.points_selector, set.key.as_deref())?;
            Ok(UpdateOperation::PayloadOperation(PayloadOps::SetPayload(operation)))
        }
        Operation::OverwritePayload(set) => {
            let operation = set_payload(edge_payload(set.payload), set.points_selector, set.key.as_deref())?;
            Ok(UpdateOperation::PayloadOperation(PayloadOps::OverwritePayload(operation)))
        }
        Operation::DeletePoints(delete) => {
            let operation = match selected(delete.points)? {
                Selected::Ids(ids) => PointOperations::DeletePoints { ids },
                Selected::Filter(filter) => PointOperations::DeletePointsByFilter(*filter),
            };
            Ok(UpdateOperation::PointOperation(operation))
        }
        other => Err(unknown(&format!("{other:?}"))),
    }
}

/// Applies operations in order. As in the real server, operations before a failed one stay applied.
pub(crate) fn apply(shard: &EdgeShard, operations: Vec<UpdateOperation>) -> Result<(), Status> {
    operations.into_iter().try_for_each(|operation| shard.update(operation).map_err(status))
}

enum Selected {
    Ids(Vec<qdrant_edge::PointId>),
    Filter(Box<qdrant_edge::Filter>),
}

fn selected(selector: Option<PointsSelector>) -> Result<Selected, Status> {
    match selector.and_then(|selector| selector.points_selector_one_of) {
        Some(PointsSelectorOneOf::Points(list)) => Ok(Selected::Ids(edge_ids(list.ids)?)),
        Some(PointsSelectorOneOf::Filter(filter)) => Ok(Selected::Filter(Box::new(edge_filter(filter)?))),
        None => Err(Status::invalid_argument("PointSelector is missing")),
    }
}

fn set_payload(
    payload: qdrant_edge::Payload,
    selector: Option<PointsSelector>,
    key: Option<&str>,
) -> Result<SetPayloadOp, Status> {
    let (points, filter) = match selected(selector)? {
        Selected::Ids(ids) => (Some(ids), None),
        Selected::Filter(filter) => (None, Some(*filter)),
    };
    Ok(SetPayloadOp { payload, points, filter, key: key.map(json_path).transpose()? })
}

fn unknown(what: &str) -> Status {
    Status::unimplemented(format!("the test server does not know {what}"))
}
