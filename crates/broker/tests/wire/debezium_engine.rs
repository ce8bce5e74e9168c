//! Records of a real Debezium engine, recorded by `tests/kafka/debezium/record.sh` in `tests/golden/debezium-engine-*.jsonl`:
//! one object `{"topic","key","value","headers"}` in each line, with key and value as JSON. A null value is a tombstone.
//!
//! The contents of the records come from `tests/kafka/debezium/books.sql` and `changes.sql`, and are repeated here.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use walvec_broker::Record;
use walvec_broker::wire::{Arrived, Decoder, Event, Format};
use walvec_model::{Cell, Generation, Lsn, Op, Position, Row, TableName};

/// Recorded with `schemas.enable`: the values are those of walvec's own capture.
const WITH_SCHEMAS: &str = "debezium-engine-3.6.3-schema.jsonl";
/// Recorded without schemas: the values are those that Debezium makes with its default settings.
const WITHOUT: &str = "debezium-engine-3.6.3-plain.jsonl";

/// Stands for a value that was not sent.
const NOT_SENT: &str = "(not sent)";

fn lines(file: &str) -> Vec<Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn record(line: &Value, offset: i64) -> Record {
    let bytes = |name: &str| Some(&line[name]).filter(|part| !part.is_null()).map(|part| part.to_string().into_bytes());
    // As Kafka Connect writes headers: texts without quotes, everything else as JSON.
    let header = |(name, value): (&String, &Value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (name.clone(), text.into_bytes())
    };
    Record {
        topic: line["topic"].as_str().unwrap().into(),
        partition: 0,
        offset,
        timestamp: None,
        key: bytes("key"),
        value: bytes("value"),
        headers: line["headers"].as_object().into_iter().flatten().map(header).collect(),
    }
}

/// Returns the table that a topic's name stands for.
fn table_of(topic: &str) -> Option<TableName> {
    match topic.split('.').collect::<Vec<_>>().as_slice() {
        [_, schema, name] => Some(TableName::new(*schema, *name)),
        _ => None,
    }
}

/// Returns the contents of each record of a file.
fn events(file: &str) -> Vec<Event> {
    let mut decoder = Decoder::new(Format::Debezium, HashMap::new());
    let decode = |(offset, line): (i64, &Value)| {
        let record = record(line, offset);
        let event = decoder.decode(&record, table_of(&record.topic).as_ref());
        event.unwrap_or_else(|malformed| panic!("{file}, line {}: {malformed}", offset + 1))
    };
    (0..).zip(&lines(file)).map(decode).collect()
}

/// Returns an event in short form: `[operation, table, key, columns]`.
fn shown(event: &Event) -> Value {
    let Event::Change(Arrived { change, .. }) = event else { return Value::Null };
    let row = |row: &Row| -> Map<String, Value> {
        let cell = |cell: &Cell| match cell {
            Cell::Value(value) => value.clone(),
            Cell::Unchanged => json!(NOT_SENT),
        };
        change.table.columns.iter().zip(&row.0).map(|(column, value)| (column.name.clone(), cell(value))).collect()
    };
    let (op, columns) = match &change.op {
        Op::Insert { new } => ("insert", row(new)),
        Op::Update { old_key: None, new } => ("update", row(new)),
        Op::Update { old_key: Some(_), new } => ("move", row(new)),
        Op::Delete { .. } => ("delete", Map::new()),
        Op::Truncate => ("truncate", Map::new()),
    };
    json!([op, change.table.name.name, change.key().map(|key| key.values().to_vec()), columns])
}

/// Returns the first book with all its columns, as capture reads them.
fn book() -> Value {
    json!({
        "id": 1, "name": "Die Wolken", "description": "What the sky does, and why.", "author": "A. Himmel", "year": 1987,
        "score": "12.50", "born": "1950-02-28", "at": "2026-11-01 07:30:00.123456+00",
        "seen": "2026-11-01 09:30:00.5", "tags": ["sky", "two words", null],
        "doc": {"pages": 210, "languages": ["de", "en"]}, "raw": "\\x00ff10",
        "uid": "6f9619ff-8b86-d011-b42d-00c04fc964ff", "ratio": 0.1
    })
}

/// Returns the long book as it is before any change.
fn long_book(description: &str) -> Value {
    json!({
        "id": 3, "name": "Ein langes Buch", "description": description, "author": "B. Lang", "year": -44,
        "score": "-0.01", "born": "0044-03-15 BC", "at": "1969-12-31 23:59:59.999999+00",
        "seen": "1969-07-20 20:17:40", "tags": [], "doc": [1, 2.5, null, "ü"], "raw": "\\x",
        "uid": "00000000-0000-0000-0000-000000000000", "ratio": "NaN"
    })
}

/// Returns a book of which only these values are known.
fn bare(id: u64, name: &str) -> Value {
    let mut book = book();
    for (column, value) in book.as_object_mut().unwrap() {
        *value = match column.as_str() {
            "id" => json!(id),
            "name" => json!(name),
            _ => Value::Null,
        };
    }
    book
}

fn with(mut book: Value, changes: Value) -> Value {
    for (column, value) in changes.as_object().unwrap() {
        book[column] = value.clone();
    }
    book
}

/// Returns the expected contents of every record, with the values of capture.
fn expected(description: &str) -> Vec<Value> {
    let shelf = |room: &str, place: &str, label: &str| json!({"room": room, "place": place, "label": label});
    let moved = with(long_book(NOT_SENT), json!({"score": "3.00", "ratio": 1e300}));
    let changed = json!({"score": "99999999.99", "year": 1988, "name": "Die Wolken \"II\" – ☁"});
    let (south, north) = (json!(["south", "2\"b"]), json!(["süd", "2\"b"]));
    vec![
        json!(["insert", "books", [1], book()]),
        json!(["insert", "books", [2], bare(2, "Nichts")]),
        json!(["insert", "shelves", ["north", "1a"], shelf("north", "1a", "Weather")]),
        json!(["insert", "books", [3], long_book(description)]),
        json!(["update", "books", [1], with(book(), changed)]),
        json!(["update", "books", [3], moved]),
        // A changed key: a delete, its tombstone, a new row.
        json!(["delete", "books", [3], {}]),
        json!(["delete", "books", [3], {}]),
        json!(["insert", "books", [30], with(moved, json!({"id": 30}))]),
        json!(["delete", "books", [2], {}]),
        json!(["delete", "books", [2], {}]),
        json!(["insert", "shelves", south, shelf("south", "2\"b", "History")]),
        json!(["update", "shelves", south, shelf("south", "2\"b", "Old history")]),
        json!(["delete", "shelves", south, {}]),
        json!(["delete", "shelves", south, {}]),
        json!(["insert", "shelves", north, shelf("süd", "2\"b", "Old history")]),
        json!(["delete", "shelves", north, {}]),
        json!(["delete", "shelves", north, {}]),
        json!(["insert", "books", [4], bare(4, "Eins")]),
        json!(["insert", "books", [5], bare(5, "Zwei")]),
        json!(["update", "books", [4], bare(4, "Drei")]),
        json!(["delete", "books", [5], {}]),
        json!(["delete", "books", [5], {}]),
        // A logical message.
        Value::Null,
        json!(["truncate", "books", null, {}]),
        json!(["insert", "books", [6], bare(6, "The last")]),
    ]
}

/// Returns the large value, which both engines were given.
fn description(events: &[Event]) -> String {
    let description = shown(&events[3])[3]["description"].as_str().unwrap().to_owned();
    assert_eq!((description.len(), &description[..32]), (9600, "c4ca4238a0b923820dcc509a6f75849b"));
    description
}

#[test]
fn records_with_schemas_say_what_capture_says() {
    let events = events(WITH_SCHEMAS);
    let expected = expected(&description(&events));
    assert_eq!(events.len(), expected.len());
    for (index, (event, expected)) in events.iter().zip(&expected).enumerate() {
        assert_eq!(shown(event), *expected, "{WITH_SCHEMAS}, line {}", index + 1);
    }
}

/// Debezium's default settings turn some types into numbers, which only a schema explains.
#[test]
fn records_without_schemas_say_what_debezium_made_of_the_values() {
    let events = events(WITHOUT);
    let mut expected = expected(&description(&events));
    let wolken = json!({"score": "BOI=", "born": -7247, "at": "2026-11-01T07:30:00.123456Z", "seen": 1793525400500000_u64,
        "doc": "{\"pages\": 210, \"languages\": [\"de\", \"en\"]}", "raw": "AP8Q"});
    let lang = json!({"score": "/w==", "born": -735160, "at": "1969-12-31T23:59:59.999999Z", "seen": -14182940000000_i64,
        "doc": "[1, 2.5, null, \"ü\"]", "raw": ""});
    let scores =
        [(0, &wolken, "BOI="), (4, &wolken, "AlQL4/8="), (3, &lang, "/w=="), (5, &lang, "ASw="), (8, &lang, "ASw=")];
    for (index, values, score) in scores {
        expected[index][3] = with(expected[index][3].take(), with(values.clone(), json!({"score": score})));
    }
    for (index, (event, expected)) in events.iter().zip(&expected).enumerate() {
        assert_eq!(shown(event), *expected, "{WITHOUT}, line {}", index + 1);
    }
    assert_eq!(events.len(), expected.len());
}

#[test]
fn the_place_of_a_record_is_its_version_and_its_key_makes_the_same_point_as_capture() {
    for file in [WITH_SCHEMAS, WITHOUT] {
        let mut newest = 0;
        for (offset, (line, event)) in (0_u64..).zip(lines(file).iter().zip(&events(file))) {
            let Event::Change(arrived) = event else { continue };
            let payload = line["value"].get("payload").unwrap_or(&line["value"]);
            let expected = match payload["source"]["lsn"].as_u64() {
                Some(lsn) => {
                    let source = &payload["source"];
                    let millis = source["ts_us"].as_u64().map(|us| us / 1000).or(source["ts_ms"].as_u64());
                    newest = newest.max(millis.unwrap_or_default());
                    Position { commit_lsn: Lsn(newest), ordinal: lsn }
                }
                // A tombstone removes every version.
                None => Position { commit_lsn: Lsn(u64::MAX), ordinal: 0 },
            };
            assert_eq!((arrived.change.position, arrived.generation), (expected, Generation(0)), "{file} {offset}");
            // Whole numbers and uuids are point ids themselves. All other keys are hashed.
            let types: Vec<u32> =
                arrived.change.table.key.iter().map(|&index| arrived.change.table.columns[index].type_oid).collect();
            match (arrived.change.table.name.name.as_str(), &arrived.change.op) {
                (_, Op::Truncate) => assert!(types.is_empty()),
                ("books", _) => assert_eq!(types, [if file == WITH_SCHEMAS { 23 } else { 20 }], "{file} {offset}"),
                _ => assert_eq!(types, [25, 25], "{file} {offset}"),
            }
        }
    }
}
