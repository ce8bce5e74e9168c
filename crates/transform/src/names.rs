//! Finds which columns a template can reach, and which name was probably meant.

use std::collections::BTreeSet;

use walvec_model::Table;

use crate::TransformError;

/// The variable under which templates reach the whole row, unless a column has that name.
pub(crate) const ROW: &str = "row";

/// The variable under which templates always reach the whole row.
pub(crate) const ALWAYS_ROW: &str = "walvec_row";

/// The similarity (Jaro-Winkler, 0 to 1) from which a name is worth suggesting: one or two typing errors in a short name.
const SIMILAR: f64 = 0.8;

/// Returns how similar two names are, at most 1, if one may be a misspelling of the other. Capitals do not count.
#[must_use]
pub fn similarity(name: &str, other: &str) -> Option<f64> {
    let similarity = strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase());
    (similarity >= SIMILAR).then_some(similarity)
}

/// Returns the name among `known` of which `name` is most probably a misspelling.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let similar = known.into_iter().filter_map(|candidate| Some((similarity(name, candidate)?, candidate)));
    similar.max_by(|left, right| left.0.total_cmp(&right.0)).map(|(_, candidate)| candidate)
}

/// Returns the error of a name that is no column of the table, with the name that was probably meant.
pub(crate) fn unknown_column(table: &Table, field: &str, column: &str) -> TransformError {
    let names = || table.columns.iter().map(|column| column.name.as_str());
    let suggestion = nearest(column, names()).map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default();
    TransformError::UnknownColumn {
        table: table.name.clone(),
        field: field.to_owned(),
        column: column.to_owned(),
        hint: format!("{suggestion}; its columns are: {}", names().collect::<Vec<_>>().join(", ")),
    }
}

/// The names that a template's source can possibly reach.
///
/// Deliberately coarse: every word of the source counts, also in plain text. A column counted unnecessarily costs at
/// most one more read of the row; a column missed would silently turn an unchanged value into NULL.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReachableNames {
    words: BTreeSet<String>,
    /// Names in `row["..."]` and `walvec_row["..."]`, which need not be identifiers.
    subscripts: BTreeSet<String>,
    /// The names in `row["..."]` only. A column called `row` may hide the row there.
    of_row: BTreeSet<String>,
    /// Variables that the template itself sets.
    assigned: BTreeSet<String>,
    /// Whether `row` is used in a way that can reach any column.
    all: bool,
}

impl ReachableNames {
    /// Collects the names in `source`.
    pub(crate) fn of(source: &str) -> Self {
        let mut names = Self::default();
        let mut previous = "";
        for (end, word) in words(source) {
            if word == ROW || word == ALWAYS_ROW {
                match row_access(&source[end..]) {
                    RowAccess::Attribute => {}
                    RowAccess::Subscript(name) => {
                        names.subscripts.insert(name.to_owned());
                        if word == ROW {
                            names.of_row.insert(name.to_owned());
                        }
                    }
                    RowAccess::Other => names.all = true,
                }
            }
            if previous == "set" {
                names.assigned.insert(word.to_owned());
            }
            names.words.insert(word.to_owned());
            previous = word;
        }
        names
    }

    /// Returns whether the template may reach the column called `name`.
    pub(crate) fn reaches(&self, name: &str) -> bool {
        self.all || self.words.contains(name) || self.subscripts.contains(name)
    }

    /// Returns every name that the template may reach; `None` if it may reach any.
    pub(crate) fn names(&self) -> Option<impl Iterator<Item = &String>> {
        (!self.all).then(|| self.words.iter().chain(&self.subscripts))
    }

    /// Returns whether the template itself sets a variable called `name`.
    pub(crate) fn assigns(&self, name: &str) -> bool {
        self.assigned.contains(name)
    }

    /// Returns the names in `row["..."]`, without those in `walvec_row["..."]`.
    pub(crate) fn subscripts_of_row(&self) -> impl Iterator<Item = &str> {
        self.of_row.iter().map(String::as_str)
    }

    /// Returns the names in `row["..."]` and `walvec_row["..."]`.
    pub(crate) fn subscripts(&self) -> impl Iterator<Item = &str> {
        self.subscripts.iter().map(String::as_str)
    }
}

/// Returns the identifiers of `source`, each with the offset after it.
fn words(source: &str) -> impl Iterator<Item = (usize, &str)> {
    source.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).map(move |word| {
        // A word is a slice of `source`, so the difference of their addresses is its offset.
        let start = word.as_ptr() as usize - source.as_ptr() as usize;
        (start + word.len(), word)
    })
}

enum RowAccess<'a> {
    /// `row.name`, where the name is a word of its own.
    Attribute,
    /// `row["name"]`.
    Subscript(&'a str),
    /// Anything else, for example a loop over `row`, or a subscript that is computed.
    Other,
}

/// Returns how `row` is used, given the text that follows it.
fn row_access(rest: &str) -> RowAccess<'_> {
    let rest = rest.trim_start();
    if let Some(name) = rest.strip_prefix('.') {
        let is_name = name.trim_start().starts_with(|c: char| c.is_alphabetic() || c == '_');
        return if is_name { RowAccess::Attribute } else { RowAccess::Other };
    }
    literal_subscript(rest).map_or(RowAccess::Other, RowAccess::Subscript)
}

fn literal_subscript(rest: &str) -> Option<&str> {
    let inside = rest.strip_prefix('[')?.trim_start();
    let quote = inside.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let (name, behind) = inside[1..].split_once(quote)?;
    (!name.contains('\\') && behind.trim_start().starts_with(']')).then_some(name)
}

/// Returns the offset of a comparison with `none` by `==` or `!=`, if there is one.
pub(crate) fn comparison_with_none(source: &str) -> Option<usize> {
    words(source).filter(|(_, word)| matches!(*word, "none" | "None")).find_map(|(end, word)| {
        let start = end - word.len();
        let before = source[..start].trim_end();
        let behind = source[end..].trim_start();
        let compared = |text: &str| text.starts_with("==") || text.starts_with("!=");
        (before.ends_with("==") || before.ends_with("!=") || compared(behind)).then_some(start)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_reaches_what_it_names_in_any_way() {
        let names = ReachableNames::of(
            r#"{{ name }}{% filter replace(old, "x") %}{% endfilter %}{{ row["first name"] }}{{ row.a }}"#,
        );
        for name in ["name", "old", "first name", "a"] {
            assert!(names.reaches(name), "{name}");
        }
        assert!(!names.reaches("description"));
    }

    #[test]
    fn a_row_used_as_a_whole_reaches_every_column() {
        for source in [
            "{% for k in row %}{{ k }}{% endfor %}",
            "{{ row[column] }}",
            r#"{{ row["a" ~ b] }}"#,
            r#"{{ row["\x61"] }}"#,
            r#"{{ row|attr("x") }}"#,
            "{% set r = row %}",
        ] {
            assert!(ReachableNames::of(source).reaches("anything"), "{source}");
        }
    }

    #[test]
    fn the_nearest_name_is_found_or_none_is_offered() {
        let known = ["name", "description", "author", "year"];
        assert_eq!(nearest("auther", known), Some("author"));
        assert_eq!(nearest("desciption", known), Some("description"));
        assert_eq!(nearest("Year", known), Some("year"));
        assert_eq!(nearest("zzz", known), None);
    }

    #[test]
    fn a_comparison_with_none_is_seen_on_both_sides() {
        assert_eq!(comparison_with_none("{{ a == none }}"), Some(8));
        assert!(comparison_with_none("{{ none != a }}").is_some());
        assert!(comparison_with_none("{{ a != None }}").is_some());
        assert_eq!(comparison_with_none("{{ a is none }} == {{ b is not none }}, none"), None);
    }
}
