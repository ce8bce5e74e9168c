//! Reads JSON without rounding its numbers.
//!
//! json and jsonb columns hold numbers of any size and precision. A number that a reader of our JSON would round becomes the text
//! of its digits, so that the document around it keeps its structure. In a key, the whole document becomes text. Fractions that
//! fit are read to the last bit (`float_roundtrip` of serde_json).

use std::borrow::Cow;
use std::ops::Range;

use serde_json::{Number, Value};

/// Parses the text of a json column. Numbers that would be rounded become texts. What is not JSON is kept as text.
#[must_use]
pub fn document(json: &str) -> Value {
    serde_json::from_str(&with_digits(json)).unwrap_or_else(|_| Value::String(json.to_owned()))
}

/// Parses the text of a json column that is part of a key. The whole document is text if a number in it would be rounded.
#[must_use]
pub fn key_document(json: &str) -> Value {
    let parsed = rounded(json).next().is_none().then(|| serde_json::from_str(json).ok()).flatten();
    parsed.unwrap_or_else(|| Value::String(json.to_owned()))
}

/// Returns `json` with quotes around each number that would be rounded.
fn with_digits(json: &str) -> Cow<'_, str> {
    let mut quoted = String::new();
    let mut from = 0;
    for number in rounded(json) {
        quoted.push_str(&json[from..number.start]);
        quoted.push('"');
        quoted.push_str(&json[number.clone()]);
        quoted.push('"');
        from = number.end;
    }
    if from == 0 { Cow::Borrowed(json) } else { Cow::Owned(quoted + &json[from..]) }
}

/// Returns the ranges of the numbers that would be rounded.
fn rounded(json: &str) -> impl Iterator<Item = Range<usize>> {
    let bytes = json.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'"' => at = end_of_string(bytes, at),
                b'-' | b'0'..=b'9' => {
                    let number = at..end_of_number(bytes, at);
                    at = number.end;
                    if !is_exact(&json[number.clone()]) {
                        return Some(number);
                    }
                }
                _ => at += 1,
            }
        }
        None
    })
}

/// Returns the index after the string that starts at `start`.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}

fn end_of_number(bytes: &[u8], start: usize) -> usize {
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    bytes[start..].iter().position(|byte| !is_part(byte)).map_or(bytes.len(), |length| start + length)
}

/// Returns whether a number survives: printed again, it has the same digits. `0.1` does, although no `f64` is exactly 0.1.
fn is_exact(number: &str) -> bool {
    if !number.contains(['.', 'e', 'E']) {
        return number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
    }
    // Print with the library that also writes our JSON: if two shortest texts are equally near, libraries choose differently.
    let printed = number.parse().ok().and_then(Number::from_f64).map(|number| number.to_string());
    let wanted = Decimal::parse(number);
    wanted.is_some() && printed.and_then(|printed| Decimal::parse(&printed)) == wanted
}

/// A decimal number in a normal form: its significant digits, and the power of ten of the last one.
#[derive(PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    fn parse(number: &str) -> Option<Self> {
        let (negative, unsigned) = number.strip_prefix('-').map_or((false, number), |rest| (true, rest));
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse().ok()?),
            None => (unsigned, 0_i64),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).skip_while(|&digit| digit == b'0').collect();
        let mut exponent = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?;
        while digits.last() == Some(&b'0') {
            digits.pop();
            exponent = exponent.checked_add(1)?;
        }
        // Zero has no significant digits, and its exponent means nothing.
        let exponent = if digits.is_empty() { 0 } else { exponent };
        Some(Self { negative, digits, exponent })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_number_that_keeps_its_digits_is_a_number() {
        for number in
            ["0", "-0", "-1", "9223372036854775807", "18446744073709551615", "0.1", "1.10", "-2.5e-3", "1e300", "0.0"]
        {
            assert_eq!(document(number), serde_json::from_str::<Value>(number).unwrap());
            assert_eq!(key_document(number), document(number));
        }
    }

    #[test]
    fn a_number_that_would_be_rounded_is_text() {
        for number in [
            "18446744073709551616",
            "-9223372036854775809",
            "0.12345678901234567890",
            "1e400",
            "9007199254740993.5",
            "1e-400",
            "1e99999999999999999999",
        ] {
            assert_eq!(document(number), json!(number));
            assert_eq!(key_document(number), json!(number));
        }
    }

    #[test]
    fn the_document_around_such_a_number_keeps_its_structure_but_not_in_a_key() {
        let json = r#"{"18446744073709551616": [1, 1e400, "1e999 \" 1e999"], "b": -0.12345678901234567890}"#;
        let expected = r#"{"18446744073709551616": [1, "1e400", "1e999 \" 1e999"], "b": "-0.12345678901234567890"}"#;
        assert_eq!(document(json), serde_json::from_str::<Value>(expected).unwrap());
        assert_eq!(key_document(json), json!(json));
        assert!(matches!(with_digits("[1, 0.1]"), Cow::Borrowed("[1, 0.1]")));
    }

    #[test]
    fn digits_inside_strings_do_not_count() {
        let json = r#"{"18446744073709551616": "1e999 \" 1e999", "a": [1, 2]}"#;
        assert_eq!(key_document(json), serde_json::from_str::<Value>(json).unwrap());
    }

    #[test]
    fn what_is_not_json_is_kept_as_text() {
        for text in ["{", "\"\\ud800\""] {
            assert_eq!((document(text), key_document(text)), (json!(text), json!(text)));
        }
    }

    #[test]
    fn of_two_fractions_that_are_equally_near_the_one_that_is_printed_is_exact() {
        // Both texts are read as one f64, 1147724532381725.25.
        assert_eq!(document("1147724532381725.2"), json!(1147724532381725.2));
        assert_eq!(document("1147724532381725.3"), json!("1147724532381725.3"));
    }
}
