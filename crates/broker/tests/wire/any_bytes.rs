//! No record makes a reader panic. Any program can write to a topic.

use proptest::prelude::*;
use serde_json::{Value, json};
use walvec_broker::wire::vectors::VectorFieldNames;
use walvec_broker::wire::{Format, SnapshotEnd, Sweep, dead_letter, reference_vectors, vectors};
use walvec_broker::{Outgoing, Record};
use walvec_model::{Generation, Op};

use crate::round_trip::value;
use crate::support::{at, books, change, context, decoder, embedded, encode, encoder, key, letter, point, row, stored};

fn read(record: &Record) {
    let others =
        [vectors::decode(record).err(), reference_vectors::decode(record).err(), dead_letter::decode(record).err()];
    for malformed in others.into_iter().flatten() {
        assert!(!malformed.reason.is_empty() && malformed.code == "E_RECORD");
    }
    for format in [Format::Debezium, Format::Reference] {
        for table in [None, Some(books())] {
            if let Err(malformed) = decoder(format).decode(record, table.as_ref()) {
                assert!(!malformed.reason.is_empty() && malformed.code.starts_with("E_"));
            }
        }
    }
}

fn valid() -> Vec<Outgoing> {
    let new = row(json!([7, "Dune", "Sand", 1965, {"a": [1, 2.5]}]));
    let mut records = Vec::new();
    for format in [Format::Debezium, Format::Reference] {
        let ops = [
            Op::Insert { new: new.clone() },
            Op::Update { old_key: Some(key(json!([6]))), new: new.clone() },
            Op::Delete { key: key(json!([7])) },
            Op::Truncate,
        ];
        records.extend(ops.into_iter().flat_map(|op| encode(format, &change(at(1), op), &context())));
        let end = SnapshotEnd {
            table: books(),
            position: at(0),
            generation: Generation(1),
            sweep: Sweep::Generations,
            barrier: vec![1],
        };
        records.push(vectors::snapshot_end("books", &end));
        records.push(encoder(format).snapshot_end(&end));
    }
    records.push(vectors::upsert(
        "books",
        &point(),
        VectorFieldNames { dense: Some("text-dense"), keywords: None },
        None,
    ));
    records.push(vectors::delete("books", point().id, at(1), Generation(1)));
    records.push(vectors::truncate("books", &books(), at(1), Generation(1)));
    records.push(reference_vectors::encode(&embedded()));
    records.extend([dead_letter::encode(&letter()), dead_letter::cleared(&letter().subject)]);
    records
}

/// Replaces the field with the number `choice`, counted through the whole document.
fn replace(value: &mut Value, choice: &mut usize, by: &Value) {
    if *choice == 0 {
        *value = by.clone();
    }
    *choice = choice.wrapping_sub(1);
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, choice, by)),
        Value::Object(fields) => fields.values_mut().for_each(|field| replace(field, choice, by)),
        _ => {}
    }
}

proptest! {
    #[test]
    fn random_bytes_are_an_error_and_no_panic(key: Option<Vec<u8>>, value: Option<Vec<u8>>, header: Vec<u8>) {
        let headers = vec![("walvec-position", header)];
        read(&stored(&Outgoing { key, value, headers, everywhere: false }));
    }

    #[test]
    fn a_flipped_byte_is_no_panic(choice: prop::sample::Index, place: prop::sample::Index, byte: u8, in_key: bool) {
        let records = valid();
        let mut record = stored(choice.get(&records));
        let bytes = if in_key { &mut record.key } else { &mut record.value };
        if let Some(bytes) = bytes.as_mut().filter(|bytes| !bytes.is_empty()) {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        read(&record);
    }

    #[test]
    fn a_field_of_another_type_is_no_panic(choice: prop::sample::Index, field in 0_usize..48, by in value()) {
        let records = valid();
        let mut record = stored(choice.get(&records));
        if let Some(bytes) = &mut record.value {
            let mut document = serde_json::from_slice(bytes).unwrap();
            replace(&mut document, &mut field.clone(), &by);
            *bytes = serde_json::to_vec(&document).unwrap();
        }
        read(&record);
    }
}

#[test]
fn a_deeply_nested_document_is_an_error_and_no_overflow() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let value = format!("{}1{}", open.repeat(200_000), close.repeat(200_000)).into_bytes();
        read(&stored(&Outgoing { key: Some(value.clone()), value: Some(value), ..Outgoing::default() }));
    }
}
