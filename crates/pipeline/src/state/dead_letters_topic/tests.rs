use serde_json::json;
use walvec_model::Generation;

use super::*;
use crate::testing::letters;

fn letter(collection: &str, key: u64) -> DeadLetter {
    let place = Some(Place { topic: "books".to_owned(), partition: 3, offset: 42 });
    DeadLetter { generation: Generation(3), place, ..letters::letter(collection, key) }
}

/// Returns the letter of a row whose record capture could not write.
fn by_capture(key: u64) -> DeadLetter {
    DeadLetter { code: E_RECORD_SIZE.to_owned(), place: None, ..letter("books", key) }
}

fn letter_key_in(collection: &str, key: u64, by_capture: bool) -> LetterKey {
    letter_key(collection, &[json!(key)], by_capture)
}

/// Returns a record as the topic gives it back.
fn back(written: &Outgoing) -> Record {
    Record {
        topic: "dead-letters".into(),
        partition: 0,
        offset: 1,
        timestamp: None,
        key: written.key.clone(),
        value: written.value.clone(),
        headers: Vec::new(),
    }
}

fn letters(ledger: &LetterLedger, collection: &str) -> Vec<DeadLetter> {
    ledger.of(collection).cloned().collect()
}

/// A worker that writes the topic, and another one that reads it.
#[derive(Default)]
struct Workers {
    writes: LetterLedger,
    reads: LetterLedger,
    topic: Vec<Record>,
}

impl Workers {
    fn change(&mut self, parked: &[DeadLetter], cleared: &[LetterKey]) {
        let records: Vec<Record> = self.writes.records(parked, cleared).iter().map(back).collect();
        self.writes.written(parked, cleared);
        records.iter().for_each(|record| self.reads.hear(record));
        self.topic.extend(records);
        // A compacted topic keeps the last record of each key.
        let compacted = self.topic.clone();
        self.topic.retain(|record| compacted.iter().rfind(|last| last.key == record.key) == Some(record));
    }

    /// Asserts what every worker knows, also one that starts now.
    fn know(&self, expected: &[DeadLetter]) {
        let mut started = LetterLedger::default();
        self.topic.iter().for_each(|record| started.hear(record));
        for ledger in [&self.writes, &self.reads, &started] {
            assert_eq!(letters(ledger, "books"), expected);
        }
    }
}

#[test]
fn every_worker_knows_what_one_has_parked_and_cleared() {
    let mut workers = Workers::default();
    workers.change(&[letter("books", 1), letter("books", 2)], &[]);
    workers.know(&[letter("books", 1), letter("books", 2)]);
    let newer = DeadLetter { code: "E_EMBED_TEXT".to_owned(), dropped: true, ..letter("books", 2) };
    workers.change(std::slice::from_ref(&newer), &[letter_key_in("books", 1, false)]);
    workers.know(&[newer]);
    workers.change(&[], &[letter_key_in("books", 2, false)]);
    workers.know(&[]);
}

#[test]
fn collections_with_the_same_keys_do_not_clear_each_other() {
    let mut workers = Workers::default();
    workers.change(&[letter("books", 1), letter("books_old", 1)], &[]);
    workers.change(&[], &[letter_key_in("books_old", 1, false)]);
    workers.know(&[letter("books", 1)]);
    assert!(letters(&workers.reads, "books_old").is_empty());
}

#[test]
fn capture_and_workers_clear_only_what_they_have_parked_themselves() {
    let mut workers = Workers::default();
    workers.change(&[letter("books", 1), by_capture(1)], &[]);
    workers.know(&[letter("books", 1), by_capture(1)]);
    workers.change(&[], &[letter_key_in("books", 1, false)]);
    workers.know(&[by_capture(1)]);
    workers.change(&[], &[letter_key_in("books", 1, true)]);
    workers.know(&[]);
}

#[test]
fn a_row_that_is_not_parked_needs_no_record_to_be_cleared() {
    let mut ledger = LetterLedger::default();
    assert!(ledger.records(&[], &[letter_key_in("books", 1, false)]).is_empty());
    ledger.written(&[letter("books", 1)], &[]);
    assert_eq!(ledger.records(&[], &[letter_key_in("books", 1, false)]).len(), 1);
    assert!(ledger.records(&[], &[letter_key_in("books", 1, true)]).is_empty());
}

#[test]
fn a_worker_s_letter_of_a_large_record_is_not_capture_s() {
    assert!(is_by_capture(&by_capture(1)));
    assert!(!is_by_capture(&letter("books", 1)));
    assert!(
        !is_by_capture(&DeadLetter { place: letter("books", 1).place, ..by_capture(1) }),
        "it was read from a topic"
    );
}

#[test]
fn a_record_that_is_no_letter_changes_nothing() {
    let mut ledger = LetterLedger::default();
    ledger.hear(&back(&dead_letter::encode(&to_wire(&letter("books", 1)))));
    let garbage = |key: &[u8], value: Option<&[u8]>| Outgoing {
        key: Some(key.to_vec()),
        value: value.map(<[u8]>::to_vec),
        ..Outgoing::default()
    };
    for record in [garbage(b"x", Some(b"x")), garbage(b"x", None), garbage(b"{}", Some(br#"{"v":99}"#))] {
        ledger.hear(&back(&record));
    }
    assert_eq!(letters(&ledger, "books"), [letter("books", 1)]);
}

#[test]
fn a_letter_of_a_record_that_could_not_be_read_belongs_to_no_collection() {
    let place = dead_letter::RecordPlace { topic: "t".to_owned(), partition: 1, offset: 2 };
    let of_record = Letter { subject: LetterSubject::Record(place.clone()), ..to_wire(&letter("books", 1)) };
    let mut ledger = LetterLedger::default();
    ledger.hear(&back(&dead_letter::encode(&of_record)));
    assert!(letters(&ledger, "books").is_empty());
    ledger.hear(&back(&dead_letter::cleared(&LetterSubject::Record(place))));
}
