//! A batch as the engine takes it: few large operations, checked before anything is changed.

use std::collections::{HashMap, HashSet};

use qdrant_edge::{
    EdgeShard, OperationError, PayloadOps, PointInsertOperations, PointOperations, PointStructPersisted, Record,
    SetPayloadOp, UpdateOperation, WithPayloadInterface, WithVector,
};
use serde::{Deserialize, Serialize};
use walvec_model::point::raw_payload;
use walvec_model::{Generation, Payload, Point, PointId, Provenance, SparseVector, Value, Vector};

use super::convert::{
    EdgeId, change_error, edge_id, edge_vectors, of_table, older_than, point_id, read_error, vectors,
};
use super::read::{self, VectorNames};
use crate::{SinkError, Write, check_vector, names_each_point_once};

/// One operation of the engine. Repeating it changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum EngineStep {
    Upsert(Vec<EnginePoint>),
    /// Replaces the payload and keeps the vector.
    Overwrite {
        id: PointId,
        payload: Payload,
    },
    Delete(Vec<PointId>),
    DeleteTable {
        table: String,
    },
    Sweep {
        table: String,
        current: Generation,
    },
}

/// A point with its stored payload, walvec's own field included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct EnginePoint {
    pub(super) id: PointId,
    /// The vector. A record of the journal holds it after the JSON.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) vector: Vector,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) keywords: Option<SparseVector>,
    pub(super) payload: Payload,
}

/// Returns the steps of a batch. The batch names no point twice, so the order of its steps does not matter.
pub(super) fn of_batch(batch: &[Write], dimension: usize) -> Result<Vec<EngineStep>, SinkError> {
    debug_assert!(names_each_point_once(batch), "the steps of a batch may be made in any order");
    let mut upserts = Vec::new();
    let mut overwrites = Vec::new();
    let mut deletes = Vec::new();
    for write in batch {
        match write {
            Write::Upsert(Point { id, vector, keywords, payload, provenance }) => {
                let id = *id;
                check_vector(vector, dimension).map_err(|reason| SinkError::BadPoint { id, reason })?;
                let payload = stored_payload(id, payload, provenance)?;
                upserts.push(EnginePoint { id, vector: vector.clone(), keywords: keywords.clone(), payload });
            }
            Write::Payload { id, payload, provenance } => {
                overwrites.push(EngineStep::Overwrite { id: *id, payload: stored_payload(*id, payload, provenance)? });
            }
            Write::Delete(id) => deletes.push(*id),
        }
    }
    let mut steps = Vec::new();
    if !upserts.is_empty() {
        steps.push(EngineStep::Upsert(upserts));
    }
    steps.extend(overwrites);
    if !deletes.is_empty() {
        steps.push(EngineStep::Delete(deletes));
    }
    Ok(steps)
}

fn stored_payload(id: PointId, payload: &Payload, provenance: &Provenance) -> Result<Payload, SinkError> {
    raw_payload(payload.clone(), provenance).map_err(|error| SinkError::BadPoint { id, reason: error.to_string() })
}

/// Applies a change, and returns how many points its sweeps removed. Not durable before the next flush.
pub(super) fn apply_all(shard: &EdgeShard, names: &VectorNames, steps: Vec<EngineStep>) -> Result<u64, SinkError> {
    let mut swept = 0;
    for step in steps {
        swept += apply(shard, names, step)?;
    }
    Ok(swept)
}

/// Refuses a change, before any of it is made, if it overwrites a payload that does not exist.
pub(super) fn check_overwritten_exist(shard: &EdgeShard, steps: &[EngineStep]) -> Result<(), SinkError> {
    let overwritten: Vec<EdgeId> = steps
        .iter()
        .filter_map(|step| if let EngineStep::Overwrite { id, .. } = step { Some(edge_id(*id)) } else { None })
        .collect();
    let found = stored_among(shard, &overwritten)?;
    match overwritten.into_iter().find(|id| !found.contains(id)) {
        Some(missed_point_id) => Err(change_error(OperationError::PointIdError { missed_point_id })),
        None => Ok(()),
    }
}

/// Turns the steps that keep a stored vector into steps that carry it, so that the change can be made again where the
/// point is gone. Every point whose payload is overwritten must exist.
pub(super) fn carrying_vectors(
    shard: &EdgeShard,
    names: &VectorNames,
    steps: Vec<EngineStep>,
) -> Result<Vec<EngineStep>, SinkError> {
    let (mut payloads, mut carrying) = (HashMap::new(), Vec::with_capacity(steps.len()));
    for step in steps {
        match step {
            EngineStep::Overwrite { id, payload } => drop(payloads.insert(edge_id(id), payload)),
            other => carrying.push(other),
        }
    }
    if !payloads.is_empty() {
        let ids: Vec<EdgeId> = payloads.keys().copied().collect();
        let mut points = stored_points(shard, names, &ids, false)?;
        for point in &mut points {
            point.payload = payloads.remove(&edge_id(point.id)).unwrap_or_default();
        }
        if let Some((missed_point_id, _)) = payloads.into_iter().next() {
            return Err(change_error(OperationError::PointIdError { missed_point_id }));
        }
        carrying.push(EngineStep::Upsert(points));
    }
    Ok(carrying)
}

/// Reads points with their vectors, to store them again.
pub(super) fn stored_points(
    shard: &EdgeShard,
    names: &VectorNames,
    ids: &[EdgeId],
    with_payload: bool,
) -> Result<Vec<EnginePoint>, SinkError> {
    let with_payload = Some(WithPayloadInterface::Bool(with_payload));
    let records = shard.retrieve(ids, with_payload, Some(WithVector::Bool(true))).map_err(read_error)?;
    Ok(records.into_iter().filter_map(|record| stored_point(names, record)).collect())
}

fn stored_point(names: &VectorNames, record: Record) -> Option<EnginePoint> {
    let (vector, keywords) = vectors(names, record.vector?);
    let payload = record.payload.map(|payload| payload.0).unwrap_or_default();
    Some(EnginePoint { id: point_id(record.id), vector: vector?, keywords, payload })
}

/// Returns whether a change only stores points that did not exist before.
pub(super) fn only_adds(shard: &EdgeShard, steps: &[EngineStep]) -> Result<bool, SinkError> {
    for step in steps {
        let EngineStep::Upsert(points) = step else { return Ok(false) };
        let ids: Vec<EdgeId> = points.iter().map(|point| edge_id(point.id)).collect();
        if !stored_among(shard, &ids)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn stored_among(shard: &EdgeShard, ids: &[EdgeId]) -> Result<HashSet<EdgeId>, SinkError> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let no_payload = Some(WithPayloadInterface::Bool(false));
    let found = shard.retrieve(ids, no_payload, Some(WithVector::Bool(false))).map_err(change_error)?;
    Ok(found.into_iter().map(|record| record.id).collect())
}

/// Applies a step, and returns how many points a sweep removed, 0 for other steps. Not durable before the next
/// flush.
pub(super) fn apply(shard: &EdgeShard, names: &VectorNames, step: EngineStep) -> Result<u64, SinkError> {
    let mut swept = 0;
    let operation = match step {
        EngineStep::Upsert(points) => {
            let points = points.into_iter().map(|point| edge_point(names, point)).collect();
            points_operation(PointOperations::UpsertPoints(PointInsertOperations::PointsList(points)))
        }
        EngineStep::Overwrite { id, payload } => {
            UpdateOperation::PayloadOperation(PayloadOps::OverwritePayload(SetPayloadOp {
                payload: qdrant_edge::Payload(payload),
                points: Some(vec![edge_id(id)]),
                filter: None,
                key: None,
            }))
        }
        EngineStep::Delete(ids) => {
            points_operation(PointOperations::DeletePoints { ids: ids.into_iter().map(edge_id).collect() })
        }
        EngineStep::DeleteTable { table } => points_operation(PointOperations::DeletePointsByFilter(of_table(&table)?)),
        EngineStep::Sweep { table, current } => {
            let filter = older_than(&table, current)?;
            swept = read::count(shard, Some(filter.clone()))?;
            points_operation(PointOperations::DeletePointsByFilter(filter))
        }
    };
    shard.update(operation).map_err(change_error)?;
    Ok(swept)
}

const fn points_operation(operation: PointOperations) -> UpdateOperation {
    UpdateOperation::PointOperation(operation)
}

fn edge_point(names: &VectorNames, point: EnginePoint) -> PointStructPersisted {
    PointStructPersisted {
        id: edge_id(point.id),
        vector: edge_vectors(names, point.vector, point.keywords),
        payload: Some(qdrant_edge::Payload(point.payload)),
    }
}

/// Returns how many points the steps name.
pub(super) fn points_named(steps: &[EngineStep]) -> u64 {
    let deleted = steps.iter().map(|step| if let EngineStep::Delete(ids) = step { ids.len() as u64 } else { 0 });
    points_written(steps) + deleted.sum::<u64>()
}

/// Returns how many points the steps write. All of them lie in the segment that takes points then, wherever they
/// were before.
pub(super) fn points_written(steps: &[EngineStep]) -> u64 {
    let points = steps.iter().map(|step| match step {
        EngineStep::Upsert(points) => points.len() as u64,
        EngineStep::Overwrite { .. } => 1,
        EngineStep::Delete(_) | EngineStep::DeleteTable { .. } | EngineStep::Sweep { .. } => 0,
    });
    points.sum()
}

/// Returns whether the steps may concern all points of a table.
pub(super) fn concern_table(steps: &[EngineStep]) -> bool {
    steps.iter().any(|step| matches!(step, EngineStep::DeleteTable { .. } | EngineStep::Sweep { .. }))
}

/// Returns about how many bytes of vectors and payloads the steps carry.
pub(super) fn size_in_bytes(steps: &[EngineStep]) -> u64 {
    let bytes: usize = steps.iter().map(step_bytes).sum();
    bytes as u64
}

fn step_bytes(step: &EngineStep) -> usize {
    match step {
        EngineStep::Upsert(points) => {
            let vectors = |point: &EnginePoint| {
                let tokens = point.keywords.as_ref().map_or(0, |keywords| keywords.indices.len());
                size_of_val(point.vector.as_slice()) + tokens * (size_of::<u32>() + size_of::<f32>())
            };
            points.iter().map(|point| vectors(point) + map_bytes(&point.payload)).sum()
        }
        EngineStep::Overwrite { payload, .. } => map_bytes(payload),
        EngineStep::Delete(ids) => size_of_val(ids.as_slice()),
        EngineStep::DeleteTable { .. } | EngineStep::Sweep { .. } => 0,
    }
}

fn map_bytes(map: &Payload) -> usize {
    map.iter().map(|(key, value)| key.len() + value_bytes(value)).sum()
}

fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(value_bytes).sum(),
        Value::Object(map) => map_bytes(map),
    }
}
