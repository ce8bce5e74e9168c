//! The collections of a pipeline: which of them show which table.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use walvec_capture::LookupSpec;
use walvec_model::{Change, Generation, Table, TableName};
use walvec_sink::Sink;

use crate::error::PipelineError;
use crate::state::records::{Checkpoint, TablesByCollection};
use crate::writer::{Batch, Purpose, Writer};

/// The writers of a pipeline's collections, and the tables that they show.
pub(crate) struct PipelineCollections {
    pub(crate) writers: Vec<Writer>,
    /// The tables as they were when the source was connected, including those that are only looked up.
    tables: Vec<Arc<Table>>,
    /// Tables that are set aside; their collections stay as they are.
    aside: HashSet<TableName>,
    /// The indexes of the writers whose collections show each table.
    by_table: HashMap<TableName, Vec<usize>>,
    /// The [`tables`](Self::tables) by name.
    by_name: HashMap<TableName, Arc<Table>>,
}

impl PipelineCollections {
    pub(crate) fn new(writers: Vec<Writer>) -> Self {
        let mut by_table = HashMap::<TableName, Vec<usize>>::new();
        for (index, writer) in writers.iter().enumerate() {
            by_table.entry(writer.collection.table.clone()).or_default().push(index);
        }
        Self { writers, by_table, tables: Vec::new(), aside: HashSet::new(), by_name: HashMap::new() }
    }

    /// Sets these tables aside, and no others.
    pub(crate) fn set_aside(&mut self, tables: impl IntoIterator<Item = TableName>) {
        self.aside = tables.into_iter().collect();
    }

    /// Takes over the tables as a session has found them.
    pub(crate) fn found(&mut self, tables: Vec<Arc<Table>>) {
        self.by_name = tables.iter().map(|table| (table.name.clone(), Arc::clone(table))).collect();
        self.tables = tables;
    }

    /// Returns the tables as they were when the source was connected, including those that are only looked up.
    pub(crate) fn tables(&self) -> &[Arc<Table>] {
        &self.tables
    }

    /// Returns the indexes of the writers whose collections show `table`; none if it is set aside.
    pub(crate) fn writers_of(&self, table: &TableName) -> Vec<usize> {
        self.showing(table).to_vec()
    }

    /// Returns the sinks of the collections.
    pub(crate) fn sinks(&self) -> Vec<Arc<dyn Sink>> {
        self.writers.iter().map(|writer| Arc::clone(&writer.collection.sink)).collect()
    }

    fn showing(&self, table: &TableName) -> &[usize] {
        if self.is_aside(table) {
            return &[];
        }
        self.by_table.get(table).map_or(&[], Vec::as_slice)
    }

    /// Returns whether a table is set aside.
    pub(crate) fn is_aside(&self, table: &TableName) -> bool {
        self.aside.contains(table)
    }

    /// Returns the writers of the collections whose tables are not set aside.
    pub(crate) fn followed(&mut self) -> Vec<&mut Writer> {
        let aside = &self.aside;
        self.writers.iter_mut().filter(|writer| !aside.contains(&writer.collection.table)).collect()
    }

    /// Returns all lookups of the collections.
    pub(crate) fn lookups(&self) -> Vec<LookupSpec> {
        let of = |writer: &Writer| {
            let (main, transform) = (writer.collection.table.clone(), Arc::clone(&writer.collection.transform));
            let lookups = transform.lookups().to_vec();
            lookups.into_iter().map(move |lookup| LookupSpec { main: main.clone(), lookup })
        };
        self.writers.iter().flat_map(of).collect()
    }

    /// Returns the tables whose rows each collection may hold: the stored ones, the ones found in its points, and the
    /// configured one.
    pub(crate) fn tables_of(&self, stored: Option<&Checkpoint>, found: TablesByCollection) -> TablesByCollection {
        let mut tables = stored.map(|checkpoint| checkpoint.tables.clone()).unwrap_or_default();
        for (collection, found) in found {
            tables.entry(collection).or_default().extend(found);
        }
        for Writer { collection, .. } in &self.writers {
            tables.entry(collection.name.clone()).or_default().insert(collection.table.clone());
        }
        tables
    }

    pub(crate) fn writer_of(&self, collection: &str) -> Option<usize> {
        self.writers.iter().position(|writer| writer.collection.name == collection)
    }

    /// Distributes changes to the writers whose collections show their tables, keeping the order.
    pub(crate) fn batches(&self, changes: Vec<Change>, purpose: Purpose) -> Vec<(usize, Batch)> {
        let mut dealt = BTreeMap::<usize, Vec<Change>>::new();
        for change in changes {
            for index in self.showing(&change.table.name) {
                dealt.entry(*index).or_default().push(self.writers[*index].reduced(&change));
            }
        }
        dealt.into_iter().map(|(index, changes)| (index, self.writers[index].batch(changes, purpose))).collect()
    }

    /// Fails if `table` differs from the table that the configuration was checked against and whose rows were copied.
    pub(crate) fn refuse_altered(&self, table: &Arc<Table>) -> Result<(), PipelineError> {
        match self.by_name.get(&table.name) {
            Some(known) if known != table => Err(PipelineError::Altered { table: table.name.clone() }),
            _ => Ok(()),
        }
    }

    pub(crate) fn begin_generation(&mut self, generation: Generation) {
        for writer in &mut self.writers {
            writer.begin_generation(generation);
        }
    }
}

#[cfg(test)]
mod tests;
