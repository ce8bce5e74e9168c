//! What to make of a table. Guesses, for people to read and correct.

use walvec_capture::sample::{ColumnKind, Sampled, SampledColumn};
use walvec_model::TableName;

/// Names of columns whose values should be in no other system.
const SECRETS: [&str; 9] = ["password", "passwd", "secret", "token", "hash", "salt", "api_key", "apikey", "ssn"];
/// Names of columns with what a row is called: they come first.
const HEADLINES: [&str; 7] = ["title", "name", "headline", "subject", "label", "caption", "summary"];
/// Texts from this length on are paragraphs, and are put into the document as such; in characters.
const PARAGRAPH: f64 = 120.0;
/// Texts from this length on are not worth storing twice: searches find them, and the table has them.
const TOO_LONG_TO_STORE: f64 = 1000.0;
/// Documents from this length on are cut into chunks. Models read some 500 tokens, about 2000 characters.
const NEEDS_CHUNKS: f64 = 1500.0;
/// A column with fewer different values sorts rows into groups.
const FEW_VALUES: u64 = 50;
/// More indexes cost more than they help.
const MOST_INDEXES: usize = 6;

/// What to make of a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Proposal {
    pub(super) table: TableName,
    pub(super) rows: Option<u64>,
    /// The collection's name.
    pub(super) name: String,
    /// The columns of the text, in order, each with whether it is a paragraph.
    pub(super) text: Vec<(String, bool)>,
    pub(super) payload: Vec<String>,
    /// Columns that are left out of the payload, each with the reason.
    pub(super) left_out: Vec<(String, &'static str)>,
    pub(super) indexes: Vec<(String, &'static str)>,
    /// How long nine tenths of the texts are at most, in characters, if they should be cut; and whether they are Markdown.
    pub(super) chunks: Option<(f64, bool)>,
    /// Columns that name rows of other tables: the column, the table, and its column.
    pub(super) references: Vec<(String, TableName, String)>,
}

impl Proposal {
    /// `None` if the table has no key or no text.
    pub(super) fn of(sampled: &Sampled) -> Option<Self> {
        if !sampled.has_key {
            return None;
        }
        let mut text: Vec<&SampledColumn> = sampled.columns.iter().filter(|column| is_text(column)).collect();
        if text.is_empty() {
            let is_candidate = |column: &&SampledColumn| column.kind == ColumnKind::Text && is_usable(column);
            text = sampled.columns.iter().filter(is_candidate).collect();
        }
        // Stable: within each half the order of the table.
        text.sort_by_key(|column| !is_headline(column));
        if text.is_empty() {
            return None;
        }
        let (mut payload, mut left_out) = (Vec::new(), Vec::new());
        for column in &sampled.columns {
            match reason_to_leave_out(column) {
                None => payload.push(column.name.clone()),
                Some(reason) => left_out.push((column.name.clone(), reason)),
            }
        }
        let indexable = sampled.columns.iter().filter(|column| payload.contains(&column.name));
        let indexes = indexable.filter_map(|column| Some((column.name.clone(), index(column, sampled)?)));
        let length: f64 = text.iter().map(|column| column.long).sum();
        let is_markdown = text.iter().any(|column| column.with_markdown >= 0.2);
        let references =
            sampled.columns.iter().filter_map(|column| Some((column.name.clone(), column.references.clone()?)));
        Some(Self {
            name: collection_name(&sampled.table),
            table: sampled.table.clone(),
            rows: sampled.rows,
            text: text.iter().map(|column| (column.name.clone(), column.length >= PARAGRAPH)).collect(),
            indexes: indexes.take(MOST_INDEXES).collect(),
            chunks: (length >= NEEDS_CHUNKS).then_some((length, is_markdown)),
            references: references.map(|(column, (table, theirs))| (column, table, theirs)).collect(),
            payload,
            left_out,
        })
    }
}

/// The table's name, with what a collection's may not have replaced.
fn collection_name(table: &TableName) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    let name: String = table.name.chars().map(allowed).collect();
    if table.schema == "public" { name } else { format!("{}_{name}", table.schema.replace(|c| allowed(c) != c, "_")) }
}

fn has_part(column: &SampledColumn, parts: &[&str]) -> bool {
    let name = column.name.to_lowercase();
    parts.iter().any(|part| name.contains(part))
}

fn is_headline(column: &SampledColumn) -> bool {
    let name = column.name.to_lowercase();
    HEADLINES.iter().any(|headline| name == *headline || name.ends_with(&format!("_{headline}")))
}

/// Templates know columns by their names, which have to be words.
fn is_usable(column: &SampledColumn) -> bool {
    let mut characters = column.name.chars();
    let begins = characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
    begins && characters.all(|c| c.is_ascii_alphanumeric() || c == '_') && !has_part(column, &SECRETS)
}

/// Codes, addresses and names of files have no spaces; what people write has.
fn is_text(column: &SampledColumn) -> bool {
    let is_prose = column.with_spaces >= 0.5 || (is_headline(column) && column.length > 0.0);
    column.kind == ColumnKind::Text && is_usable(column) && is_prose
}

fn reason_to_leave_out(column: &SampledColumn) -> Option<&'static str> {
    if has_part(column, &SECRETS) {
        return Some("its name sounds like a secret");
    }
    match column.kind {
        ColumnKind::Opaque => Some("nothing to show"),
        _ if column.length >= TOO_LONG_TO_STORE => Some("long: it is searched, and the table has it"),
        _ => None,
    }
}

fn index(column: &SampledColumn, sampled: &Sampled) -> Option<&'static str> {
    // A key finds one row, which the table does better.
    if column.is_key && column.references.is_none() {
        return None;
    }
    let groups = column.distinct > 0 && column.distinct <= FEW_VALUES && column.distinct * 2 <= sampled.sampled;
    match column.kind {
        ColumnKind::Bool => Some("bool"),
        ColumnKind::Enum => Some("keyword"),
        ColumnKind::Text if groups && column.length < PARAGRAPH => Some("keyword"),
        ColumnKind::Uuid if column.references.is_some() => Some("uuid"),
        ColumnKind::Integer => Some("integer"),
        ColumnKind::Float => Some("float"),
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
            distinct: 100,
            length: 4.0,
            long: 5.0,
            with_spaces: 0.0,
            with_markdown: 0.0,
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
            has_key: true,
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

    #[test]
    fn what_people_write_is_text_and_what_it_is_called_comes_first() {
        let proposal = Proposal::of(&articles()).unwrap();
        assert_eq!(proposal.text, [("title".to_owned(), false), ("body".to_owned(), true)]);
        assert_eq!(proposal.chunks, Some((4560.0, true)));
        assert_eq!(proposal.payload, ["id", "author_id", "title", "status", "slug", "published", "created_at"]);
        let left_out: Vec<&str> = proposal.left_out.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(left_out, ["body", "password_hint", "search"]);
        let indexes: Vec<(&str, &str)> = proposal.indexes.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
        let expected =
            [("author_id", "integer"), ("status", "keyword"), ("published", "bool"), ("created_at", "datetime")];
        assert_eq!(indexes, expected);
        assert_eq!(proposal.references[0].1, TableName::new("public", "authors"));
    }

    #[test]
    fn a_table_without_prose_is_searched_by_whatever_text_it_has() {
        let mut parts = articles();
        parts.columns = vec![column("id", ColumnKind::Integer), column("sku", ColumnKind::Text)];
        assert_eq!(Proposal::of(&parts).unwrap().text, [("sku".to_owned(), false)]);
        parts.columns.pop();
        assert_eq!(Proposal::of(&parts), None);
        assert_eq!(Proposal::of(&Sampled { has_key: false, ..articles() }), None);
    }

    #[test]
    fn collections_have_names_that_directories_can_have() {
        assert_eq!(collection_name(&TableName::new("public", "My Table")), "My_Table");
        assert_eq!(collection_name(&TableName::new("shop 1", "items")), "shop_1_items");
    }
}
