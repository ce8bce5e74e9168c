//! Decides which tables have to be read again at the start of a session, while the others go on.
//!
//! If the stream has no gap, a difference between what was read and what is there now concerns single tables: a table
//! was altered, replaced or added, or its collection was configured differently or created again. These tables are read
//! whole concurrently with the stream, which does not bring their earlier changes. Everything is read as a new
//! generation instead if that would be all tables, or if stored points cannot be told from those to come.

use std::collections::{BTreeMap, BTreeSet};

use walvec_capture::{PublicationIdentity, Source};
use walvec_model::TableName;

use crate::error::PipelineError;
use crate::error::policy::{During, Policy};
use crate::source::gap::{self, Gap};
use crate::source::start::Facts;
use crate::state::records::{Checkpoint, SnapshotState};
use crate::state::store::Store;

/// What is known of a followed table when a session begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableFacts {
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
pub struct Tables {
    /// Each table with the reason.
    pub why: BTreeMap<TableName, String>,
    /// Tables whose only reason is that they were not published all the time.
    pub unproved: BTreeSet<TableName>,
}

/// What has to be read again while the stream goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Anew {
    /// These tables, or none.
    Tables(Tables),
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
    Ok(Anew::Tables(Tables { why: anew, unproved }))
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
    Ok(Anew::Tables(Tables::default()))
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
    let is_new = |facts: &TableFacts| !PublicationIdentity::lists(&stored.publication, facts.entry.as_ref());
    Ok(facts.tables.iter().filter(|(_, facts)| is_new(facts)).map(|(table, _)| table.clone()).collect())
}

/// Continues from the stored checkpoint with the present tables, collections and publication. Stores that before
/// anything of the stream is taken, so that the tables `anew` are read to the end in any case.
pub(crate) async fn adopt(
    source: &Source,
    store: &Store,
    mut checkpoint: Checkpoint,
    facts: &Facts,
    anew: Tables,
) -> Result<Checkpoint, PipelineError> {
    for (table, why) in &anew.why {
        tracing::info!(%table, "the table is read again while the others go on: {why}");
    }
    let mut baseline = store.baseline()?.unwrap_or_default();
    let before = (checkpoint.clone(), baseline.clone());
    let tables: Vec<TableName> = anew.why.into_keys().collect();
    let shapes = source.shapes_of(&tables).await?;
    baseline.aside = source.unfollowed();
    let is_configured = |table: &TableName| facts.tables.contains_key(table) || baseline.aside.contains(table);
    baseline.shapes.retain(|(table, _)| is_configured(table) && !tables.contains(table));
    baseline.owed.retain(is_configured);
    baseline.anew.retain(is_configured);
    let found = tables.iter().cloned().zip(shapes).filter_map(|(table, shape)| Some((table, shape?)));
    baseline.shapes.extend(found);
    baseline.anew.extend(tables.iter().cloned());
    baseline.unproved.retain(is_configured);
    baseline.unproved.extend(anew.unproved);
    baseline.publication = None;
    for (name, shown) in &facts.shown {
        if tables.contains(&shown.table) {
            checkpoint.witnesses.remove(name);
        }
    }
    let is_shown = |name: &String| facts.collections.contains_key(name);
    checkpoint.witnesses.retain(|name, _| is_shown(name));
    checkpoint.tables.retain(|name, _| is_shown(name));
    for (name, shown) in &facts.shown {
        checkpoint.tables.entry(name.clone()).or_default().insert(shown.table.clone());
    }
    checkpoint.config_digest.clone_from(&facts.config_digest);
    checkpoint.digests = facts.digests();
    checkpoint.collections.clone_from(&facts.collections);
    checkpoint.publication = facts.publication.clone().unwrap_or_default();
    if before != (checkpoint.clone(), baseline.clone()) {
        store.save_both(&checkpoint, &baseline)?;
    }
    Ok(checkpoint)
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
mod tests {
    use walvec_model::{Generation, Lsn};

    use super::*;
    use crate::source::gap::OnGap;
    use crate::source::start::{Slot, Start, decide};
    use crate::state::records::{SnapshotState, SourceIdentity};

    fn table(name: &str) -> TableName {
        TableName::new("public", name)
    }

    fn source() -> SourceIdentity {
        SourceIdentity { system_id: "7".to_owned(), timeline: 1, database_oid: 5, slot: "walvec".to_owned() }
    }

    /// Returns facts of two tables with a collection each; one of them looks up rows of a third table.
    fn facts() -> Facts {
        let facts = |name: &str, main: &str| TableFacts {
            digest: format!("{name} 1"),
            entry: Some(format!("r{name}:1")),
            mains: vec![table(main)],
            ..TableFacts::default()
        };
        let tables = [("books", "books"), ("films", "films"), ("authors", "books")];
        let shown = |name: &str| (name.to_owned(), CollectionFacts { table: table(name), is_empty: false });
        Facts {
            source: source(),
            left_at: None,
            slot: Slot::Ready { confirmed: Lsn(500) },
            publication: Some("p9:1 rauthors:1 rbooks:1 rfilms:1".to_owned()),
            publication_called: None,
            replaced: false,
            server: Lsn(1000),
            config_digest: "a".to_owned(),
            collections: BTreeMap::from([("books".to_owned(), "1".to_owned()), ("films".to_owned(), "1".to_owned())]),
            shown: BTreeMap::from([shown("books"), shown("films")]),
            tables: tables.into_iter().map(|(name, main)| (table(name), facts(name, main))).collect(),
        }
    }

    fn stored() -> Checkpoint {
        let facts = facts();
        let of = |(name, shown): (&String, &CollectionFacts)| (name.clone(), BTreeSet::from([shown.table.clone()]));
        Checkpoint {
            generation: Generation(4),
            snapshot: SnapshotState::Done,
            applied: Lsn(500),
            last_commit: Lsn(450),
            written_to: Some(Lsn(450)),
            resync: None,
            sweep_waits: false,
            witnesses: BTreeMap::new(),
            tables: facts.shown.iter().map(of).collect(),
            publication: facts.publication.clone().unwrap(),
            config_digest: "a".to_owned(),
            digests: facts.digests(),
            collections: facts.collections,
            source: facts.source,
            written: BTreeMap::new(),
        }
    }

    /// Returns the tables that are read again; an error if that is everything.
    fn anew(stored: &Checkpoint, facts: &Facts, on_gap: OnGap) -> Result<Vec<String>, String> {
        match decide(Some(stored), facts, on_gap) {
            Ok(Start::Resume { anew, .. }) => Ok(anew.why.into_keys().map(|table| table.name).collect()),
            Ok(Start::Snapshot { why, .. }) => Err(why),
            Err(refusal) => Err(refusal.code.to_owned()),
        }
    }

    fn with(change: impl FnOnce(&mut Facts)) -> Result<Vec<String>, String> {
        let mut facts = facts();
        change(&mut facts);
        anew(&stored(), &facts, OnGap::Resync)
    }

    #[test]
    fn only_tables_that_differ_are_read_anew() {
        let set = |name: &'static str, change: fn(&mut TableFacts)| {
            move |facts: &mut Facts| change(facts.tables.get_mut(&table(name)).unwrap())
        };
        assert_eq!(with(|_| {}), Ok(vec![]));
        assert_eq!(with(set("films", |table| table.digest.push('+'))), Ok(vec!["films".to_owned()]));
        assert_eq!(with(set("films", |table| table.is_replaced = true)), Ok(vec!["films".to_owned()]));
        assert_eq!(with(set("authors", |table| table.is_owed = true)), Ok(vec!["authors".to_owned()]));
    }

    #[test]
    fn a_table_that_is_added_is_read_and_one_that_is_removed_changes_nothing() {
        let mut before = stored();
        before.digests.retain(|(known, _)| *known != table("films"));
        before.collections.remove("films");
        before.tables.remove("films");
        before.publication = "p9:1 rauthors:1 rbooks:1".to_owned();
        let mut added = facts();
        added.shown.get_mut("films").unwrap().is_empty = true;
        assert_eq!(anew(&before, &added, OnGap::Stop), Ok(vec!["films".to_owned()]));
        assert!(anew(&before, &facts(), OnGap::Stop).unwrap_err().contains("films has points"), "of another time");
        let removed = |facts: &mut Facts| {
            facts.tables.remove(&table("films"));
            facts.collections.remove("films");
            facts.shown.remove("films");
            facts.publication = Some("p9:1 rauthors:1 rbooks:1".to_owned());
        };
        assert_eq!(with(removed), Ok(vec![]));
    }

    #[test]
    fn a_collection_that_was_made_anew_is_filled_while_the_others_go_on() {
        let made_anew = |facts: &mut Facts| {
            facts.collections.insert("films".to_owned(), "2".to_owned());
            facts.shown.get_mut("films").unwrap().is_empty = true;
        };
        assert_eq!(with(made_anew), Ok(vec!["films".to_owned()]));
    }

    #[test]
    fn a_collection_that_showed_another_table_is_read_as_a_new_generation() {
        let renamed = |facts: &mut Facts| facts.shown.get_mut("films").unwrap().table = table("pictures");
        assert!(with(renamed).unwrap_err().contains("another table"));
    }

    #[test]
    fn everything_is_read_as_a_new_generation_if_nothing_else_would_go_on() {
        let all = |facts: &mut Facts| facts.tables.values_mut().for_each(|table| table.digest.push('+'));
        assert!(with(all).is_err());
        let looked_up = |facts: &mut Facts| {
            for name in ["authors", "films"] {
                facts.tables.get_mut(&table(name)).unwrap().digest.push('+');
            }
        };
        assert!(with(looked_up).is_err(), "books look something up in authors");
    }

    #[test]
    fn a_table_that_was_not_published_all_the_time_is_a_gap_of_its_own() {
        let mut facts = facts();
        facts.publication = Some("p9:1 rauthors:1 rbooks:1 rfilms:2".to_owned());
        facts.tables.get_mut(&table("films")).unwrap().entry = Some("rfilms:2".to_owned());
        assert_eq!(anew(&stored(), &facts, OnGap::Resync), Ok(vec!["films".to_owned()]));
        assert_eq!(anew(&stored(), &facts, OnGap::Stop), Err("E_PUBLICATION".to_owned()));
        let Ok(Start::Resume { checkpoint, .. }) = decide(Some(&stored()), &facts, OnGap::Resync) else { panic!() };
        assert_eq!(checkpoint.resync.map(|resync| resync.code).as_deref(), Some("E_PUBLICATION"), "it is told");
        facts.publication = Some("p9:2 rauthors:1 rbooks:1 rfilms:1".to_owned());
        assert!(anew(&stored(), &facts, OnGap::Resync).unwrap_err().contains("publication"), "all of it was altered");
    }

    #[test]
    fn what_an_earlier_version_has_read_is_told_apart_as_a_whole() {
        let before = Checkpoint { digests: Vec::new(), ..stored() };
        assert_eq!(anew(&before, &facts(), OnGap::Stop), Ok(vec![]));
        let other = Facts { config_digest: "b".to_owned(), ..facts() };
        assert!(anew(&before, &other, OnGap::Stop).is_err());
    }
}
