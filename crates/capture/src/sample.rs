//! What a table holds, as far as its catalogue and a sample of its rows tell: for whoever has to decide what to do with it.

use walvec_model::TableName;

use crate::CaptureError;
use crate::connect::{Session, statement_error};
use crate::sql::{quote_ident, quote_table};

/// How many rows are looked at.
const SAMPLE_ROWS: u32 = 1000;

/// A table, and what its first rows hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The table.
    pub table: TableName,
    /// About how many rows it has; `None` if the server has never counted them.
    pub rows: Option<u64>,
    /// Whether it has a primary key.
    pub has_key: bool,
    /// How many rows were looked at.
    pub sampled: u64,
    /// Its columns, in order.
    pub columns: Vec<SampledColumn>,
}

/// A column, and what the sampled rows have in it.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledColumn {
    /// Its name.
    pub name: String,
    /// Its type, as SQL writes it.
    pub type_name: String,
    /// What sort of type it is.
    pub kind: ColumnKind,
    /// Whether it is part of the primary key.
    pub is_key: bool,
    /// The row of another table that it names: the table, and its column.
    pub references: Option<(TableName, String)>,
    /// How many different values there are, NULL not counted.
    pub distinct: u64,
    /// Mean length of its values, in characters.
    pub length: f64,
    /// A length that nine tenths of its values do not exceed, in characters.
    pub long: f64,
    /// The share of its values that have a space in them.
    pub with_spaces: f64,
    /// The share of its values that look like Markdown: a heading, or a block of code.
    pub with_markdown: f64,
}

/// Sorts of types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// Text of any length.
    Text,
    /// One of a list of names.
    Enum,
    /// Whole numbers.
    Integer,
    /// Floating-point numbers.
    Float,
    /// True or false.
    Bool,
    /// UUIDs.
    Uuid,
    /// Dates, and dates with times.
    Datetime,
    /// Bytes, and what is made of other columns to search them: nothing to show.
    Opaque,
    /// Anything else.
    Other,
}

/// The tables that a role may read and that have a key, of every schema but the server's own.
///
/// # Errors
/// If the server does not answer.
pub async fn tables(session: &Session) -> Result<Vec<TableName>, CaptureError> {
    let query = "
        SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND NOT c.relispartition
          AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
          AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
          AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
        ORDER BY 1, 2";
    let rows = session.query(query, &[]).await.map_err(|error| statement_error("listing tables", &error))?;
    Ok(rows.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect())
}

/// Looks at a table; `None` if there is none of that name that the role may read.
///
/// # Errors
/// If the server does not answer.
pub async fn sample(session: &Session, table: &TableName) -> Result<Option<Sampled>, CaptureError> {
    let failed = |error| statement_error("looking at a table", &error);
    let query = "
        SELECT c.oid, c.reltuples::float8, EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')
          AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')";
    let Some(found) = session.query_opt(query, &[&table.schema, &table.name]).await.map_err(failed)? else {
        return Ok(None);
    };
    let (oid, estimate, has_key): (u32, f64, bool) = (found.get(0), found.get(1), found.get(2));
    let mut columns: Vec<SampledColumn> =
        session.query(COLUMNS, &[&oid]).await.map_err(failed)?.iter().map(column).collect();
    let row = session.query_one(&statistics(table, &columns), &[]).await.map_err(failed)?;
    for (column, index) in columns.iter_mut().take(MOST_MEASURED).zip((1..).step_by(MEASURES)) {
        column.distinct = u64::try_from(row.get::<_, i64>(index)).unwrap_or(0);
        let measure = |at: usize| row.get::<_, Option<f64>>(index + at).unwrap_or(0.0);
        (column.length, column.long) = (measure(1), measure(2));
        (column.with_spaces, column.with_markdown) = (measure(3), measure(4));
    }
    let sampled = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive whole number, estimated")]
    let rows = (estimate > 0.0).then_some(estimate as u64);
    Ok(Some(Sampled { table: table.clone(), rows, has_key, sampled, columns }))
}

/// A foreign key of several columns names no row by one of them.
const COLUMNS: &str = "
    SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), t.typcategory::text, t.typname::text, t.typtype::text,
           EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey)),
           f.schema, f.name, f.theirs
    FROM pg_attribute a
    JOIN pg_type t ON t.oid = a.atttypid
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
    SampledColumn {
        name: row.get(0),
        type_name: row.get(1),
        kind: kind(&category, &name, &sort),
        is_key: row.get(5),
        references: match references {
            (Some(schema), Some(name), Some(theirs)) => Some((TableName::new(schema, name), theirs)),
            _ => None,
        },
        distinct: 0,
        length: 0.0,
        long: 0.0,
        with_spaces: 0.0,
        with_markdown: 0.0,
    }
}

/// The sort of a type, by its category, name and sort in `pg_type`.
fn kind(category: &str, name: &str, sort: &str) -> ColumnKind {
    match (category, name) {
        _ if sort == "e" => ColumnKind::Enum,
        ("S", _) => ColumnKind::Text,
        ("B", _) => ColumnKind::Bool,
        ("N", "int2" | "int4" | "int8") => ColumnKind::Integer,
        // Not numeric, whose values are text in a payload: a float would lose digits.
        ("N", "float4" | "float8") => ColumnKind::Float,
        ("D", "date" | "timestamp" | "timestamptz") => ColumnKind::Datetime,
        (_, "uuid") => ColumnKind::Uuid,
        (_, "bytea" | "tsvector" | "tsquery" | "vector" | "halfvec" | "sparsevec") => ColumnKind::Opaque,
        _ => ColumnKind::Other,
    }
}

/// How many columns are looked into: a statement cannot answer with more than 1664 values.
const MOST_MEASURED: usize = 300;

/// How many values each column has in the answer to [`statistics`].
const MEASURES: usize = 5;

fn statistics(table: &TableName, columns: &[SampledColumn]) -> String {
    let measures = columns.iter().take(MOST_MEASURED).map(|column| {
        let text = format!("{}::text", quote_ident(&column.name));
        let share = |condition: &str| format!("avg(CASE WHEN {text} {condition} THEN 1 ELSE 0 END)::float8");
        format!(
            "count(DISTINCT {text}), avg(length({text}))::float8, \
             (percentile_cont(0.9) WITHIN GROUP (ORDER BY length({text})))::float8, {}, {}",
            share("LIKE '% %'"),
            share(r"~ '(^|\n)(#{1,6} |```)'"),
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
        for (category, name, sort, expected) in [
            ("S", "varchar", "b", ColumnKind::Text),
            ("S", "citext", "b", ColumnKind::Text),
            ("E", "mood", "e", ColumnKind::Enum),
            ("N", "int8", "b", ColumnKind::Integer),
            ("N", "float4", "b", ColumnKind::Float),
            ("N", "numeric", "b", ColumnKind::Other),
            ("N", "money", "b", ColumnKind::Other),
            ("U", "uuid", "b", ColumnKind::Uuid),
            ("U", "bytea", "b", ColumnKind::Opaque),
            ("D", "timestamptz", "b", ColumnKind::Datetime),
            ("D", "time", "b", ColumnKind::Other),
        ] {
            assert_eq!(kind(category, name, sort), expected, "{name}");
        }
    }
}
