//! Writes JSON directly into bytes, and reads fields of a parsed envelope.
//!
//! Writing into a `Vec` cannot fail, and every JSON value can be written, so results are ignored here.

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

/// Appends a value that prints without the need for quotes: a number, or a text of digits only.
pub(super) fn display(out: &mut Vec<u8>, what: impl std::fmt::Display) {
    let _ = write!(out, "{what}");
}

/// Returns `value` as compact JSON.
pub(super) fn bytes<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// Returns microseconds since 1970, PostgreSQL's own precision; negative before 1970.
pub(super) fn micros(at: SystemTime) -> i64 {
    let saturated = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => saturated(after),
        Err(before) => -saturated(before.duration()),
    }
}

/// Returns the time that is `micros` after 1970; `None` if this machine cannot represent it.
pub(super) fn time(micros: i64) -> Option<SystemTime> {
    let distance = Duration::from_micros(micros.unsigned_abs());
    if micros < 0 { SystemTime::UNIX_EPOCH.checked_sub(distance) } else { SystemTime::UNIX_EPOCH.checked_add(distance) }
}

/// An object inside an envelope, with the path that errors use for its fields.
#[derive(Clone, Copy)]
pub(super) struct EnvelopeObject<'a> {
    fields: &'a Map<String, Value>,
    path: &'static str,
}

impl<'a> EnvelopeObject<'a> {
    /// Returns the fields of `value`, which is at `path`. An empty path is the envelope itself.
    pub(super) fn of(value: &'a Value, path: &'static str) -> Result<Self, Malformed> {
        match value {
            Value::Object(fields) => Ok(Self { fields, path }),
            other if path.is_empty() => Err(Malformed::record(format!("the value is {}, not an object", kind(other)))),
            other => Err(Malformed::record(format!("`{path}` is {}, not an object", kind(other)))),
        }
    }

    /// Returns the field called `name`, unless it is absent or null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// Returns the path of the field called `name`.
    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Returns the position in the field `position`.
    pub(super) fn position(&self) -> Result<Position, Malformed> {
        self.typed("position", "a position such as 0/1D5C408.3", |value| value.as_str()?.parse().ok())
    }

    /// Returns the names of all fields.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.fields.keys().map(String::as_str)
    }

    /// Returns the object called `name`.
    pub(super) fn object(&self, name: &'static str) -> Result<Self, Malformed> {
        self.typed(name, "an object", |value| Some(Self { fields: value.as_object()?, path: name }))
    }

    /// Returns the partition offsets called `name`.
    pub(super) fn offsets(&self, name: &str) -> Result<Vec<i64>, Malformed> {
        self.typed(name, "a list of offsets", |value| value.as_array()?.iter().map(Value::as_i64).collect())
    }

    /// Refuses a version that is newer than this program: the same names may have another meaning in it.
    pub(super) fn version(&self) -> Result<(), Malformed> {
        match self.number("v")? {
            newer if newer > VERSION => Err(Malformed::record(format!(
                "`{}` is {newer}: written by a newer walvec, this one reads up to {VERSION}; update this one first",
                self.path_of("v")
            ))),
            _ => Ok(()),
        }
    }

    /// Returns the text called `name`.
    pub(super) fn text(&self, name: &str) -> Result<&'a str, Malformed> {
        self.typed(name, "a text", Value::as_str)
    }

    /// Returns the whole, non-negative number called `name`.
    pub(super) fn number(&self, name: &str) -> Result<u64, Malformed> {
        self.typed(name, "a non-negative integer", Value::as_u64)
    }

    /// Returns the list called `name`.
    pub(super) fn list(&self, name: &str) -> Result<&'a [Value], Malformed> {
        self.typed(name, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    /// Returns the field called `name`, converted by `read`. `wanted` describes the expected value for errors.
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

/// Describes the kind of `value` for messages. Never includes the value, which may be a user's data.
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

/// Parses the JSON of a record's key or value, which errors call `what`.
pub(super) fn parse(bytes: &[u8], what: &str) -> Result<Value, Malformed> {
    // Schema registries put a zero byte and the schema's number before the data. "Not JSON" alone would puzzle their users.
    let framed = if bytes.first() == Some(&0) { "; it begins as Avro or Protobuf of a schema registry do" } else { "" };
    let not_json = |error| Malformed::record(format!("the {what} is not JSON: {error}{framed}"));
    serde_json::from_slice(bytes).map_err(not_json)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        #[test]
        fn every_fraction_comes_back_to_the_last_bit(
            floats in prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO, 1..8)
        ) {
            let value = json!({"a": floats, "1.5": "2.5", "b": {"c": floats[0], "d": u64::MAX, "e": i64::MIN}});
            prop_assert_eq!(parse(value.to_string().as_bytes(), "value").unwrap(), value);
        }
    }
}
