use walvec_model::Lsn;

use super::*;
use crate::error::PipelineError;
use crate::testing::TestCollection;
use crate::testing::embedder::bad_text;
use crate::testing::letters;
use crate::testing::rows::{at, delete, insert, key, point};

fn parked(id: u64, code: &str) -> (String, String) {
    (key(id).to_string(), code.to_owned())
}

/// Returns a collection that refuses the text `bad`, with a row parked because of it, as of 10.
async fn with_a_parked_row() -> TestCollection {
    let mut collection = TestCollection::new();
    collection.embedder.refuse("bad", bad_text());
    collection.put(vec![insert(10, 1, "bad")]).await.unwrap();
    assert!(collection.writer.is_parked(&key(1)));
    collection
}

fn letter(id: u64, lsn: u64) -> DeadLetter {
    DeadLetter { position: at(lsn), ..letters::letter("books", id) }
}

fn failure(id: u64, lsn: u64, code: &'static str) -> RowFailure {
    RowFailure { key: key(id), position: at(lsn), code, reason: String::new() }
}

#[tokio::test]
async fn a_newer_version_that_is_written_clears_a_parked_row() {
    for change in [insert(11, 1, "good"), delete(11, 1)] {
        let mut collection = with_a_parked_row().await;
        collection.put(vec![change]).await.unwrap();
        assert!(collection.parked().is_empty());
        assert!(!collection.writer.is_parked(&key(1)));
        assert_eq!(collection.shared.status().collections[0].dead_letters, 0);
    }
}

#[tokio::test]
async fn an_older_version_that_is_written_late_clears_no_parked_row() {
    let mut collection = with_a_parked_row().await;
    collection.put(vec![insert(9, 1, "good")]).await.unwrap();
    assert_eq!(collection.parked(), [parked(1, "E_EMBED_TEXT")]);
    collection.put(vec![insert(10, 1, "good")]).await.unwrap();
    assert!(collection.parked().is_empty(), "the version that was parked has been written");
}

#[tokio::test]
async fn a_version_of_a_later_snapshot_clears_a_parked_row_whatever_its_position() {
    let mut collection = with_a_parked_row().await;
    collection.writer.begin_generation(Generation(2));
    collection.put(vec![insert(5, 1, "good")]).await.unwrap();
    assert!(collection.parked().is_empty());
}

#[tokio::test]
async fn a_parked_row_that_fails_again_is_shown_once_with_its_last_reason() {
    let mut collection = with_a_parked_row().await;
    collection.sink.refuse(point(1));
    collection.put(vec![insert(20, 1, "good")]).await.unwrap();
    assert_eq!(collection.parked(), [parked(1, "E_POINT")]);
    let status = &collection.shared.status().collections[0];
    let shown: Vec<&str> = status.latest_dead_letters.iter().map(|letter| letter.code.as_str()).collect();
    assert_eq!((status.dead_letters, shown), (1, vec!["E_POINT"]));
}

#[tokio::test]
async fn a_row_that_failed_in_two_versions_is_parked_in_the_newer_one() {
    let mut collection = TestCollection::new();
    let context = BatchContext { generation: Generation(1), places: HashMap::new() };
    for failures in [[failure(1, 10, "OLD"), failure(1, 20, "NEW")], [failure(1, 20, "NEW"), failure(1, 10, "OLD")]] {
        collection.writer.settle(&context, &[], &failures).await.unwrap();
        assert_eq!(collection.parked(), [parked(1, "NEW")]);
    }
}

#[tokio::test]
async fn a_row_that_was_written_and_failed_in_a_later_version_stays_parked() {
    let mut collection = with_a_parked_row().await;
    let context = BatchContext { generation: Generation(1), places: HashMap::new() };
    collection.writer.settle(&context, &[(key(1), at(20))], &[failure(1, 21, "NEW")]).await.unwrap();
    assert_eq!(collection.parked(), [parked(1, "NEW")]);
}

#[tokio::test]
async fn a_record_of_another_program_clears_a_row_whatever_its_version() {
    let mut collection = with_a_parked_row().await;
    let context = BatchContext { generation: FOREIGN, places: HashMap::new() };
    collection.writer.settle(&context, &[(key(1), at(1))], &[]).await.unwrap();
    assert!(collection.parked().is_empty());
}

#[tokio::test]
async fn rows_without_failures_cost_no_write_of_dead_letters() {
    let mut collection = with_a_parked_row().await;
    assert_eq!(collection.shared.letters.updates(), 1);
    collection.put(vec![insert(20, 2, "good"), insert(21, 3, "good")]).await.unwrap();
    assert_eq!(collection.shared.letters.updates(), 1);
}

#[tokio::test]
async fn a_dead_letter_that_cannot_be_stored_ends_the_pipeline_and_the_row_does_not_count_as_parked() {
    let mut collection = TestCollection::new();
    collection.embedder.refuse("bad", bad_text());
    collection.shared.letters.fail(PipelineError::Disowned);
    let outcome = collection.put(vec![insert(10, 1, "bad")]).await;
    assert!(matches!(outcome, Err(PipelineError::Disowned)), "{outcome:?}");
    assert!(!collection.writer.is_parked(&key(1)) && collection.parked().is_empty());
}

#[tokio::test]
async fn letters_of_other_workers_are_known_once_they_are_read_again() {
    let mut collection = TestCollection::new();
    collection.shared.letters.put_elsewhere(letter(7, 10));
    collection.shared.letters.refresh().await.unwrap();
    assert!(!collection.writer.is_parked(&key(7)));
    collection.writer.reload_letters().unwrap();
    assert!(collection.writer.is_parked(&key(7)));
    assert_eq!(collection.shared.status().collections[0].dead_letters, 1);
}

#[tokio::test]
async fn an_unreadable_record_is_parked_under_its_place() {
    let mut collection = TestCollection::new();
    let place = Place { topic: "books".to_owned(), partition: 3, offset: 14 };
    collection.writer.park(place.clone(), "E_RECORD", "no JSON".to_owned()).await.unwrap();
    let letters = collection.shared.letters.of("books").unwrap();
    assert!(letters.len() == 1 && letters[0].is_about_a_record(), "{letters:?}");
    assert_eq!(letters[0].place, Some(place));
}

#[test]
fn the_newest_letters_are_shown_first_and_all_are_counted() {
    let mut rows = ParkedRows::default();
    rows.park((1..=30).map(|id| letter(id, 1000 - id)).collect());
    rows.park((31..=60).map(|id| letter(id, 1000 - id)).collect());
    let mut status = CollectionStatus::default();
    rows.show_in(&mut status);
    let shown: Vec<Lsn> = status.latest_dead_letters.iter().map(|letter| letter.position.commit_lsn).collect();
    assert_eq!((status.dead_letters, shown), (60, (980..1000).rev().map(Lsn).collect()));
}

#[test]
fn a_letter_that_an_operator_has_dropped_is_not_shown_and_its_row_still_counts_as_parked() {
    let mut rows = ParkedRows::default();
    rows.add(DeadLetter { dropped: true, ..letter(1, 10) });
    rows.add(letter(2, 10));
    let mut status = CollectionStatus::default();
    rows.show_in(&mut status);
    assert_eq!((status.dead_letters, status.latest_dead_letters.len()), (1, 1));
    assert!(rows.contains(&key(1)), "a later change may leave values out, and the version was never stored");
    rows.park(vec![letter(1, 20)]);
    rows.show_in(&mut status);
    assert_eq!(status.dead_letters, 2, "it has failed in another version");
}

#[test]
fn a_row_that_capture_and_a_worker_have_parked_is_parked_in_the_newer_version() {
    for [one, two] in [[10, 20], [20, 10]] {
        let mut rows = ParkedRows::default();
        rows.add(letter(1, one));
        rows.add(letter(1, two));
        assert_eq!(rows.version(&key(1)), Some((Generation(1), at(20))));
    }
}

#[test]
fn clearing_a_row_leaves_the_others() {
    let mut rows = ParkedRows::default();
    rows.park(vec![letter(1, 10), letter(2, 11)]);
    rows.clear(&[key(1), key(9)]);
    let mut status = CollectionStatus::default();
    rows.show_in(&mut status);
    assert!(!rows.contains(&key(1)) && rows.contains(&key(2)));
    assert_eq!(status.latest_dead_letters, [letter(2, 11)]);
}
