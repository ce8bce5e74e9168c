//! Tables as records show them.
//!
//! A topic holds rows, not tables. Rows with equal columns and keys share one [`Table`], so that tables can be compared
//! quickly by their pointers, and a topic of a million rows does not create a million tables.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use walvec_model::{Column, Table, TableName, Type};

/// The `pg_type.oid` of the types that point ids depend on, and of the one that stands for all others.
pub(super) const INT8: u32 = 20;
pub(super) const INT2: u32 = 21;
pub(super) const INT4: u32 = 23;
pub(super) const TEXT: u32 = 25;
pub(super) const UUID: u32 = 2950;
/// The oid of a column whose type the record does not contain.
pub(super) const UNKNOWN: u32 = 0;

/// How many shapes of one table are kept. An altered table has a new shape, and any program may have written to the topic.
const KEPT: usize = 8;

/// A column as a record shows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ShownColumn<'a> {
    pub(super) name: &'a str,
    pub(super) type_name: &'a str,
    pub(super) type_oid: u32,
    /// The type, if the record shows it in another way than by its oid or its name.
    pub(super) ty: Option<&'a Type>,
}

impl<'a> ShownColumn<'a> {
    /// Returns the column, as far as the record shows it.
    fn column(&self) -> Column {
        let known = Column::new(self.name, self.type_name, self.type_oid);
        let ty = match (self.ty, self.type_name) {
            (Some(ty), _) => ty.clone(),
            (None, "") => Type::Unknown,
            (None, name) => Type::of_name(name),
        };
        Column { ty, ..known }
    }

    /// Creates a column of which only the name is known.
    pub(super) const fn named(name: &'a str) -> Self {
        Self { name, type_name: "", type_oid: UNKNOWN, ty: None }
    }
}

/// The tables that were seen so far.
#[derive(Debug, Default)]
pub(super) struct SeenTables {
    known: HashMap<TableName, Vec<Arc<Table>>>,
}

impl SeenTables {
    /// Returns the table called `name` with these columns and this key: one that was seen before, or a new one.
    pub(super) fn table(&mut self, name: &TableName, columns: &[ShownColumn<'_>], key: &[usize]) -> Arc<Table> {
        let fits = |table: &&Arc<Table>| {
            table.key == key
                && table.columns.len() == columns.len()
                && table.columns.iter().zip(columns).all(|(known, shown)| {
                    known.name == shown.name
                        && known.type_oid == shown.type_oid
                        && known.type_name == shown.type_name
                        && shown.ty.is_none_or(|ty| known.ty == *ty)
                })
        };
        if let Some(table) = self.known.get(name).and_then(|tables| tables.iter().find(fits)) {
            return Arc::clone(table);
        }
        let columns = columns.iter().map(ShownColumn::column).collect();
        let table = Arc::new(Table { name: name.clone(), columns, key: key.to_vec() });
        let tables = self.known.entry(name.clone()).or_default();
        if tables.len() == KEPT {
            tables.remove(0);
        }
        tables.push(Arc::clone(&table));
        table
    }

    /// Returns the type oids of the key columns called `names`, from the latest record of the table that had them.
    pub(super) fn key_types<'a>(
        &self,
        table: &TableName,
        names: impl Iterator<Item = &'a str> + Clone,
    ) -> Option<Vec<u32>> {
        let tables = self.known.get(table)?;
        tables.iter().rev().find_map(|table| {
            let key = || table.key.iter().filter_map(|&index| table.columns.get(index));
            if key().any(|column| column.type_oid == UNKNOWN) {
                return None;
            }
            key().map(|column| column.name.as_str()).eq(names.clone()).then(|| key().map(|c| c.type_oid).collect())
        })
    }
}

/// Guesses a key column's type oid from its value, if no record contains it.
pub(super) fn guess(value: &Value) -> u32 {
    if value.is_i64() || value.is_u64() { INT8 } else { TEXT }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_of_equal_tables_share_one_table_and_old_shapes_are_forgotten() {
        let name = TableName::new("public", "books");
        let mut shapes = SeenTables::default();
        let columns = [ShownColumn { type_oid: INT4, ..ShownColumn::named("id") }, ShownColumn::named("title")];
        let first = shapes.table(&name, &columns, &[0]);
        assert!(Arc::ptr_eq(&first, &shapes.table(&name, &columns, &[0])));
        assert!(!Arc::ptr_eq(&first, &shapes.table(&name, &columns, &[1])));
        assert_eq!(shapes.key_types(&name, ["id"].into_iter()), Some(vec![INT4]));
        assert_eq!(shapes.key_types(&name, ["isbn"].into_iter()), None);
        for index in 0..KEPT {
            shapes.table(&name, &[ShownColumn::named(&format!("c{index}"))], &[0]);
        }
        assert!(!Arc::ptr_eq(&first, &shapes.table(&name, &columns, &[0])));
        assert_eq!((guess(&json!(-1)), guess(&json!(u64::MAX)), guess(&json!(1.5))), (INT8, INT8, TEXT));
    }
}
