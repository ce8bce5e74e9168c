//! Rules that types cannot express. Every message says what to write instead.
//!
//! - [`lookup`], [`embedding`], [`broker`]: those of the sections with these names
//! - [`server`]: who may ask, and under which names

mod broker;
mod embedding;
mod lookup;
pub(super) mod server;

use std::collections::HashSet;

use walvec_model::point::RESERVED_KEY;
use walvec_sink::{FieldPath, Keywords};

use self::broker::{check_broker, check_stage};
use self::embedding::check_embedding;
use self::lookup::check_lookups;
use self::server::check_server;
use crate::config::Config;
use crate::config::error::ConfigError;
use crate::config::schema::collection::{ChunkSettings, CollectionConfig};
use crate::config::schema::sink::QdrantSettings;
use crate::config::yaml::document::YamlDocument;

/// PostgreSQL cuts longer names (NAMEDATALEN - 1).
const LONGEST_NAME: usize = 63;

/// The limit of most file systems for the name of a directory.
const LONGEST_DIRECTORY: usize = 255;

/// A violated rule: the key inside the part that was checked, and what is wrong with it.
pub(super) type Violation = (String, String);

/// Checks the whole configuration.
///
/// The values of the keys in `not_needed` are not checked: the process that needs them does that.
pub(super) fn check(config: &Config, document: Option<&YamlDocument>, not_needed: &[&str]) -> Result<(), ConfigError> {
    let checks = [
        check_stage,
        check_source,
        check_collections,
        check_lookups,
        check_embedding,
        check_sink,
        check_broker,
        check_server,
        check_pipeline,
    ];
    checks.iter().try_for_each(|check| match check(config) {
        Err((key, _)) if not_needed.contains(&key.as_str()) => Ok(()),
        checked => checked.map_err(|(key, reason)| error(document, &key, reason)),
    })
}

/// Makes an error at the dotted `key`, with its line if there is a file.
pub(super) fn error(document: Option<&YamlDocument>, key: &str, reason: impl Into<String>) -> ConfigError {
    match document {
        Some(document) => document.error_at(key, reason),
        None => ConfigError::outside_of_file(key, reason),
    }
}

pub(super) fn violation(key: impl Into<String>, reason: impl Into<String>) -> Result<(), Violation> {
    Err((key.into(), reason.into()))
}

pub(super) fn in_range(key: &str, value: u64, range: std::ops::RangeInclusive<u64>) -> Result<(), Violation> {
    if range.contains(&value) {
        return Ok(());
    }
    violation(key, format!("{value} is out of range; {} to {} are allowed", range.start(), range.end()))
}

fn check_source(config: &Config) -> Result<(), Violation> {
    let source = &config.source;
    let slot_characters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if source.slot.is_empty() || source.slot.len() > LONGEST_NAME || !source.slot.chars().all(slot_characters) {
        let reason = format!(
            "\"{}\" is no name for a replication slot; use lower-case letters, digits and underscores, at most {LONGEST_NAME}",
            source.slot
        );
        return violation("source.slot", reason);
    }
    let publication = &source.publication;
    if publication.is_empty() || publication.len() > LONGEST_NAME || publication.contains(char::is_control) {
        return violation(
            "source.publication",
            format!("must have 1 to {LONGEST_NAME} bytes and no control characters"),
        );
    }
    in_range("source.copy_workers", source.copy_workers as u64, 1..=64)
}

fn check_collections(config: &Config) -> Result<(), Violation> {
    if config.collections.is_empty() {
        return violation("collections", "there is none; name at least one table to read");
    }
    let mut names = HashSet::new();
    for (index, collection) in config.collections.iter().enumerate() {
        let key = format!("collections[{index}]");
        // A file system may not distinguish upper and lower case.
        if !names.insert(collection.name.to_lowercase()) {
            return violation(
                format!("{key}.name"),
                format!("\"{}\" is used twice; names must differ", collection.name),
            );
        }
        check_collection(collection).map_err(|(field, reason)| (format!("{key}.{field}"), reason))?;
        let is_other =
            |before: &&CollectionConfig| before.table == collection.table && before.filter != collection.filter;
        // A collection with a topic of its own is filled from what another program writes.
        let shares = |before: &&CollectionConfig| before.topic.is_none() && collection.topic.is_none();
        if let Some(before) = config.collections[..index].iter().filter(shares).find(is_other) {
            let reason = format!(
                "collection {} shows {} by another `where` or without one, and PostgreSQL filters a table in one way; write the same in both, \
                 and filter when you search",
                before.name, collection.table
            );
            return violation(format!("{key}.where"), reason);
        }
    }
    Ok(())
}

fn check_collection(collection: &CollectionConfig) -> Result<(), Violation> {
    let name = &collection.name;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > LONGEST_DIRECTORY || name.starts_with('.') || !name.chars().all(allowed) {
        let reason = format!(
            "\"{name}\" is also the name of a directory; use letters, digits, - _ and . but not first, \
             at most {LONGEST_DIRECTORY}"
        );
        return violation("name", reason);
    }
    if is_numbered(name) {
        return violation(
            "name",
            format!("\"{name}\" looks like one of walvec's own numbered collections; choose another"),
        );
    }
    if collection.text.trim().is_empty() {
        return violation("text", "empty; without a text there is nothing to search, write for example \"{{ name }}\"");
    }
    if collection.filter.as_ref().is_some_and(|filter| filter.trim().is_empty()) {
        return violation("where", "empty; remove it to read every row");
    }
    if let Some(language) = collection.hybrid.as_ref().filter(|language| Keywords::new(language).is_err()) {
        let reason =
            format!("\"{language}\" is no language that keywords can be in; write true, or for example german");
        return violation("hybrid", reason);
    }
    if let Some(chunk) = &collection.chunk {
        check_chunk(chunk).map_err(|(field, reason)| (format!("chunk{field}"), reason))?;
    }
    check_payload(collection)
}

fn check_chunk(chunk: &ChunkSettings) -> Result<(), Violation> {
    let length = match (chunk.tokens, chunk.sentences) {
        (Some(tokens), None) => {
            in_range(".tokens", tokens as u64, 8..=1_000_000)?;
            tokens
        }
        (None, Some(sentences)) => {
            in_range(".sentences", sentences as u64, 1..=1000)?;
            sentences
        }
        (None, None) => return violation("", "says no length; write chunk: { tokens: 256, overlap: 32 }"),
        (Some(_), Some(_)) => return violation("", "tokens and sentences exclude each other; keep one of them"),
    };
    if chunk.overlap > length / 2 {
        let reason = format!("{} is more than half a chunk of {length}; write less", chunk.overlap);
        return violation(".overlap", reason);
    }
    if chunk.field.is_empty() {
        return violation(".field", "empty; name the payload field for the text of the chunk");
    }
    Ok(())
}

/// Returns whether a name ends like those of the collections that lie behind an alias.
fn is_numbered(name: &str) -> bool {
    name.rsplit_once("__").is_some_and(|(_, number)| !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()))
}

fn check_payload(collection: &CollectionConfig) -> Result<(), Violation> {
    let layout = collection.layout();
    let reserved = |name: &str| match name {
        RESERVED_KEY => Some(format!("\"{name}\" is where walvec keeps each point's version; choose another name")),
        _ if layout.reserved().contains(&name) => {
            Some(format!("the layout {layout} needs the name \"{name}\" for itself"))
        }
        _ if collection.chunk_field() == Some(name) => {
            Some(format!("chunk.field keeps the text of the chunk in \"{name}\"; choose another name for one of them"))
        }
        _ => None,
    };
    let mut columns = HashSet::new();
    for (index, column) in collection.payload.iter().flatten().enumerate() {
        let key = format!("payload[{index}]");
        if let Some(reason) = reserved(column) {
            return violation(key, reason);
        }
        if !columns.insert(column) {
            return violation(key, format!("\"{column}\" is listed twice"));
        }
    }
    if let Some((name, reason)) = collection.computed.keys().find_map(|name| Some((name, reserved(name)?))) {
        return violation(format!("computed.{name}"), reason);
    }
    let is_field = |field: &String| columns.contains(field) || collection.computed.contains_key(field);
    // The name of a field, or the path to a member of one.
    let is_inside = |field: &String| FieldPath::parse(field).is_some_and(|path| is_field(&path.name));
    let is_wrong = |field: &&String| collection.payload.is_some() && !is_field(field) && !is_inside(field);
    match collection.index.keys().find(is_wrong) {
        Some(field) => violation(format!("index.{field}"), "not a payload field; add it to payload or to computed"),
        None => Ok(()),
    }
}

fn check_sink(config: &Config) -> Result<(), Violation> {
    let sink = &config.sink;
    if sink.embedded.is_some() && sink.qdrant.is_some() {
        return violation("sink", "embedded and qdrant exclude each other; keep one of them");
    }
    if sink.embedded.as_ref().is_some_and(|embedded| embedded.path.as_os_str().is_empty()) {
        return violation("sink.embedded.path", "empty; name a directory");
    }
    let Some(qdrant) = &sink.qdrant else { return Ok(()) };
    check_qdrant(qdrant)?;
    check_shard_key(qdrant, &config.collections)
}

fn check_shard_key(qdrant: &QdrantSettings, collections: &[CollectionConfig]) -> Result<(), Violation> {
    let Some(field) = &qdrant.shard_key else { return Ok(()) };
    if field.is_empty() {
        return violation("sink.qdrant.shard_key", "empty; name a payload field");
    }
    let has_field = |collection: &&CollectionConfig| {
        let is_column = collection.payload.as_ref().is_none_or(|columns| columns.contains(field));
        is_column || collection.computed.contains_key(field)
    };
    match collections.iter().find(|collection| !has_field(collection)) {
        Some(collection) => violation(
            "sink.qdrant.shard_key",
            format!("collection {} has no payload field \"{field}\"; add it to its payload", collection.name),
        ),
        None => Ok(()),
    }
}

fn check_qdrant(qdrant: &QdrantSettings) -> Result<(), Violation> {
    let address = ["http://", "https://"].iter().find_map(|scheme| qdrant.url.strip_prefix(scheme));
    if address.is_none_or(str::is_empty) {
        return violation("sink.qdrant.url", "not an address; write http://host:6334 or https://host:6334");
    }
    if qdrant.state.as_os_str().is_empty() {
        return violation("sink.qdrant.state", "empty; name a directory");
    }
    let counts = [
        ("sink.qdrant.shard_number", qdrant.shard_number),
        ("sink.qdrant.replication_factor", qdrant.replication_factor),
        ("sink.qdrant.write_consistency_factor", qdrant.write_consistency_factor),
    ];
    counts.into_iter().try_for_each(|(key, count)| in_range(key, count.unwrap_or(1).into(), 1..=1000))
}

fn check_pipeline(config: &Config) -> Result<(), Violation> {
    in_range("pipeline.batch_rows", config.pipeline.batch_rows as u64, 1..=10_000)?;
    in_range("pipeline.batch_wait_ms", config.pipeline.batch_wait_ms, 0..=10_000)
}
