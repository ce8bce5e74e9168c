//! Reads numbers in JSON without rounding.
//!
//! json columns hold numbers of any length, and a JSON reader would round long ones. As in capture, such a number
//! becomes the text of its digits, and in a key the whole document becomes text. Fractions that fit are read to the
//! last bit (`float_roundtrip` of serde_json).

use serde_json::{Number, Value};

/// Parses a json column's text. Numbers that would be rounded become texts.
pub(super) fn document(text: &str) -> Value {
    let mut quoted = String::with_capacity(text.len());
    let mut from = 0;
    for token in tokens(text.as_bytes()).filter(|token| !is_exact(token)) {
        // A token is a slice of the text, so the difference of their addresses is its offset.
        let start = token.as_ptr() as usize - text.as_ptr() as usize;
        quoted.push_str(&text[from..start]);
        quoted.push_str(&Value::from(token).to_string());
        from = start + token.len();
    }
    quoted.push_str(&text[from..]);
    serde_json::from_str(&quoted).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// Parses the document of a key column. The whole document is a string if a number in it would be rounded.
pub(super) fn key_document(text: &str) -> Value {
    let parsed = tokens(text.as_bytes()).all(is_exact).then(|| serde_json::from_str(text).ok()).flatten();
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Returns the numbers in a JSON text, in their order.
fn tokens(json: &[u8]) -> impl Iterator<Item = &str> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(&byte) = json.get(at) {
            match byte {
                b'"' => at = end_of_string(json, at),
                b'-' | b'0'..=b'9' => {
                    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                    let length = json[at..].iter().position(|byte| !is_part(byte)).unwrap_or(json.len() - at);
                    let token = &json[at..at + length];
                    at += length;
                    return std::str::from_utf8(token).ok();
                }
                _ => at += 1,
            }
        }
        None
    })
}

fn end_of_string(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}

/// Returns whether the parser reads the number as an `f64`.
fn is_float(token: &str) -> bool {
    token == "-0" || token.contains(['.', 'e', 'E']) || (token.parse::<i64>().is_err() && token.parse::<u64>().is_err())
}

/// Returns whether a number survives: printed again, it has the same digits. `0.1` does, although no `f64` is exactly 0.1.
fn is_exact(token: &str) -> bool {
    if !token.contains(['.', 'e', 'E']) {
        return !is_float(token) || token == "-0";
    }
    // Print with the library that also writes our JSON: if two shortest texts are equally near, libraries choose differently.
    let printed = token.parse().ok().and_then(Number::from_f64).map(|number| number.to_string());
    let wanted = significant(token);
    wanted.is_some() && printed.and_then(|printed| significant(&printed)) == wanted
}

/// Returns the sign, the significant digits and the power of ten of the last one.
fn significant(token: &str) -> Option<(bool, String, i64)> {
    let (negative, unsigned) = token.strip_prefix('-').map_or((false, token), |rest| (true, rest));
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let kept = digits.trim_end_matches('0');
    let dropped = i64::try_from(digits.len() - kept.len()).ok()?;
    let exponent =
        exponent.parse::<i64>().ok()?.checked_sub(i64::try_from(fraction.len()).ok()?)?.checked_add(dropped)?;
    let kept = kept.trim_start_matches('0');
    // Zero has no significant digits, and its exponent means nothing.
    Some((negative, kept.to_owned(), if kept.is_empty() { 0 } else { exponent }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_number_that_would_be_rounded_is_text() {
        for text in
            [r#"{"n": 18446744073709551616}"#, "[0.12345678901234567890]", "1e400", "1e-400", "{", "\"\\ud800\""]
        {
            assert_eq!(key_document(text), json!(text));
        }
        assert_eq!(
            document(r#"{"n": 18446744073709551616, "m": [1e-400, 1.5]}"#),
            json!({"n": "18446744073709551616", "m": ["1e-400", 1.5]})
        );
        assert_eq!(document("{"), json!("{"));
        for text in [r#"{"n":18446744073709551615,"m":["1e999 \" 1e999",1.10,-2.5e-3]}"#, "0.0", "\"a\"", "null", "-0"]
        {
            assert_eq!(document(text), serde_json::from_str::<Value>(text).unwrap());
            assert_eq!(key_document(text), document(text));
        }
    }

    #[test]
    fn of_two_fractions_that_are_equally_near_the_one_that_is_printed_is_exact() {
        // Both texts are read as one f64, 1147724532381725.25.
        assert_eq!(document("1147724532381725.2"), json!(1147724532381725.2));
        assert_eq!(document("1147724532381725.3"), json!("1147724532381725.3"));
    }

    proptest! {
        #[test]
        fn every_fraction_comes_back_to_the_last_bit(
            floats in prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO, 1..8)
        ) {
            let value = json!({"a": floats, "1.5": "2.5", "b": {"c": floats[0], "d": u64::MAX, "e": i64::MIN}});
            prop_assert_eq!(serde_json::from_str::<Value>(&value.to_string()).unwrap(), value);
        }
    }
}
