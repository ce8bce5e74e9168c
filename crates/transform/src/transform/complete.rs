//! Fills in the values of a row that were not sent, and leaves out those that nothing uses.

use walvec_model::{Cell, IndexType, Provenance, Row, StoredPoint, Table, TableName, Value};

use super::Transform;

/// The outcome of filling in a row's unchanged values.
#[derive(Clone, Debug, PartialEq)]
pub enum Completed {
    /// One value per column of the table. Columns that nothing uses may be NULL.
    Row(Vec<Value>),
    /// A value that is needed was not sent and is not stored. The row has to be read from the table.
    Refetch,
}

impl Transform {
    /// Returns the row with NULL in place of values that nothing uses. They may be large.
    #[must_use]
    pub fn reduced(&self, table: &Table, row: &Row) -> Row {
        let Ok(shape) = self.shape(table) else { return row.clone() };
        let is_needed = |index: usize| shape.needed.get(index).copied().unwrap_or(true);
        let cell =
            |(index, cell): (usize, &Cell)| if is_needed(index) { cell.clone() } else { Cell::Value(Value::Null) };
        Row(row.0.iter().enumerate().map(cell).collect())
    }

    /// Returns whether a value that is needed was not sent, and all such values may be found in the stored point.
    #[must_use]
    pub fn may_be_stored(&self, table: &Table, row: &Row) -> bool {
        let unsent = table
            .columns
            .iter()
            .enumerate()
            .filter(|(index, _)| row.0.get(*index).is_none_or(|cell| cell.value().is_none()));
        let mut needed = unsent.map(|(_, column)| &column.name).filter(|name| self.needs(name)).peekable();
        needed.peek().is_some() && needed.all(|name| self.keeps(name))
    }

    /// Fills in the values that PostgreSQL did not send because an UPDATE did not change them, from the point that
    /// shows the row's previous version. An unchanged value never becomes NULL: where the point does not have it, the
    /// result is [`Completed::Refetch`].
    #[must_use]
    pub fn complete(&self, table: &Table, row: Row, stored: Option<&StoredPoint>) -> Completed {
        let stored = stored.filter(|point| is_from(point, &table.name));
        let mut cells = row.0.into_iter();
        let mut completed = Vec::with_capacity(table.columns.len());
        for column in &table.columns {
            let value = match cells.next() {
                Some(Cell::Value(value)) => Some(value),
                Some(Cell::Unchanged) | None if !self.needs(&column.name) => Some(Value::Null),
                Some(Cell::Unchanged) | None => self.stored_value(&column.name, stored),
            };
            match value {
                Some(value) => completed.push(value),
                None => return Completed::Refetch,
            }
        }
        Completed::Row(completed)
    }

    /// Returns whether the column's value is stored exactly as it came. A field indexed as a number may have lost digits.
    fn keeps(&self, column: &str) -> bool {
        let is_number = |(field, index): &(String, IndexType)| field == column && index.is_number();
        self.stores(column) && !self.spec.indexes.iter().any(is_number)
    }

    fn stored_value(&self, column: &str, stored: Option<&StoredPoint>) -> Option<Value> {
        if !self.keeps(column) {
            return None;
        }
        self.spec.layout.field(&stored?.payload, column).cloned()
    }
}

/// Returns whether walvec wrote the point for a row of `table`. The fields of any other point prove nothing about the row.
fn is_from(point: &StoredPoint, table: &TableName) -> bool {
    point.provenance.as_ref().is_some_and(|provenance| provenance.table == Provenance::table_tag(table))
}
