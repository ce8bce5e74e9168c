//! Converts values with a Connect schema.
//!
//! Debezium's JSON converter can write a schema with every payload. Only with a schema does a record show what its
//! numbers mean, so that its dates, decimals and bytes can be converted to the texts that PostgreSQL, and therefore
//! walvec's own capture, writes for them. Without a schema they stay the numbers that Debezium made of them, which
//! depend on `time.precision.mode`, `decimal.handling.mode` and `binary.handling.mode`.
//!
//! A value that cannot be converted exactly is left as it came. `money`, `hstore` and `varbit` differ from capture's
//! texts, because Debezium no longer knows which type it read.

use serde_json::Value;
use walvec_model::{Type, exact_json};

use super::super::{base64, civil, shapes};

/// The longest unscaled decimal, in bytes, that is converted. PostgreSQL's numeric has at most 147,455 digits.
const LONGEST_DECIMAL: usize = 64 * 1024;

/// A schema, or nothing if the record has none.
#[derive(Clone, Copy)]
pub(super) struct Schema<'a>(Option<&'a Value>);

impl<'a> Schema<'a> {
    /// Splits `{"schema":..,"payload":..}`. Everything else is a payload without a schema.
    pub(super) fn unwrap(value: Value) -> (Value, Option<Value>) {
        let Value::Object(mut fields) = value else { return (value, None) };
        let is_schema = |schema: &Value| schema.is_null() || schema.get("type").is_some();
        if fields.len() != 2 || !fields.contains_key("payload") || !fields.get("schema").is_some_and(is_schema) {
            return (Value::Object(fields), None);
        }
        let schema = fields.swap_remove("schema").filter(|schema| !schema.is_null());
        (fields.swap_remove("payload").unwrap_or_default(), schema)
    }

    pub(super) const fn of(schema: Option<&'a Value>) -> Self {
        Self(schema)
    }

    fn text(self, name: &str) -> Option<&'a str> {
        self.0?.get(name)?.as_str()
    }

    /// Returns the schema of the field called `name`.
    pub(super) fn field(self, name: &str) -> Self {
        let is_wanted = |field: &&Value| field.get("field").and_then(Value::as_str) == Some(name);
        Self(self.0.and_then(|schema| schema.get("fields")?.as_array()?.iter().find(is_wanted)))
    }

    /// Returns the type oid of a key column with this schema, if the schema shows it.
    pub(super) fn key_type(self) -> Option<u32> {
        Some(match (self.text("name"), self.text("type")?) {
            (Some("io.debezium.data.Uuid"), _) => shapes::UUID,
            (None, "int16") => shapes::INT2,
            (None, "int32") => shapes::INT4,
            (None, "int64") => shapes::INT8,
            _ => shapes::TEXT,
        })
    }

    /// Returns the type of a column with this schema, if its values do not show it.
    pub(super) fn ty(self) -> Option<Type> {
        if self.text("type") == Some("array") {
            let items = Schema(self.0.and_then(|schema| schema.get("items")));
            return items.ty().map(|element| Type::Array(Box::new(element)));
        }
        match self.text("name") {
            Some("org.apache.kafka.connect.data.Decimal" | "io.debezium.data.VariableScaleDecimal") => {
                Some(Type::Numeric { scale: None })
            }
            Some("io.debezium.data.Uuid") => Some(Type::Uuid),
            Some("io.debezium.time.Date" | "org.apache.kafka.connect.data.Date") => Some(Type::Date),
            Some(name) if name.ends_with("Timestamp") => Some(Type::Timestamp),
            None if self.text("type") == Some("boolean") => Some(Type::Boolean),
            _ => None,
        }
    }

    /// Converts a value of a key to the form that capture uses.
    pub(super) fn convert_key(self, value: Value) -> Value {
        match value {
            Value::String(text) if self.text("name") == Some("io.debezium.data.Json") => {
                exact_json::key_document(&text)
            }
            other => self.convert(other),
        }
    }

    /// Converts `value` to the form that capture uses.
    pub(super) fn convert(self, value: Value) -> Value {
        if self.0.is_none() || value.is_null() {
            return value;
        }
        match (value, self.text("type")) {
            (Value::Array(items), Some("array")) => {
                let of_item = Schema(self.0.and_then(|schema| schema.get("items")));
                Value::Array(items.into_iter().map(|item| of_item.convert(item)).collect())
            }
            (Value::String(text), _) if self.text("name") == Some("io.debezium.data.Json") => {
                exact_json::document(&text)
            }
            (value, _) => self.converted(&value).map_or(value, Value::String),
        }
    }

    fn converted(self, value: &Value) -> Option<String> {
        match self.text("name") {
            Some("org.apache.kafka.connect.data.Decimal") => decimal(value, self.parameter("scale")?),
            Some("io.debezium.data.VariableScaleDecimal") => {
                decimal(value.get("value")?, value.get("scale")?.as_i64()?)
            }
            Some("io.debezium.time.Date" | "org.apache.kafka.connect.data.Date") => Some(civil::date(value.as_i64()?)),
            Some("io.debezium.time.Time" | "org.apache.kafka.connect.data.Time") => {
                civil::time(value.as_i64()?.checked_mul(1000)?)
            }
            Some("io.debezium.time.MicroTime") => civil::time(value.as_i64()?),
            Some("io.debezium.time.NanoTime") => civil::time(value.as_i64()?.div_euclid(1000)),
            Some("io.debezium.time.Timestamp" | "org.apache.kafka.connect.data.Timestamp") => {
                Some(civil::timestamp(i128::from(value.as_i64()?) * 1000, ""))
            }
            Some("io.debezium.time.MicroTimestamp") => Some(civil::timestamp(value.as_i64()?.into(), "")),
            Some("io.debezium.time.NanoTimestamp") => {
                Some(civil::timestamp(value.as_i64()?.div_euclid(1000).into(), ""))
            }
            Some("io.debezium.time.ZonedTimestamp") => civil::zoned_timestamp(value.as_str()?),
            Some("io.debezium.time.ZonedTime") => civil::zoned_time(value.as_str()?),
            Some("io.debezium.data.Bits") => bits(&base64::decode(value.as_str()?)?, self.parameter("length")?),
            _ if self.text("type") == Some("bytes") => Some(hex(&base64::decode(value.as_str()?)?)),
            _ => None,
        }
    }

    /// Returns a number from the schema's parameters, which are texts.
    fn parameter(self, name: &str) -> Option<i64> {
        self.0?.get("parameters")?.get(name)?.as_str()?.parse().ok()
    }
}

/// Formats bytes as PostgreSQL does with `bytea_output = hex`.
fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
    let digits = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
    "\\x".chars().chain(digits).collect()
}

/// Formats a `bit(n)`. Its first digit is the highest bit in use of the last byte.
fn bits(bytes: &[u8], length: i64) -> Option<String> {
    let length = usize::try_from(length).ok().filter(|length| length.div_ceil(8) == bytes.len())?;
    let bit = |index: usize| if bytes[index / 8] >> (index % 8) & 1 == 1 { '1' } else { '0' };
    Some((0..length).rev().map(bit).collect())
}

/// Formats a decimal number from its unscaled digits: a two's complement number, big endian, in base64.
fn decimal(unscaled: &Value, scale: i64) -> Option<String> {
    let bytes = base64::decode(unscaled.as_str()?)?;
    if bytes.is_empty() || bytes.len() > LONGEST_DECIMAL || scale.unsigned_abs() > 200_000 {
        return None;
    }
    let (negative, mut digits) = digits(bytes);
    let places = usize::try_from(scale.unsigned_abs()).ok()?;
    if scale < 0 && digits != "0" {
        digits.extend(std::iter::repeat_n('0', places));
    } else if scale > 0 {
        if digits.len() <= places {
            digits.insert_str(0, &"0".repeat(places + 1 - digits.len()));
        }
        digits.insert(digits.len() - places, '.');
    }
    Some(if negative { format!("-{digits}") } else { digits })
}

/// Returns the sign and the decimal digits of a two's complement number.
fn digits(bytes: Vec<u8>) -> (bool, String) {
    const GROUP: u64 = 1_000_000_000;
    let negative = bytes.first().is_some_and(|&byte| byte >= 0x80);
    let fill = if negative { 0xFF } else { 0 };
    let mut padded = vec![fill; bytes.len().next_multiple_of(4) - bytes.len()];
    padded.extend(bytes);
    let mut limbs: Vec<u32> =
        padded.chunks_exact(4).map(|four| four.iter().fold(0, |limb, &byte| (limb << 8) | u32::from(byte))).collect();
    if negative {
        let mut carry = true;
        for limb in limbs.iter_mut().rev() {
            (*limb, carry) = (!*limb).overflowing_add(u32::from(carry));
        }
    }
    // Nine digits at a time, starting with the last ones.
    let mut groups = Vec::new();
    let mut first = 0;
    while let Some(skip) = limbs[first..].iter().position(|&limb| limb != 0) {
        first += skip;
        let mut rest = 0_u64;
        for limb in &mut limbs[first..] {
            let divided = (rest << 32) | u64::from(*limb);
            // The remainder is less than the divisor, so the quotient fits into 32 bits.
            *limb = u32::try_from(divided / GROUP).unwrap_or_default();
            rest = divided % GROUP;
        }
        groups.push(rest);
    }
    let mut text = groups.pop().unwrap_or_default().to_string();
    for group in groups.iter().rev() {
        text.push_str(&format!("{group:09}"));
    }
    (negative, text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn convert(schema: &Value, value: Value) -> Value {
        Schema::of(Some(schema)).convert(value)
    }

    fn scaled(bytes: &[u8], scale: i64) -> Value {
        let schema = json!({"type": "bytes", "name": "org.apache.kafka.connect.data.Decimal",
            "parameters": {"scale": scale.to_string()}});
        convert(&schema, json!(base64::encode(bytes)))
    }

    #[test]
    fn logical_types_become_the_texts_of_postgresql() {
        for (kind, name, value, expected) in [
            ("int32", "io.debezium.time.Date", json!(19_782), json!("2024-02-29")),
            ("int32", "io.debezium.time.Time", json!(48_823_250), json!("13:33:43.25")),
            ("int64", "io.debezium.time.MicroTime", json!(48_823_250_001_i64), json!("13:33:43.250001")),
            ("int64", "io.debezium.time.NanoTime", json!(48_823_250_001_000_i64), json!("13:33:43.250001")),
            ("int64", "io.debezium.time.Timestamp", json!(-1), json!("1969-12-31 23:59:59.999")),
            ("int64", "io.debezium.time.MicroTimestamp", json!(1_500_000), json!("1970-01-01 00:00:01.5")),
            ("int64", "io.debezium.time.NanoTimestamp", json!(1_000), json!("1970-01-01 00:00:00.000001")),
            (
                "string",
                "io.debezium.time.ZonedTimestamp",
                json!("2024-02-29T01:00:00.5Z"),
                json!("2024-02-29 01:00:00.5+00"),
            ),
            ("string", "io.debezium.time.ZonedTime", json!("01:00:00Z"), json!("01:00:00+00")),
            ("string", "io.debezium.data.Json", json!(r#"{"b":1,"a":[0.1]}"#), json!({"b": 1, "a": [0.1]})),
            ("string", "io.debezium.data.Json", json!("[1e999]"), json!(["1e999"])),
            ("string", "io.debezium.data.Uuid", json!("a0ee"), json!("a0ee")),
            ("struct", "io.debezium.data.VariableScaleDecimal", json!({"scale": 1, "value": "AQ=="}), json!("0.1")),
            // A value that does not fit its schema is left alone.
            ("int32", "io.debezium.time.Date", json!("soon"), json!("soon")),
            ("int64", "io.debezium.time.MicroTimestamp", json!(null), json!(null)),
        ] {
            assert_eq!(convert(&json!({"type": kind, "name": name}), value), expected, "{name}");
        }
        assert_eq!(convert(&json!({"type": "bytes"}), json!("AP+g")), json!("\\x00ffa0"));
        let bits = json!({"type": "bytes", "name": "io.debezium.data.Bits", "parameters": {"length": "10"}});
        assert_eq!(convert(&bits, json!("BQI=")), json!("1000000101"));
        let dates = json!({"type": "array", "items": {"type": "int32", "name": "io.debezium.time.Date"}});
        assert_eq!(convert(&dates, json!([0, null])), json!(["1970-01-01", null]));
    }

    #[test]
    fn decimals_keep_every_digit() {
        assert_eq!(scaled(&[0x30, 0x39], 2), json!("123.45"));
        assert_eq!(scaled(&[0xFF], 3), json!("-0.001"));
        assert_eq!(scaled(&[0], 2), json!("0.00"));
        assert_eq!(scaled(&[0x80], -2), json!("-12800"));
        assert_eq!(scaled(&[0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0), json!("79228162514264337593543950336"));
        assert_eq!(scaled(&[], 2), json!(""));
    }

    proptest! {
        #[test]
        fn any_whole_number_is_read_as_it_is(number: i128, padding in 0_usize..9) {
            let mut bytes = vec![if number < 0 { 0xFF } else { 0 }; padding];
            bytes.extend(number.to_be_bytes());
            prop_assert_eq!(scaled(&bytes, 0), json!(number.to_string()));
        }
    }
}
