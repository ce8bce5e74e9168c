use serde_json::json;
use walvec_model::PointId;

use super::*;
use crate::state::witness::Witness;

fn identity() -> SourceIdentity {
    SourceIdentity { system_id: "7412".to_owned(), timeline: 1, database_oid: 5, slot: "walvec".to_owned() }
}

/// Returns a checkpoint as the first release stored it.
fn first_release() -> serde_json::Value {
    json!({
        "source": { "system_id": "7412", "timeline": 1, "database_oid": 5, "slot": "walvec" },
        "generation": 3,
        "snapshot": "done",
        "applied": "0/1D5C408",
        "publication": "p16400:7",
        "config_digest": "abc",
    })
}

#[test]
fn a_checkpoint_of_the_first_release_claims_no_more_than_that_release_knew() {
    let read: Checkpoint = serde_json::from_value(first_release()).unwrap();
    assert_eq!((read.applied, read.generation, read.snapshot), (Lsn(0x1D5_C408), Generation(3), SnapshotState::Done));
    assert_eq!((read.last_commit, read.written_to), (Lsn::ZERO, None), "a promotion would read everything again");
    assert!(read.digests.is_empty() && read.collections.is_empty() && read.tables.is_empty(), "told apart as a whole");
    assert!(read.witnesses.is_empty() && read.written.is_empty());
    assert!(!read.sweep_waits && read.resync.is_none());
}

#[test]
fn a_baseline_of_the_first_release_owes_nothing() {
    let read: Baseline = serde_json::from_value(json!({ "shapes": [] })).unwrap();
    assert_eq!(read, Baseline::default());
}

#[test]
fn members_that_a_newer_release_added_are_passed_over() {
    let mut newer = first_release();
    newer["of_a_newer_release"] = json!({ "a": 1 });
    let read = |stored| serde_json::from_value::<Checkpoint>(stored).unwrap();
    assert_eq!(read(newer), read(first_release()));
}

#[test]
fn what_cannot_be_understood_is_refused_and_not_guessed() {
    let mut broken =
        vec![("no position", first_release()), ("an unknown state", first_release()), ("no source", first_release())];
    broken[0].1.as_object_mut().unwrap().remove("applied");
    broken[1].1["snapshot"] = json!("half");
    broken[2].1.as_object_mut().unwrap().remove("source");
    for (what, broken) in broken {
        assert!(serde_json::from_value::<Checkpoint>(broken).is_err(), "{what}");
    }
}

#[test]
fn what_is_on_disk_does_not_change_by_accident() {
    let stored = Checkpoint {
        last_commit: Lsn(0x10),
        written_to: Some(Lsn(0x11)),
        sweep_waits: true,
        digests: vec![(TableName::new("public", "books"), "def".to_owned())],
        collections: BTreeMap::from([("books".to_owned(), "id".to_owned())]),
        ..serde_json::from_value(first_release()).unwrap()
    };
    let mut expected = first_release();
    expected["last_commit"] = json!("0/10");
    expected["written_to"] = json!("0/11");
    expected["sweep_waits"] = json!(true);
    expected["digests"] = json!([[{ "schema": "public", "name": "books" }, "def"]]);
    expected["collections"] = json!({ "books": "id" });
    assert_eq!(serde_json::to_value(&stored).unwrap(), expected);
    let names = ["copying", "done", "again", "wanted"];
    let states = [SnapshotState::Copying, SnapshotState::Done, SnapshotState::Again, SnapshotState::Wanted];
    assert_eq!(states.map(|state| serde_json::to_value(state).unwrap()), names.map(|name| json!(name)));
}

#[test]
fn witnesses_are_not_stored_with_every_checkpoint_and_those_of_an_earlier_release_are_read() {
    let mut witnesses = Witnesses::default();
    witnesses.wrote(Witness { id: PointId::Num(1), version: None });
    let stored = Checkpoint {
        witnesses: BTreeMap::from([("books".to_owned(), witnesses.clone())]),
        ..serde_json::from_value(first_release()).unwrap()
    };
    assert_eq!(serde_json::to_value(&stored).unwrap().get("writes"), None, "they have entries of their own");
    let mut earlier = first_release();
    earlier["writes"] = json!({ "books": witnesses });
    assert_eq!(serde_json::from_value::<Checkpoint>(earlier).unwrap().witnesses, stored.witnesses);
}

#[test]
fn a_source_is_told_by_cluster_database_and_slot_and_not_by_its_timeline() {
    let same = identity();
    let promoted = SourceIdentity { timeline: 2, ..identity() };
    assert!(promoted.is_same_slot(&same) && promoted.is_same_database(&same));
    let other_slot = SourceIdentity { slot: "other".to_owned(), ..identity() };
    assert!(!other_slot.is_same_slot(&same) && other_slot.is_same_database(&same));
    let other_cluster = SourceIdentity { system_id: "8".to_owned(), ..identity() };
    let other_database = SourceIdentity { database_oid: 6, ..identity() };
    for other in [other_cluster, other_database] {
        assert!(!other.is_same_slot(&same) && !other.is_same_database(&same), "{other:?}");
    }
}

#[test]
fn rows_that_were_copied_are_of_no_transaction() {
    let position = Position { commit_lsn: Lsn(5), ordinal: 0 };
    assert_eq!(Stray::copied(position), Stray { named: position, first: 0 });
}
