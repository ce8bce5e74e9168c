//! Reads `source`: where a change comes from, and walvec's own block inside it.

use std::collections::HashMap;
use std::time::SystemTime;

use serde_json::Value;
use walvec_model::{Generation, Lsn, Position, TableName, Type};

use super::super::{Malformed, SnapshotEnd, control, json};

/// What a record says about its change, apart from the row.
#[derive(Debug)]
pub(super) struct SourceBlock {
    pub(super) table: TableName,
    /// The position that walvec gave the change; `None` if another program wrote the record.
    pub(super) position: Option<Position>,
    /// The position in PostgreSQL's WAL, from Debezium's own field.
    pub(super) lsn: Lsn,
    pub(super) generation: Generation,
    pub(super) committed_at: Option<SystemTime>,
    /// The transaction's number as it appears in the stream: the lower half of PostgreSQL's own number.
    pub(super) xid: Option<u32>,
    /// The type oids of the key columns, if walvec wrote the record.
    pub(super) key_types: Option<Vec<u32>>,
    /// The types of columns whose values do not show them, if walvec wrote the record.
    pub(super) types: HashMap<String, Type>,
    /// Whether walvec wrote the record.
    pub(super) ours: bool,
}

impl SourceBlock {
    pub(super) fn read(envelope: &json::EnvelopeObject<'_>) -> Result<Self, Malformed> {
        let source = envelope.object("source")?;
        let table = TableName::new(source.text("schema")?, source.text("table")?);
        let lsn = Lsn(source.number("lsn")?);
        let us = source.get("ts_us").and_then(Value::as_i64);
        let ms = || source.get("ts_ms").and_then(Value::as_i64).and_then(|ms| ms.checked_mul(1000));
        let committed_at = us.or_else(ms).and_then(json::time);
        let xid = source.get("txId").and_then(Value::as_u64);
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
        let xid = xid.map(|xid| xid as u32);
        match Block::read(&source)? {
            Some(block) => Ok(Self {
                table,
                position: Some(block.position),
                lsn,
                generation: block.generation,
                committed_at,
                xid,
                key_types: block.key_types(),
                types: block.types(),
                ours: true,
            }),
            None => {
                let generation = Generation(0);
                Ok(Self {
                    table,
                    position: None,
                    lsn,
                    generation,
                    committed_at,
                    xid,
                    key_types: None,
                    types: HashMap::new(),
                    ours: false,
                })
            }
        }
    }
}

/// Reads the end of a snapshot, if the message is one.
pub(super) fn snapshot_end(envelope: &json::EnvelopeObject<'_>) -> Result<Option<SnapshotEnd>, Malformed> {
    let Some(source) = envelope.get("source") else { return Ok(None) };
    let source = json::EnvelopeObject::of(source, "source")?;
    let Some(block) = Block::read(&source)? else { return Ok(None) };
    let Some((barrier, sweep)) = control::read_end_part(&block.fields)? else { return Ok(None) };
    let table = TableName::new(source.text("schema")?, source.text("table")?);
    Ok(Some(SnapshotEnd { table, position: block.position, generation: block.generation, sweep, barrier }))
}

/// walvec's own block.
struct Block<'a> {
    fields: json::EnvelopeObject<'a>,
    position: Position,
    generation: Generation,
}

impl<'a> Block<'a> {
    fn read(source: &json::EnvelopeObject<'a>) -> Result<Option<Self>, Malformed> {
        let Some(block) = source.get(control::BLOCK) else { return Ok(None) };
        let fields = json::EnvelopeObject::of(block, "source.walvec")?;
        fields.version()?;
        let position = fields.position()?;
        Ok(Some(Self { fields, position, generation: Generation(fields.number("generation")?) }))
    }

    /// Invalid types are treated as absent. The values then decide.
    fn key_types(&self) -> Option<Vec<u32>> {
        let types = self.fields.get("key_types")?.as_array()?;
        types.iter().map(|oid| oid.as_u64().and_then(|oid| u32::try_from(oid).ok())).collect()
    }

    /// Returns the types of columns, by their names. Earlier releases wrote none.
    fn types(&self) -> HashMap<String, Type> {
        let types = self.fields.get("types").and_then(Value::as_object);
        let known = |(name, ty): (&String, &Value)| Some((name.clone(), Type::of_name(ty.as_str()?)));
        types.into_iter().flatten().filter_map(known).collect()
    }
}
