//! Describes what a table contains, from the catalogue and a sample of its rows, to help decide how to configure it.

use walvec_model::TableName;

use crate::CaptureError;
use crate::connect::{Session, statement_error};
use crate::sql::{quote_ident, quote_table};

/// How many rows are read.
const SAMPLE_ROWS: u32 = 1000;

/// A table, and what its first rows contain.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The table.
    pub table: TableName,
    /// The approximate number of rows; `None` if the server has never counted them.
    pub rows: Option<u64>,
    /// The number of rows that were read.
    pub sampled: u64,
    /// The table's columns, in order.
    pub columns: Vec<SampledColumn>,
}

/// A column, and what the sampled rows contain in it.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledColumn {
    /// Its name.
    pub name: String,
    /// The column's type, as SQL writes it.
    pub type_name: String,
    /// The kind of type.
    pub kind: ColumnKind,
    /// Whether the column is part of the primary key, or of the index that serves as replica identity.
    pub is_key: bool,
    /// The target of a foreign key: the table, and its column.
    pub references: Option<(TableName, String)>,
    /// The number of values other than NULL.
    pub values: u64,
    /// The number of different values.
    pub distinct: u64,
    /// The mean length of the values, in characters.
    pub length: f64,
    /// The length in characters that nine tenths of the values do not exceed.
    pub long: f64,
    /// The share of values that contain a space.
    pub with_spaces: f64,
    /// The share of values that look like Markdown: with a heading or a block of code.
    pub with_markdown: f64,
    /// The share of values that look like e-mail addresses.
    pub with_addresses: f64,
}

/// Kinds of types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// Text of any length.
    Text,
    /// A label of an enum.
    Enum,
    /// Whole numbers.
    Integer,
    /// Floating-point numbers.
    Float,
    /// Exact numbers of any length: `numeric`.
    Numeric,
    /// Lists of texts.
    Texts,
    /// Lists of whole numbers.
    Integers,
    /// True or false.
    Bool,
    /// UUIDs.
    Uuid,
    /// Dates, with or without a time.
    Datetime,
    /// Values that are not worth showing: bytes, and data derived from other columns for searching them.
    Opaque,
    /// Anything else.
    Other,
}

/// Describes a table that has no [obstacle](crate::relations::Obstacle).
///
/// # Errors
/// Fails if the server does not answer, or the table is gone.
pub async fn sample(session: &Session, table: &TableName) -> Result<Sampled, CaptureError> {
    let failed = |error| statement_error("looking at a table", &error);
    let query = "
        SELECT c.oid, c.reltuples::float8 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relname = $2";
    let found = session.query_one(query, &[&table.schema, &table.name]).await.map_err(failed)?;
    let (oid, estimate): (u32, f64) = (found.get(0), found.get(1));
    let mut columns: Vec<SampledColumn> =
        session.query(COLUMNS, &[&oid]).await.map_err(failed)?.iter().map(column).collect();
    let row = session.query_one(&statistics(table, &columns), &[]).await.map_err(failed)?;
    for (column, index) in columns.iter_mut().take(MOST_MEASURED).zip((1..).step_by(MEASURES)) {
        let count = |at: usize| u64::try_from(row.get::<_, i64>(index + at)).unwrap_or(0);
        let measure = |at: usize| row.get::<_, Option<f64>>(index + at).unwrap_or(0.0);
        (column.values, column.distinct) = (count(0), count(1));
        (column.length, column.long) = (measure(2), measure(3));
        (column.with_spaces, column.with_markdown, column.with_addresses) = (measure(4), measure(5), measure(6));
    }
    let sampled = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive whole number, estimated")]
    let rows = (estimate > 0.0).then_some(estimate as u64);
    Ok(Sampled { table: table.clone(), rows, sampled, columns })
}

/// A domain counts as its base type. A foreign key with several columns is ignored, because none of them alone
/// identifies a row.
const COLUMNS: &str = "
    SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), t.typcategory::text, t.typname::text, t.typtype::text,
           EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND (i.indisprimary OR i.indisreplident)
                   AND a.attnum = ANY (i.indkey)),
           f.schema, f.name, f.theirs, e.typcategory::text, e.typname::text, e.typtype::text
    FROM pg_attribute a
    JOIN pg_type d ON d.oid = a.atttypid
    JOIN pg_type t ON t.oid = CASE WHEN d.typtype = 'd' THEN d.typbasetype ELSE d.oid END
    LEFT JOIN pg_type e ON t.typcategory = 'A' AND e.oid = t.typelem
    LEFT JOIN LATERAL (
        SELECT n.nspname::text AS schema, r.relname::text AS name, ra.attname::text AS theirs
        FROM pg_constraint k
        JOIN pg_class r ON r.oid = k.confrelid
        JOIN pg_namespace n ON n.oid = r.relnamespace
        JOIN pg_attribute ra ON ra.attrelid = k.confrelid AND ra.attnum = k.confkey[1]
        WHERE k.conrelid = a.attrelid AND k.contype = 'f' AND k.conkey = ARRAY[a.attnum]
        ORDER BY k.oid LIMIT 1) f ON true
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum";

fn column(row: &tokio_postgres::Row) -> SampledColumn {
    let (category, name, sort): (String, String, String) = (row.get(2), row.get(3), row.get(4));
    let references: (Option<String>, Option<String>, Option<String>) = (row.get(6), row.get(7), row.get(8));
    let element: (Option<String>, Option<String>, Option<String>) = (row.get(9), row.get(10), row.get(11));
    let element = match &element {
        (Some(category), Some(name), Some(sort)) => Some(kind(category, name, sort, None)),
        _ => None,
    };
    SampledColumn {
        name: row.get(0),
        type_name: row.get(1),
        kind: kind(&category, &name, &sort, element),
        is_key: row.get(5),
        references: match references {
            (Some(schema), Some(name), Some(theirs)) => Some((TableName::new(schema, name), theirs)),
            _ => None,
        },
        values: 0,
        distinct: 0,
        length: 0.0,
        long: 0.0,
        with_spaces: 0.0,
        with_markdown: 0.0,
        with_addresses: 0.0,
    }
}

/// Returns the kind of a type from its category, name and sort in `pg_type`; for an array, from that of its element.
fn kind(category: &str, name: &str, sort: &str, element: Option<ColumnKind>) -> ColumnKind {
    match (category, name) {
        _ if sort == "e" => ColumnKind::Enum,
        ("A", _) => match element {
            Some(ColumnKind::Text | ColumnKind::Enum) => ColumnKind::Texts,
            Some(ColumnKind::Integer) => ColumnKind::Integers,
            _ => ColumnKind::Other,
        },
        ("S", _) => ColumnKind::Text,
        ("B", _) => ColumnKind::Bool,
        ("N", "int2" | "int4" | "int8") => ColumnKind::Integer,
        ("N", "float4" | "float8") => ColumnKind::Float,
        ("N", "numeric") => ColumnKind::Numeric,
        ("D", "date" | "timestamp" | "timestamptz") => ColumnKind::Datetime,
        (_, "uuid") => ColumnKind::Uuid,
        (_, "bytea" | "tsvector" | "tsquery" | "vector" | "halfvec" | "sparsevec") => ColumnKind::Opaque,
        _ => ColumnKind::Other,
    }
}

/// The maximum number of columns that are measured: a statement cannot return more than 1664 values.
const MOST_MEASURED: usize = 200;

/// The number of values per column in the result of [`statistics`].
const MEASURES: usize = 7;

fn statistics(table: &TableName, columns: &[SampledColumn]) -> String {
    let measures = columns.iter().take(MOST_MEASURED).map(|column| {
        let text = format!("{}::text", quote_ident(&column.name));
        let share = |condition: &str| format!("avg(({text} {condition})::int)::float8");
        format!(
            "count({text}), count(DISTINCT {text}), avg(length({text}))::float8, \
             (percentile_cont(0.9) WITHIN GROUP (ORDER BY length({text})))::float8, {}, {}, {}",
            share("LIKE '% %'"),
            share(r"~ '(^|\n)(#{1,6} |```)'"),
            share(r"~ '^[^@\s]+@[^@\s]+\.[^@\s]+$'"),
        )
    });
    let measures: Vec<String> = std::iter::once("count(*)".to_owned()).chain(measures).collect();
    let rows = format!("SELECT * FROM {} LIMIT {SAMPLE_ROWS}", quote_table(table));
    format!("SELECT {} FROM ({rows}) AS sampled", measures.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_by_what_they_can_be_used_for() {
        for (category, name, sort, element, expected) in [
            ("S", "varchar", "b", None, ColumnKind::Text),
            ("S", "citext", "b", None, ColumnKind::Text),
            ("E", "mood", "e", None, ColumnKind::Enum),
            ("N", "int8", "b", None, ColumnKind::Integer),
            ("N", "float4", "b", None, ColumnKind::Float),
            ("N", "numeric", "b", None, ColumnKind::Numeric),
            ("N", "money", "b", None, ColumnKind::Other),
            ("U", "uuid", "b", None, ColumnKind::Uuid),
            ("U", "bytea", "b", None, ColumnKind::Opaque),
            ("D", "timestamptz", "b", None, ColumnKind::Datetime),
            ("D", "time", "b", None, ColumnKind::Other),
            ("A", "_text", "b", Some(ColumnKind::Text), ColumnKind::Texts),
            ("A", "_int4", "b", Some(ColumnKind::Integer), ColumnKind::Integers),
            ("A", "_jsonb", "b", Some(ColumnKind::Other), ColumnKind::Other),
        ] {
            assert_eq!(kind(category, name, sort, element), expected, "{name}");
        }
    }
}
