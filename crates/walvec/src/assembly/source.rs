//! What is read from PostgreSQL: tables, their columns, lookups.

use std::collections::BTreeSet;

use walvec_capture::{Columns, LookupSpec, SourceConfig, TableSpec};
use walvec_model::TableName;

use super::transform::without_chunks;
use crate::config::{CollectionConfig, Config, PublishedColumns};

/// Returns the source part of a configuration.
pub(crate) fn source_config(config: &Config) -> SourceConfig {
    SourceConfig {
        url: config.source.url.clone(),
        slot: config.source.slot.clone(),
        publication: config.source.publication.clone(),
        tables: tables(config),
        lookups: lookups(config),
        copy_workers: config.source.copy_workers,
    }
}

/// Returns the tables to copy and follow, each once, even if several collections show it.
fn tables(config: &Config) -> Vec<TableSpec> {
    let mut tables: Vec<TableSpec> = Vec::new();
    for CollectionConfig { table, filter, .. } in &config.collections {
        let spec = TableSpec { name: table.clone(), filter: filter.clone(), columns: columns(config, table) };
        if !tables.contains(&spec) {
            tables.push(spec);
        }
    }
    tables
}

/// Returns the columns of a table that its collections need.
fn columns(config: &Config, table: &TableName) -> Columns {
    let lists = config.source.columns == PublishedColumns::Used;
    // Other programs read the topics too, so they hold all columns.
    if config.broker.is_some() && !lists {
        return Columns::All;
    }
    let mut used = BTreeSet::new();
    for collection in config.collections.iter().filter(|collection| collection.table == *table) {
        // A template that cannot be compiled is reported elsewhere.
        let columns = without_chunks(collection).ok().and_then(|transform| transform.columns());
        let Some(columns) = columns else { return Columns::All };
        used.extend(columns);
    }
    if lists { Columns::Listed(used) } else { Columns::Used(used) }
}

/// Returns the tables of the publication.
pub(crate) fn published_tables(config: &Config) -> BTreeSet<TableName> {
    let main = config.collections.iter().map(|collection| collection.table.clone());
    main.chain(lookups(config).into_iter().map(|spec| spec.lookup.table)).collect()
}

/// Returns the lookups of all collections.
fn lookups(config: &Config) -> Vec<LookupSpec> {
    let of = |collection: &CollectionConfig| {
        let main = collection.table.clone();
        collection.lookups().into_iter().map(move |lookup| LookupSpec { main: main.clone(), lookup })
    };
    config.collections.iter().flat_map(of).collect()
}
