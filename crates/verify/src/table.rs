//! A table's published columns, its key and its row filter, from the catalogue.

use std::collections::HashMap;

use tokio_postgres::Client;
use walvec_model::TableName;

use crate::VerifyError;
use crate::error::statement;

/// How the text of a column is converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TextForm {
    /// The JSON value itself: booleans and whole numbers.
    Plain,
    /// `oid`, which PostgreSQL would put into quotes.
    Oid,
    /// A float: a number, or text if it is NaN or infinite.
    Float,
    /// `numeric`: text, which templates treat as a number.
    Numeric,
    /// json and jsonb: the document, in which a number that would be rounded is text.
    Document,
    /// json and jsonb in a key: the document, or its whole text if a number in it would be rounded.
    KeyDocument,
    /// Text, by a cast.
    Text,
    /// Text, by the type's own output; a cast would give another text, as for `char(n)` or `inet`.
    Printed,
    /// An array with elements of one kind.
    Array(Box<TextForm>),
    /// Not read, because no text and no field shows it and it may be large.
    Unused,
}

/// A published column.
#[derive(Clone, Debug)]
pub(crate) struct SentColumn {
    pub(crate) name: String,
    pub(crate) kind: TextForm,
    /// `pg_type.oid` of the declared type.
    pub(crate) type_oid: u32,
    /// The type in SQL.
    pub(crate) type_name: String,
    /// The operator by which its values are equal, qualified: that of an extension's type is found in the extension's schema only.
    pub(crate) equality: String,
}

/// The part of a table that the publication sends.
#[derive(Clone, Debug)]
pub(crate) struct SentTable {
    pub(crate) name: TableName,
    pub(crate) columns: Vec<SentColumn>,
    /// The key columns as indexes into `columns`, in the order of the key.
    pub(crate) key: Vec<usize>,
    /// The row filter as SQL, as the server writes it.
    pub(crate) filter: Option<String>,
    /// Whether its rows lie in partitions.
    pub(crate) partitioned: bool,
}

impl SentTable {
    /// Reads the table from the catalogue.
    pub(crate) async fn find(session: &Client, publication: &str, name: &TableName) -> Result<Self, VerifyError> {
        let failed = || statement(format!("looking up {name}"));
        let refused = |reason: &str| VerifyError::Table { table: name.clone(), reason: reason.to_owned() };
        let Some(found) = session.query_opt(TABLE, &[&name.schema, &name.name]).await.map_err(failed())? else {
            return Err(refused("does not exist"));
        };
        let (oid, partitioned, version): (u32, bool, i32) = (found.get(0), found.get(1), found.get(2));
        let index: Option<u32> = found.get(3);
        let index = index.ok_or_else(|| refused("has no primary key"))?;
        let (published, filter) = published(session, publication, name, version).await?;
        let mut columns = Vec::new();
        let mut key = Vec::new();
        for row in session.query(COLUMNS, &[&oid, &index]).await.map_err(failed())? {
            let column: String = row.get(0);
            let (generated, position): (bool, Option<i64>) = (row.get(3), row.get(4));
            // Before 18 generated columns are never sent, even if the publication lists them.
            let sent = published.as_ref().is_none_or(|names| names.contains(&column));
            if !sent || (generated && (version < 180_000 || published.is_none())) {
                continue;
            }
            if let Some(position) = position {
                key.push((position, columns.len()));
            }
            let (type_name, type_oid, equality) = (row.get(1), row.get(2), row.get(5));
            columns.push(SentColumn { name: column, kind: TextForm::Plain, type_name, type_oid, equality });
        }
        key.sort_unstable();
        let mut table = Self {
            name: name.clone(),
            columns,
            key: key.into_iter().map(|(_, index)| index).collect(),
            filter,
            partitioned,
        };
        table.find_kinds(session).await?;
        Ok(table)
    }

    /// Leaves unused columns out of what is read, except those of the key.
    pub(crate) fn leave_out(&mut self, is_unused: impl Fn(&str) -> bool) {
        let columns = self.columns.iter_mut().enumerate().filter(|(index, _)| !self.key.contains(index));
        for (_, column) in columns.filter(|(_, column)| is_unused(&column.name)) {
            column.kind = TextForm::Unused;
        }
    }

    async fn find_kinds(&mut self, session: &Client) -> Result<(), VerifyError> {
        let oids = self.columns.iter().map(|column| column.type_oid).collect();
        let types = types(session, oids).await?;
        let elements = types.values().map(|found| found.element).filter(|element| *element != 0).collect();
        let elements = self::types(session, elements).await?;
        for (index, column) in self.columns.iter_mut().enumerate() {
            column.kind = match types.get(&column.type_oid) {
                None => TextForm::Printed,
                Some(SentType { element: 0, base }) => TextForm::of(*base),
                Some(SentType { element, .. }) => match elements.get(element) {
                    // An array of a domain over arrays is nested, but its text does not show how.
                    Some(SentType { element: 0, base }) => TextForm::Array(Box::new(TextForm::of(*base))),
                    _ => TextForm::Text,
                },
            };
            if self.key.contains(&index) {
                column.kind = std::mem::replace(&mut column.kind, TextForm::Plain).in_key();
            }
        }
        Ok(())
    }

    /// Returns the `pg_type.oid` of each key column.
    pub(crate) fn key_types(&self) -> Vec<u32> {
        self.key.iter().filter_map(|index| self.columns.get(*index)).map(|column| column.type_oid).collect()
    }
}

impl TextForm {
    fn in_key(self) -> Self {
        match self {
            Self::Document => Self::KeyDocument,
            Self::Array(element) => Self::Array(Box::new(element.in_key())),
            other => other,
        }
    }

    /// Returns whether its values, or their elements, are numerics.
    pub(crate) fn is_numeric(&self) -> bool {
        match self {
            Self::Numeric => true,
            Self::Array(element) => element.is_numeric(),
            _ => false,
        }
    }

    /// Returns the kind of a built-in type, by its oid in PostgreSQL's `pg_type.dat`.
    const fn of(oid: u32) -> Self {
        match oid {
            16 | 20 | 21 | 23 => Self::Plain,
            26 => Self::Oid,
            700 | 701 => Self::Float,
            114 | 3802 => Self::Document,
            1700 => Self::Numeric,
            // text, varchar, bytea, uuid, date, time, timestamp, interval: their cast to text equals their output.
            25 | 1043 | 17 | 2950 | 1082 | 1083 | 1266 | 1114 | 1184 | 1186 => Self::Text,
            _ => Self::Printed,
        }
    }
}

/// A type from `pg_type`, below all its domains.
struct SentType {
    base: u32,
    /// The element type of an array, else 0.
    element: u32,
}

async fn types(session: &Client, oids: Vec<u32>) -> Result<HashMap<u32, SentType>, VerifyError> {
    let rows = session.query(TYPES, &[&oids]).await.map_err(statement("looking up types"))?;
    Ok(rows.iter().map(|row| (row.get(0), SentType { base: row.get(1), element: row.get(2) })).collect())
}

/// Returns the columns and the row filter of a table in the publication; no columns where the server does not tell (before 15).
async fn published(
    session: &Client,
    publication: &str,
    name: &TableName,
    version: i32,
) -> Result<(Option<Vec<String>>, Option<String>), VerifyError> {
    let details = if version >= 150_000 { "attnames::text[], rowfilter" } else { "NULL::text[], NULL::text" };
    let query = format!(
        "SELECT {details} FROM pg_publication_tables WHERE pubname = $1 AND schemaname = $2 AND tablename = $3"
    );
    let found = session.query_opt(&query, &[&publication, &name.schema, &name.name]).await;
    match found.map_err(statement("reading the publication"))? {
        Some(row) => Ok((row.get(0), row.get(1))),
        None => Err(VerifyError::Publication { publication: publication.to_owned(), table: name.clone() }),
    }
}

/// Reads a table. Without a primary key, the index of the replica identity is its key.
const TABLE: &str = "
    SELECT c.oid, c.relkind = 'p', current_setting('server_version_num')::int,
           (SELECT i.indexrelid FROM pg_index i
            WHERE i.indrelid = c.oid AND (i.indisprimary OR (i.indisreplident AND c.relreplident = 'i'))
            ORDER BY i.indisprimary DESC LIMIT 1)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2";

/// Reads the columns of a table. Columns under INCLUDE are in the index but not in the key. Values are equal by the default operator
/// class of their type, or of the type below all domains.
const COLUMNS: &str = "
    SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypid, a.attgenerated <> '', k.position,
           coalesce(
               (WITH RECURSIVE under (oid) AS (
                    SELECT a.atttypid
                    UNION
                    SELECT t.typbasetype FROM under JOIN pg_type t USING (oid) WHERE t.typbasetype <> 0)
                SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)
                FROM under
                JOIN pg_opclass c ON c.opcintype = under.oid AND c.opcdefault
                JOIN pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
                JOIN pg_amop e ON e.amopfamily = c.opcfamily AND e.amopstrategy = 3
                     AND e.amoplefttype = under.oid AND e.amoprighttype = under.oid
                JOIN pg_operator o ON o.oid = e.amopopr
                JOIN pg_namespace n ON n.oid = o.oprnamespace
                LIMIT 1),
               '=')
    FROM pg_attribute a
    LEFT JOIN (SELECT k.attnum, k.position
               FROM pg_index i CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k (attnum, position)
               WHERE i.indexrelid = $2 AND k.position <= i.indnkeyatts) AS k USING (attnum)
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum";

/// Reads the types of columns. Only the output of `array_out`, with commas, is an array literal.
const TYPES: &str = "
    WITH RECURSIVE under (oid, base) AS (
        SELECT oid, oid FROM unnest($1::oid[]) AS oid
        UNION
        SELECT under.oid, t.typbasetype FROM under JOIN pg_type t ON t.oid = under.base WHERE t.typbasetype <> 0)
    SELECT under.oid, under.base,
           CASE WHEN t.typoutput = 'pg_catalog.array_out'::regproc AND t.typdelim = ',' THEN t.typelem ELSE 0 END
    FROM under JOIN pg_type t ON t.oid = under.base AND t.typbasetype = 0";
