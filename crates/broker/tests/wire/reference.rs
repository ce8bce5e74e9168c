//! How wal2json's own records are read.

use proptest::prelude::*;
use serde_json::{Value, json};
use walvec_broker::wire::{ChangeContext, Event, Format, SnapshotEnd, Sweep};
use walvec_model::{Cell, Generation, Lsn, Op, Position};

use crate::round_trip::value;
use crate::support::{arrived, at, books, change, context, decode, decoder, encode, encoder, key, row, written};

const FORMAT: Format = Format::Reference;

fn read(value: Value) -> Event {
    decoder(FORMAT).decode(&written(None, Some(value), &[]), None).unwrap()
}

proptest! {
    #[test]
    fn a_row_comes_out_of_wal2json_records_as_it_went_in(
        (id, text, tags) in (any::<i32>(), any::<String>(), value()),
        missing: bool,
        old in any::<Option<i32>>(),
        snapshot: bool,
    ) {
        let mut new = row(json!([id, text, "Sand", null, tags]));
        let insert = change(at(1), Op::Insert { new: new.clone() });
        let context = ChangeContext { snapshot, ..context() };
        let found = arrived(decode(FORMAT, &encode(FORMAT, &insert, &context)[0]));
        prop_assert_eq!(&found.change.op, &insert.op);
        prop_assert_eq!((found.change.position, found.generation), (at(1), Generation(2)));
        prop_assert_eq!(found.committed_at, (!snapshot).then_some(context.committed_at));
        let names = |table: &walvec_model::Table| table.columns.iter().map(|c| (c.name.clone(), c.type_name.clone())).collect::<Vec<_>>();
        prop_assert_eq!(names(&found.change.table), names(&insert.table));
        prop_assert_eq!(&found.change.table.key, &insert.table.key);

        // A column that was not sent moves to the end: the record does not show where it was.
        if missing {
            new.0[2] = Cell::Unchanged;
        }
        let old_key = old.filter(|&old| old != id).map(|old| key(json!([old])));
        let update = change(at(2), Op::Update { old_key, new: new.clone() });
        let found = arrived(decode(FORMAT, &encode(FORMAT, &update, &context)[0]));
        if missing {
            let cell = new.0.remove(2);
            new.0.push(cell);
        }
        let Op::Update { old_key, .. } = update.op else { unreachable!() };
        prop_assert_eq!(found.change.op, Op::Update { old_key, new });
    }
}

#[test]
fn deletes_truncations_and_snapshot_ends_come_out_as_they_went_in() {
    for op in [Op::Delete { key: key(json!([7])) }, Op::Truncate] {
        let records = encode(FORMAT, &change(at(3), op.clone()), &context());
        let found = arrived(decode(FORMAT, &records[0]));
        assert_eq!(
            (found.change.table.name.clone(), found.change.op, found.change.position),
            (books(), op.clone(), at(3))
        );
        assert_eq!((records.len(), records[0].everywhere), (1, op == Op::Truncate));
    }
    let end = SnapshotEnd {
        table: books(),
        position: at(0),
        generation: Generation(3),
        sweep: Sweep::Generations,
        barrier: vec![5],
    };
    let record = encoder(FORMAT).snapshot_end(&end);
    assert_eq!(decode(FORMAT, &record), Event::SnapshotEnd(end));
}

#[test]
fn the_tutorials_programs_can_filter_every_record_by_its_table() {
    let end = SnapshotEnd {
        table: books(),
        position: at(0),
        generation: Generation(3),
        sweep: Sweep::Generations,
        barrier: vec![5],
    };
    let mut records = vec![encoder(FORMAT).snapshot_end(&end)];
    records.extend(encode(FORMAT, &change(at(1), Op::Truncate), &context()));
    records.extend(encode(FORMAT, &change(at(1), Op::Delete { key: key(json!([7])) }), &context()));
    for record in records {
        let value: Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
        assert!(value["table"].is_string() && value["kind"].is_string(), "{value}");
    }
}

#[test]
fn wal2jsons_own_records_are_read() {
    let columns = json!({"columnnames": ["isbn", "id"], "columntypes": ["text", "uuid"], "columnvalues": ["x", "a0"]});
    let mut insert = json!({"kind": "insert", "schema": "public", "table": "books"});
    insert.as_object_mut().unwrap().extend(columns.as_object().unwrap().clone());
    let found = arrived(read(insert.clone()));
    assert_eq!(found.change.position, Position { commit_lsn: Lsn(0), ordinal: 42 });
    assert_eq!((found.generation, found.committed_at), (Generation(0), None));
    assert_eq!((found.change.key(), found.change.table.columns[1].type_oid), (Some(key(json!(["a0"]))), 2950));
    insert["columnnames"] = json!(["isbn", "name"]);
    assert_eq!(arrived(read(insert)).change.key(), Some(key(json!(["x"]))));
    assert_eq!(read(json!({"kind": "message", "transactional": true, "prefix": "p", "content": "c"})), Event::Nothing);
    assert_eq!(decoder(FORMAT).decode(&written(None, None, &[]), None), Ok(Event::Nothing));
}

/// wal2json writes every column of the old row that is not null, if the table has `REPLICA IDENTITY FULL`.
#[test]
fn a_row_of_a_table_that_shows_whole_old_rows_keeps_its_key() {
    let row = |kind: &str, old: Value| {
        let (names, types) = (json!(["id", "name", "description"]), json!(["integer", "text", "text"]));
        let old = json!({"keynames": ["id", "name"], "keytypes": ["integer", "text"], "keyvalues": old});
        json!({"kind": kind, "schema": "public", "table": "books", "columnnames": names, "columntypes": types,
            "columnvalues": [7, "after", null], "oldkeys": old})
    };
    let mut decoder = decoder(FORMAT);
    let mut read =
        |value: Value, headers: &[(&'static str, &str)]| decoder.decode(&written(None, Some(value), headers), None);
    let found = arrived(read(row("update", json!([7, "before"])), &[]).unwrap());
    assert_eq!(found.change.key(), Some(key(json!([7]))));
    assert!(matches!(found.change.op, Op::Update { old_key: None, .. }), "{found:?}");
    let moved = arrived(read(row("update", json!([6, "before"])), &[]).unwrap());
    assert!(
        matches!(moved.change.op, Op::Update { old_key: Some(ref old), .. } if *old == key(json!([6]))),
        "{moved:?}"
    );
    let deleted = arrived(read(row("delete", json!([7, "before"])), &[]).unwrap());
    assert_eq!((deleted.change.key(), deleted.change.table.columns[0].type_oid), (Some(key(json!([7]))), 23));
    // walvec's own records contain the key.
    let ours = arrived(read(row("delete", json!([7, "before"])), &[("walvec-position", "0/1.0")]).unwrap());
    assert_eq!(ours.change.key(), Some(key(json!([7, "before"]))));
    let mut unclear = row("delete", json!([7, "before"]));
    unclear["oldkeys"]["keynames"] = json!(["number", "name"]);
    let malformed = read(unclear, &[]).unwrap_err();
    assert!(malformed.code == "E_RECORD" && malformed.reason.contains("number, name"), "{malformed}");
}

#[test]
fn a_record_that_cannot_be_read_says_which_field_is_wrong() {
    let lists = |names: Value, values: Value| {
        json!({"kind": "update", "schema": "public", "table": "books", "columnnames": names, "columntypes": ["integer"],
            "columnvalues": values, "oldkeys": {"keynames": ["id"], "keytypes": ["integer"], "keyvalues": [7]}})
    };
    for (value, code, expected) in [
        (json!({"table": "books"}), "E_RECORD", "`kind` is missing"),
        (json!({"kind": "upsert", "table": "books"}), "E_OP", "`kind` is \"upsert\""),
        (json!({"kind": "insert", "table": "books"}), "E_RECORD", "`schema` is missing"),
        (json!({"kind": "delete", "schema": "s", "table": "t"}), "E_RECORD", "`oldkeys` is missing"),
        (lists(json!(["id"]), json!([])), "E_RECORD", "different lengths"),
        (lists(json!([1]), json!([7])), "E_RECORD", "`columnnames` is a list, not a list of texts"),
        (lists(json!(["name"]), json!([7])), "E_RECORD", "key column \"id\""),
        (json!({"kind": "message", "table": "", "walvec": {"v": 2}}), "E_RECORD", "newer walvec"),
    ] {
        let malformed = decoder(FORMAT).decode(&written(None, Some(value.clone()), &[]), None).unwrap_err();
        assert_eq!(malformed.code, code, "{value}");
        assert!(malformed.reason.contains(expected), "{value}\n{}", malformed.reason);
    }
}
