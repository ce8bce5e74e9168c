//! How templates write the names of columns.

/// Words that have another meaning inside an expression.
const RESERVED: [&str; 19] = [
    "true",
    "True",
    "false",
    "False",
    "none",
    "None",
    "and",
    "or",
    "not",
    "in",
    "is",
    "if",
    "else",
    "for",
    "loop",
    "self",
    "range",
    "dict",
    "namespace",
];

/// Returns the column as a template writes it: `title`, or `row["Title Text"]` if the name is not a word. A column that is called
/// `row` hides the row under that name. `None` if templates cannot write it.
pub(super) fn expression(column: &str, row_is_column: bool) -> Option<String> {
    let mut characters = column.chars();
    let begins = characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
    if begins && characters.all(|c| c.is_ascii_alphanumeric() || c == '_') && !RESERVED.contains(&column) {
        return Some(column.to_owned());
    }
    if column.contains(['\\', '\n', '\r']) {
        return None;
    }
    let quote = ['"', '\''].into_iter().find(|quote| !column.contains(*quote))?;
    let row = if row_is_column { "walvec_row" } else { "row" };
    Some(format!("{row}[{quote}{column}{quote}]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_words_are_reached_through_the_row() {
        for (column, expected) in [
            ("title", Some("title")),
            ("_x1", Some("_x1")),
            ("Title Text", Some(r#"row["Title Text"]"#)),
            ("größe", Some(r#"row["größe"]"#)),
            ("2nd", Some(r#"row["2nd"]"#)),
            ("in", Some(r#"row["in"]"#)),
            ("5\" screen", Some("row['5\" screen']")),
            ("both \" and '", None),
            ("back\\slash", None),
        ] {
            assert_eq!(expression(column, false).as_deref(), expected, "{column}");
        }
        assert_eq!(expression("row", true).as_deref(), Some("row"));
        assert_eq!(expression("Title Text", true).as_deref(), Some(r#"walvec_row["Title Text"]"#));
    }
}
