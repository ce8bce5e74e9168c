use std::collections::BTreeMap;

use walvec_model::{Generation, Lsn, Position, TableName};

use crate::state::records::{SnapshotState, SourceIdentity};

use serde_json::json;

use super::*;

fn letter(collection: &str, key: i64) -> DeadLetter {
    DeadLetter {
        collection: collection.to_owned(),
        table: "public.books".to_owned(),
        key: vec![json!(key)],
        position: Position { commit_lsn: Lsn(7), ordinal: 1 },
        generation: Generation(1),
        place: None,
        code: "E_RENDER".to_owned(),
        reason: "undefined value".to_owned(),
        dropped: false,
    }
}

pub(super) fn checkpoint() -> Checkpoint {
    Checkpoint {
        last_commit: Lsn(4),
        written_to: Some(Lsn(4)),
        resync: None,
        sweep_waits: true,
        witnesses: BTreeMap::new(),
        tables: BTreeMap::new(),
        source: SourceIdentity {
            system_id: "7412".to_owned(),
            timeline: 1,
            database_oid: 5,
            slot: "walvec".to_owned(),
        },
        generation: Generation(3),
        snapshot: SnapshotState::Done,
        applied: Lsn(0x1D5_C408),
        publication: "p16400:7".to_owned(),
        config_digest: "abc".to_owned(),
        digests: vec![(TableName::new("public", "books"), "def".to_owned())],
        collections: BTreeMap::from([("books".to_owned(), "embedded".to_owned())]),
        written: BTreeMap::new(),
    }
}

#[test]
fn a_checkpoint_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.checkpoint().unwrap(), None);
    store.save_checkpoint(&checkpoint).unwrap();
    drop(store);
    assert_eq!(Store::open(directory.path()).unwrap().checkpoint().unwrap(), Some(checkpoint));
}

#[test]
fn a_crash_while_the_file_is_being_made_is_no_obstacle() {
    let directory = tempfile::tempdir().unwrap();
    // The remains of a file that was not complete when the process was killed.
    fs::write(directory.path().join("state.new"), vec![0; 4096]).unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.checkpoint().unwrap(), None);
    store.update_dead_letters("books", &[letter("books", 1)], &[]).unwrap();
    drop(store);
    assert_eq!(Store::open(directory.path()).unwrap().dead_letters("books").unwrap().len(), 1);
}

#[test]
fn a_parked_row_stays_parked_until_it_is_cleared() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.update_dead_letters("books", &[letter("books", 1), letter("books", 2)], &[]).unwrap();
    store.update_dead_letters("films", &[letter("films", 1)], &[]).unwrap();
    store.update_dead_letters("books", &[], &[RowKey::new(vec![json!(1)])]).unwrap();
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.dead_letters("books").unwrap(), [letter("books", 2)]);
    let after = |key: i64| store.dead_letters_after("books", Some(&RowKey::new(vec![json!(key)])), 10).unwrap();
    assert_eq!(store.dead_letters_after("books", None, 10).unwrap(), [letter("books", 2)]);
    assert_eq!((after(1), after(2)), (vec![letter("books", 2)], Vec::new()));
    assert!(store.dead_letters_after("books", None, 0).unwrap().is_empty());
    store.drop_dead_letters("books").unwrap();
    assert!(store.dead_letters("books").unwrap().is_empty());
    assert_eq!(store.dead_letters("films").unwrap().len(), 1);
}

#[test]
#[expect(clippy::print_stderr, reason = "whoever reads the test's output should know that it tried nothing")]
fn a_full_disk_is_an_error_that_passes_and_the_file_is_usable_again_once_there_is_space() {
    let volume = match walvec_throwaway::Volume::mount(16) {
        Ok(volume) => volume,
        Err(error) => {
            eprintln!("SKIPPED: a small volume cannot be mounted (run as root to test a full disk): {error}");
            return;
        }
    };
    let store = Store::open(volume.path()).unwrap();
    store.update_dead_letters("books", &[letter("books", 1)], &[]).unwrap();
    let ballast = volume.fill().unwrap();
    let mut stored = 1;
    let error = loop {
        let long = DeadLetter { reason: "x".repeat(100_000), ..letter("books", stored + 1) };
        match store.update_dead_letters("books", &[long], &[]) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(error.is_retryable(), "{error}");
    fs::remove_file(ballast).unwrap();
    store.update_dead_letters("films", &[letter("films", 1)], &[]).unwrap();
    assert_eq!(store.dead_letters("books").unwrap().len(), usize::try_from(stored).unwrap());
    assert_eq!(store.dead_letters("films").unwrap().len(), 1);
}
