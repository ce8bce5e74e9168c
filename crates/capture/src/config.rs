//! What capture has to be told.

use std::collections::BTreeSet;

use secrecy::SecretString;
use walvec_model::{Column, Lookup, Table, TableName};

/// A PostgreSQL source: where it is, and what to read from it.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// `postgres://user:password@host:port/database?sslmode=...`, or `key=value` pairs as libpq reads them. Environment
    /// variables are the caller's business: none is read here.
    ///
    /// Beyond what tokio-postgres understands: `sslmode` `verify-ca` and `verify-full`, and `sslrootcert`. Without
    /// `sslmode`, a host that is not this machine must prove who it is (`verify-full`). A host that is a directory means
    /// the Unix socket in it; no host means this machine's socket, or `localhost` if there is none.
    pub url: SecretString,
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// The tables to publish and copy.
    pub tables: Vec<TableSpec>,
    /// What rows of these tables look up in others, which are published too, and not copied.
    pub lookups: Vec<LookupSpec>,
    /// How many connections copy at the same time; at least 1.
    pub copy_workers: usize,
}

/// One table to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// The table; for a partitioned table, the root.
    pub name: TableName,
    /// A condition in SQL, evaluated by PostgreSQL (15 and later) for the copy and for the stream.
    pub filter: Option<String>,
    /// The columns to read.
    pub columns: Columns,
}

/// Which columns of a table are read. Those of its key are in any case.
///
/// Of the others the snapshot reads NULL, and the stream tells NULL. The names may be of columns that the table does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Columns {
    /// All that are published.
    #[default]
    All,
    /// These alone, of all that are published.
    Used(BTreeSet<String>),
    /// These alone, and a publication that walvec makes sends no others (PostgreSQL 15 and later), as far as PostgreSQL allows that
    /// for the table's replica identity.
    Listed(BTreeSet<String>),
}

impl Columns {
    /// Whether a column is among them.
    pub(crate) fn has(&self, column: &str) -> bool {
        match self {
            Self::All => true,
            Self::Used(names) | Self::Listed(names) => names.contains(column),
        }
    }
}

/// What the rows of a table look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupSpec {
    /// The table whose rows look something up.
    pub main: TableName,
    /// What and where.
    pub lookup: Lookup,
}

impl SourceConfig {
    /// The tables that the publication has: those to copy, then those that are only looked up.
    pub(crate) fn published(&self) -> Vec<TableSpec> {
        let mut tables = self.tables.clone();
        for LookupSpec { lookup, .. } in &self.lookups {
            if tables.iter().all(|spec| spec.name != lookup.table) {
                // A stream tells which rows changed; what is rendered of them is read by statements of its own.
                let columns = self.lookups_in(&lookup.table).flat_map(|spec| &spec.lookup.on);
                let columns = Columns::Used(columns.map(|(theirs, _)| theirs.clone()).collect());
                tables.push(TableSpec { name: lookup.table.clone(), filter: None, columns });
            }
        }
        tables
    }

    /// Whether a publication that walvec makes sends used columns alone.
    pub(crate) fn lists_columns(&self) -> bool {
        self.tables.iter().any(|spec| matches!(spec.columns, Columns::Listed(_)))
    }

    /// Which columns of a table are used, in their order: those of its key, those by which rows of others find its rows, and what the
    /// configuration says.
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

    /// This configuration without `tables`, and without the tables that only their rows look something up in.
    pub(crate) fn without(&self, tables: &[TableName]) -> Self {
        let mut config = self.clone();
        config.tables.retain(|spec| !tables.contains(&spec.name));
        config.lookups.retain(|spec| !tables.contains(&spec.main));
        config
    }

    /// This configuration for `tables` alone, and for those whose rows look something up in one of them.
    pub(crate) fn only(&self, tables: &[TableName]) -> Self {
        let mut config = self.clone();
        let mut wanted = tables.to_vec();
        wanted.extend(tables.iter().flat_map(|table| self.lookups_in(table)).map(|spec| spec.main.clone()));
        config.tables.retain(|spec| wanted.contains(&spec.name));
        config.lookups.retain(|spec| wanted.contains(&spec.main));
        config
    }

    /// Whether rows of `table` are copied and followed for their own sake.
    pub(crate) fn is_main(&self, table: &TableName) -> bool {
        self.tables.iter().any(|spec| spec.name == *table)
    }

    /// The lookups in `table`.
    pub(crate) fn lookups_in<'a>(&'a self, table: &'a TableName) -> impl Iterator<Item = &'a LookupSpec> {
        self.lookups.iter().filter(move |spec| spec.lookup.table == *table)
    }
}
