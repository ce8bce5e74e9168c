//! What `walvec run` will do, by the rules that it decides by itself.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Value, json};
use walvec_capture::Source;
use walvec_model::{Lsn, TableName};
use walvec_pipeline::source::start::{Start, decide};
use walvec_pipeline::{Before, Followed, PipelineError, Store, facts};

use crate::assembly::{self, broker, columns, digest};
use crate::config::{CollectionConfig, Config, Stage};
use crate::failure::Failure;
use crate::reindex::state;

/// What `walvec run` will do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Read the tables for the first time.
    Read { tables: usize },
    /// Continue where it stopped.
    Resume { at: Lsn },
    /// Read the tables again, although they were read before.
    ReadAgain {
        tables: usize,
        why: String,
        /// Whether the points exist, so that their vectors can be kept.
        is_stored: bool,
    },
    /// Continue, and read these tables again at the same time.
    ReadAnew { tables: Vec<String>, why: String },
    /// Nothing new: it is running with this configuration.
    Runs,
    /// It is running with another configuration, and will read the tables again when it is started with this one.
    RunsOtherwise { tables: usize, why: String },
}

impl Next {
    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Read { tables } => json!({"action": "read", "tables": tables}),
            Self::Resume { at } => json!({"action": "resume", "applied": at.to_string()}),
            Self::ReadAgain { tables, why, .. } => json!({"action": "read_again", "tables": tables, "why": why}),
            Self::ReadAnew { tables, why } => json!({"action": "resume", "read_again": tables, "why": why}),
            Self::Runs => json!({"action": "runs"}),
            Self::RunsOtherwise { tables, why } => {
                json!({"action": "read_again", "tables": tables, "why": why, "running": true})
            }
        }
    }
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |tables: &usize| match tables {
            1 => "1 table".to_owned(),
            tables => format!("{tables} tables"),
        };
        match self {
            Self::Read { tables } => {
                write!(f, "Ready: `walvec run` will read {}, then follow every change.", count(tables))
            }
            Self::Resume { at } => write!(f, "Ready: `walvec run` continues where it stopped, at {at}."),
            Self::ReadAgain { tables, why, is_stored } => write!(
                f,
                "Ready: `walvec run` will read {} again, because {why}. {}",
                count(tables),
                if *is_stored {
                    "Unchanged texts are not embedded again."
                } else {
                    "Its texts are all embedded again."
                }
            ),
            Self::ReadAnew { tables, why } => write!(
                f,
                "Ready: `walvec run` continues where it stopped, and reads {} again meanwhile: {why}. Unchanged texts are not embedded again.",
                tables.join(", ")
            ),
            Self::Runs => f.write_str("walvec is running with this configuration."),
            Self::RunsOtherwise { tables, why } => write!(
                f,
                "walvec is running with another configuration. `walvec reindex` applies this one while searches go on; a restart \
                 will read {} again, because {why}.",
                count(tables)
            ),
        }
    }
}

/// Determines what `run` would do with the present data directory, slot and publication; an error if it would refuse
/// to start. `missing` is a configured collection that does not exist.
pub(super) async fn next(config: &Config, source: &Source, missing: Option<&str>) -> Result<Next, Failure> {
    let directory = &match config.broker {
        Some(_) => config.directory_of(Stage::Capture),
        None => config.sink.directory().to_owned(),
    };
    let (stored, baseline) = if directory.join("state.redb").exists() {
        let _data_dir = assembly::lock(directory)?;
        let read = |store: Store| Ok((store.checkpoint()?, store.baseline()?));
        Store::open(directory).and_then(read).map_err(PipelineError::from)?
    } else {
        (None, None)
    };
    // Another check looks for collections that were made again, and `run` creates the missing ones.
    let collections = stored.as_ref().map(|checkpoint| checkpoint.collections.clone()).unwrap_or_default();
    let before = Before { checkpoint: stored.as_ref(), baseline: baseline.as_ref() };
    let digest = match &config.broker {
        Some(broker) => broker::topics_digest(config, &broker.kafka),
        None => digest::config_digests(config),
    };
    let tables_now = source.followed_tables().await.map_err(PipelineError::from)?;
    let followed = Followed { slot: &config.source.slot, config: &digest, tables: &tables_now, collections };
    let facts = facts(source, followed, before).await?;
    let tables = tables(config);
    Ok(match (decide(stored.as_ref(), &facts, config.source.on_gap.into()).map_err(PipelineError::from)?, stored) {
        (Start::Snapshot { .. }, None) => Next::Read { tables },
        (Start::Snapshot { why, .. }, Some(stored)) => {
            let is_altered = stored.config_digest != facts.config_digest;
            let why = if is_altered { changed(config).unwrap_or(why) } else { why };
            Next::ReadAgain { tables, why, is_stored: true }
        }
        (Start::Resume { anew, .. }, _) if !anew.why.is_empty() => {
            let why = anew.why.values().next().cloned().unwrap_or_default();
            Next::ReadAnew { tables: anew.why.into_keys().map(|table| table.to_string()).collect(), why }
        }
        (Start::Resume { checkpoint, .. }, _) => match missing.filter(|_| config.broker.is_none()) {
            Some(name) => {
                let why = format!("the collection {name} does not exist any more");
                Next::ReadAgain { tables, why, is_stored: false }
            }
            None => Next::Resume { at: checkpoint.applied },
        },
    })
}

/// Determines what a running walvec would have to do with this configuration.
pub(super) fn while_running(config: &Config) -> Next {
    let served = state::served(config);
    // Among the columns that are indexed as numbers, the index changes the stored form of numerics only.
    let columns = columns::load(config);
    let is_numeric = |(table, field): &(TableName, String)| {
        let of_table = config.collections.iter().filter(|collection| collection.table == *table);
        let mut columns = of_table.filter_map(|collection| columns.get(&collection.name)).flatten();
        columns.any(|(name, ty)| name == field && ty.is_numeric())
    };
    let numbers =
        |config: &Config| -> Vec<_> { digest::stored_numbers(config).into_iter().filter(is_numeric).collect() };
    let differs = |served: &Config| {
        digest::config_digest(served) != digest::config_digest(config) || numbers(served) != numbers(config)
    };
    let is_other = served.as_ref().is_some_and(differs);
    match changed(config).filter(|_| is_other) {
        Some(why) => Next::RunsOtherwise { tables: tables(config), why },
        None => Next::Runs,
    }
}

fn tables(config: &Config) -> usize {
    config.collections.iter().map(|collection| &collection.table).collect::<BTreeSet<_>>().len()
}

/// Says why the digest of the configuration and of the tables' columns changed; `None` if the served configuration is
/// not known.
fn changed(config: &Config) -> Option<String> {
    let served = state::served(config)?;
    let names = |config: &Config| -> Vec<String> {
        config.collections.iter().map(|collection| collection.name.clone()).collect()
    };
    if names(&served) != names(config) {
        return Some(format!(
            "the collections were {}, and are {}",
            names(&served).join(", "),
            names(config).join(", ")
        ));
    }
    let changes: Vec<String> = served
        .collections
        .iter()
        .zip(&config.collections)
        .flat_map(|(served, now)| changed_keys(served, now).into_iter().map(|key| format!("{key} of {}", now.name)))
        .collect();
    Some(match changes.as_slice() {
        [] => "the columns of a table, or the form in which values are stored, have changed".to_owned(),
        changes => format!("{} changed", changes.join(", ")),
    })
}

/// Returns the keys of a collection that decide about rows and payloads, as far as they differ.
fn changed_keys(served: &CollectionConfig, now: &CollectionConfig) -> Vec<&'static str> {
    let value = |collection| serde_json::to_value(collection).unwrap_or_default();
    let (served, now) = (value(served), value(now));
    let mut keys = vec!["table", "where", "payload", "computed", "layout", "lookup", "chunk", "index"];
    keys.retain(|key| served.get(key) != now.get(key));
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Overrides};

    fn config(directory: &std::path::Path, payload: &str) -> Config {
        let text = format!(
            "source: {{ url: 'postgres://me@db/shop' }}\nsink: {{ embedded: {{ path: '{}' }} }}\ncollections:\n  \
             - {{ name: books, table: public.books, text: '{{{{ name }}}}', payload: {payload} }}\n",
            directory.display()
        );
        let environment = Environment::of(&[("HOME", "/home/me")]);
        Config::from_text(&text, &environment, Overrides::default()).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn what_makes_a_running_walvec_read_the_tables_again_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let before = config(directory.path(), "[name]");
        assert_eq!(while_running(&before), Next::Runs, "in its first snapshot");
        state::store_served(&before).unwrap();
        assert_eq!(while_running(&before), Next::Runs);
        let why = "payload of books changed".to_owned();
        assert_eq!(while_running(&config(directory.path(), "[name, year]")), Next::RunsOtherwise { tables: 1, why });
    }

    #[test]
    fn tables_are_counted_in_words() {
        let read = |tables| Next::Read { tables }.to_string();
        assert!(read(1).contains("read 1 table,") && read(3).contains("read 3 tables,"));
        let again = Next::ReadAgain { tables: 3, why: "payload of books changed".to_owned(), is_stored: true };
        let again = again.to_string();
        assert!(again.contains("will read 3 tables again, because payload of books changed."), "{again}");
    }
}
