//! Looks up rows of another table: asks for each distinct key once, however many rows share it.

use std::collections::HashMap;
use std::sync::Arc;

use walvec_model::{Lookup, RowKey, Table, Take, Value};

/// The keys to ask for.
pub(crate) struct Wanted {
    keys: Vec<RowKey>,
    /// For each row, the index in `keys` of the key that it looks up by; `None` if that contains a NULL, which is equal
    /// to nothing.
    numbers: Vec<Option<usize>>,
}

impl Wanted {
    /// Collects the keys that these rows look up by.
    pub(crate) fn by<'r>(lookup: &Lookup, rows: impl Iterator<Item = (&'r Table, &'r [Value])>) -> Self {
        let (mut keys, mut known) = (Vec::new(), HashMap::new());
        let number = |(table, row): (&Table, &[Value])| {
            let value = |(_, ours): &(String, String)| row.get(table.column_index(ours)?).cloned();
            let values: Vec<Value> = lookup.on.iter().map(|pair| value(pair).unwrap_or_default()).collect();
            if values.iter().any(Value::is_null) {
                return None;
            }
            let key = RowKey::new(values);
            Some(*known.entry(key.clone()).or_insert_with(|| {
                keys.push(key);
                keys.len() - 1
            }))
        };
        let numbers = rows.map(number).collect();
        Self { keys, numbers }
    }

    pub(crate) fn keys(&self) -> &[RowKey] {
        &self.keys
    }

    /// Returns the value of the lookup for each row, given the rows that were `found`: an object or NULL, or a list of
    /// objects.
    pub(crate) fn answered(self, lookup: &Lookup, found: Vec<(usize, Value)>) -> Vec<Arc<Value>> {
        let mut by_key: Vec<Vec<Value>> = vec![Vec::new(); self.keys.len()];
        found.into_iter().for_each(|(number, row)| by_key[number].push(row));
        let taken = |found: Vec<Value>| {
            Arc::new(match lookup.take {
                Take::One => found.into_iter().next().unwrap_or_default(),
                Take::Many { .. } => Value::Array(found),
            })
        };
        let (values, nothing) = (by_key.into_iter().map(taken).collect::<Vec<_>>(), taken(Vec::new()));
        self.numbers.into_iter().map(|number| Arc::clone(number.map_or(&nothing, |number| &values[number]))).collect()
    }
}

#[cfg(test)]
mod tests;
