//! Reads rows of looked-up tables, and finds the rows that look something up.
//!
//! Both read the current rows, with one statement for the whole request, and decode values as the stream does.

use std::ops::Range;

use bytes::Bytes;
use futures::TryStreamExt as _;
use tokio_postgres::error::SqlState;
use walvec_model::{Column, Lookup, Row, RowKey, Table, TableName, Value};

use crate::CaptureError;
use crate::connect::{describe, statement_error};
use crate::copy_text::RowDecoder;
use crate::server::{ReadableTable, Source};
use crate::sql::{quote_columns, quote_ident, quote_literal, quote_table};
use crate::value::{self, ValueKind};

/// The oid of `bigint`, from PostgreSQL's `pg_type.dat`.
const BIGINT: u32 = 20;

/// The rows of a looked-up table that have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Related<'a> {
    /// The rows with these values in the columns of `on`, in their order.
    To(&'a [RowKey]),
    /// Any of its rows.
    ToAny,
}

/// Some of the keys of a table, in key order.
#[derive(Clone, Copy, Debug)]
pub struct KeyPage<'a> {
    /// The key before the first one; `None` to begin at the start.
    pub after: Option<&'a RowKey>,
    /// The most keys.
    pub limit: usize,
}

/// The columns of the rows that a query yields, and how to read them.
#[derive(Clone, Copy)]
pub(crate) struct AnswerForm<'a> {
    pub(crate) table: &'a Table,
    pub(crate) kinds: &'a [ValueKind],
}

impl Source {
    /// Reads the rows that `main` looks up. `wanted` holds values of the columns of [`Lookup::on`], none of them NULL.
    /// Each returned row is an object of its columns, with the index in `wanted` that it belongs to; rows are in the
    /// order of the lookup.
    ///
    /// # Errors
    /// Returns `E_ALTERED` if a table was altered.
    pub async fn look_up(
        &self,
        main: &TableName,
        lookup: &Lookup,
        wanted: &[RowKey],
    ) -> Result<Vec<(usize, Value)>, CaptureError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let (main, theirs) = (&self.shape(main).await?, &self.shape(&lookup.table).await?);
        let number = Column::new("number", "bigint", BIGINT);
        let columns = std::iter::once(number).chain(theirs.table.columns.iter().cloned()).collect();
        let answer = Table { name: lookup.table.clone(), columns, key: vec![0] };
        let kinds: Vec<ValueKind> = std::iter::once(ValueKind::Integer).chain(theirs.kinds.iter().cloned()).collect();
        let ours: Vec<&str> = lookup.on.iter().map(|(_, ours)| ours.as_str()).collect();
        let by = |wanted: &[&RowKey]| looked_up(lookup, main, theirs, wanted);
        let form = AnswerForm { table: &answer, kinds: &kinds };
        let (rows, asked) = self.copied_by(main, (&ours, wanted), by, form).await?;
        let object = |row: Row| {
            let mut cells = row.0.into_iter().map(|cell| cell.value().cloned().unwrap_or_default());
            let number = cells.next().and_then(|number| usize::try_from(number.as_u64()?).ok())?;
            let number = *asked.get(number)?;
            let names = theirs.table.columns.iter().map(|column| column.name.clone());
            Some((number, Value::Object(names.zip(cells).collect())))
        };
        Ok(rows.into_iter().filter_map(object).collect())
    }

    /// Returns a page of the keys of the rows of `main` that look something up in the changed rows.
    ///
    /// # Errors
    /// Returns the errors of [`look_up`](Self::look_up).
    pub async fn related_keys(
        &self,
        main: &TableName,
        lookup: &Lookup,
        changed: &Related<'_>,
        page: KeyPage<'_>,
    ) -> Result<Vec<RowKey>, CaptureError> {
        let (main, theirs) = (&self.shape(main).await?, &self.shape(&lookup.table).await?);
        let columns: Vec<Column> = main.table.key.iter().map(|index| main.table.columns[*index].clone()).collect();
        let kinds: Vec<ValueKind> = main.table.key.iter().map(|index| main.kinds[*index].clone()).collect();
        let answer = Table { name: main.table.name.clone(), key: (0..columns.len()).collect(), columns };
        let form = AnswerForm { table: &answer, kinds: &kinds };
        let rows = match changed {
            Related::ToAny => {
                let query = related(lookup, main, theirs, None, page)?;
                self.copied(&query, form).await.map_err(|error| error.about(&answer.name))?
            }
            Related::To(values) => {
                let columns: Vec<&str> = lookup.on.iter().map(|(theirs, _)| theirs.as_str()).collect();
                let by = |values: &[&RowKey]| related(lookup, main, theirs, Some(values), page);
                self.copied_by(theirs, (&columns, values), by, form).await?.0
            }
        };
        debug_assert!(rows.len() <= page.limit, "a page has at most {} keys, not {}", page.limit, rows.len());
        let key = |row: Row| RowKey::new(row.0.iter().filter_map(|cell| cell.value().cloned()).collect());
        Ok(rows.into_iter().map(key).collect())
    }

    /// Makes the next question read the tables' shapes again. Needed by a source that does not follow the stream, since
    /// it does not learn of altered tables.
    pub async fn forget_shapes(&self) {
        self.shapes.lock().await.clear();
    }

    /// Returns how to read a table, as of the first request for it; `None` if the table is not followed.
    pub(crate) async fn shape_of(&self, table: &TableName) -> Result<Option<ReadableTable>, CaptureError> {
        let mut known = self.shapes.lock().await;
        if let Some(shape) = known.get(table) {
            return Ok(Some(shape.clone()));
        }
        let spec: Vec<_> = self.config.published().into_iter().filter(|spec| spec.name == *table).collect();
        let Some(published) = self.published_as(&spec).await?.pop() else { return Ok(None) };
        let kinds = self.catalog.kinds_of(&published.table.columns, &published.table.key).await?.into();
        let partitioned = published.facts.kind == "p";
        let shape = ReadableTable { table: published.table, kinds, filter: published.filter, partitioned };
        known.insert(table.clone(), shape.clone());
        Ok(Some(shape))
    }

    async fn shape(&self, table: &TableName) -> Result<ReadableTable, CaptureError> {
        self.shape_of(table).await?.ok_or_else(|| CaptureError::Table {
            table: table.clone(),
            reason: "is not one of the configured tables".to_owned(),
        })
    }

    /// Runs `query` for the values of these columns of `shape`. Returns the rows, and the indexes of the values that
    /// were asked for.
    ///
    /// Leaves out values that are no longer valid for their type, for example labels of an enum. No row has them, and
    /// they must not prevent the others from being read.
    async fn copied_by(
        &self,
        shape: &ReadableTable,
        (columns, values): (&[&str], &[RowKey]),
        query: impl Fn(&[&RowKey]) -> Result<String, CaptureError>,
        form: AnswerForm<'_>,
    ) -> Result<(Vec<Row>, Vec<usize>), CaptureError> {
        let all: Vec<&RowKey> = values.iter().collect();
        match self.copied(&query(&all)?, form).await {
            Ok(rows) => return Ok((rows, (0..values.len()).collect())),
            Err(error) if error.is_about_a_value() => {}
            Err(error) => return Err(error.about(&form.table.name)),
        }
        let places = self.possible(shape, columns, values).await?;
        let some: Vec<&RowKey> = places.iter().map(|place| &values[*place]).collect();
        if some.is_empty() {
            return Ok((Vec::new(), places));
        }
        let rows = self.copied(&query(&some)?, form).await.map_err(|error| error.about(&form.table.name))?;
        Ok((rows, places))
    }

    /// Returns the indexes of the values that are valid for the columns' types.
    async fn possible(
        &self,
        shape: &ReadableTable,
        columns: &[&str],
        values: &[RowKey],
    ) -> Result<Vec<usize>, CaptureError> {
        let session = self.catalog.rows_session().await?;
        let mut possible = Vec::new();
        let mut rest: Vec<Range<usize>> = Vec::new();
        rest.push(0..values.len());
        while let Some(range) = rest.pop() {
            let tuples =
                values[range.clone()].iter().map(|values| Ok(format!("({})", literals(shape, columns, values)?)));
            let tuples = tuples.collect::<Result<Vec<_>, CaptureError>>()?.join(", ");
            // The server parses the literals with the statement, which fails or returns nothing.
            match session
                .batch_execute(&format!("SELECT FROM (VALUES {tuples}) AS v"))
                .await
                .map_err(Unanswered::Refused)
            {
                Ok(()) => possible.extend(range),
                Err(error) if error.is_about_a_value() => {
                    let middle = range.start + range.len() / 2;
                    rest.extend([range.start..middle, middle..range.end].into_iter().filter(|_| range.len() > 1));
                }
                Err(error) => return Err(error.about(&shape.table.name)),
            }
        }
        Ok(possible)
    }

    /// Returns the rows that a query yields.
    pub(crate) async fn copied(&self, query: &str, form: AnswerForm<'_>) -> Result<Vec<Row>, Unanswered> {
        let session = self.catalog.rows_session().await?;
        let copy = session.copy_out(&format!("COPY ({query}) TO STDOUT")).await.map_err(Unanswered::Refused)?;
        let lines: Vec<Bytes> = copy.try_collect().await.map_err(Unanswered::Refused)?;
        self.catalog.note_read(&session).await?;
        let mut decoder = RowDecoder::new(form.table, form.kinds);
        Ok(lines.iter().map(|line| decoder.row(line)).collect::<Result<_, _>>()?)
    }
}

/// Why rows could not be read.
pub(crate) enum Unanswered {
    /// The server refused the statement.
    Refused(tokio_postgres::Error),
    /// There is no session, or a value could not be decoded.
    Other(CaptureError),
}

impl Unanswered {
    fn is_about_a_value(&self) -> bool {
        matches!(self, Self::Refused(error) if error.code() == Some(&SqlState::INVALID_TEXT_REPRESENTATION))
    }

    /// Converts the error, for rows of `table`.
    pub(crate) fn about(self, table: &TableName) -> CaptureError {
        match self {
            Self::Refused(error) => failure(table, &error),
            Self::Other(error) => error,
        }
    }
}

impl From<CaptureError> for Unanswered {
    fn from(error: CaptureError) -> Self {
        Self::Other(error)
    }
}

/// Returns the query for the rows that belong to `wanted`. A query inside a COPY takes no parameters, so values become
/// literals.
pub(crate) fn looked_up(
    lookup: &Lookup,
    main: &ReadableTable,
    theirs: &ReadableTable,
    wanted: &[&RowKey],
) -> Result<String, CaptureError> {
    let ours: Vec<&str> = lookup.on.iter().map(|(_, ours)| ours.as_str()).collect();
    let tuples =
        wanted.iter().enumerate().map(|(number, values)| Ok(format!("({number}, {})", literals(main, &ours, values)?)));
    let tuples = tuples.collect::<Result<Vec<_>, CaptureError>>()?.join(", ");
    let names = (0..ours.len()).map(|place| format!("v{place}")).collect::<Vec<_>>().join(", ");
    let same =
        lookup.on.iter().enumerate().map(|(place, (theirs, _))| format!("c.{} = w.v{place}", quote_ident(theirs)));
    let same = same.collect::<Vec<_>>().join(" AND ");
    let columns = |alias: &str| {
        let columns = theirs.table.columns.iter().map(|column| format!("{alias}.{}", quote_ident(&column.name)));
        columns.collect::<Vec<_>>().join(", ")
    };
    Ok(format!(
        "SELECT w.number, {} FROM (VALUES {tuples}) AS w (number, {names}) CROSS JOIN LATERAL \
         (SELECT {} FROM {} AS c WHERE {same} ORDER BY {} LIMIT {}) AS r ORDER BY w.number, {}",
        columns("r"),
        columns("c"),
        from(theirs),
        order(lookup, theirs, "c"),
        lookup.limit(),
        order(lookup, theirs, "r"),
    ))
}

/// Returns the query for the keys of the rows that look something up in the rows with these values, or in any row.
fn related(
    lookup: &Lookup,
    main: &ReadableTable,
    theirs: &ReadableTable,
    changed: Option<&[&RowKey]>,
    KeyPage { after, limit }: KeyPage<'_>,
) -> Result<String, CaptureError> {
    let key: Vec<&str> = main.table.key.iter().map(|index| main.table.columns[*index].name.as_str()).collect();
    let key_columns = quote_columns(key.iter().copied());
    let mut conditions = Vec::new();
    if let Some(filter) = &main.filter {
        conditions.push(format!("({filter}\n)"));
    }
    if let Some(after) = after {
        conditions.push(format!("({key_columns}) > ({})", literals(main, &key, after)?));
    }
    if let Some(values) = changed {
        let columns: Vec<&str> = lookup.on.iter().map(|(theirs, _)| theirs.as_str()).collect();
        let tuples = values.iter().map(|values| Ok(format!("({})", literals(theirs, &columns, values)?)));
        let tuples = tuples.collect::<Result<Vec<_>, CaptureError>>()?.join(", ");
        let ours = quote_columns(lookup.on.iter().map(|(_, ours)| ours.as_str()));
        conditions.push(format!("({ours}) IN (VALUES {tuples})"));
    }
    let conditions = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    let rows = format!("SELECT {key_columns} FROM {}{conditions}", from(main));
    Ok(match changed {
        // Sort in a separate step: if few rows match, finding them along the key's index would read the whole table.
        Some(_) => format!(
            "WITH found AS MATERIALIZED ({rows}) SELECT {key_columns} FROM found ORDER BY {key_columns} LIMIT {limit}"
        ),
        None => format!("{rows} ORDER BY {key_columns} LIMIT {limit}"),
    })
}

/// Returns the table for a FROM clause. With `INHERITS`, child tables are separate tables.
fn from(shape: &ReadableTable) -> String {
    format!("{}{}", if shape.partitioned { "" } else { "ONLY " }, quote_table(&shape.table.name))
}

/// Returns the order of the looked-up rows. It ends with their key, so that the order is always the same.
fn order(lookup: &Lookup, theirs: &ReadableTable, alias: &str) -> String {
    let by = lookup.order().iter().map(|by| (by.column.as_str(), if by.descending { " DESC" } else { "" }));
    let key = theirs.table.key.iter().map(|index| (theirs.table.columns[*index].name.as_str(), ""));
    let terms = by.chain(key).map(|(column, direction)| format!("{alias}.{}{direction}", quote_ident(column)));
    terms.collect::<Vec<_>>().join(", ")
}

/// Returns the values of these columns as literals of the columns' types.
fn literals(shape: &ReadableTable, columns: &[&str], values: &RowKey) -> Result<String, CaptureError> {
    let literal = |(name, value): (&&str, &Value)| {
        let index = shape.table.column_index(name).ok_or_else(|| missing(&shape.table.name, name))?;
        let text = quote_literal(&value::encode(value, &shape.kinds[index]));
        Ok(format!("{}::{}", text.trim_start(), shape.table.columns[index].type_name))
    };
    Ok(columns.iter().zip(values.values()).map(literal).collect::<Result<Vec<_>, CaptureError>>()?.join(", "))
}

fn missing(table: &TableName, column: &str) -> CaptureError {
    CaptureError::Altered { table: table.clone(), reason: format!("it has no column \"{column}\" any more") }
}

/// The errors of a statement that was made for the columns before an alteration.
const ALTERED: [SqlState; 5] = [
    SqlState::UNDEFINED_COLUMN,
    SqlState::UNDEFINED_TABLE,
    SqlState::UNDEFINED_FUNCTION,
    SqlState::DATATYPE_MISMATCH,
    SqlState::INVALID_TEXT_REPRESENTATION,
];

fn failure(table: &TableName, error: &tokio_postgres::Error) -> CaptureError {
    match error.code() {
        Some(state) if ALTERED.contains(state) => {
            CaptureError::Altered { table: table.clone(), reason: describe(error) }
        }
        _ => statement_error(&format!("looking up rows of {table}"), error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use walvec_model::{OrderBy, Take};

    use super::*;

    fn shape(name: &str, columns: &[(&str, &str, ValueKind)]) -> ReadableTable {
        let column = |(name, type_name, _): &(&str, &str, ValueKind)| Column::new(*name, *type_name, 0);
        let table =
            Table { name: TableName::new("s", name), columns: columns.iter().map(column).collect(), key: vec![0] };
        let kinds = columns.iter().map(|(_, _, kind)| kind.clone()).collect();
        ReadableTable { table: Arc::new(table), kinds, filter: None, partitioned: false }
    }

    fn books() -> ReadableTable {
        shape("books", &[("id", "integer", ValueKind::Integer), ("lang", "text", ValueKind::Text)])
    }

    fn reviews() -> ReadableTable {
        shape(
            "reviews",
            &[
                ("id", "bigint", ValueKind::Integer),
                ("book", "bigint", ValueKind::Integer),
                ("l", "text", ValueKind::Text),
            ],
        )
    }

    fn lookup(take: Take) -> Lookup {
        let on = [("book", "id"), ("l", "lang")].map(|(theirs, ours)| (theirs.to_owned(), ours.to_owned())).to_vec();
        Lookup { name: "reviews".to_owned(), table: TableName::new("s", "reviews"), on, take }
    }

    #[test]
    fn one_statement_reads_the_rows_of_many_in_a_stable_order() {
        let order = vec![OrderBy { column: "l".to_owned(), descending: true }];
        let wanted = [RowKey::new(vec![json!(7), json!("it's")]), RowKey::new(vec![json!(8), json!("de")])];
        let wanted = wanted.iter().collect::<Vec<_>>();
        let query = looked_up(&lookup(Take::Many { order, limit: 20 }), &books(), &reviews(), &wanted).unwrap();
        assert_eq!(
            query,
            "SELECT w.number, r.\"id\", r.\"book\", r.\"l\" FROM \
             (VALUES (0, '7'::integer, 'it''s'::text), (1, '8'::integer, 'de'::text)) AS w (number, v0, v1) \
             CROSS JOIN LATERAL (SELECT c.\"id\", c.\"book\", c.\"l\" FROM ONLY \"s\".\"reviews\" AS c \
             WHERE c.\"book\" = w.v0 AND c.\"l\" = w.v1 ORDER BY c.\"l\" DESC, c.\"id\" LIMIT 20) AS r \
             ORDER BY w.number, r.\"l\" DESC, r.\"id\""
        );
        let one = looked_up(&lookup(Take::One), &books(), &reviews(), &wanted).unwrap();
        assert!(one.contains("ORDER BY c.\"id\" LIMIT 1)"), "{one}");
    }

    #[test]
    fn the_rows_that_look_something_up_are_found_page_by_page() {
        let mut books = books();
        books.filter = Some("id > 0 OR true".to_owned());
        let (values, after) = ([RowKey::new(vec![json!(1), json!("de")])], RowKey::new(vec![json!(5)]));
        let query = related(
            &lookup(Take::One),
            &books,
            &reviews(),
            Some(&[&values[0]]),
            KeyPage { after: Some(&after), limit: 10 },
        )
        .unwrap();
        assert_eq!(
            query,
            "WITH found AS MATERIALIZED (SELECT \"id\" FROM ONLY \"s\".\"books\" WHERE (id > 0 OR true\n) \
             AND (\"id\") > ('5'::integer) AND (\"id\", \"lang\") IN (VALUES ('1'::bigint, 'de'::text))) \
             SELECT \"id\" FROM found ORDER BY \"id\" LIMIT 10"
        );
        books.filter = None;
        let all = related(&lookup(Take::One), &books, &reviews(), None, KeyPage { after: None, limit: 10 }).unwrap();
        assert_eq!(all, "SELECT \"id\" FROM ONLY \"s\".\"books\" ORDER BY \"id\" LIMIT 10");
    }

    #[test]
    fn a_column_that_is_gone_is_named() {
        let mut lookup = lookup(Take::One);
        lookup.on[0].1 = "gone".to_owned();
        let error = looked_up(&lookup, &books(), &reviews(), &[&RowKey::new(vec![json!(1)])]).unwrap_err();
        assert!(error.code() == "E_ALTERED" && error.to_string().contains("\"gone\""), "{error}");
    }
}
