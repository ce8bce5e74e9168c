//! The payload indexes of a collection in the engine's types.

use qdrant_edge::{
    BoolIndexParams, DatetimeIndexParams, FloatIndexParams, IntegerIndexParams, JsonPath, KeywordIndexParams,
    PayloadFieldSchema, PayloadSchemaParams, TextIndexParams, UuidIndexParams,
};
use walvec_model::RESERVED_KEY;

use super::convert::{field_path, provenance_path};
use crate::{CollectionSpec, IndexType, SinkError};

/// Keeps indexes memory-mapped: what filters use stays in the page cache, and the rest takes no memory, even
/// with a million points.
const ON_DISK: Option<bool> = Some(true);

/// Returns each indexed field with its index.
pub(super) fn of(spec: &CollectionSpec) -> Result<Vec<(JsonPath, PayloadFieldSchema)>, SinkError> {
    // All points of a table have this field, and only sweeps and counts use it, so the search graph need not.
    let of_table = KeywordIndexParams { on_disk: ON_DISK, enable_hnsw: Some(false), ..KeywordIndexParams::default() };
    let mut indexes =
        vec![(provenance_path("t")?, PayloadFieldSchema::FieldParams(PayloadSchemaParams::Keyword(of_table)))];
    for (field, index) in &spec.indexes {
        // The engine stores index names as paths, and its grammar has no escape for these two.
        let name = &field.name;
        if name.is_empty() || name == RESERVED_KEY || name.contains(['"', '\\']) {
            return Err(SinkError::BadRequest(format!("the field {name:?} cannot be indexed")));
        }
        indexes.push((field_path(spec.nesting.as_deref(), field), PayloadFieldSchema::FieldParams(params(*index))));
    }
    Ok(indexes)
}

fn params(index: IndexType) -> PayloadSchemaParams {
    let on_disk = ON_DISK;
    match index {
        IndexType::Keyword => PayloadSchemaParams::Keyword(KeywordIndexParams { on_disk, ..Default::default() }),
        IndexType::Integer => PayloadSchemaParams::Integer(IntegerIndexParams { on_disk, ..Default::default() }),
        IndexType::Float => PayloadSchemaParams::Float(FloatIndexParams { on_disk, ..Default::default() }),
        IndexType::Bool => PayloadSchemaParams::Bool(BoolIndexParams { on_disk, ..Default::default() }),
        IndexType::Text => PayloadSchemaParams::Text(TextIndexParams { on_disk, ..Default::default() }),
        IndexType::Datetime => PayloadSchemaParams::Datetime(DatetimeIndexParams { on_disk, ..Default::default() }),
        IndexType::Uuid => PayloadSchemaParams::Uuid(UuidIndexParams { on_disk, ..Default::default() }),
    }
}
