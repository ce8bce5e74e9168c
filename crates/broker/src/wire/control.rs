//! walvec's own block in records that are no row: the end of a snapshot, an emptied table.
//!
//! `{"v":1,"schema":"public","table":"books","position":"0/1D5C408.0","generation":2}`, and `"end":{"barrier":[17,23]}` at
//! the end of a snapshot. Debezium's envelope has the table in its own place.

use walvec_model::{Generation, Position, TableName};

use super::{Malformed, SnapshotEnd, VERSION, json};

/// The name of the block.
pub(super) const BLOCK: &str = "walvec";

/// Appends the block of what concerns `table`, with the barrier of a snapshot's end.
pub(super) fn write(
    out: &mut Vec<u8>,
    table: &TableName,
    position: Position,
    generation: Generation,
    barrier: Option<&[i64]>,
) {
    json::display(out, format_args!("{{\"v\":{VERSION},\"schema\":"));
    json::value(out, &table.schema);
    json::raw(out, r#","table":"#);
    json::value(out, &table.name);
    json::display(out, format_args!(",\"position\":\"{position}\",\"generation\":{}", generation.0));
    if let Some(barrier) = barrier {
        json::raw(out, r#","end":{"barrier":"#);
        json::value(out, barrier);
        out.push(b'}');
    }
    out.push(b'}');
}

/// Appends the block of a snapshot's end.
pub(super) fn write_end(out: &mut Vec<u8>, end: &SnapshotEnd) {
    write(out, &end.table, end.position, end.generation, Some(&end.barrier));
}

/// What a block says.
pub(super) struct Control {
    pub(super) table: TableName,
    pub(super) position: Position,
    pub(super) generation: Generation,
    /// Only at the end of a snapshot.
    pub(super) barrier: Option<Vec<i64>>,
}

impl Control {
    /// Reads the block of `envelope`, if it has one.
    pub(super) fn read(envelope: &json::Fields<'_>) -> Result<Option<Self>, Malformed> {
        if envelope.get(BLOCK).is_none() {
            return Ok(None);
        }
        let block = envelope.object(BLOCK)?;
        block.version()?;
        let barrier = match block.get("end") {
            Some(_) => Some(block.object("end")?.offsets("barrier")?),
            None => None,
        };
        Ok(Some(Self {
            table: TableName::new(block.text("schema")?, block.text("table")?),
            position: block.position()?,
            generation: Generation(block.number("generation")?),
            barrier,
        }))
    }

    /// The end of a snapshot, if it is one.
    pub(super) fn end(self) -> Option<SnapshotEnd> {
        let Self { table, position, generation, barrier } = self;
        Some(SnapshotEnd { table, position, generation, barrier: barrier? })
    }
}
