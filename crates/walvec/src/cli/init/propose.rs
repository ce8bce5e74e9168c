//! The proposal for a table: guesses, for the user to read and correct.

use walvec_capture::sample::{ColumnKind, Sampled, SampledColumn};
use walvec_model::TableName;

use super::sensitive::{Sensitive, sensitive};
use super::template::expression;

/// Column names that usually hold the name of a row; these columns come first.
const HEADLINES: [&str; 7] = ["title", "name", "headline", "subject", "label", "caption", "summary"];
/// Column names that usually hold prose, even if texts are repeated.
const PROSE: [&str; 12] = [
    "description",
    "body",
    "text",
    "content",
    "comment",
    "note",
    "notes",
    "message",
    "abstract",
    "review",
    "bio",
    "details",
];
/// The average length, in characters, from which texts are paragraphs of their own in the document.
const PARAGRAPH: f64 = 120.0;
/// The average length from which texts are not worth storing twice: searches find them, and the table has them.
const TOO_LONG_TO_STORE: f64 = 1000.0;
/// The length from which documents are cut into chunks. Models read some 500 tokens, about 2000 characters.
const NEEDS_CHUNKS: f64 = 1500.0;
/// A column with fewer different values groups its rows.
const FEW_VALUES: u64 = 50;
/// How often each of these values must occur on average. Texts written by people are seldom repeated.
const REPEATED: u64 = 3;
/// The longest name of a group, in characters.
const GROUP_NAME: f64 = 40.0;
/// How many digits of a number a float keeps.
const DIGITS_OF_FLOAT: f64 = 15.0;
/// The most indexes to propose: more cost more than they help.
const MOST_INDEXES: usize = 8;

/// The proposal for a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Proposal {
    pub(super) table: TableName,
    pub(super) rows: Option<u64>,
    /// The collection's name.
    pub(super) name: String,
    /// The columns of the text, in order, as templates write them, each with whether it is a paragraph.
    pub(super) text: Vec<(String, bool)>,
    pub(super) payload: Vec<String>,
    /// Columns that are left out of text and payload, each with the reason.
    pub(super) left_out: Vec<(String, String)>,
    /// Columns with personal data, which are left out of both as well, each with its kind.
    pub(super) personal: Vec<(String, &'static str)>,
    /// Columns of exact numbers that are stored as floats, because they are indexed as such.
    pub(super) floats: Vec<String>,
    /// Columns of exact numbers that stay texts.
    pub(super) exact: Vec<String>,
    pub(super) indexes: Vec<(String, &'static str)>,
    /// If texts should be cut: the length that nine tenths of them do not exceed, in characters, and whether they are
    /// Markdown.
    pub(super) chunks: Option<(f64, bool)>,
    /// Columns that reference rows of other tables: the column, the table, and its column.
    pub(super) references: Vec<(String, TableName, String)>,
}

impl Proposal {
    /// Makes the proposal for a table with a key, or says why there is none. `with_personal`: whether personal data may be
    /// copied.
    pub(super) fn of(sampled: &Sampled, with_personal: bool) -> Result<Self, &'static str> {
        let (mut payload, mut left_out, mut personal) = (Vec::new(), Vec::new(), Vec::new());
        let mut allowed: Vec<&SampledColumn> = Vec::new();
        for column in &sampled.columns {
            match sensitive(&sampled.table, column) {
                Some(Sensitive::Secret) => {
                    left_out.push((column.name.clone(), "its name sounds like a secret".to_owned()))
                }
                Some(Sensitive::Personal(what)) if !with_personal => personal.push((column.name.clone(), what)),
                Some(Sensitive::Personal(_)) | None => allowed.push(column),
            }
        }
        let row_is_column = sampled.columns.iter().any(|column| column.name == "row");
        let written = |column: &SampledColumn| expression(&column.name, row_is_column);
        let text = texts(&allowed, &written);
        if text.is_empty() {
            let has_personal_text = sampled
                .columns
                .iter()
                .any(|column| column.kind == ColumnKind::Text && personal.iter().any(|(name, _)| *name == column.name));
            return Err(match has_personal_text {
                true => "has only personal data to search, which --include-personal puts in",
                false => "has no column that looks like text",
            });
        }
        for column in &allowed {
            match reason_to_leave_out(column) {
                None => payload.push(column.name.clone()),
                Some(reason) => left_out.push((column.name.clone(), reason.to_owned())),
            }
        }
        let is_unreachable = |column: &&&SampledColumn| column.kind == ColumnKind::Text && written(column).is_none();
        let unreachable = allowed.iter().filter(is_unreachable);
        left_out.extend(unreachable.map(|column| (column.name.clone(), "templates cannot write its name".to_owned())));
        let stored = || allowed.iter().filter(|column| payload.contains(&column.name));
        let (floats, exact) = numbers(stored().copied());
        let index = |column: &&SampledColumn| {
            let kind = index(column, &floats)?;
            // A column that is searched does not need a filter as well.
            let is_searched = kind == "keyword" && text.iter().any(|text| text.name == column.name);
            (!is_searched).then(|| (column.name.clone(), kind))
        };
        let length: f64 = text.iter().map(|column| column.long).sum();
        let is_markdown = text.iter().any(|column| column.with_markdown >= 0.2);
        let references =
            sampled.columns.iter().filter_map(|column| Some((column.name.clone(), column.references.clone()?)));
        let text = text.iter().filter_map(|column| Some((written(column)?, column.length >= PARAGRAPH)));
        Ok(Self {
            name: collection_name(&sampled.table),
            table: sampled.table.clone(),
            rows: sampled.rows,
            text: text.collect(),
            indexes: stored().filter_map(index).take(MOST_INDEXES).collect(),
            chunks: (length >= NEEDS_CHUNKS).then_some((length, is_markdown)),
            references: references.map(|(column, (table, theirs))| (column, table, theirs)).collect(),
            payload,
            left_out,
            personal,
            floats,
            exact,
        })
    }
}

/// A function that returns how templates write a column, if they can.
type Written<'a> = dyn Fn(&SampledColumn) -> Option<String> + 'a;

/// Returns the columns to search, those with the name of a row first; any column with text, if none looks like that.
fn texts<'a>(columns: &[&'a SampledColumn], written: &Written<'_>) -> Vec<&'a SampledColumn> {
    let usable = columns.iter().filter(|column| column.kind == ColumnKind::Text && written(column).is_some());
    let usable: Vec<&SampledColumn> = usable.copied().collect();
    let mut texts: Vec<&SampledColumn> = usable.iter().filter(|column| is_searched(column)).copied().collect();
    if texts.is_empty() {
        texts = usable;
    }
    // The sort is stable: within each half the order of the table is kept.
    texts.sort_by_key(|column| !is_headline(column));
    texts
}

/// Divides exact numbers into those that a float keeps, and the others.
fn numbers<'a>(columns: impl Iterator<Item = &'a SampledColumn>) -> (Vec<String>, Vec<String>) {
    let (mut floats, mut exact) = (Vec::new(), Vec::new());
    for column in columns.filter(|column| column.kind == ColumnKind::Numeric) {
        let is_number = !column.is_key && column.references.is_none() && column.long <= DIGITS_OF_FLOAT;
        if is_number { &mut floats } else { &mut exact }.push(column.name.clone());
    }
    (floats, exact)
}

/// Returns the table's name with the characters replaced that a collection's name may not have.
fn collection_name(table: &TableName) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    let name: String = table.name.chars().map(allowed).collect();
    if table.schema == "public" { name } else { format!("{}_{name}", table.schema.replace(|c| allowed(c) != c, "_")) }
}

fn is_headline(column: &SampledColumn) -> bool {
    let name = column.name.to_lowercase().replace([' ', '-'], "_");
    HEADLINES.iter().any(|headline| {
        name == *headline || name.ends_with(&format!("_{headline}")) || name.starts_with(&format!("{headline}_"))
    })
}

/// Returns whether a column should be searched. Codes, addresses and file names have no spaces, but prose has. Names of
/// groups are for filters.
fn is_searched(column: &SampledColumn) -> bool {
    (is_headline(column) && column.length > 0.0) || (column.with_spaces >= 0.5 && !is_group(column))
}

/// Returns whether the column groups its rows, for example by category.
fn is_group(column: &SampledColumn) -> bool {
    if PROSE.contains(&column.name.to_lowercase().as_str()) {
        return false;
    }
    let is_repeated = column.distinct > 0 && column.distinct * REPEATED <= column.values;
    is_repeated && column.distinct <= FEW_VALUES && column.long <= GROUP_NAME
}

fn reason_to_leave_out(column: &SampledColumn) -> Option<&'static str> {
    match column.kind {
        ColumnKind::Opaque => Some("nothing to show"),
        ColumnKind::Text if column.length >= TOO_LONG_TO_STORE => Some("long: it is searched, and the table has it"),
        _ if column.length >= TOO_LONG_TO_STORE => Some("long"),
        _ => None,
    }
}

fn index(column: &SampledColumn, floats: &[String]) -> Option<&'static str> {
    // A key finds one row, and the table does that better.
    if column.is_key && column.references.is_none() {
        return None;
    }
    match column.kind {
        ColumnKind::Bool => Some("bool"),
        ColumnKind::Enum | ColumnKind::Texts => Some("keyword"),
        ColumnKind::Text if is_group(column) => Some("keyword"),
        ColumnKind::Uuid if column.references.is_some() => Some("uuid"),
        ColumnKind::Integer | ColumnKind::Integers => Some("integer"),
        ColumnKind::Float => Some("float"),
        ColumnKind::Numeric if floats.contains(&column.name) => Some("float"),
        ColumnKind::Datetime => Some("datetime"),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn column(name: &str, kind: ColumnKind) -> SampledColumn {
        SampledColumn {
            name: name.to_owned(),
            type_name: String::new(),
            kind,
            is_key: name == "id",
            references: None,
            values: 100,
            distinct: 100,
            length: 4.0,
            long: 5.0,
            with_spaces: 0.0,
            with_markdown: 0.0,
            with_addresses: 0.0,
        }
    }

    fn prose(name: &str, length: f64) -> SampledColumn {
        SampledColumn { length, long: length * 1.5, with_spaces: 1.0, ..column(name, ColumnKind::Text) }
    }

    pub(crate) fn articles() -> Sampled {
        let author = (TableName::new("public", "authors"), "id".to_owned());
        Sampled {
            table: TableName::new("public", "articles"),
            rows: Some(12_345),
            sampled: 100,
            columns: vec![
                column("id", ColumnKind::Integer),
                SampledColumn { with_markdown: 0.9, ..prose("body", 3000.0) },
                SampledColumn { references: Some(author), ..column("author_id", ColumnKind::Integer) },
                prose("title", 40.0),
                SampledColumn { distinct: 5, ..column("status", ColumnKind::Text) },
                column("slug", ColumnKind::Text),
                prose("password_hint", 20.0),
                column("search", ColumnKind::Opaque),
                column("published", ColumnKind::Bool),
                column("created_at", ColumnKind::Datetime),
            ],
        }
    }

    /// Makes a table of a shop's products with usual column names.
    pub(crate) fn products() -> Sampled {
        let category =
            SampledColumn { distinct: 8, long: 16.0, with_spaces: 0.7, ..column("category", ColumnKind::Text) };
        Sampled {
            table: TableName::new("public", "products"),
            columns: vec![
                column("id", ColumnKind::Integer),
                prose("Title Text", 30.0),
                // Few different texts, as in a small shop, but prose all the same.
                SampledColumn { distinct: 20, ..prose("description", 90.0) },
                category,
                SampledColumn { long: 8.0, ..column("price", ColumnKind::Numeric) },
                SampledColumn { long: 40.0, ..column("ledger", ColumnKind::Numeric) },
                column("tags", ColumnKind::Texts),
                prose("contact_email", 20.0),
            ],
            ..articles()
        }
    }

    fn names<T>(list: &[(String, T)]) -> Vec<&str> {
        list.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn kinds(proposal: &Proposal) -> Vec<(&str, &str)> {
        proposal.indexes.iter().map(|(name, kind)| (name.as_str(), *kind)).collect()
    }

    #[test]
    fn what_people_write_is_text_and_what_it_is_called_comes_first() {
        let proposal = Proposal::of(&articles(), false).unwrap();
        assert_eq!(proposal.text, [("title".to_owned(), false), ("body".to_owned(), true)]);
        assert_eq!(proposal.chunks, Some((4560.0, true)));
        assert_eq!(proposal.payload, ["id", "author_id", "title", "status", "slug", "published", "created_at"]);
        assert_eq!(names(&proposal.left_out), ["password_hint", "body", "search"]);
        let expected =
            [("author_id", "integer"), ("status", "keyword"), ("published", "bool"), ("created_at", "datetime")];
        assert_eq!(kinds(&proposal), expected);
        assert_eq!(proposal.references[0].1, TableName::new("public", "authors"));
    }

    #[test]
    fn prose_is_searched_and_groups_tags_and_numbers_are_filtered_by() {
        let proposal = Proposal::of(&products(), false).unwrap();
        assert_eq!(names(&proposal.text), ["row[\"Title Text\"]", "description"]);
        assert_eq!(kinds(&proposal), [("category", "keyword"), ("price", "float"), ("tags", "keyword")]);
        assert_eq!(proposal.floats, ["price"]);
        assert_eq!(proposal.exact, ["ledger"], "more digits than a float keeps");
    }

    #[test]
    fn what_is_about_persons_is_copied_only_if_that_is_asked_for() {
        let proposal = Proposal::of(&products(), false).unwrap();
        assert_eq!(names(&proposal.personal), ["contact_email"]);
        assert!(!proposal.payload.contains(&"contact_email".to_owned()));
        let proposal = Proposal::of(&products(), true).unwrap();
        assert!(proposal.personal.is_empty() && proposal.payload.contains(&"contact_email".to_owned()));
        assert_eq!(names(&Proposal::of(&articles(), true).unwrap().left_out)[0], "password_hint", "a secret never is");
    }

    #[test]
    fn a_table_without_prose_is_searched_by_whatever_text_it_has() {
        let mut parts = articles();
        parts.columns = vec![column("id", ColumnKind::Integer), column("sku", ColumnKind::Text)];
        assert_eq!(Proposal::of(&parts, false).unwrap().text, [("sku".to_owned(), false)]);
        parts.columns[1].name = "email".to_owned();
        assert!(Proposal::of(&parts, false).unwrap_err().contains("--include-personal"));
        parts.columns.pop();
        assert!(Proposal::of(&parts, false).unwrap_err().contains("no column that looks like text"));
    }

    #[test]
    fn collections_have_names_that_directories_can_have() {
        assert_eq!(collection_name(&TableName::new("public", "My Table")), "My_Table");
        assert_eq!(collection_name(&TableName::new("shop 1", "items")), "shop_1_items");
    }
}
