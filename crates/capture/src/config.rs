//! The configuration of capture.

use std::collections::BTreeSet;

use secrecy::SecretString;
use walvec_model::{Column, Lookup, Table, TableName};

/// A PostgreSQL source: its address, and what to read from it.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// The address: `postgres://user:password@host:port/database?sslmode=...`, or `key=value` pairs as libpq reads
    /// them. No environment variables are read here; that is left to the caller.
    ///
    /// In addition to what tokio-postgres supports, `sslmode` can be `verify-ca` or `verify-full`, and `sslrootcert` can be
    /// set. Without `sslmode`, a host that is not this machine must prove its identity (`verify-full`). A host that is a
    /// directory stands for the Unix socket in it; no host stands for this machine's socket, or `localhost` if there is none.
    pub url: SecretString,
    /// The name of the replication slot.
    pub slot: String,
    /// The name of the publication.
    pub publication: String,
    /// The tables to publish and copy.
    pub tables: Vec<TableSpec>,
    /// What rows of these tables look up in other tables, which are published too but not copied.
    pub lookups: Vec<LookupSpec>,
    /// How many connections copy concurrently; at least 1.
    pub copy_workers: usize,
}

/// One table to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// The table; for a partitioned table, the root.
    pub name: TableName,
    /// A condition in SQL, which PostgreSQL (15 and later) evaluates for the copy and for the stream.
    pub filter: Option<String>,
    /// The columns to read.
    pub columns: Columns,
}

/// The columns of a table that are read. The key columns are always read.
///
/// For other columns, the snapshot and the stream give NULL. The names may include columns that the table does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Columns {
    /// All published columns.
    #[default]
    All,
    /// Only these of the published columns.
    Used(BTreeSet<String>),
    /// Only these columns, and a publication that walvec makes sends no others (PostgreSQL 15 and later), as far as
    /// PostgreSQL allows that for the table's replica identity.
    Listed(BTreeSet<String>),
}

impl Columns {
    /// Returns whether a column is among them.
    pub(crate) fn has(&self, column: &str) -> bool {
        match self {
            Self::All => true,
            Self::Used(names) | Self::Listed(names) => names.contains(column),
        }
    }
}

/// A lookup by the rows of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupSpec {
    /// The table whose rows look something up.
    pub main: TableName,
    /// What the rows look up.
    pub lookup: Lookup,
}

impl SourceConfig {
    /// Returns the tables in the publication: first those to copy, then those that are only looked up.
    pub(crate) fn published(&self) -> Vec<TableSpec> {
        let mut tables = self.tables.clone();
        for LookupSpec { lookup, .. } in &self.lookups {
            if tables.iter().all(|spec| spec.name != lookup.table) {
                // For a table that is only looked up, the stream shows which rows changed. Separate statements read the
                // values to render.
                let columns = self.lookups_in(&lookup.table).flat_map(|spec| &spec.lookup.on);
                let columns = Columns::Used(columns.map(|(theirs, _)| theirs.clone()).collect());
                tables.push(TableSpec { name: lookup.table.clone(), filter: None, columns });
            }
        }
        tables
    }

    /// Returns whether a publication that walvec makes sends only the columns in use.
    pub(crate) fn lists_columns(&self) -> bool {
        self.tables.iter().any(|spec| matches!(spec.columns, Columns::Listed(_)))
    }

    /// Returns, for each column of a table, whether it is used: by the key, to find rows for a lookup, or by the configuration.
    pub(crate) fn used(&self, table: &Table) -> Vec<bool> {
        let specs: Vec<TableSpec> = self.published().into_iter().filter(|spec| spec.name == table.name).collect();
        let finds_rows = |name: &str| {
            self.lookups_in(&table.name).any(|spec| spec.lookup.on.iter().any(|(theirs, _)| theirs == name))
        };
        let is_used = |(index, column): (usize, &Column)| {
            let is_read = specs.is_empty() || specs.iter().any(|spec| spec.columns.has(&column.name));
            is_read || table.key.contains(&index) || finds_rows(&column.name)
        };
        table.columns.iter().enumerate().map(is_used).collect()
    }

    /// Returns this configuration without `tables`, and without tables that only their rows look something up in.
    pub(crate) fn without(&self, tables: &[TableName]) -> Self {
        let mut config = self.clone();
        config.tables.retain(|spec| !tables.contains(&spec.name));
        config.lookups.retain(|spec| !tables.contains(&spec.main));
        config
    }

    /// Returns this configuration for `tables` only, and for the tables whose rows look something up in one of them.
    pub(crate) fn only(&self, tables: &[TableName]) -> Self {
        let mut config = self.clone();
        let mut wanted = tables.to_vec();
        wanted.extend(tables.iter().flat_map(|table| self.lookups_in(table)).map(|spec| spec.main.clone()));
        config.tables.retain(|spec| wanted.contains(&spec.name));
        config.lookups.retain(|spec| wanted.contains(&spec.main));
        config
    }

    /// Returns whether documents are made of the rows of `table`.
    pub(crate) fn is_main(&self, table: &TableName) -> bool {
        self.tables.iter().any(|spec| spec.name == *table)
    }

    /// Returns the lookups in `table`.
    pub(crate) fn lookups_in<'a>(&'a self, table: &'a TableName) -> impl Iterator<Item = &'a LookupSpec> {
        self.lookups.iter().filter(move |spec| spec.lookup.table == *table)
    }
}
