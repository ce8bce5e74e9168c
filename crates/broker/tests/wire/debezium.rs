//! How Debezium's own records are read, and which errors unreadable records give.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use walvec_broker::Record;
use walvec_broker::wire::{Event, Format};
use walvec_model::{Cell, Generation, Lsn, Op, Position, RowKey};

use crate::support::{arrived, at, books, change, context, decoder, encode, key, stored, written};

fn source() -> Value {
    json!({"version": "3.6.3.Final", "connector": "postgresql", "name": "shop", "ts_ms": 1500, "snapshot": "false",
        "db": "shop", "sequence": "[null,\"24\"]", "schema": "public", "table": "books", "txId": 7, "lsn": 24, "xmin": null})
}

fn insert() -> Value {
    json!({"before": null, "after": {"id": 7, "name": "Dune"}, "source": source(), "op": "c", "ts_ms": 1501})
}

/// Returns `value` with the field at `path` replaced or removed.
fn with(mut value: Value, path: &str, by: Option<Value>) -> Value {
    let (parent, name) = path.rsplit_once('/').unwrap();
    let parent = value.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match by {
        Some(by) => parent.insert(name.to_owned(), by),
        None => parent.shift_remove(name),
    };
    value
}

fn decode(key: Option<Value>, value: Option<Value>) -> Event {
    decoder(Format::Debezium).decode(&written(key, value, &[]), Some(&books())).unwrap()
}

#[test]
fn a_row_of_a_real_debezium_is_versioned_by_when_it_was_written_and_by_its_lsn() {
    let found = arrived(decode(Some(json!({"id": 7})), Some(insert())));
    assert_eq!(found.change.position, Position { commit_lsn: Lsn(1500), ordinal: 24 });
    assert_eq!(found.lsn, Lsn(24));
    assert_eq!(found.generation, Generation(0));
    assert_eq!(found.committed_at, Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1500)));
    assert_eq!((&found.change.table.name, found.change.key()), (&books(), Some(key(json!([7])))));
    assert_eq!(found.change.table.columns[0].type_oid, 20);
}

#[test]
fn what_was_written_later_is_later_although_another_server_has_written_less_log() {
    let mut decoder = decoder(Format::Debezium);
    let mut position = |lsn: u64, written_ms: u64, partition: i32| {
        let value = with(insert(), "/source/lsn", Some(json!(lsn)));
        let timestamp = Some(SystemTime::UNIX_EPOCH + Duration::from_millis(written_ms));
        let record = Record { partition, timestamp, ..written(Some(json!({"id": 7})), Some(value), &[]) };
        arrived(decoder.decode(&record, Some(&books())).unwrap()).change.position
    };
    let old_server = position(9_000_000, 1000, 0);
    let new_server = position(500, 2000, 1);
    assert!(old_server < new_server, "{old_server} {new_server}");
    assert!(new_server < position(501, 2000, 0), "in one millisecond the log of the server decides");
    assert!(new_server < position(100, 3000, 1));
    assert!(position(90, 1, 1) >= Position { commit_lsn: Lsn(3000), ordinal: 0 }, "a clock that was set back");
}

#[test]
fn wrapped_records_say_their_types() {
    let field = |name: &str, kind: &str, logical: Option<&str>| json!({"field": name, "type": kind, "name": logical});
    let row_key = json!({
        "schema": {"type": "struct", "fields": [field("id", "string", Some("io.debezium.data.Uuid"))]},
        "payload": {"id": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
    });
    let fields = [
        field("id", "string", Some("io.debezium.data.Uuid")),
        field("day", "int32", Some("io.debezium.time.Date")),
        field("cover", "bytes", None),
    ];
    let after = json!({"id": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "day": 0, "cover": "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="});
    let value = json!({
        "schema": {"type": "struct", "fields": [{"field": "after", "type": "struct", "fields": fields}]},
        "payload": with(with(insert(), "/after", Some(after)), "/op", Some(json!("u"))),
    });
    let found = arrived(decode(Some(row_key), Some(value)));
    let Op::Update { old_key: None, new } = found.change.op else { panic!("{:?}", found.change.op) };
    assert_eq!(new.0[1..], [Cell::Value(json!("1970-01-01")), Cell::Unchanged]);
    assert_eq!(found.change.table.columns[0].type_oid, 2950);
}

#[test]
fn a_value_that_a_real_debezium_did_not_get_is_unchanged_in_each_of_its_forms() {
    let text = "__debezium_unavailable_value";
    let bytes: Vec<u8> = text.bytes().collect();
    let forms = json!([text, [text], bytes, {text: text}, "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="]);
    for form in forms.as_array().unwrap() {
        let value = with(with(insert(), "/after/name", Some(form.clone())), "/op", Some(json!("u")));
        let found = arrived(decode(Some(json!({"id": 7})), Some(value)));
        let Op::Update { new, .. } = found.change.op else { panic!("{:?}", found.change.op) };
        assert_eq!(new.0[1], Cell::Unchanged, "{form}");
    }
}

#[test]
fn an_unversioned_tombstone_removes_whatever_has_its_key() {
    let found = arrived(decode(Some(json!({"id": 7})), None));
    assert_eq!(found.change.op, Op::Delete { key: RowKey::new(vec![json!(7)]) });
    assert_eq!(found.change.position, Position { commit_lsn: Lsn(u64::MAX), ordinal: 0 });
    let unknown_table = decoder(Format::Debezium).decode(&written(Some(json!({"id": 7})), None, &[]), None);
    assert_eq!(unknown_table, Ok(Event::Nothing));
}

#[test]
fn a_tombstone_is_about_the_same_point_as_the_rows_before_it() {
    // Without a schema, a uuid looks like any other text. An earlier record of the table had its type.
    let id = json!({"id": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"});
    let ours = json!({"v": 1, "position": "0/18.1", "generation": 1, "key_types": [2950]});
    let row = with(with(insert(), "/source/walvec", Some(ours)), "/after", Some(id.clone()));
    let mut decoder = decoder(Format::Debezium);
    decoder.decode(&written(Some(id.clone()), Some(row), &[]), None).unwrap();
    let found = arrived(decoder.decode(&written(Some(id), None, &[]), Some(&books())).unwrap());
    assert_eq!(found.change.table.columns[0].type_oid, 2950);
}

#[test]
fn what_is_about_no_row_is_nothing() {
    for value in [
        json!({"status": "BEGIN", "id": "7:24", "event_count": null, "ts_ms": 1}),
        json!({"status": "END", "id": "7:24", "event_count": 2, "data_collections": [], "ts_ms": 1}),
        json!({"ts_ms": 1}),
        json!({"schema": {"type": "struct"}, "payload": {"ts_ms": 1, "ts_us": 1}}),
        json!({"databaseName": "shop", "ddl": "CREATE TABLE t ()", "tableChanges": []}),
        json!({"op": "m", "ts_ms": 1, "source": source(), "message": {"prefix": "p", "content": "YQ=="}}),
    ] {
        assert_eq!(decode(None, Some(value.clone())), Event::Nothing, "{value}");
    }
}

#[test]
fn a_record_that_cannot_be_read_says_which_field_is_wrong() {
    let block = |v: Value| json!({"v": v, "position": "0/18.1", "generation": 1, "key_types": [20]});
    let set = |path: &str, by: Value| with(insert(), path, Some(by));
    let lacks = |path: &str| with(insert(), path, None);
    for (value, code, expected) in [
        (json!([1]), "E_RECORD", "the value is a list"),
        (lacks("/op"), "E_RECORD", "`op` is missing"),
        (set("/op", json!(1)), "E_RECORD", "`op` is an integer, not a text"),
        (set("/op", json!("x")), "E_OP", "`op` is \"x\""),
        (lacks("/after"), "E_RECORD", "`after` is missing"),
        (set("/after", json!(null)), "E_RECORD", "`after` is missing"),
        (set("/after", json!(7)), "E_RECORD", "`after` is an integer"),
        (set("/after", json!({"name": "Dune"})), "E_RECORD", "key column \"id\""),
        (lacks("/source"), "E_RECORD", "`source` is missing"),
        (set("/source", json!("s")), "E_RECORD", "`source` is a text"),
        (lacks("/source/schema"), "E_RECORD", "`source.schema` is missing"),
        (set("/source/table", json!(1)), "E_RECORD", "`source.table` is an integer"),
        (lacks("/source/lsn"), "E_RECORD", "`source.lsn` is missing"),
        (set("/source/lsn", json!(-1)), "E_RECORD", "`source.lsn` is an integer, not a non-negative"),
        (set("/source/walvec", json!(1)), "E_RECORD", "`source.walvec` is an integer"),
        (set("/source/walvec", json!({})), "E_RECORD", "`source.walvec.v` is missing"),
        (set("/source/walvec", block(json!(2))), "E_RECORD", "written by a newer walvec"),
        (set("/source/walvec", json!({"v": 1, "position": "0/18"})), "E_RECORD", "`source.walvec.position`"),
        (set("/source/walvec", json!({"v": 1, "position": "0/18.1"})), "E_RECORD", "`source.walvec.generation`"),
    ] {
        let record = written(Some(json!({"id": 7})), Some(value.clone()), &[]);
        let malformed = decoder(Format::Debezium).decode(&record, Some(&books())).unwrap_err();
        assert_eq!(malformed.code, code, "{value}");
        assert!(malformed.reason.contains(expected), "{value}\n{}", malformed.reason);
    }
}

#[test]
fn a_record_without_a_usable_key_is_refused() {
    let keys = [(None, "no key"), (Some(json!(7)), "the key is an integer"), (Some(json!({})), "the key is an object")];
    for (row_key, expected) in keys {
        let record = written(row_key, Some(insert()), &[]);
        let malformed = decoder(Format::Debezium).decode(&record, None).unwrap_err();
        assert!(malformed.reason.contains(expected), "{}", malformed.reason);
    }
    let mut record = written(None, None, &[]);
    for (bytes, expected) in [(&b"{"[..], "the value is not JSON"), (&[0, 0, 0, 0, 1, 14][..], "schema registry")] {
        record.value = Some(bytes.to_vec());
        let malformed = decoder(Format::Debezium).decode(&record, None).unwrap_err();
        assert!(malformed.reason.contains(expected), "{}", malformed.reason);
    }
    let record = written(Some(json!({"id": 7})), None, &[("walvec-position", "here")]);
    let malformed = decoder(Format::Debezium).decode(&record, Some(&books())).unwrap_err();
    assert!(malformed.reason.contains("walvec-position"), "{}", malformed.reason);
}

#[test]
fn a_delete_that_lost_its_record_key_still_names_its_row() {
    let mut delete =
        encode(Format::Debezium, &change(at(3), Op::Delete { key: key(json!([7])) }), &context()).remove(0);
    delete.key = None;
    let found = arrived(decoder(Format::Debezium).decode(&stored(&delete), None).unwrap());
    assert_eq!(found.change.op, Op::Delete { key: key(json!([7])) });
    // Without walvec's block, the fields of `before` do not show which of them are the key.
    let foreign = json!({"before": {"id": 7, "name": null}, "after": null, "source": source(), "op": "d"});
    let malformed = decoder(Format::Debezium).decode(&written(None, Some(foreign), &[]), None).unwrap_err();
    assert!(malformed.reason.contains("no key"), "{}", malformed.reason);
}

#[test]
fn rows_of_equal_tables_share_one_table() {
    let mut decoder = decoder(Format::Debezium);
    let mut table = || {
        let record = written(Some(json!({"id": 7})), Some(insert()), &[]);
        arrived(decoder.decode(&record, None).unwrap()).change.table
    };
    assert!(std::sync::Arc::ptr_eq(&table(), &table()));
}
