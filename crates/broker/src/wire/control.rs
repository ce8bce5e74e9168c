//! walvec's own block in records that are not rows: the end of a snapshot, or a truncated table.
//!
//! The block is `{"v":1,"schema":"public","table":"books","position":"0/1D5C408.0","generation":2}`. At the end of a
//! snapshot it also has `"end":{"barrier":[17,23]}`, or `"end":{"barrier":[17,23],"sweep":"older"}` if only the table
//! was read again. Debezium's envelope has its own place for the table.

use walvec_model::{Generation, Position, TableName};

use super::{Malformed, SnapshotEnd, Sweep, VERSION, json};

/// The name of the block.
pub(super) const BLOCK: &str = "walvec";

/// The value of `sweep` for [`Sweep::Older`]. Readers that do not know the value remove nothing.
const OLDER: &str = "older";

/// Appends the block about `table`, with the part for a snapshot's end if there is one.
pub(super) fn write(
    out: &mut Vec<u8>,
    table: &TableName,
    position: Position,
    generation: Generation,
    end: Option<&SnapshotEnd>,
) {
    json::display(out, format_args!("{{\"v\":{VERSION},\"schema\":"));
    json::value(out, &table.schema);
    json::raw(out, r#","table":"#);
    json::value(out, &table.name);
    json::display(out, format_args!(",\"position\":\"{position}\",\"generation\":{}", generation.0));
    if let Some(end) = end {
        json::raw(out, r#","end":"#);
        write_end_part(out, end);
    }
    out.push(b'}');
}

/// Appends the part of the block that only a snapshot's end has.
pub(super) fn write_end_part(out: &mut Vec<u8>, end: &SnapshotEnd) {
    json::raw(out, r#"{"barrier":"#);
    json::value(out, &end.barrier);
    if end.sweep == Sweep::Older {
        json::raw(out, r#","sweep":"#);
        json::value(out, OLDER);
    }
    out.push(b'}');
}

/// Reads the part that only a snapshot's end has, if `block` contains it.
pub(super) fn read_end_part(block: &json::EnvelopeObject<'_>) -> Result<Option<(Vec<i64>, Sweep)>, Malformed> {
    if block.get("end").is_none() {
        return Ok(None);
    }
    let end = block.object("end")?;
    let is_older = end.get("sweep").is_some_and(|sweep| sweep == OLDER);
    Ok(Some((end.offsets("barrier")?, if is_older { Sweep::Older } else { Sweep::Generations })))
}

/// Appends the block of a snapshot's end.
pub(super) fn write_end(out: &mut Vec<u8>, end: &SnapshotEnd) {
    write(out, &end.table, end.position, end.generation, Some(end));
}

/// The contents of a block.
pub(super) struct Control {
    pub(super) table: TableName,
    pub(super) position: Position,
    pub(super) generation: Generation,
    /// Set only at the end of a snapshot.
    pub(super) end: Option<(Vec<i64>, Sweep)>,
}

impl Control {
    /// Reads the block of `envelope`, if there is one.
    pub(super) fn read(envelope: &json::EnvelopeObject<'_>) -> Result<Option<Self>, Malformed> {
        if envelope.get(BLOCK).is_none() {
            return Ok(None);
        }
        let block = envelope.object(BLOCK)?;
        block.version()?;
        Ok(Some(Self {
            table: TableName::new(block.text("schema")?, block.text("table")?),
            position: block.position()?,
            generation: Generation(block.number("generation")?),
            end: read_end_part(&block)?,
        }))
    }

    /// Returns the end of a snapshot, if the block describes one.
    pub(super) fn end(self) -> Option<SnapshotEnd> {
        let Self { table, position, generation, end } = self;
        let (barrier, sweep) = end?;
        Some(SnapshotEnd { table, position, generation, sweep, barrier })
    }
}
