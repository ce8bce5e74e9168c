//! Digests of a configuration: when one changes, tables or topics are read again.

use walvec_model::operands::prepare;
use walvec_model::{Fingerprint, TableName};
use walvec_pipeline::ConfigDigest;
use walvec_transform::chunk::CUT;

use crate::config::{CollectionConfig, Config};

/// Returns a digest of what workers make of rows, independent of the order of the collections.
pub(crate) fn payload_digest(config: &Config) -> String {
    let mut config = config.clone();
    config.collections.sort_by(|one, other| one.name.cmp(&other.name));
    // Workers learn the types of the columns from the records only, so every column that is indexed as a number counts.
    let numbers = stored_numbers(&config).into_iter().map(|(table, field)| format!("number {table} {field}"));
    let parts: Vec<String> = std::iter::once(config_digest(&config)).chain(numbers).collect();
    digest_of(&parts)
}

/// A part of the digest of templates that compare by size: it names how NULL compares. Rows that were rendered by another rule are rendered again.
const COMPARISON: &str = "comparisons with NULL do not hold";

/// Returns whether a template of the collection compares values by size.
fn compares(collection: &CollectionConfig) -> bool {
    let mut templates = std::iter::once(&collection.text).chain(collection.computed.values());
    templates.any(|template| prepare(template).compares)
}

/// Returns the fields that are indexed as numbers: the computed ones, or the columns.
fn numbers(collection: &CollectionConfig, are_computed: bool) -> impl Iterator<Item = String> {
    let numbers = collection.indexes().into_iter().filter(|(_, index)| index.is_number());
    let wanted = numbers.filter(move |(field, _)| collection.computed.contains_key(field) == are_computed);
    wanted.map(|(field, _)| field)
}

/// Names the computed fields that are stored as numbers because they are indexed as numbers.
fn computed_numbers(collection: &CollectionConfig) -> Option<String> {
    let numbers: Vec<String> = numbers(collection, true).collect();
    (!numbers.is_empty()).then(|| format!("numbers {}", numbers.join(", ")))
}

/// Returns the columns that are indexed as numbers.
pub(crate) fn stored_numbers(config: &Config) -> Vec<(TableName, String)> {
    let of = |collection: &CollectionConfig| -> Vec<(TableName, String)> {
        numbers(collection, false).map(|field| (collection.table.clone(), field)).collect()
    };
    config.collections.iter().flat_map(of).collect()
}

/// Returns digests of what decides about the rows and payloads of the collections.
pub(crate) fn config_digests(config: &Config) -> ConfigDigest {
    let of = |table: &TableName| digest(config, config.collections.iter().filter(|shows| shows.table == *table));
    let tables = config.collections.iter().map(|collection| (collection.table.clone(), of(&collection.table)));
    ConfigDigest { digest: config_digest(config), numbers: stored_numbers(config), tables: tables.collect() }
}

fn digest_of(parts: &[String]) -> String {
    Fingerprint::of(&parts.iter().map(String::as_str).collect::<Vec<_>>()).to_string()
}

/// Returns a digest of what decides about rows, payloads and shards of the collections. When it changes, tables are read again.
pub(crate) fn config_digest(config: &Config) -> String {
    digest(config, config.collections.iter())
}

fn digest<'a>(config: &Config, collections: impl Iterator<Item = &'a CollectionConfig>) -> String {
    let shard_key = config.sink.qdrant.as_ref().and_then(|qdrant| qdrant.shard_key.clone());
    let parts: Vec<String> = collections
        .flat_map(|collection| {
            [
                collection.name.clone(),
                collection.table.to_string(),
                format!("{:?}", collection.filter),
                format!("{:?}", collection.payload),
                format!("{:?}", collection.computed),
                collection.layout().to_string(),
            ]
            .into_iter()
            .chain(collection.chunk_field().map(str::to_owned))
            .chain(collection.chunk.as_ref().map(|_| CUT.to_owned()))
            .chain(collection.lookups().into_iter().map(|lookup| lookup.describe()))
            .chain(computed_numbers(collection))
            .chain(compares(collection).then(|| COMPARISON.to_owned()))
        })
        .chain(shard_key)
        .collect();
    digest_of(&parts)
}
