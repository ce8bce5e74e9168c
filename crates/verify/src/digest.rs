//! The comparison of two points by content, in bounded space.
//!
//! The digest of a point covers the user's fields and those parts of walvec's own field that follow from the row: table,
//! key, hash of the text, fingerprint, chunk number and chunk count. The point's position in the WAL, and the snapshot that
//! last saw it, do not follow from the row.
//!
//! Fields are compared by name, in any order. Whole numbers are compared exactly, and so are numbers with a fraction in the
//! embedded engine. On a server's way to its disk and back, JSON readers may change the last digits of a fraction, so only
//! [`DIGITS`] of them count there. A server has no whole numbers from 2^63 on: it stores them as fractions.

use serde_json::{Number, Value};
use walvec_model::{Payload, RESERVED_KEY};

/// How many digits of a floating-point number count. An `f64` has between 15 and 17.
const DIGITS: usize = 12;

/// How numbers with a fraction are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fractions {
    /// To the last bit.
    Exact,
    /// To 12 digits.
    Rounded,
}

/// The parts of walvec's own field that follow from the row, with the names under which they are stored.
pub(crate) const OWN_PARTS: [&str; 6] = ["t", "k", "h", "m", "c", "n"];

/// 128 bits of BLAKE3.
pub(crate) type Digest = [u8; 16];

/// Returns the digest of a point with these fields ([`RESERVED_KEY`] is skipped) and these parts of walvec's own field.
pub(crate) fn digest(payload: &Payload, own: [&Value; OWN_PARTS.len()], fractions: Fractions) -> Digest {
    let mut bytes = Vec::with_capacity(256);
    put_object(&mut bytes, payload, fractions);
    own.into_iter().for_each(|value| put(&mut bytes, value, fractions));
    let mut digest = Digest::default();
    digest.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
    digest
}

/// Returns the parts of walvec's own field in a stored payload; null where they are missing.
pub(crate) fn stored_parts(payload: &Payload) -> [&Value; OWN_PARTS.len()] {
    let own = payload.get(RESERVED_KEY);
    OWN_PARTS.map(|part| own.and_then(|own| own.get(part)).unwrap_or(&Value::Null))
}

/// Returns whether two values count as equal.
pub(crate) fn same(left: &Value, right: &Value, fractions: Fractions) -> bool {
    let same = |left: &Value, right: &Value| same(left, right, fractions);
    match (left, right) {
        (Value::Number(left), Value::Number(right)) if fractions == Fractions::Rounded => same_rounded(left, right),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            let in_right = |(name, value): (&String, &Value)| right.get(name).is_some_and(|other| same(value, other));
            left.len() == right.len() && left.iter().all(in_right)
        }
        _ => left == right,
    }
}

/// Compares two numbers rounded to [`DIGITS`] digits. Numbers on either side of a rounding boundary are equal here, although
/// their digests differ.
fn same_rounded(left: &Number, right: &Number) -> bool {
    match (left.is_i64(), right.is_i64(), left.as_f64(), right.as_f64()) {
        (false, false, Some(left), Some(right)) => {
            // The tolerance is half a unit of the last digit that counts.
            left == right || (left - right).abs() <= 1e-12 * left.abs().max(right.abs())
        }
        _ => left == right,
    }
}

/// Appends the encoding of a value; no encoding is a prefix of another one.
fn put(bytes: &mut Vec<u8>, value: &Value, fractions: Fractions) {
    match value {
        Value::Null => bytes.push(b'n'),
        Value::Bool(flag) => bytes.push(if *flag { b't' } else { b'f' }),
        Value::Number(number) => {
            bytes.push(b'#');
            match number.as_f64().filter(|_| !number.is_i64() && fractions == Fractions::Rounded) {
                Some(float) => put_text(bytes, &format!("{float:.*e}", DIGITS - 1)),
                None => put_text(bytes, &number.to_string()),
            }
        }
        Value::String(text) => {
            bytes.push(b'"');
            put_text(bytes, text);
        }
        Value::Array(items) => {
            bytes.push(b'[');
            bytes.extend_from_slice(&(items.len() as u64).to_be_bytes());
            items.iter().for_each(|item| put(bytes, item, fractions));
        }
        Value::Object(fields) => put_object(bytes, fields, fractions),
    }
}

fn put_object(bytes: &mut Vec<u8>, fields: &Payload, fractions: Fractions) {
    let mut fields: Vec<_> = fields.iter().filter(|(name, _)| *name != RESERVED_KEY).collect();
    fields.sort_unstable_by_key(|(name, _)| *name);
    bytes.push(b'{');
    bytes.extend_from_slice(&(fields.len() as u64).to_be_bytes());
    for (name, value) in fields {
        put_text(bytes, name);
        put(bytes, value, fractions);
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn of(payload: &Value) -> Digest {
        let Value::Object(payload) = payload else { panic!("a payload") };
        digest(payload, stored_parts(payload), Fractions::Exact)
    }

    #[test]
    fn the_order_of_fields_does_not_count_and_everything_else_does() {
        let point = json!({"a": 1, "b": {"c": [1, "x", null], "d": true}, "_walvec": {"h": "1", "v": "0/1.1"}});
        let reordered = json!({"_walvec": {"v": "0/2.7", "h": "1"}, "b": {"d": true, "c": [1, "x", null]}, "a": 1});
        assert_eq!(of(&point), of(&reordered));
        for other in [
            json!({"a": 2, "b": {"c": [1, "x", null], "d": true}, "_walvec": {"h": "1"}}),
            json!({"a": "1", "b": {"c": [1, "x", null], "d": true}, "_walvec": {"h": "1"}}),
            json!({"a": 1.0, "b": {"c": [1, "x", null], "d": true}, "_walvec": {"h": "1"}}),
            json!({"a": 1, "b": {"c": [1, "x"], "d": true}, "_walvec": {"h": "1"}}),
            json!({"a": 1, "b": {"c": [1, "x", null], "d": true}, "_walvec": {"h": "2"}}),
            json!({"a": 1, "b": {"c": [1, "x", null], "d": true}}),
            json!({"a": 1, "b": {"c": [1, "x", null], "d": true}, "e": null, "_walvec": {"h": "1"}}),
        ] {
            assert_ne!(of(&point), of(&other), "{other}");
        }
    }

    #[test]
    fn shifted_boundaries_are_a_difference() {
        assert_ne!(of(&json!({"a": "bc", "d": ""})), of(&json!({"a": "b", "cd": ""})));
        assert_ne!(of(&json!({"a": [["x"], "y"]})), of(&json!({"a": [["x", "y"]]})));
    }

    #[test]
    fn a_fraction_counts_to_the_last_bit_unless_a_server_may_have_rounded_it() {
        let (expected, stored) = (json!({"a": [0.1]}), json!({"a": [0.100_000_000_000_000_02]}));
        assert!(!same(&expected, &stored, Fractions::Exact));
        assert!(same(&expected, &stored, Fractions::Rounded));
        let of =
            |value: &Value, fractions| digest(value.as_object().unwrap(), stored_parts(&Payload::new()), fractions);
        assert_ne!(of(&expected, Fractions::Exact), of(&stored, Fractions::Exact));
        assert_eq!(of(&expected, Fractions::Rounded), of(&stored, Fractions::Rounded));
    }

    proptest! {
        #[test]
        fn a_float_that_was_written_and_read_is_the_same(float in any::<f64>().prop_filter("finite", |f| f.is_normal())) {
            let read: f64 = serde_json::from_str(&serde_json::to_string(&float).unwrap()).unwrap();
            prop_assert!(same(&json!(float), &json!(read), Fractions::Exact));
            prop_assert!(!same(&json!(float), &json!(float * 1.000_001), Fractions::Rounded));
        }
    }
}
