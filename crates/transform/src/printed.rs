//! Finds which columns a template prints, in its order.

use crate::names::{ALWAYS_ROW, ROW};

/// Returns the names in a template's `{{ }}`, in the order in which it prints them, each once.
///
/// Coarse: the result includes variables that the template sets itself, and words like `if`. Callers use only the names
/// that are columns.
#[must_use]
pub fn printed_names(template: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for expression in template.split("{{").skip(1) {
        let expression = expression.split("}}").next().unwrap_or_default();
        for name in names_in(expression) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// A part of an expression.
#[derive(Clone, Copy, PartialEq)]
enum ExpressionPart<'a> {
    Name(&'a str),
    Text(&'a str),
    Sign(char),
}

fn names_in(expression: &str) -> impl Iterator<Item = &str> {
    let (mut before, mut last) = (ExpressionPart::Sign(' '), ExpressionPart::Sign(' '));
    tokens(expression).filter_map(move |token| {
        let of_row = matches!(before, ExpressionPart::Name(ROW | ALWAYS_ROW));
        let name = match (token, last) {
            // A name after a bar is a filter; a name after a dot belongs to the value before it.
            (ExpressionPart::Name(ROW | ALWAYS_ROW), _) | (ExpressionPart::Name(_), ExpressionPart::Sign('|')) => None,
            (ExpressionPart::Name(name), ExpressionPart::Sign('.')) => of_row.then_some(name),
            (ExpressionPart::Name(name), _) => Some(name),
            (ExpressionPart::Text(name), ExpressionPart::Sign('[')) => of_row.then_some(name),
            (ExpressionPart::Text(_) | ExpressionPart::Sign(_), _) => None,
        };
        (before, last) = (last, token);
        name
    })
}

fn tokens(expression: &str) -> impl Iterator<Item = ExpressionPart<'_>> {
    let mut rest = expression;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let first = rest.chars().next()?;
        let behind = &rest[first.len_utf8()..];
        let (token, after) = if is_of_name(first) {
            let end = rest.find(|character| !is_of_name(character)).unwrap_or(rest.len());
            (ExpressionPart::Name(&rest[..end]), &rest[end..])
        } else if matches!(first, '"' | '\'') {
            let (text, after) = behind.split_once(first).unwrap_or((behind, ""));
            (ExpressionPart::Text(text), after)
        } else {
            (ExpressionPart::Sign(first), behind)
        };
        rest = after;
        Some(token)
    })
}

fn is_of_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_come_in_the_order_in_which_they_are_printed() {
        for (template, names) in [
            ("name: {{ sku }}: {{ name }} by {{ author }}. {{ name }}", &["sku", "name", "author"][..]),
            ("{{ row[\"Title Text\"] }} {{ row.isbn }} {{ row['a b'] }}", &["Title Text", "isbn", "a b"]),
            ("{{ title | upper }}{{ author.name }}", &["title", "author"]),
            ("{% if language == 'en' %}{{ \"title\" ~ body }}{% endif %}", &["body"]),
            ("{{ größe }}{{", &["größe"]),
            ("no names, {title}", &[]),
            ("{{ 'open }}", &[]),
        ] {
            assert_eq!(printed_names(template), names, "{template}");
        }
    }
}
