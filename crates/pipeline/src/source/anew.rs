//! Decides which tables have to be read again at the start of a session, while the others go on.
//!
//! If the stream has no gap, a difference between what was read and what is there now concerns single tables: a table
//! was altered, replaced or added, or its collection was configured differently or created again. These tables are read
//! whole concurrently with the stream, which does not bring their earlier changes. Everything is read as a new
//! generation instead if that would be all tables, or if stored points cannot be told from those to come.

use std::collections::{BTreeMap, BTreeSet};

use walvec_capture::{PublicationIdentity, Shape, Source};
use walvec_model::TableName;

use crate::error::PipelineError;
use crate::error::policy::{During, Policy};
use crate::source::gap::{self, Gap};
use crate::source::start::Facts;
use crate::state::records::{Baseline, Checkpoint, SnapshotState};
use crate::state::store::Store;

/// What is known of a followed table when a session begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableAtStart {
    /// The digest of what decides its rows and their payloads: its configuration, its columns and its key.
    pub digest: String,
    /// Whether its name belonged to another table when its rows were read.
    pub is_replaced: bool,
    /// Whether an earlier session had to read it again, and has not.
    pub is_owed: bool,
    /// The identity of its entry in the publication; `None` if tables are not listed there.
    pub entry: Option<String>,
    /// The tables with collections whose rows depend on it.
    pub mains: Vec<TableName>,
}

/// What is known of a collection when a session begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionFacts {
    /// The table that it shows.
    pub table: TableName,
    /// Whether it has no points.
    pub is_empty: bool,
}

/// Tables that have to be read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TablesToRead {
    /// Each table with the reason.
    pub why: BTreeMap<TableName, String>,
    /// Tables whose only reason is that they were not published all the time.
    pub unproved: BTreeSet<TableName>,
}

/// What has to be read again while the stream goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Anew {
    /// These tables, or none.
    Tables(TablesToRead),
    /// Everything, as a new generation.
    Everything(String),
}

/// Compares what was read with what is there now.
///
/// # Errors
/// If the publication was not the same all the time and nothing else requires reading everything again.
pub(crate) fn compare(stored: &Checkpoint, facts: &Facts) -> Result<Anew, Gap> {
    if stored.digests.is_empty() || facts.tables.is_empty() {
        return compare_as_a_whole(stored, facts);
    }
    let mut anew: BTreeMap<TableName, String> = BTreeMap::new();
    let before: BTreeMap<&TableName, &String> = stored.digests.iter().map(|(table, digest)| (table, digest)).collect();
    for (table, now) in &facts.tables {
        let why = match before.get(table) {
            _ if now.is_replaced => "another table has taken over its name",
            None => "it was not followed before",
            Some(digest) if **digest != now.digest => {
                "its columns, its key or the configuration of its collections are others"
            }
            Some(_) if now.is_owed => "it was altered, and has not been read since",
            Some(_) => continue,
        };
        anew.insert(table.clone(), why.to_owned());
    }
    for (name, CollectionFacts { table, is_empty }) in &facts.shown {
        if stored.tables.get(name).is_some_and(|tables| !tables.contains(table)) {
            return Ok(Anew::Everything(format!("the collection {name} has shown another table")));
        }
        if stored.collections.get(name) == facts.collections.get(name) {
            continue;
        }
        if !is_empty {
            return Ok(Anew::Everything(format!("the collection {name} has points that are not known")));
        }
        anew.entry(table.clone()).or_insert_with(|| format!("the collection {name} is empty"));
    }
    let unproved: BTreeSet<TableName> = match unpublished(stored, facts) {
        Ok(tables) => tables.into_iter().filter(|table| !anew.contains_key(table)).collect(),
        // If tables are read again in any case, it does not matter what the publication left out.
        Err(gap) => return anew.into_values().next().map(Anew::Everything).ok_or(gap),
    };
    anew.extend(unproved.iter().map(|table| (table.clone(), "it was not published all the time".to_owned())));
    let mains = |tables: &mut dyn Iterator<Item = &TableName>| -> BTreeSet<TableName> {
        tables.filter_map(|table| facts.tables.get(table)).flat_map(|table| table.mains.iter().cloned()).collect()
    };
    match anew.values().next() {
        Some(_) if mains(&mut anew.keys()) != mains(&mut facts.tables.keys()) => {}
        Some(_) if !unproved.is_empty() => return Err(gap::publication_changed(None)),
        Some(why) => return Ok(Anew::Everything(why.clone())),
        None => {}
    }
    Ok(Anew::Tables(TablesToRead { why: anew, unproved }))
}

/// Compares where tables are not read one by one: behind a broker, and if an earlier version of walvec has read them.
fn compare_as_a_whole(stored: &Checkpoint, facts: &Facts) -> Result<Anew, Gap> {
    let everything = |why: &str| Ok(Anew::Everything(why.to_owned()));
    if stored.config_digest != facts.config_digest {
        return everything("the configuration of a collection, or its table, has changed");
    }
    if facts.replaced {
        return everything("another table has taken over the name of one that was read");
    }
    if facts.publication.as_ref() != Some(&stored.publication) {
        return Err(gap::publication_changed(facts.publication_called.as_deref()));
    }
    if stored.collections != facts.collections {
        return everything("what was filled is not there any more");
    }
    Ok(Anew::Tables(TablesToRead::default()))
}

/// Returns the followed tables that were not published all the time.
fn unpublished(stored: &Checkpoint, facts: &Facts) -> Result<Vec<TableName>, Gap> {
    let Some(now) = &facts.publication else {
        return Err(gap::publication_changed(facts.publication_called.as_deref()));
    };
    if *now == stored.publication {
        return Ok(Vec::new());
    }
    if !PublicationIdentity::differ_in_tables_only(&stored.publication, now) {
        return Err(gap::publication_changed(None));
    }
    let is_new = |facts: &TableAtStart| !PublicationIdentity::lists(&stored.publication, facts.entry.as_ref());
    Ok(facts.tables.iter().filter(|(_, facts)| is_new(facts)).map(|(table, _)| table.clone()).collect())
}

/// Continues from the stored checkpoint with the present tables, collections and publication. Stores that before
/// anything of the stream is taken, so that the tables `anew` are read to the end in any case.
pub(crate) async fn adopt(
    source: &Source,
    store: &Store,
    checkpoint: Checkpoint,
    facts: &Facts,
    anew: TablesToRead,
) -> Result<Checkpoint, PipelineError> {
    for (table, why) in &anew.why {
        tracing::info!(%table, "the table is read again while the others go on: {why}");
    }
    let tables: Vec<TableName> = anew.why.keys().cloned().collect();
    let shapes = source.shapes_of(&tables).await?;
    let found = tables.into_iter().zip(shapes).filter_map(|(table, shape)| Some((table, shape?))).collect();
    let before = (checkpoint, store.baseline()?.unwrap_or_default());
    let adopted = adopted(before.clone(), facts, anew, (found, source.unfollowed()));
    if before != adopted {
        store.save_both(&adopted.0, &adopted.1)?;
    }
    Ok(adopted.0)
}

/// Returns the checkpoint and the baseline with the present tables, collections and publication. `shapes`: those that
/// tables of `anew` have now. `aside`: the tables that are set aside.
fn adopted(
    (mut checkpoint, mut baseline): (Checkpoint, Baseline),
    facts: &Facts,
    anew: TablesToRead,
    (shapes, aside): (Vec<(TableName, Shape)>, Vec<TableName>),
) -> (Checkpoint, Baseline) {
    let is_configured = |table: &TableName| facts.tables.contains_key(table) || aside.contains(table);
    baseline.shapes.retain(|(table, _)| is_configured(table) && !anew.why.contains_key(table));
    baseline.shapes.extend(shapes);
    for noted in [&mut baseline.owed, &mut baseline.anew, &mut baseline.unproved] {
        noted.retain(is_configured);
    }
    baseline.anew.extend(anew.why.keys().cloned());
    baseline.unproved.extend(anew.unproved);
    baseline.aside = aside;
    baseline.publication = None;
    let is_shown = |name: &String| facts.collections.contains_key(name);
    let is_read = |name: &String| facts.shown.get(name).is_some_and(|shown| anew.why.contains_key(&shown.table));
    checkpoint.witnesses.retain(|name, _| is_shown(name) && !is_read(name));
    checkpoint.tables.retain(|name, _| is_shown(name));
    for (name, shown) in &facts.shown {
        checkpoint.tables.entry(name.clone()).or_default().insert(shown.table.clone());
    }
    checkpoint.config_digest.clone_from(&facts.config_digest);
    checkpoint.digests = facts.digests();
    checkpoint.collections.clone_from(&facts.collections);
    checkpoint.publication = facts.publication.clone().unwrap_or_default();
    (checkpoint, baseline)
}

/// Notes that the next session that follows a table has to read it again.
pub(crate) fn owe(store: &Store, table: &TableName) -> Result<(), PipelineError> {
    let mut baseline = store.baseline()?.unwrap_or_default();
    if baseline.anew.insert(table.clone()) {
        store.save_baseline(&baseline)?;
    }
    Ok(())
}

/// Stores that the next session has to read the tables again, if the error that ended this one requires it.
pub(crate) fn want_snapshot_after(outcome: &Result<(), PipelineError>, store: &Store) -> Result<(), PipelineError> {
    let resync = match outcome {
        Err(PipelineError::Resync(resync)) => Some(resync.clone()),
        Err(error) if error.policy(During::Running) == Policy::Restart => None,
        Ok(()) | Err(_) => return Ok(()),
    };
    match store.checkpoint()? {
        Some(checkpoint) if checkpoint.snapshot == SnapshotState::Done => {
            Ok(store.save_checkpoint(&Checkpoint { snapshot: SnapshotState::Again, resync, ..checkpoint })?)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod adopt_tests;
