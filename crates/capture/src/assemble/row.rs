//! What the tuples of a change say about its row: values, keys, and what was left out.

use std::sync::Arc;

use walvec_model::{Cell, Row, RowKey, Table, Touched, Value};

use super::protocol;
use crate::CaptureError;
use crate::copy_text::not_utf8;
use crate::pgoutput::{Tuple, TupleField};
use crate::value::{self, ValueKind};

/// A table whose changes are wanted, as described by the stream's latest Relation message.
#[derive(Debug)]
pub(crate) struct FollowedTable {
    pub(crate) table: Arc<Table>,
    /// How to read each column.
    pub(crate) kinds: Vec<ValueKind>,
    /// For each column, whether it is used. The others may be large and are emitted as NULL.
    pub(crate) used: Vec<bool>,
    /// Whether documents are made of the table's rows.
    pub(crate) is_main: bool,
    /// Whether rows of other tables look something up in this table.
    pub(crate) is_looked_up: bool,
    /// Whether changes may come without the old values nevertheless: the table has `REPLICA IDENTITY FULL`, but a
    /// partition that was added later has not.
    pub(crate) may_lack_old: bool,
}

/// Returns the rows of a looked-up table before and after a change.
pub(super) fn rows(
    followed: &FollowedTable,
    old: Option<&Tuple<'_>>,
    new: Option<&Tuple<'_>>,
) -> Result<Touched, CaptureError> {
    if followed.may_lack_old && old.is_some_and(|old| is_bare_key(followed, old)) {
        return Ok(Touched::All);
    }
    let before = old.map(|old| row(followed, old, None)).transpose()?;
    let after = new.map(|new| row(followed, new, old)).transpose()?;
    Ok(Touched::Rows(before.into_iter().chain(after).collect()))
}

/// Returns whether only the key of a row was sent. If the table's identity is FULL, the server calls this a whole row,
/// even if the partition has another identity.
fn is_bare_key(followed: &FollowedTable, row: &Tuple<'_>) -> bool {
    // A tuple that is marked as a key is known to leave the other columns out.
    if row.is_key {
        return false;
    }
    let mut others = row.fields().enumerate().filter(|(index, _)| !followed.table.key.contains(index));
    others.all(|(_, field)| field == TupleField::Null)
}

/// Decodes `new`, with values that it left out taken from `old` where they are present there. In a key tuple, all other
/// columns count as left out.
pub(super) fn row(followed: &FollowedTable, new: &Tuple<'_>, old: Option<&Tuple<'_>>) -> Result<Row, CaptureError> {
    check_shape(followed, new)?;
    let mut old_fields = old.map(Tuple::fields);
    let mut cells = Vec::with_capacity(new.len());
    for (index, field) in new.fields().enumerate() {
        let old_field = old_fields.as_mut().and_then(Iterator::next);
        if !followed.used.get(index).copied().unwrap_or(true) {
            cells.push(Cell::Value(Value::Null));
            continue;
        }
        cells.push(match field {
            TupleField::Null if new.is_key => Cell::Unchanged,
            TupleField::Null => Cell::Value(Value::Null),
            TupleField::Text(text) => Cell::Value(decode(followed, index, text)?),
            // A null in the old tuple means "not in the identity", because a value stored out of line is never NULL.
            TupleField::Unchanged => match old_field {
                Some(TupleField::Text(text)) => Cell::Value(decode(followed, index, text)?),
                Some(TupleField::Null | TupleField::Unchanged) | None => Cell::Unchanged,
            },
        });
    }
    Ok(Row(cells))
}

pub(super) fn key_of(followed: &FollowedTable, tuple: &Tuple<'_>) -> Result<RowKey, CaptureError> {
    check_shape(followed, tuple)?;
    let mut values = vec![None; followed.table.key.len()];
    for (index, field) in tuple.fields().enumerate() {
        if let Some(position) = followed.table.key.iter().position(|&key| key == index)
            && let TupleField::Text(text) = field
        {
            values[position] = Some(decode(followed, index, text)?);
        }
    }
    let missing = values.iter().position(Option::is_none);
    if let Some(index) = missing.and_then(|position| followed.table.key.get(position)) {
        return Err(incomplete_key(followed, *index));
    }
    Ok(RowKey::new(values.into_iter().flatten().collect()))
}

fn decode(followed: &FollowedTable, index: usize, text: &[u8]) -> Result<Value, CaptureError> {
    let text = std::str::from_utf8(text).map_err(|error| not_utf8(&followed.table, index, error))?;
    Ok(followed.kinds.get(index).map_or(Value::Null, |kind| value::decode(text, kind)))
}

fn check_shape(followed: &FollowedTable, tuple: &Tuple<'_>) -> Result<(), CaptureError> {
    let wanted = followed.kinds.len();
    if tuple.len() == wanted {
        return Ok(());
    }
    Err(protocol(format!("a row of {} has {} columns, not {wanted}", followed.table.name, tuple.len())))
}

pub(super) fn incomplete_key(followed: &FollowedTable, index: usize) -> CaptureError {
    CaptureError::Schema {
        table: followed.table.name.clone(),
        reason: format!(
            "a change came without the key column \"{}\": the replica identity does not hold it",
            column_name(followed, index)
        ),
    }
}

fn column_name(followed: &FollowedTable, index: usize) -> String {
    followed.table.columns.get(index).map(|column| column.name.clone()).unwrap_or_default()
}
