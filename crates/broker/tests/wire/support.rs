//! Tables, changes and records for tests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use walvec_broker::wire::dead_letter::{KeptRecord, Letter, LetterSubject, RecordPlace};
use walvec_broker::wire::reference_vectors::EmbeddedRow;
use walvec_broker::wire::{Arrived, ChangeContext, Decoder, Encoder, Event, Format};
use walvec_broker::{Outgoing, Record};
use walvec_model::{
    Cell, Change, Column, Fingerprint, Generation, InputHash, Lsn, Op, Payload, Point, PointId, Position, Provenance,
    Row, RowKey, Table, TableName,
};

pub(crate) fn books() -> TableName {
    TableName::new("public", "books")
}

/// Returns the tutorial's table, with one more column whose values can be stored out of line.
pub(crate) fn table() -> Arc<Table> {
    let column = |name: &str, type_name: &str, type_oid| Column::new(name, type_name, type_oid);
    Arc::new(Table {
        name: books(),
        columns: vec![
            column("id", "integer", 23),
            column("name", "character varying(255)", 1043),
            column("description", "text", 25),
            column("year", "integer", 23),
            column("tags", "jsonb", 3802),
        ],
        key: vec![0],
    })
}

/// Returns a row of [`table`].
pub(crate) fn row(values: Value) -> Row {
    Row(values.as_array().unwrap().iter().cloned().map(Cell::Value).collect())
}

pub(crate) fn at(ordinal: u64) -> Position {
    Position { commit_lsn: Lsn(0x1D5_C408), ordinal }
}

pub(crate) fn change(position: Position, op: Op) -> Change {
    Change { table: table(), position, op }
}

pub(crate) fn key(values: Value) -> RowKey {
    RowKey::new(values.as_array().unwrap().clone())
}

pub(crate) fn context() -> ChangeContext {
    let committed_at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_790_000_000_123_456);
    ChangeContext { generation: Generation(2), committed_at, xid: Some(771), snapshot: false }
}

/// Returns an encoder as walvec's own program creates it.
pub(crate) fn encoder(format: Format) -> Encoder {
    Encoder::new(format, "walvec", "shop")
}

pub(crate) fn encode(format: Format, change: &Change, context: &ChangeContext) -> Vec<Outgoing> {
    let mut out = Vec::new();
    encoder(format).change(change, context, &mut out);
    out
}

/// Returns the record as it is stored in a topic.
pub(crate) fn stored(outgoing: &Outgoing) -> Record {
    Record {
        topic: "walvec.public.books".into(),
        partition: 0,
        offset: 41,
        timestamp: None,
        key: outgoing.key.clone(),
        value: outgoing.value.clone(),
        headers: outgoing.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
    }
}

pub(crate) fn decoder(format: Format) -> Decoder {
    let needed = ["id", "name", "description", "year", "tags"].map(str::to_owned).to_vec();
    Decoder::new(format, HashMap::from([(books(), needed)]))
}

pub(crate) fn decode(format: Format, outgoing: &Outgoing) -> Event {
    decoder(format).decode(&stored(outgoing), Some(&books())).unwrap()
}

pub(crate) fn arrived(event: Event) -> Arrived {
    match event {
        Event::Change(arrived) => arrived,
        other => panic!("no change: {other:?}"),
    }
}

/// Returns a record as another program may have written it.
pub(crate) fn written(key: Option<Value>, value: Option<Value>, headers: &[(&'static str, &str)]) -> Record {
    let bytes = |value: Value| value.to_string().into_bytes();
    let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes().to_vec())).collect();
    stored(&Outgoing { key: key.map(bytes), value: value.map(bytes), headers, everywhere: false })
}

pub(crate) fn point() -> Point {
    let provenance = Provenance {
        position: at(3),
        table: books().to_string(),
        key: vec![json!(7)],
        input_hash: InputHash::of("Dune"),
        fingerprint: Fingerprint::of(&["model"]),
        generation: Generation(2),
        chunk: 0,
        chunks: 1,
    };
    let payload = Payload::from_iter([("name".to_owned(), json!("Dune")), ("rating".to_owned(), json!(4.5))]);
    Point { id: PointId::Num(7), vector: vec![0.25, -0.5, 1e-7], keywords: None, payload, provenance }
}

pub(crate) fn embedded() -> EmbeddedRow {
    let fields = json!({"id": 7, "name": "Dune", "description": "Sand", "author": "Frank Herbert", "year": "1965"});
    EmbeddedRow {
        table: books(),
        kind: "insert".to_owned(),
        fields: fields.as_object().unwrap().clone(),
        vector: vec![0.25, -0.5],
        at: context().committed_at,
        position: Some(at(3)),
        generation: Generation(2),
    }
}

pub(crate) fn letter() -> Letter {
    Letter {
        subject: LetterSubject::Row {
            collection: "books".to_owned(),
            table: books().to_string(),
            key: vec![json!(7)],
            by_capture: false,
        },
        position: Some(at(3)),
        generation: Some(Generation(2)),
        code: "E_TEMPLATE".to_owned(),
        reason: "the template needs a name".to_owned(),
        dropped: false,
        at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_123),
        source: Some(RecordPlace { topic: "walvec.public.books".to_owned(), partition: 1, offset: 41 }),
        record: Some(KeptRecord {
            key: Some(br#"{"id":7}"#.to_vec()),
            value: Some(vec![0, 255]),
            headers: vec![("trace".to_owned(), b"abc".to_vec())],
        }),
    }
}
