use super::*;
use crate::source::fixtures::{at, partitioned, plain, table};

fn set(names: &[&str]) -> BTreeSet<TableName> {
    names.iter().map(|name| table(name)).collect()
}

fn known(names: &[&str]) -> KnownShapes {
    names.iter().map(|name| (table(name), plain(1))).collect()
}

#[test]
fn what_is_owed_survives_a_crash_until_it_has_been_read() {
    let stored = Baseline {
        owed: set(&["books"]),
        anew: set(&["films"]),
        unproved: set(&["films"]),
        floors: vec![(table("songs"), at(5))],
        aside: vec![table("plays")],
        ..Baseline::default()
    };
    let mut notes = TableNotes::stored(&stored);
    assert_eq!(notes.owed, set(&["books", "films"]), "a table that is read anew is owed too");
    notes.owed.insert(table("songs"));
    let after = notes.merged_into(stored.clone(), &known(&["books"]), Vec::new());
    assert_eq!(TableNotes::stored(&after), TableNotes { owed: set(&["books", "films", "songs"]), ..notes.clone() });
    assert_eq!((&after.floors, &after.aside), (&stored.floors, &stored.aside), "the rest stays as it was");

    for name in ["books", "films", "songs"] {
        notes.complete(&table(name), None);
    }
    let after = notes.merged_into(after, &known(&["books"]), Vec::new());
    assert_eq!(TableNotes::stored(&after), TableNotes::default());
    assert_eq!(after.shapes, [(table("books"), plain(1))]);
}

#[test]
fn the_positions_of_readings_are_stored_and_newer_ones_take_the_place_of_older_ones() {
    let stored = Baseline { floors: vec![(table("books"), at(5)), (table("films"), at(6))], ..Baseline::default() };
    let mut notes = TableNotes::stored(&stored);
    notes.floors.insert(table("books"), at(9));
    let stored = notes.merged_into(stored, &KnownShapes::new(), Vec::new());
    assert_eq!(stored.floors, [(table("books"), at(9)), (table("films"), at(6))]);
    assert!(notes.floors.is_empty(), "they are stored now");
    let stored = notes.merged_into(stored, &KnownShapes::new(), Vec::new());
    assert_eq!(stored.floors.len(), 2, "and stay stored");
}

#[test]
fn older_changes_of_a_looked_up_table_that_was_read_anew_are_passed_over() {
    let stored = Baseline { owed: set(&["books"]), anew: set(&["authors"]), ..Baseline::default() };
    let mut notes = TableNotes::stored(&stored);
    notes.complete(&table("authors"), Some(at(7)));
    notes.complete(&table("books"), Some(at(8)));
    assert_eq!(notes.floors, BTreeMap::from([(table("authors"), at(7))]), "books was the same table all the time");
    let mut notes = TableNotes::stored(&stored);
    notes.floors.insert(table("authors"), at(9));
    notes.complete(&table("authors"), Some(at(7)));
    assert_eq!(notes.floors, BTreeMap::from([(table("authors"), at(9))]), "it was read itself");
}

#[test]
fn a_snapshot_begins_with_the_present_shapes_and_leaves_those_of_tables_that_are_aside() {
    let stored = Baseline {
        shapes: vec![(table("books"), plain(1)), (table("films"), plain(2))],
        owed: set(&["books"]),
        ..Baseline::default()
    };
    let found = vec![(table("books"), Some(plain(8))), (table("films"), Some(plain(9))), (table("songs"), None)];
    let baseline = before_snapshot(found, vec![table("films")], stored);
    assert_eq!(baseline.shapes, [(table("books"), plain(8)), (table("films"), plain(2))]);
    assert_eq!(baseline.aside, [table("films")]);
    assert!(baseline.owed.is_empty(), "the snapshot reads everything");
}

#[test]
fn a_partition_that_came_just_before_the_snapshot_is_a_stray() {
    let noted = [(table("books"), partitioned(&[(2, 2, 1)])), (table("films"), plain(5)), (table("gone"), plain(6))];
    let now = [
        (table("films"), Some(plain(5))),
        (table("books"), Some(partitioned(&[(2, 2, 1), (3, 3, 9)]))),
        (table("gone"), None),
    ];
    let strays = copied_strays(&noted, &now, at(50));
    assert_eq!(strays, [(table("books"), BTreeMap::from([(3, Stray::copied(at(50)))]))]);
}
