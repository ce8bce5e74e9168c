use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;

use walvec_model::{Generation, Lsn, TableName};

use crate::state::records::{SnapshotState, SourceIdentity};

use serde_json::json;

use super::*;
use crate::testing::letters::letter;

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

/// Returns the state of a file as a kill would leave it now: the store is open, and was not closed.
fn after_a_kill(directory: &Path) -> (tempfile::TempDir, Store) {
    let other = tempfile::tempdir().unwrap();
    fs::copy(directory.join("state.redb"), other.path().join("state.redb")).unwrap();
    let store = Store::open(other.path()).unwrap();
    (other, store)
}

#[test]
fn what_was_stored_survives_a_kill_right_after_the_call() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.save_checkpoint(&checkpoint()).unwrap();
    assert_eq!(after_a_kill(directory.path()).1.checkpoint().unwrap(), Some(checkpoint()));
    store.update_dead_letters("books", &[letter("books", 1)], &[]).unwrap();
    assert_eq!(after_a_kill(directory.path()).1.dead_letters("books").unwrap().len(), 1);
    let (later, baseline) = (Checkpoint { applied: Lsn(0x2D5_C408), ..checkpoint() }, baseline("films"));
    store.save_both(&later, &baseline).unwrap();
    let (_other, killed) = after_a_kill(directory.path());
    assert_eq!((killed.checkpoint().unwrap(), killed.baseline().unwrap()), (Some(later), Some(baseline)));
    store.save_progress(&checkpoint(), std::iter::empty()).unwrap();
    assert_eq!(after_a_kill(directory.path()).1.checkpoint().unwrap(), Some(checkpoint()));
}

fn baseline(owed: &str) -> Baseline {
    Baseline { owed: BTreeSet::from([TableName::new("public", owed)]), ..Baseline::default() }
}

#[test]
fn the_state_of_a_reindex_takes_the_place_of_all_that_was_stored() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut witnesses = crate::state::witness::Witnesses::default();
    witnesses.wrote(crate::state::witness::Witness { id: walvec_model::PointId::Num(1), version: None });
    let of = |name: &str| Checkpoint {
        generation: Generation(9),
        witnesses: BTreeMap::from([(name.to_owned(), witnesses.clone())]),
        ..checkpoint()
    };
    store.save_both(&of("books"), &baseline("books")).unwrap();
    store.update_dead_letters("books", &[letter("books", 1)], &[]).unwrap();
    store.update_dead_letters("films", &[letter("films", 1)], &[]).unwrap();
    store.take_over(&of("films"), &baseline("films"), &[letter("films", 2), letter("songs", 3)]).unwrap();
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.checkpoint().unwrap(), Some(of("films")), "witnesses of before would be looked for");
    assert_eq!(store.baseline().unwrap(), Some(baseline("films")));
    let letters = |collection| store.dead_letters(collection).unwrap();
    assert_eq!((letters("books"), letters("films")), (Vec::new(), vec![letter("films", 2)]));
    assert_eq!(letters("songs"), [letter("songs", 3)]);
}

#[test]
fn a_publication_that_was_handed_over_counts_as_the_one_that_was_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.save_checkpoint(&checkpoint()).unwrap();
    let publication = Some("p16400:8".to_owned());
    store.save_baseline(&Baseline { publication, ..Baseline::default() }).unwrap();
    assert_eq!(store.checkpoint().unwrap().unwrap().publication, "p16400:8");
    store.save_baseline(&Baseline::default()).unwrap();
    assert_eq!(store.checkpoint().unwrap().unwrap().publication, "p16400:7");
}

#[test]
fn letters_come_in_one_order_in_pages_of_any_size_and_of_one_collection_only() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for collection in ["book", "books", "books2", "booksy"] {
        let letters: Vec<DeadLetter> = (0..7).map(|key| letter(collection, key)).collect();
        store.update_dead_letters(collection, &letters, &[]).unwrap();
    }
    let all = store.dead_letters("books").unwrap();
    assert_eq!(all.len(), 7);
    for size in 1..=8 {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = store.dead_letters_after("books", after.as_ref(), size).unwrap();
            assert!(page.len() <= size, "{} letters of {size}", page.len());
            let Some(last) = page.last() else { break };
            after = Some(RowKey::new(last.key.clone()));
            found.extend(page);
            assert!(found.len() <= all.len(), "letters of another collection came, or some came twice");
        }
        assert_eq!(found, all, "in pages of {size}");
    }
    let gone = RowKey::new(all[2].key.clone());
    store.update_dead_letters("books", &[], std::slice::from_ref(&gone)).unwrap();
    assert_eq!(
        store.dead_letters_after("books", Some(&gone), 10).unwrap(),
        all[3..],
        "a page begins after a letter that is gone"
    );
}

#[test]
fn an_entry_that_is_not_understood_is_an_error_that_names_the_file_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let path = directory.path().join("state.redb").display().to_string();
    let of_another_form = br#"{"snapshot":"half"}"#;
    for name in [THE_CHECKPOINT, THE_BASELINE] {
        store.save_entry(name, of_another_form).unwrap();
    }
    for error in [store.checkpoint().map(drop).unwrap_err(), store.baseline().map(drop).unwrap_err()] {
        assert!(error.to_string().contains(&path) && error.to_string().contains("another form"), "{error}");
        assert!(!error.is_retryable(), "it does not pass by itself");
    }
    let kept = store.with(|database| {
        let table = database.begin_read()?.open_table(CHECKPOINT)?;
        Ok(table.get(THE_CHECKPOINT)?.map(|bytes| bytes.value().to_vec()))
    });
    assert_eq!(kept.unwrap().as_deref(), Some(of_another_form.as_slice()), "a newer release may read it");
}

#[test]
fn a_damaged_file_is_named_and_left_as_it_is() {
    for damaged in [Vec::new(), vec![0; 8192], b"something else".repeat(1000)] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.redb");
        fs::write(&path, &damaged).unwrap();
        let Err(error) = Store::open(directory.path()) else { panic!("{} bytes were opened", damaged.len()) };
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert!(!error.is_retryable(), "{error}");
        assert_eq!(fs::read(&path).unwrap(), damaged);
    }
}

#[test]
fn a_file_has_one_process_and_one_owner() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let Err(error) = Store::open(directory.path()) else { panic!("it was opened twice") };
    assert!(error.to_string().contains("state.redb") && !error.is_retryable(), "{error}");
    store.save_checkpoint(&checkpoint()).unwrap();
    let mode = fs::metadata(directory.path().join("state.redb")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "keys and reasons of parked rows are only for the owner to read");
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
