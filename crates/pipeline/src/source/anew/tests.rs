use walvec_model::{Generation, Lsn};

use super::*;
use crate::source::fixtures::table;
use crate::source::gap::OnGap;
use crate::source::start::{Slot, Start, decide};
use crate::state::records::{SnapshotState, SourceIdentity};

fn source() -> SourceIdentity {
    SourceIdentity { system_id: "7".to_owned(), timeline: 1, database_oid: 5, slot: "walvec".to_owned() }
}

/// Returns facts of two tables with a collection each; one of them looks up rows of a third table.
pub(super) fn facts() -> Facts {
    let facts = |name: &str, main: &str| TableAtStart {
        digest: format!("{name} 1"),
        entry: Some(format!("r{name}:1")),
        mains: vec![table(main)],
        ..TableAtStart::default()
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

pub(super) fn stored() -> Checkpoint {
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
    let set = |name: &'static str, change: fn(&mut TableAtStart)| {
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

#[test]
fn every_reason_for_reading_a_table_again_is_given_in_words() {
    let why = |change: fn(&mut TableAtStart)| {
        let mut facts = facts();
        change(facts.tables.get_mut(&table("films")).unwrap());
        match compare(&stored(), &facts) {
            Ok(Anew::Tables(TablesToRead { mut why, .. })) => why.remove(&table("films")).unwrap_or_default(),
            other => panic!("{other:?}"),
        }
    };
    let all = |table: &mut TableAtStart| {
        table.digest.push('+');
        (table.is_replaced, table.is_owed) = (true, true);
    };
    assert!(why(all).contains("another table"), "that one explains the others");
    assert!(why(|table| (table.digest, table.is_owed) = ("+".to_owned(), true)).contains("columns"));
    assert!(why(|table| table.is_owed = true).contains("has not been read since"));
    assert_eq!(why(|_| {}), "");
}

#[test]
fn a_publication_that_is_gone_or_renamed_is_a_gap_unless_tables_are_read_in_any_case() {
    let renamed = |facts: &mut Facts| {
        facts.publication = None;
        facts.publication_called = Some("other".to_owned());
    };
    let mut facts = facts();
    renamed(&mut facts);
    let gap = compare(&stored(), &facts).unwrap_err();
    assert!(gap.code == "E_PUBLICATION" && gap.what.contains("\"other\""), "{gap}");
    facts.tables.get_mut(&table("films")).unwrap().digest.push('+');
    assert!(matches!(compare(&stored(), &facts), Ok(Anew::Everything(why)) if why.contains("columns")));
}

#[test]
fn tables_that_were_not_published_are_a_gap_of_everything_if_no_other_table_goes_on() {
    let mut facts = facts();
    facts.publication = Some("p9:1 rauthors:2 rbooks:2 rfilms:2".to_owned());
    for (name, facts) in &mut facts.tables {
        facts.entry = Some(format!("r{}:2", name.name));
    }
    assert_eq!(compare(&stored(), &facts).unwrap_err().code, "E_PUBLICATION");
    assert!(anew(&stored(), &facts, OnGap::Resync).unwrap_err().contains("publication"));
}

#[test]
fn a_collection_that_is_unknown_and_empty_has_its_table_read_once_for_its_own_reason() {
    let mut facts = facts();
    facts.collections.insert("films".to_owned(), "2".to_owned());
    facts.shown.get_mut("films").unwrap().is_empty = true;
    facts.tables.get_mut(&table("films")).unwrap().is_owed = true;
    let Ok(Anew::Tables(anew)) = compare(&stored(), &facts) else { panic!("everything is read") };
    assert_eq!(anew.why.len(), 1);
    assert!(anew.why[&table("films")].contains("altered"), "the reason that was found first");
    facts.shown.get_mut("films").unwrap().is_empty = false;
    assert!(matches!(compare(&stored(), &facts), Ok(Anew::Everything(why)) if why.contains("not known")));
}

#[test]
fn behind_a_broker_everything_or_nothing_is_read_again() {
    let behind_broker = || Facts { tables: BTreeMap::new(), ..facts() };
    let stored = Checkpoint { digests: Vec::new(), ..stored() };
    let words = |facts: Facts| match compare(&stored, &facts) {
        Ok(Anew::Everything(why)) => why,
        Ok(Anew::Tables(tables)) => {
            assert!(tables.why.is_empty(), "one by one");
            String::new()
        }
        Err(gap) => gap.code.to_owned(),
    };
    assert_eq!(words(behind_broker()), "");
    assert!(words(Facts { replaced: true, ..behind_broker() }).contains("taken over the name"));
    assert!(words(Facts { config_digest: "b".to_owned(), ..behind_broker() }).contains("configuration"));
    assert!(words(Facts { collections: BTreeMap::new(), ..behind_broker() }).contains("not there any more"));
    assert_eq!(words(Facts { publication: Some("p9:2".to_owned()), ..behind_broker() }), "E_PUBLICATION");
}
