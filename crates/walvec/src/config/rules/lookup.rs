//! Rules for lookups that types cannot express.

use std::collections::BTreeMap;

use secrecy::ExposeSecret as _;
use walvec_model::TableName;

use super::{Violation, in_range, violation};
use crate::config::Config;
use crate::config::schema::broker::RecordFormat;
use crate::config::schema::collection::CollectionConfig;
use crate::config::schema::lookup::{LookupSettings, order};
use crate::config::schema::stage::Stage;

/// Names that have another meaning in a template.
const TAKEN: [&str; 11] =
    ["row", "loop", "range", "dict", "namespace", "true", "false", "none", "not", "self", "super"];

/// Checks the lookups of all collections.
pub(super) fn check_lookups(config: &Config) -> Result<(), Violation> {
    for (index, collection) in config.collections.iter().enumerate() {
        let at = |field: String| format!("collections[{index}].{field}");
        for (name, lookup) in &collection.lookup {
            check_lookup(name, lookup).map_err(|(field, reason)| (at(format!("lookup.{name}{field}")), reason))?;
            check_table(config, collection, lookup)
                .map_err(|(field, reason)| (at(format!("lookup.{name}{field}")), reason))?;
        }
        if !collection.lookup.is_empty() {
            check_surroundings(config, collection).map_err(|(field, reason)| {
                // A rule about the whole process names its own key.
                (if field == "topic" { at(field) } else { field }, reason)
            })?;
        }
    }
    check_cycles(config)
}

fn check_lookup(name: &str, lookup: &LookupSettings) -> Result<(), Violation> {
    let is_start = |c: char| c.is_ascii_alphabetic() || c == '_';
    let is_name = name.starts_with(is_start) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name || TAKEN.contains(&name) {
        let reason = format!("\"{name}\" is no name for a variable of a template; use letters, digits and underscores");
        return violation("", reason);
    }
    if lookup.on.is_empty() {
        return violation(
            ".on",
            "empty; write which column has to be equal to which of the collection's table, for example on: { id: author_id }",
        );
    }
    if !lookup.many && (lookup.order.is_some() || lookup.limit.is_some()) {
        return violation("", "order and limit are for lists; add many: true, or remove them");
    }
    if let Some(Err(reason)) = lookup.order.as_deref().map(order) {
        return violation(".order", reason);
    }
    in_range(".limit", lookup.limit.unwrap_or(1).into(), 1..=10_000)
}

/// Refuses a row filter on a looked-up table: changes of rows that it hides are not streamed, and would go unseen.
fn check_table(config: &Config, collection: &CollectionConfig, lookup: &LookupSettings) -> Result<(), Violation> {
    let hides = |other: &&CollectionConfig| other.table == lookup.table && other.filter.is_some();
    match config.collections.iter().find(hides) {
        Some(other) => violation(
            ".table",
            format!(
                "collection {} hides rows of {} by its `where`, so that changes of those would not reach {}; remove the `where`, \
                 or look up another table",
                other.name, lookup.table, collection.name
            ),
        ),
        None => Ok(()),
    }
}

/// Checks that the process that renders documents can read their lookups, and that changes of the looked-up tables are
/// streamed.
fn check_surroundings(config: &Config, collection: &CollectionConfig) -> Result<(), Violation> {
    if collection.topic.is_some() {
        return violation(
            "topic",
            "a collection with `lookup` reads the topic of walvec's own capture: nobody else writes a row again when something \
             that it looks up has changed; remove one of them",
        );
    }
    let reads_postgres = matches!(config.stage, Stage::Index | Stage::Embed);
    if reads_postgres && config.source.url.expose_secret().is_empty() {
        return violation(
            "source.url",
            format!(
                "missing; collection {} looks rows up in PostgreSQL when it renders a document, so that the stage {} needs it; \
                 set it here, or DATABASE_URL",
                collection.name, config.stage
            ),
        );
    }
    let vectors = matches!(config.stage, Stage::Embed | Stage::Sink);
    if vectors && config.broker.as_ref().is_some_and(|broker| broker.kafka.format == RecordFormat::Reference) {
        return violation(
            "broker.kafka.format",
            "reference has no place for what a document looks up: the stage sink renders it again; use debezium, or the stage index",
        );
    }
    Ok(())
}

/// Refuses lookups that lead, directly or through other collections, from a table back to itself.
///
/// walvec itself would not loop: it follows the stream, and renders documents from rows, not from documents. But one change
/// would render documents of both tables. Readers of the topics would see the records as changes of both tables, and what
/// such a reader writes back would be a change again.
fn check_cycles(config: &Config) -> Result<(), Violation> {
    let mut edges: BTreeMap<&TableName, Vec<(usize, &str, &TableName)>> = BTreeMap::new();
    for (index, collection) in config.collections.iter().enumerate() {
        for (name, lookup) in &collection.lookup {
            edges.entry(&collection.table).or_default().push((index, name, &lookup.table));
        }
    }
    for (start, lookups) in &edges {
        for (index, name, next) in lookups {
            if let Some(path) = path(&edges, next, start, &mut vec![next]) {
                let path: Vec<String> = std::iter::once(*start).chain(path).map(ToString::to_string).collect();
                return violation(
                    format!("collections[{index}].lookup.{name}"),
                    format!("makes a cycle of lookups: {}; remove one of them", path.join(" looks up ")),
                );
            }
        }
    }
    Ok(())
}

/// Returns the tables on the way from the last one of `passed` to `to`, if there is a way.
fn path<'a>(
    edges: &BTreeMap<&'a TableName, Vec<(usize, &'a str, &'a TableName)>>,
    from: &'a TableName,
    to: &'a TableName,
    passed: &mut Vec<&'a TableName>,
) -> Option<Vec<&'a TableName>> {
    if from == to {
        return Some(passed.clone());
    }
    for (_, _, next) in edges.get(from).into_iter().flatten() {
        // This is another cycle, which is found from one of its own tables.
        if passed.contains(next) {
            continue;
        }
        passed.push(next);
        if let Some(found) = path(edges, next, to, passed) {
            return Some(found);
        }
        passed.pop();
    }
    None
}
