//! Finds out which JSON numbers survive as `i64`, `u64` or `f64`.
//!
//! jsonb stores numbers as `numeric`, with any size and precision. A number that a reader of our JSON would round is
//! passed on as the text of its digits, so that the document around it keeps its structure.

use std::borrow::Cow;
use std::ops::Range;

/// Returns whether every number in `json` (a text that PostgreSQL accepted as JSON) can be represented exactly.
///
/// A fraction counts as exact if it has the same digits when it is printed again. `0.1` does, although no `f64` is exactly 0.1.
pub(super) fn all_exact(json: &str) -> bool {
    rounded(json).next().is_none()
}

/// Returns `json` with quotes around each number that cannot be represented exactly.
pub(super) fn with_digits(json: &str) -> Cow<'_, str> {
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

/// Returns the ranges of the numbers that cannot be represented exactly.
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

fn is_exact(number: &str) -> bool {
    if !number.contains(['.', 'e', 'E']) {
        return number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
    }
    // Parse with serde_json, which will also read the document: its parser may be off in the last bit.
    match (serde_json::from_str::<f64>(number), Decimal::parse(number)) {
        (Ok(float), Some(wanted)) => Decimal::parse(&format!("{float:e}")) == Some(wanted),
        _ => false,
    }
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
            exponent += 1;
        }
        // Zero has no significant digits, and its exponent means nothing.
        let exponent = if digits.is_empty() { 0 } else { exponent };
        Some(Self { negative, digits, exponent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_come_back_digit_by_digit_are_exact() {
        for number in
            ["0", "-1", "9223372036854775807", "18446744073709551615", "0.1", "1.10", "-2.5e-3", "1e300", "0.0"]
        {
            assert!(all_exact(number), "{number}");
        }
    }

    #[test]
    fn numbers_that_would_be_rounded_are_not_exact() {
        for number in [
            "18446744073709551616",
            "-9223372036854775809",
            "0.12345678901234567890",
            "1e400",
            "9007199254740993.5",
            "1e-400",
        ] {
            assert!(!all_exact(number), "{number}");
        }
    }

    #[test]
    fn only_numbers_that_would_be_rounded_become_texts() {
        let json = r#"{"18446744073709551616": [1, 1e400, "1e999 \" 1e999"], "b": -0.12345678901234567890}"#;
        let expected = r#"{"18446744073709551616": [1, "1e400", "1e999 \" 1e999"], "b": "-0.12345678901234567890"}"#;
        assert_eq!(with_digits(json), expected);
        assert!(matches!(with_digits("[1, 0.1]"), Cow::Borrowed("[1, 0.1]")));
    }

    #[test]
    fn digits_inside_strings_do_not_count() {
        assert!(all_exact(r#"{"18446744073709551616": "1e999 \" 1e999", "a": [1, 2]}"#));
        assert!(!all_exact(r#"{"a": ["x", 18446744073709551616]}"#));
    }
}
