//! Dead letters: rows that could not be processed, and records that could not be read.
//!
//! The key names what is missing, so a newer letter about the same row replaces the older one in a compacted topic. A null
//! value says that the row has arrived after all. Capture and workers park and clear rows independently, so that neither clears
//! what the other one has parked in the meantime: letters of capture have `"by_capture":true` in key and value. The value is
//! `{"v":1,"collection","table","key","position","generation","code","reason","at_ms","source","record"}`.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use walvec_model::{Generation, Position};

use super::{Malformed, VERSION, base64, json};
use crate::{Outgoing, Record};

/// What a dead letter is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LetterSubject {
    /// A row that is missing in a collection.
    Row {
        /// The collection.
        collection: String,
        /// The table, as `schema.table`.
        table: String,
        /// The row's key.
        key: Vec<Value>,
        /// Whether capture parked the row, because its record was too large to be written.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        by_capture: bool,
    },
    /// A record that could not be read, so that its row is not known.
    Record(RecordPlace),
}

/// The place of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordPlace {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// A copy of a record, from which it can be processed again after its topic has forgotten it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptRecord {
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value.
    pub value: Option<Vec<u8>>,
    /// The record's headers.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl From<&Record> for RecordPlace {
    fn from(record: &Record) -> Self {
        Self { topic: record.topic.to_string(), partition: record.partition, offset: record.offset }
    }
}

impl From<&Record> for KeptRecord {
    fn from(record: &Record) -> Self {
        Self { key: record.key.clone(), value: record.value.clone(), headers: record.headers.clone() }
    }
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq)]
pub struct Letter {
    /// What the letter is about.
    pub subject: LetterSubject,
    /// The version that could not be processed, if it could be read from the record.
    pub position: Option<Position>,
    /// The generation of that version.
    pub generation: Option<Generation>,
    /// The error's code.
    pub code: String,
    /// The error in words.
    pub reason: String,
    /// Whether a user has decided that the row or record is not needed.
    pub dropped: bool,
    /// When the error happened. The record stores milliseconds.
    pub at: SystemTime,
    /// The place of the version's record. For [`LetterSubject::Record`] it is the subject's place.
    pub source: Option<RecordPlace>,
    /// A copy of the version's record.
    pub record: Option<KeptRecord>,
}

/// The contents of a record of dead letters.
#[derive(Clone, Debug, PartialEq)]
pub enum LetterRecord {
    /// Something is missing.
    Letter(Box<Letter>),
    /// The row or record is no longer missing.
    Cleared(LetterSubject),
}

/// Returns the record of a letter.
#[must_use]
pub fn encode(letter: &Letter) -> Outgoing {
    let (row, place) = match &letter.subject {
        LetterSubject::Row { collection, table, key, .. } => (json!([collection, table, key]), letter.source.as_ref()),
        LetterSubject::Record(place) => (json!([null, null, null]), Some(place)),
    };
    let text = |bytes: &Vec<u8>| base64::encode(bytes);
    let record = letter.record.as_ref().map(|record| {
        let headers: Vec<_> = record.headers.iter().map(|(name, value)| (name, text(value))).collect();
        json!({"key": record.key.as_ref().map(text), "value": record.value.as_ref().map(text), "headers": headers})
    });
    let mut value = json!({
        "v": VERSION,
        "collection": row[0],
        "table": row[1],
        "key": row[2],
        "position": letter.position,
        "generation": letter.generation,
        "code": letter.code,
        "reason": letter.reason,
        "at_ms": json::micros(letter.at).div_euclid(1000),
        "source": place,
        "record": record,
    });
    if letter.dropped {
        value["dropped"] = Value::Bool(true);
    }
    if matches!(letter.subject, LetterSubject::Row { by_capture: true, .. }) {
        value["by_capture"] = Value::Bool(true);
    }
    Outgoing { value: Some(json::bytes(&value)), ..cleared(&letter.subject) }
}

/// Returns the record that says that `subject` is no longer missing.
#[must_use]
pub fn cleared(subject: &LetterSubject) -> Outgoing {
    Outgoing { key: Some(json::bytes(subject)), ..Outgoing::default() }
}

/// Reads a dead letter from `record`.
///
/// # Errors
/// Fails if the record is not a dead letter, or has a version that is not supported.
pub fn decode(record: &Record) -> Result<LetterRecord, Malformed> {
    let Some(bytes) = &record.value else {
        let key = json::parse(record.key.as_deref().unwrap_or_default(), "key")?;
        let unknown = |_| Malformed::record("the key names neither a row nor a record");
        return Ok(LetterRecord::Cleared(serde_json::from_value(key).map_err(unknown)?));
    };
    let value = json::parse(bytes, "value")?;
    let fields = json::EnvelopeObject::of(&value, "")?;
    fields.version()?;
    let source = optional(&fields, "source", "a topic, a partition and an offset", |place| {
        RecordPlace::deserialize(place).ok()
    })?;
    let subject = match (fields.get("collection"), &source) {
        (None, Some(place)) => LetterSubject::Record(place.clone()),
        _ => LetterSubject::Row {
            collection: fields.text("collection")?.to_owned(),
            table: fields.text("table")?.to_owned(),
            key: fields.list("key")?.to_vec(),
            by_capture: optional(&fields, "by_capture", "true or false", Value::as_bool)?.unwrap_or_default(),
        },
    };
    let at_ms = fields.typed("at_ms", "a number of milliseconds", Value::as_i64)?;
    Ok(LetterRecord::Letter(Box::new(Letter {
        subject,
        position: optional(&fields, "position", "a position", |position| position.as_str()?.parse().ok())?,
        generation: optional(&fields, "generation", "a number", |number| number.as_u64().map(Generation))?,
        code: fields.text("code")?.to_owned(),
        reason: fields.text("reason")?.to_owned(),
        dropped: optional(&fields, "dropped", "true or false", Value::as_bool)?.unwrap_or_default(),
        at: at_ms.checked_mul(1000).and_then(json::time).unwrap_or(SystemTime::UNIX_EPOCH),
        source,
        record: optional(&fields, "record", "a record with base64 texts", kept)?,
    })))
}

/// Returns the field called `name`, converted by `read`; `None` if it is null.
fn optional<'a, T>(
    fields: &json::EnvelopeObject<'a>,
    name: &str,
    wanted: &str,
    read: impl FnOnce(&'a Value) -> Option<T>,
) -> Result<Option<T>, Malformed> {
    fields.get(name).map(|_| fields.typed(name, wanted, read)).transpose()
}

fn kept(record: &Value) -> Option<KeptRecord> {
    let bytes = |value: Option<&Value>| match value {
        None | Some(Value::Null) => Some(None),
        Some(value) => base64::decode(value.as_str()?).map(Some),
    };
    let header = |pair: &Value| {
        let (name, value) = <(String, String)>::deserialize(pair).ok()?;
        Some((name, base64::decode(&value)?))
    };
    Some(KeptRecord {
        key: bytes(record.get("key"))?,
        value: bytes(record.get("value"))?,
        headers: record.get("headers")?.as_array()?.iter().map(header).collect::<Option<_>>()?,
    })
}
