//! The exact records of every envelope. `WALVEC_BLESS=1` rewrites the files; check the difference before you keep it.

use std::path::PathBuf;

use serde_json::{Value, json};
use walvec_broker::Outgoing;
use walvec_broker::wire::vectors::VectorFieldNames;
use walvec_broker::wire::{ChangeContext, Format, SnapshotEnd, Sweep, dead_letter, reference_vectors, vectors};
use walvec_model::{Cell, Generation, Op, Point, Position, SparseVector};

use crate::support::{at, books, change, context, embedded, encode, encoder, key, letter, point, row};

/// Compares `records` with the file called `name`.
fn check(name: &str, records: &[Outgoing]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(&records.iter().map(readable).collect::<Vec<_>>()).unwrap() + "\n";
    if std::env::var_os("WALVEC_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(text, expected, "{}", path.display());
}

/// Returns a record in a readable form: JSON as JSON, with the fields in their order.
fn readable(record: &Outgoing) -> Value {
    let parsed = |bytes: &Vec<u8>| {
        serde_json::from_slice(bytes).unwrap_or_else(|_| json!(String::from_utf8(bytes.clone()).unwrap()))
    };
    let header = |(name, value): &(&str, Vec<u8>)| json!([name, String::from_utf8(value.clone()).unwrap()]);
    json!({
        "key": record.key.as_ref().map(parsed),
        "value": record.value.as_ref().map(parsed),
        "headers": record.headers.iter().map(header).collect::<Vec<_>>(),
        "everywhere": record.everywhere,
    })
}

fn full_row() -> walvec_model::Row {
    row(json!([7, "Dune", "Sand, \"spice\" and worms", 1965, {"genre": ["sf"], "rating": 4.5}]))
}

fn partial_row() -> walvec_model::Row {
    let mut row = full_row();
    row.0[2] = Cell::Unchanged;
    row
}

fn end() -> SnapshotEnd {
    SnapshotEnd {
        table: books(),
        position: at(0),
        generation: Generation(2),
        sweep: Sweep::Generations,
        barrier: vec![17, 0, 23],
    }
}

#[test]
fn a_change_is_written_as_debezium_writes_it() {
    let write = |position: Position, op: Op| encode(Format::Debezium, &change(position, op), &context());
    check("debezium-insert", &write(at(1), Op::Insert { new: full_row() }));
    check("debezium-update-unchanged", &write(at(2), Op::Update { old_key: None, new: partial_row() }));
    check("debezium-delete", &write(at(3), Op::Delete { key: key(json!([7])) }));
    check("debezium-key-change", &write(at(4), Op::Update { old_key: Some(key(json!([6]))), new: partial_row() }));
    check("debezium-truncate", &write(at(5), Op::Truncate));
    let read = ChangeContext { xid: None, snapshot: true, ..context() };
    check("debezium-snapshot", &encode(Format::Debezium, &change(at(0), Op::Insert { new: full_row() }), &read));
    check("debezium-snapshot-end", &[encoder(Format::Debezium).snapshot_end(&end())]);
}

#[test]
fn a_change_is_written_as_wal2json_writes_it() {
    let write = |position: Position, op: Op| encode(Format::Reference, &change(position, op), &context());
    check("reference-insert", &write(at(1), Op::Insert { new: full_row() }));
    check("reference-update", &write(at(2), Op::Update { old_key: Some(key(json!([6]))), new: partial_row() }));
    check("reference-delete", &write(at(3), Op::Delete { key: key(json!([7])) }));
    check("reference-truncate", &write(at(4), Op::Truncate));
    check("reference-snapshot-end", &[encoder(Format::Reference).snapshot_end(&end())]);
    check("reference-vector", &[reference_vectors::encode(&embedded())]);
}

#[test]
fn a_point_is_written_as_the_qdrant_connector_reads_it() {
    let point = point();
    check(
        "vector-upsert",
        &[vectors::upsert("books", &point, VectorFieldNames::default(), Some(context().committed_at))],
    );
    let names = VectorFieldNames { dense: Some("text-dense"), keywords: None };
    check("vector-upsert-named", &[vectors::upsert("books", &point, names, None)]);
    let hybrid =
        Point { keywords: Some(SparseVector { indices: vec![7, 900], values: vec![1.25, 0.5] }), ..point.clone() };
    let names = VectorFieldNames { dense: None, keywords: Some("bm25") };
    check("vector-upsert-hybrid", &[vectors::upsert("books", &hybrid, names, None)]);
    check("vector-delete", &[vectors::delete("books", point.id, at(4), Generation(2))]);
    check("vector-truncate", &[vectors::truncate("books", &books(), at(5), Generation(2))]);
    check("vector-snapshot-end", &[vectors::snapshot_end("books", &end())]);
}

#[test]
fn a_dead_letter_says_what_is_missing_and_why() {
    let row = letter();
    let place = row.source.clone().unwrap();
    let record = dead_letter::Letter {
        subject: dead_letter::LetterSubject::Record(place),
        position: None,
        generation: None,
        code: "E_RECORD".to_owned(),
        reason: "`op` is missing".to_owned(),
        dropped: false,
        ..row.clone()
    };
    let letters = [dead_letter::encode(&row), dead_letter::encode(&record), dead_letter::cleared(&row.subject)];
    check("dead-letter", &letters);
}
