//! Points and dead letters in topics.

use proptest::prelude::*;
use serde_json::{Value, json};
use walvec_broker::wire::dead_letter::{self, Letter, LetterRecord, LetterSubject};
use walvec_broker::wire::vectors::{self, VectorFieldNames, VectorRecord};
use walvec_broker::wire::{SnapshotEnd, Sweep, reference_vectors};
use walvec_model::{Generation, Payload, PointId, SparseVector};

use crate::round_trip::value;
use crate::support::{at, books, context, embedded, letter, point, stored, written};

proptest! {
    #[test]
    fn a_point_comes_out_of_a_topic_as_it_went_in(
        id in prop_oneof![any::<u64>().prop_map(Value::from), any::<u128>().prop_map(|bits| json!(format!("{bits:032x}")))],
        vector in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO, 0..40),
        fields in prop::collection::vec(("[a-z]{1,5}", value()), 0..4),
        (collection, name) in any::<(String, Option<String>)>(),
        keywords in prop::option::of(prop::collection::btree_map(any::<u32>(), prop::num::f32::NORMAL, 1..5)),
    ) {
        let id: PointId = serde_json::from_value(id).unwrap();
        let mut point = point();
        (point.id, point.vector, point.payload) = (id, vector, Payload::from_iter(fields));
        point.keywords = keywords.map(|tokens| {
            let (indices, values) = tokens.into_iter().unzip();
            SparseVector { indices, values }
        });
        // An empty name counts as no name.
        let name = name.filter(|name| !name.is_empty());
        let names = VectorFieldNames { dense: name.as_deref(), keywords: point.keywords.as_ref().map(|_| "bm25 ") };
        let record = vectors::upsert(&collection, &point, names, Some(context().committed_at));
        let VectorRecord::Upsert(found) = vectors::decode(&stored(&record)).unwrap() else { panic!("no upsert") };
        prop_assert_eq!((&found.collection, &found.vector_name, found.generation), (&collection, &name, Generation(2)));
        prop_assert_eq!(found.committed_at, Some(context().committed_at));
        prop_assert_eq!(found.into_point(), Some(point));
        let delete = vectors::decode(&stored(&vectors::delete(&collection, id, at(4), Generation(3)))).unwrap();
        let (position, generation) = (Some(at(4)), Generation(3));
        prop_assert_eq!(delete, VectorRecord::Delete { collection, id, position, generation });
    }

    #[test]
    fn a_dead_letter_comes_out_of_a_topic_as_it_went_in(key in prop::collection::vec(value(), 1..3), bytes: Option<Vec<u8>>) {
        let mut letter = letter();
        letter.subject = LetterSubject::Row { collection: "books".to_owned(), table: books().to_string(), key, by_capture: true };
        letter.record.as_mut().unwrap().value = bytes;
        let mut unread = letter.clone();
        unread.subject = LetterSubject::Record(letter.source.clone().unwrap());
        (unread.position, unread.generation) = (None, None);
        let bare = Letter { source: None, record: None, ..letter.clone() };
        for letter in [letter, unread, bare] {
            let found = dead_letter::decode(&stored(&dead_letter::encode(&letter))).unwrap();
            prop_assert_eq!(found, LetterRecord::Letter(Box::new(letter.clone())));
            let found = dead_letter::decode(&stored(&dead_letter::cleared(&letter.subject))).unwrap();
            prop_assert_eq!(found, LetterRecord::Cleared(letter.subject));
        }
    }
}

#[test]
fn control_records_come_out_as_they_went_in() {
    let record = vectors::truncate("books", &books(), at(5), Generation(2));
    assert!(record.everywhere && record.key.is_none());
    let (collection, position, generation) = ("books".to_owned(), at(5), Generation(2));
    let expected = VectorRecord::Truncate { collection: collection.clone(), table: books(), position, generation };
    assert_eq!(vectors::decode(&stored(&record)), Ok(expected));
    let end = SnapshotEnd { table: books(), position, generation, sweep: Sweep::Generations, barrier: vec![1, 2] };
    let record = vectors::snapshot_end("books", &end);
    assert_eq!(vectors::decode(&stored(&record)), Ok(VectorRecord::SnapshotEnd { collection, end }));
    assert_eq!(vectors::decode(&written(None, None, &[])), Ok(VectorRecord::Nothing));
}

#[test]
fn a_point_of_another_program_has_no_provenance() {
    let value = json!({"collection_name": "books", "id": 7, "vector": {"text": [1, 0.5]}, "payload": null});
    let VectorRecord::Upsert(found) = vectors::decode(&written(None, Some(value), &[])).unwrap() else {
        panic!("no upsert")
    };
    assert_eq!((found.vector.as_slice(), found.vector_name.as_deref()), (&[1.0, 0.5][..], Some("text")));
    assert_eq!((found.generation, found.into_point()), (Generation(0), None));
}

#[test]
fn a_point_that_cannot_be_read_says_which_field_is_wrong() {
    let value = |id: Value, vector: Value, payload: Value| json!({"collection_name": "books", "id": id, "vector": vector, "payload": payload});
    for (value, expected) in [
        (json!({"id": 7}), "`collection_name` is missing"),
        (value(json!(-7), json!([1]), json!({})), "`id` is an integer, not a non-negative integer or a UUID"),
        (value(json!("seven"), json!([1]), json!({})), "`id` is a text"),
        (value(json!(7), json!(null), json!({})), "`vector` is missing"),
        (value(json!(7), json!([1, null]), json!({})), "`vector` is neither"),
        (value(json!(7), json!({"indices": [1], "values": [0.5]}), json!({})), "`vector` is neither"),
        (value(json!(7), json!({"bm25": {"indices": [1], "values": [0.5]}}), json!({})), "`vector` is neither"),
        (value(json!(7), json!({"": [1], "bm25": {"indices": [1], "values": []}}), json!({})), "`vector` is neither"),
        (
            value(json!(7), json!({"": [1], "bm25": {"indices": [1, 1], "values": [1, 2]}}), json!({})),
            "`vector` is neither",
        ),
        (
            value(json!(7), json!({"a": {"indices": [], "values": []}, "b": {"indices": [], "values": []}}), json!({})),
            "`vector` is neither",
        ),
        (value(json!(7), json!([1]), json!([])), "`payload` is a list"),
        (value(json!(7), json!([1]), json!({"_walvec": {}})), "`payload._walvec`"),
    ] {
        let malformed = vectors::decode(&written(None, Some(value.clone()), &[])).unwrap_err();
        assert!(malformed.reason.contains(expected), "{value}\n{}", malformed.reason);
    }
}

#[test]
fn a_row_with_its_vector_comes_out_of_the_tutorials_topic_as_it_went_in() {
    let row = embedded();
    assert_eq!(reference_vectors::decode(&stored(&reference_vectors::encode(&row))), Ok(Some(row.clone())));
    let mut number = row.clone();
    number.fields["year"] = json!(1965);
    assert_eq!(reference_vectors::encode(&number), reference_vectors::encode(&row));
    assert_eq!(reference_vectors::decode(&written(None, None, &[])), Ok(None));
}
