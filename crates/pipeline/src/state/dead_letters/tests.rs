use serde_json::json;

use super::*;
use crate::testing::letters;

fn letter(key: u64) -> DeadLetter {
    letters::letter("books", key)
}

fn place() -> Place {
    Place { topic: "books".to_owned(), partition: 3, offset: 42 }
}

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    (directory, store)
}

fn keys(store: &dyn DeadLetterStore) -> Vec<Value> {
    let mut keys = Vec::new();
    store.each("books", &mut |letter| keys.extend(letter.key)).unwrap();
    keys
}

#[tokio::test]
async fn every_letter_is_seen_once_however_many_pages_they_fill() {
    let page = PAGE as u64;
    let (_directory, store) = store();
    let mut parked = 0;
    for count in [0, 1, page - 1, page, page + 1, 2 * page] {
        let more: Vec<DeadLetter> = (parked..count).map(letter).collect();
        parked = count;
        store.update("books", &more, &[]).await.unwrap();
        let seen = keys(&store);
        let distinct: std::collections::BTreeSet<_> = seen.iter().filter_map(Value::as_u64).collect();
        assert_eq!((seen.len(), distinct), (usize::try_from(count).unwrap(), (0..count).collect()), "{count} letters");
    }
}

#[tokio::test]
async fn a_letter_that_was_dropped_is_kept_and_not_shown() {
    let (_directory, store) = store();
    let dropped = DeadLetter { dropped: true, ..letter(1) };
    store.update("books", &[dropped.clone(), letter(2)], &[]).await.unwrap();
    assert_eq!(store.of("books").unwrap(), [letter(2)]);
    assert_eq!(keys(&store), [json!(1), json!(2)]);
    assert_eq!(store.dead_letters("books").unwrap()[0], dropped, "the note survives");
}

#[tokio::test]
async fn a_newer_letter_of_a_row_takes_the_place_of_the_older_one() {
    let (_directory, store) = store();
    store.update("books", &[letter(1)], &[]).await.unwrap();
    let newer = DeadLetter { code: "E_EMBED_TEXT".to_owned(), ..letter(1) };
    store.update("books", std::slice::from_ref(&newer), &[RowKey::new(vec![json!(1)])]).await.unwrap();
    assert_eq!(store.of("books").unwrap(), [newer], "a row that is cleared and fails again stays parked");
}

#[test]
fn a_letter_of_a_record_that_cannot_be_read_is_told_from_that_of_a_row() {
    let of_record = DeadLetter { place: Some(place()), key: vec![json!("books/3@42")], ..letter(1) };
    assert!(of_record.is_about_a_record());
    let of_row = DeadLetter { place: Some(place()), ..letter(1) };
    assert!(!of_row.is_about_a_record());
    let elsewhere = DeadLetter { key: vec![json!("books/3@43")], ..of_record.clone() };
    assert!(!elsewhere.is_about_a_record(), "a row whose key happens to look like a place");
    assert!(!DeadLetter { place: None, ..of_record }.is_about_a_record());
}

#[test]
fn a_letter_of_an_earlier_release_is_read() {
    let mut earlier = serde_json::to_value(letter(1)).unwrap();
    assert_eq!((earlier.get("place"), earlier.get("dropped")), (None, None), "what is usual is left out");
    earlier.as_object_mut().unwrap().remove("generation");
    let read: DeadLetter = serde_json::from_value(earlier).unwrap();
    assert_eq!(read, DeadLetter { generation: Generation::default(), ..letter(1) });
}
