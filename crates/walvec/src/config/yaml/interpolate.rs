//! `${VAR}` in values, after parsing: a variable's value can never change the structure of the file.
//!
//! The YAML library can do this too, but only outside of quotes; a value that starts with `{` or holds `: ` needs quotes.
//!
//! - `${VAR}`: the variable; an error if it is not set
//! - `${VAR:-default}`: the default if the variable is not set or empty; without the colon, only if it is not set
//! - `${VAR:?message}`: an error with the message in the same cases
//! - `$${`: a literal `${`
//!
//! Defaults may hold references themselves. A `${` that is not followed by a name is left alone: templates write `${{
//! price }}`.

use crate::config::environment::Environment;

/// Replaces the references in `text`. Errors name variables and messages, never values.
pub(in crate::config) fn interpolate(text: &str, environment: &Environment) -> Result<String, String> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, from) = rest.split_at(start);
        if let Some(literal) = before.strip_suffix('$') {
            result.push_str(literal);
            result.push_str("${");
            rest = &from[2..];
        } else if from[2..].starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            result.push_str(before);
            let end = end_of_reference(from).ok_or_else(|| format!("the reference {from} has no closing brace"))?;
            result.push_str(&resolve(&from[2..end], environment)?);
            rest = &from[end + 1..];
        } else {
            result.push_str(before);
            result.push_str("${");
            rest = &from[2..];
        }
    }
    result.push_str(rest);
    Ok(result)
}

/// Returns the offset of the brace that closes the reference at the start of `text`.
fn end_of_reference(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (offset, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 1 => return Some(offset),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Returns the value of the reference between the braces.
fn resolve(reference: &str, environment: &Environment) -> Result<String, String> {
    let end = reference.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(reference.len());
    let (name, operator) = reference.split_at(end);
    let (value, operator, unset) = match operator.strip_prefix(':') {
        Some(operator) => (environment.non_empty(name), operator, "not set, or empty"),
        None => (environment.get(name), operator, "not set"),
    };
    if !operator.is_empty() && !operator.starts_with(['-', '?']) {
        return Err(format!(
            "${{{reference}}} is not understood; write ${{{name}}}, ${{{name}:-default}} or ${{{name}:?message}}"
        ));
    }
    if let Some(value) = value {
        return Ok(value.to_owned());
    }
    if let Some(default) = operator.strip_prefix('-') {
        return interpolate(default, environment);
    }
    match operator.strip_prefix('?').filter(|message| !message.is_empty()) {
        Some(message) => Err(format!("the environment variable {name} is {unset}: {message}")),
        None => Err(format!("the environment variable {name} is {unset}; set it, or write ${{{name}:-default}}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment::of(&[("SET", "value"), ("EMPTY", ""), ("HOLDS_REFERENCE", "${SET}")])
    }

    #[test]
    fn references_are_replaced_by_the_rules() {
        for (text, expected) in [
            ("plain", "plain"),
            ("${SET}", "value"),
            ("a ${SET} b ${SET}", "a value b value"),
            ("${EMPTY}", ""),
            ("${EMPTY:-default}", "default"),
            ("${EMPTY-default}", ""),
            ("${UNSET:-default}", "default"),
            ("${UNSET-default}", "default"),
            ("${UNSET:-}", ""),
            ("${UNSET:-${SET}}!", "value!"),
            ("${UNSET:-{a}}", "{a}"),
            ("${SET:?message}", "value"),
            ("${EMPTY?message}", ""),
            ("$${SET}", "${SET}"),
            ("$SET and $5", "$SET and $5"),
            ("${{ price }}", "${{ price }}"),
            ("öl ${SET} öl", "öl value öl"),
        ] {
            assert_eq!(interpolate(text, &environment()).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_value_is_never_read_as_a_reference_again() {
        assert_eq!(interpolate("${HOLDS_REFERENCE}", &environment()).as_deref(), Ok("${SET}"));
    }

    #[test]
    fn what_cannot_be_resolved_is_an_error_that_names_the_variable() {
        for (text, expected) in [
            ("${UNSET}", "UNSET is not set; set it"),
            ("${UNSET:?tell me}", "UNSET is not set, or empty: tell me"),
            ("${EMPTY:?tell me}", "EMPTY is not set, or empty: tell me"),
            ("${UNSET?}", "UNSET is not set; set it"),
            ("${SET", "no closing brace"),
            ("${SET:+x}", "not understood"),
            ("${SET.x}", "not understood"),
        ] {
            let error = interpolate(text, &environment()).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
