use walvec_capture::CaptureError;

use super::tests::{facts, stored};
use super::*;
use crate::error::Resync;
use crate::source::fixtures::{at, plain, table};
use crate::state::witness::Witnesses;

fn set(names: &[&str]) -> BTreeSet<TableName> {
    names.iter().map(|name| table(name)).collect()
}

fn reread(names: &[&str], unproved: &[&str]) -> TablesToRead {
    TablesToRead { why: names.iter().map(|name| (table(name), "why".to_owned())).collect(), unproved: set(unproved) }
}

fn baseline() -> Baseline {
    Baseline {
        shapes: ["authors", "books", "films"].map(|name| (table(name), plain(1))).to_vec(),
        ..Baseline::default()
    }
}

/// Adopts facts after the tables of `anew` were found with shape 9, and `aside` is set aside.
fn adopt(before: (Checkpoint, Baseline), facts: &Facts, anew: TablesToRead, aside: &[&str]) -> (Checkpoint, Baseline) {
    let shapes = anew.why.keys().map(|table| (table.clone(), plain(9))).collect();
    adopted(before, facts, anew, (shapes, set(aside).into_iter().collect()))
}

#[test]
fn a_session_that_finds_nothing_new_leaves_the_state_as_it_is() {
    let before = (stored(), Baseline { owed: set(&["books"]), anew: set(&["films"]), ..baseline() });
    assert_eq!(adopt(before.clone(), &facts(), TablesToRead::default(), &[]), before);
}

#[test]
fn a_table_that_is_read_again_is_noted_before_anything_of_the_stream_is_taken() {
    let (_, after) = adopt((stored(), baseline()), &facts(), reread(&["films"], &[]), &[]);
    assert_eq!(after.anew, set(&["films"]));
    assert!(after.owed.is_empty() && after.unproved.is_empty());
    let shape = |name| after.shapes.iter().find(|(known, _)| *known == table(name)).map(|(_, shape)| shape.clone());
    assert_eq!((shape("films"), shape("books")), (Some(plain(9)), Some(plain(1))), "its shape is the present one");
    assert_eq!(after.shapes.len(), 3);
}

#[test]
fn what_is_owed_is_still_owed_after_any_number_of_crashes() {
    let first = (stored(), Baseline { owed: set(&["books"]), floors: vec![(table("books"), at(7))], ..baseline() });
    let mut state = adopt(first, &facts(), reread(&["films"], &["films"]), &[]);
    for _ in 0..3 {
        // The stored notes say that films is owed, so each session finds that it has to be read.
        let mut now = facts();
        now.tables.get_mut(&table("films")).unwrap().is_owed = state.1.anew.contains(&table("films"));
        let Ok(Anew::Tables(anew)) = compare(&state.0, &now) else { panic!("everything is read again") };
        assert_eq!(anew.why.keys().cloned().collect::<BTreeSet<_>>(), set(&["films"]));
        state = adopt(state, &now, anew, &[]);
        assert_eq!(
            (&state.1.owed, &state.1.anew, &state.1.unproved),
            (&set(&["books"]), &set(&["films"]), &set(&["films"]))
        );
        assert_eq!(state.1.floors, [(table("books"), at(7))]);
    }
}

#[test]
fn what_is_not_configured_any_more_is_forgotten_unless_it_is_set_aside() {
    let noted = set(&["books", "films", "plays"]);
    let before = Baseline { owed: noted.clone(), anew: noted.clone(), unproved: noted, ..baseline() };
    let mut facts = facts();
    facts.tables.remove(&table("films"));
    facts.tables.remove(&table("authors"));
    let (_, after) = adopt((stored(), before), &facts, TablesToRead::default(), &["films"]);
    let kept = set(&["books", "films"]);
    assert_eq!((&after.owed, &after.anew, &after.unproved), (&kept, &kept, &kept), "plays is not configured");
    assert_eq!(after.shapes.into_iter().map(|(table, _)| table).collect::<BTreeSet<_>>(), kept);
    assert_eq!(after.aside, [table("films")]);
}

#[test]
fn nothing_is_looked_for_in_a_collection_whose_table_is_read_again() {
    let witnesses = ["books", "films", "former"].map(|name| (name.to_owned(), Witnesses::default()));
    let before = Checkpoint { witnesses: BTreeMap::from(witnesses), ..stored() };
    let (after, _) = adopt((before, baseline()), &facts(), reread(&["films"], &[]), &[]);
    assert_eq!(after.witnesses.into_keys().collect::<Vec<_>>(), ["books"], "former is not configured any more");
}

#[test]
fn a_collection_may_hold_rows_of_its_former_tables_and_of_the_present_one() {
    let tables = BTreeMap::from([("books".to_owned(), set(&["old_books"])), ("former".to_owned(), set(&["x"]))]);
    let (after, _) = adopt((Checkpoint { tables, ..stored() }, baseline()), &facts(), TablesToRead::default(), &[]);
    let expected =
        BTreeMap::from([("books".to_owned(), set(&["books", "old_books"])), ("films".to_owned(), set(&["films"]))]);
    assert_eq!(after.tables, expected);
}

#[test]
fn the_next_session_compares_with_what_this_one_was_started_with() {
    let before = Baseline { publication: Some("p9:0".to_owned()), ..baseline() };
    let now = Facts {
        publication: Some("p9:3 rauthors:1 rbooks:1 rfilms:1".to_owned()),
        config_digest: "b".to_owned(),
        collections: BTreeMap::from([("books".to_owned(), "2".to_owned()), ("films".to_owned(), "1".to_owned())]),
        ..facts()
    };
    let (after, noted) = adopt((stored(), before), &now, TablesToRead::default(), &[]);
    assert_eq!(Some(after.publication.clone()), now.publication);
    assert_eq!(noted.publication, None, "it would take the place of the checkpoint's");
    assert_eq!((after.config_digest.as_str(), &after.collections), ("b", &now.collections));
    assert_eq!(compare(&after, &now), Ok(Anew::Tables(TablesToRead::default())));
}

/// Returns a state file with the checkpoint of `stored` in this state.
fn store(snapshot: SnapshotState) -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.save_checkpoint(&Checkpoint { snapshot, ..stored() }).unwrap();
    (directory, store)
}

#[test]
fn a_table_that_the_session_found_altered_is_read_by_the_next_one() {
    let (_directory, store) = store(SnapshotState::Done);
    store.save_baseline(&Baseline { owed: set(&["books"]), ..baseline() }).unwrap();
    owe(&store, &table("films")).unwrap();
    owe(&store, &table("films")).unwrap();
    let noted = store.baseline().unwrap().unwrap();
    assert_eq!(noted, Baseline { owed: set(&["books"]), anew: set(&["films"]), ..baseline() });
}

#[test]
fn an_error_after_which_the_tables_have_to_be_read_again_is_stored_with_its_reason() {
    let resync = Resync::because_of("E_SLOT_LOST", "the slot is lost");
    let after = |snapshot, error| {
        let (_directory, store) = store(snapshot);
        want_snapshot_after(&error, &store).unwrap();
        let Checkpoint { snapshot, resync, applied, .. } = store.checkpoint().unwrap().unwrap();
        assert_eq!(applied, stored().applied);
        (snapshot, resync)
    };
    let gap = || Err(PipelineError::Resync(resync.clone()));
    assert_eq!(after(SnapshotState::Done, gap()), (SnapshotState::Again, Some(resync.clone())));
    let altered = || Err(PipelineError::Altered { table: table("books") });
    assert_eq!(after(SnapshotState::Done, altered()), (SnapshotState::Again, None), "it is no gap");
    assert_eq!(after(SnapshotState::Done, Ok(())), (SnapshotState::Done, None));
    let broken = Err(CaptureError::Connect { server: "h".to_owned(), reason: "gone".to_owned() }.into());
    assert_eq!(
        after(SnapshotState::Done, broken),
        (SnapshotState::Done, None),
        "the stream continues from its position"
    );
    for state in [SnapshotState::Copying, SnapshotState::Wanted, SnapshotState::Again] {
        assert_eq!(after(state, gap()), (state, None), "a snapshot is taken anyway");
    }
}

#[test]
fn a_session_that_ended_before_anything_was_stored_stores_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    want_snapshot_after(&Err(PipelineError::Altered { table: table("books") }), &store).unwrap();
    assert_eq!(store.checkpoint().unwrap(), None);
}
