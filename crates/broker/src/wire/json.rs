//! Writing JSON straight into bytes, and asking a parsed envelope for its fields.
//!
//! Writing into a `Vec` cannot fail, and neither can a JSON value be impossible to write; that is why results are let go here.

use std::io::Write;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::{Map, Value};
use walvec_model::Position;

use super::{Malformed, VERSION};

/// Appends `value` as compact JSON.
pub(super) fn value<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    let _ = serde_json::to_writer(out, value);
}

/// Appends `text` as it is.
pub(super) fn raw(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// Appends what prints without any need for quotes: numbers, and texts that consist of digits.
pub(super) fn display(out: &mut Vec<u8>, what: impl std::fmt::Display) {
    let _ = write!(out, "{what}");
}

/// `value` as compact JSON.
pub(super) fn bytes<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// Microseconds since 1970, PostgreSQL's own precision; negative before.
pub(super) fn micros(at: SystemTime) -> i64 {
    let saturated = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => saturated(after),
        Err(before) => -saturated(before.duration()),
    }
}

/// The time that is `micros` after 1970; `None` if this machine's clock cannot show it.
pub(super) fn time(micros: i64) -> Option<SystemTime> {
    let distance = Duration::from_micros(micros.unsigned_abs());
    if micros < 0 { SystemTime::UNIX_EPOCH.checked_sub(distance) } else { SystemTime::UNIX_EPOCH.checked_add(distance) }
}

/// An object inside an envelope, with the path under which errors name its fields.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    fields: &'a Map<String, Value>,
    path: &'static str,
}

impl<'a> Fields<'a> {
    /// The fields of `value`, which stands at `path`; an empty one is the envelope itself.
    pub(super) fn of(value: &'a Value, path: &'static str) -> Result<Self, Malformed> {
        match value {
            Value::Object(fields) => Ok(Self { fields, path }),
            other if path.is_empty() => Err(Malformed::record(format!("the value is {}, not an object", kind(other)))),
            other => Err(Malformed::record(format!("`{path}` is {}, not an object", kind(other)))),
        }
    }

    /// The field called `name`, unless it is absent or null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// Where the field called `name` stands.
    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The position called `position`.
    pub(super) fn position(&self) -> Result<Position, Malformed> {
        self.typed("position", "a position such as 0/1D5C408.3", |value| value.as_str()?.parse().ok())
    }

    /// The names of all fields.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.fields.keys().map(String::as_str)
    }

    /// The object called `name`.
    pub(super) fn object(&self, name: &'static str) -> Result<Self, Malformed> {
        self.typed(name, "an object", |value| Some(Self { fields: value.as_object()?, path: name }))
    }

    /// Partition offsets called `name`.
    pub(super) fn offsets(&self, name: &str) -> Result<Vec<i64>, Malformed> {
        self.typed(name, "a list of offsets", |value| value.as_array()?.iter().map(Value::as_i64).collect())
    }

    /// Refuses what a newer walvec wrote: it may mean something else by the same names.
    pub(super) fn version(&self) -> Result<(), Malformed> {
        match self.number("v")? {
            newer if newer > VERSION => Err(Malformed::record(format!(
                "`{}` is {newer}: written by a newer walvec, this one reads up to {VERSION}; update this one first",
                self.path_of("v")
            ))),
            _ => Ok(()),
        }
    }

    /// The text called `name`.
    pub(super) fn text(&self, name: &str) -> Result<&'a str, Malformed> {
        self.typed(name, "a text", Value::as_str)
    }

    /// The whole, non-negative number called `name`.
    pub(super) fn number(&self, name: &str) -> Result<u64, Malformed> {
        self.typed(name, "a non-negative integer", Value::as_u64)
    }

    /// The list called `name`.
    pub(super) fn list(&self, name: &str) -> Result<&'a [Value], Malformed> {
        self.typed(name, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    /// The field called `name` as `read` understands it; `wanted` says what that is.
    pub(super) fn typed<T>(
        &self,
        name: &str,
        wanted: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T, Malformed> {
        let path = || self.path_of(name);
        let value = self.get(name).ok_or_else(|| Malformed::record(format!("`{}` is missing", path())))?;
        read(value).ok_or_else(|| Malformed::record(format!("`{}` is {}, not {wanted}", path(), kind(value))))
    }
}

/// What `value` is, for messages. Never the value: it may be a user's data.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a fraction",
        Value::Number(_) => "an integer",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The JSON of a record's key or value, for errors called `what`.
pub(super) fn parse(bytes: &[u8], what: &str) -> Result<Value, Malformed> {
    // Schema registries put a zero and the schema's number before the data; their users would wonder about "not JSON".
    let framed = if bytes.first() == Some(&0) { "; it begins as Avro or Protobuf of a schema registry do" } else { "" };
    let not_json = |error| Malformed::record(format!("the {what} is not JSON: {error}{framed}"));
    serde_json::from_slice(bytes).map_err(not_json)
}
