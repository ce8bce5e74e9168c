//! Tables with their columns, keys and rights.

use std::collections::{BTreeMap, HashMap};

use futures::future::BoxFuture;
use walvec_model::{Column, Table, TableName};

use super::{Capabilities, types};
use crate::CaptureError;
use crate::connect::{Session, statement_error};

/// A table as the catalogue currently describes it.
#[derive(Clone, Debug)]
pub(crate) struct TableFacts {
    pub(crate) oid: u32,
    pub(crate) name: TableName,
    /// `pg_class.relkind`: `r` table, `p` partitioned table, `v` view, ...
    pub(crate) kind: String,
    /// `pg_class.relpersistence`: `p` permanent, `u` unlogged, `t` temporary.
    pub(crate) persistence: String,
    /// `pg_class.relreplident`: `d` default, `i` index, `f` full, `n` nothing.
    pub(crate) identity: String,
    /// The root table, if this is a partition.
    pub(crate) partition_of: Option<TableName>,
    /// Whether tables inherit from this one with `INHERITS`.
    pub(crate) has_children: bool,
    /// Whether the role may use the table's schema.
    pub(crate) can_use_schema: bool,
    /// Whether the role may read the table's schema and the table as a whole, system columns included.
    pub(crate) can_select: bool,
    /// Whether the role may read the column ctid (-1), which is needed to read rows in pieces.
    pub(crate) reads_ctid: bool,
    /// The table's owner.
    pub(crate) owner: OwnerRole,
    /// The owner of the table's schema.
    pub(crate) schema_owner: OwnerRole,
    /// Whether policies hide rows from the role.
    pub(crate) row_security: bool,
    /// All columns in the order of the table, generated ones included.
    pub(crate) columns: Vec<ColumnFacts>,
    /// The columns of the primary key.
    pub(crate) primary_key: Option<Vec<String>>,
    /// Whether the primary key is deferrable. If so, it cannot serve as replica identity.
    pub(crate) primary_key_deferrable: bool,
    /// The columns of the index that `REPLICA IDENTITY USING INDEX` names.
    pub(crate) identity_index: Option<Vec<String>>,
}

/// A role that owns something, and can grant rights on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnerRole {
    pub(crate) name: String,
    pub(crate) is_superuser: bool,
}

impl OwnerRole {
    /// Reads the owner from two columns of `row`, starting at `index`.
    pub(crate) fn at(row: &tokio_postgres::Row, index: usize) -> Self {
        Self { name: row.get(index), is_superuser: row.get(index + 1) }
    }
}

/// A column as the catalogue currently describes it.
#[derive(Clone, Debug)]
pub(crate) struct ColumnFacts {
    pub(crate) column: Column,
    /// `pg_attribute.atttypmod`, e.g. for the length of a `varchar`; -1 if there is none.
    pub(crate) type_modifier: i32,
    /// Set if the column is generated.
    pub(crate) generated: Option<Generated>,
    /// Whether the role may read the column.
    pub(crate) can_select: bool,
}

/// How a generated column gets its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Generated {
    /// Whether the value is stored. If not, it is computed when it is read, and never sent.
    pub(crate) is_stored: bool,
    /// The expression, as the server prints it.
    pub(crate) expression: String,
}

impl ColumnFacts {
    /// Returns whether a publication of a server with these capabilities can send the column.
    pub(crate) fn can_be_sent(&self, can: Capabilities) -> bool {
        self.generated.as_ref().is_none_or(|generated| generated.is_stored && can.generated_columns)
    }
}

/// The source of a table's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeySource {
    PrimaryKey(Vec<String>),
    IdentityIndex(Vec<String>),
}

impl KeySource {
    pub(crate) fn columns(&self) -> &[String] {
        let (Self::PrimaryKey(columns) | Self::IdentityIndex(columns)) = self;
        columns
    }
}

impl TableFacts {
    /// Returns the columns that identify a row, if updates and deletes will contain them too.
    pub(crate) fn key(&self) -> Result<KeySource, CaptureError> {
        let no_key = |reason: String| Err(CaptureError::NoKey { table: self.name.clone(), reason });
        let key = match (&self.primary_key, &self.identity_index, self.identity.as_str()) {
            (_, _, "n") => return no_key("REPLICA IDENTITY NOTHING sends no key with updates and deletes".to_owned()),
            (Some(columns), _, _) => KeySource::PrimaryKey(columns.clone()),
            (None, Some(columns), "i") => KeySource::IdentityIndex(columns.clone()),
            (None, _, "f") => {
                return no_key(
                    "it has no primary key, and REPLICA IDENTITY FULL does not say which columns name a row".to_owned(),
                );
            }
            (None, _, _) => return no_key("it has no primary key".to_owned()),
        };
        if let Some(identity) = self.identity_columns()
            && let Some(missing) = key.columns().iter().find(|column| !identity.contains(column))
        {
            return no_key(format!("the replica identity does not hold the key column \"{missing}\""));
        }
        Ok(key)
    }

    /// Returns the columns whose old values are sent with updates and deletes; `None` for all columns.
    pub(crate) fn identity_columns(&self) -> Option<Vec<String>> {
        match self.identity.as_str() {
            "f" => None,
            "i" => Some(self.identity_index.clone().unwrap_or_default()),
            "n" => Some(Vec::new()),
            _ if self.primary_key_deferrable => Some(Vec::new()),
            _ => Some(self.primary_key.clone().unwrap_or_default()),
        }
    }

    /// Returns the table as its changes show it, with only the columns that are `published`.
    pub(crate) fn table(&self, published: impl Fn(&ColumnFacts) -> bool) -> Result<Table, CaptureError> {
        let columns: Vec<Column> =
            self.columns.iter().filter(|column| published(column)).map(|facts| facts.column.clone()).collect();
        let key = self.key()?;
        let position = |name: &String| {
            columns.iter().position(|column| column.name == *name).ok_or_else(|| CaptureError::NoKey {
                table: self.name.clone(),
                reason: format!("the key column \"{name}\" is not published"),
            })
        };
        let key = key.columns().iter().map(position).collect::<Result<_, _>>()?;
        Ok(Table { name: self.name.clone(), columns, key })
    }
}

/// A relation that is being dropped at this moment has no rights.
const TABLE: &str = "
    SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relreplident::text,
           rn.nspname::text, r.relname::text,
           c.relkind <> 'p' AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid),
           coalesce(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'), false),
           row_security_active(c.oid), coalesce(has_schema_privilege(n.oid, 'USAGE'), false),
           o.rolname::text, o.rolsuper, s.rolname::text, s.rolsuper,
           coalesce(has_column_privilege(c.oid, (-1)::smallint, 'SELECT'), false)
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_roles o ON o.oid = c.relowner
    JOIN pg_roles s ON s.oid = n.nspowner
    LEFT JOIN pg_class r ON c.relispartition AND r.oid = pg_partition_root(c.oid)
    LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace";

const COLUMNS: &str = "
    SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypid,
           a.attgenerated::text, CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END,
           coalesce(has_column_privilege(a.attrelid, a.attnum, 'SELECT'), false), a.attrelid, a.atttypmod
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum";

/// Only the key columns of an index count. Columns under INCLUDE do not identify rows.
const INDEXES: &str = "
    SELECT i.indisprimary, i.indisreplident, NOT i.indimmediate, array_agg(a.attname::text ORDER BY k.position), i.indrelid
    FROM pg_index i
    CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k (attnum, position)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = ANY($1) AND (i.indisprimary OR i.indisreplident) AND i.indisvalid AND k.position <= i.indnkeyatts
    GROUP BY i.indrelid, i.indexrelid, i.indisprimary, i.indisreplident, i.indimmediate";

/// Returns the relation called `name`, of any kind.
pub(crate) async fn facts_by_name(session: &Session, name: &TableName) -> Result<Option<TableFacts>, CaptureError> {
    Ok(facts_of(session, std::iter::once(name)).await?.remove(name))
}

/// Returns the relations with these names, of any kind, without those that do not exist. Runs three statements for any
/// number of names.
pub(crate) async fn facts_of<'n>(
    session: &Session,
    names: impl Iterator<Item = &'n TableName>,
) -> Result<BTreeMap<TableName, TableFacts>, CaptureError> {
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        names.map(|table| (table.schema.as_str(), table.name.as_str())).unzip();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let query = format!(
        "{TABLE} JOIN (SELECT DISTINCT * FROM unnest($1::text[], $2::text[])) AS wanted (schema, name)
                   ON n.nspname = wanted.schema AND c.relname = wanted.name"
    );
    let found = facts(session, session.query(&query, &[&schemas, &names]).await).await?;
    Ok(found.into_iter().map(|facts| (facts.name.clone(), facts)).collect())
}

/// Returns how many rows each table has, by the server's statistics; 0 if there are none yet.
pub(crate) async fn estimate_rows<'n>(
    session: &Session,
    names: impl Iterator<Item = &'n TableName>,
) -> Result<Vec<(TableName, u64)>, CaptureError> {
    // A partitioned table itself is not always analysed, but its leaves are.
    let query = "
        SELECT n.nspname::text, r.relname::text, coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint
        FROM unnest($1::text[], $2::text[]) AS wanted (schema, name)
        JOIN pg_namespace n ON n.nspname = wanted.schema
        JOIN pg_class r ON r.relnamespace = n.oid AND r.relname = wanted.name
        CROSS JOIN LATERAL (SELECT relid FROM pg_partition_tree(r.oid) WHERE isleaf
                            UNION SELECT r.oid WHERE r.relkind <> 'p') AS leaf
        JOIN pg_class c ON c.oid = leaf.relid
        GROUP BY n.nspname, r.relname";
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        names.map(|table| (table.schema.as_str(), table.name.as_str())).unzip();
    let rows = session.query(query, &[&schemas, &names]).await;
    let rows = rows.map_err(|error| statement_error("estimating the size of the tables", &error))?;
    let estimate = |row: &tokio_postgres::Row| {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        (table, u64::try_from(row.get::<_, i64>(2)).unwrap_or(0))
    };
    Ok(rows.iter().map(estimate).collect())
}

/// Returns the relation with this oid, if it still exists.
pub(crate) async fn facts_by_oid(session: &Session, oid: u32) -> Result<Option<TableFacts>, CaptureError> {
    let query = format!("{TABLE} WHERE c.oid = $1");
    Ok(facts(session, session.query(&query, &[&oid]).await).await?.pop())
}

fn facts(
    session: &Session,
    found: Result<Vec<tokio_postgres::Row>, tokio_postgres::Error>,
) -> BoxFuture<'_, Result<Vec<TableFacts>, CaptureError>> {
    Box::pin(async move {
        let failed = |error| statement_error("looking up a table", &error);
        let mut tables: Vec<TableFacts> = found.map_err(failed)?.iter().map(relation).collect();
        if tables.is_empty() {
            return Ok(tables);
        }
        let places: HashMap<u32, usize> = tables.iter().enumerate().map(|(place, facts)| (facts.oid, place)).collect();
        let oids: Vec<u32> = tables.iter().map(|facts| facts.oid).collect();
        let place = |row: &tokio_postgres::Row, column| places.get(&row.get(column)).copied();
        for row in session.query(COLUMNS, &[&oids]).await.map_err(failed)? {
            let Some(facts) = place(&row, 6).map(|place| &mut tables[place]) else { continue };
            facts.columns.push(column(&row));
        }
        let columns = tables.iter_mut().flat_map(|facts| &mut facts.columns);
        types::resolve(session, columns.map(|facts| (&mut facts.column, facts.type_modifier)).collect()).await?;
        for row in session.query(INDEXES, &[&oids]).await.map_err(failed)? {
            let Some(facts) = place(&row, 4).map(|place| &mut tables[place]) else { continue };
            let columns: Vec<String> = row.get(3);
            if row.get(0) {
                facts.primary_key_deferrable = row.get(2);
                facts.primary_key = Some(columns.clone());
            }
            if row.get(1) {
                facts.identity_index = Some(columns);
            }
        }
        Ok(tables)
    })
}

/// Reads a row of [`TABLE`].
fn relation(row: &tokio_postgres::Row) -> TableFacts {
    let root: (Option<String>, Option<String>) = (row.get(6), row.get(7));
    TableFacts {
        oid: row.get(0),
        name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
        kind: row.get(3),
        persistence: row.get(4),
        identity: row.get(5),
        partition_of: root.0.zip(root.1).map(|(schema, name)| TableName { schema, name }),
        has_children: row.get(8),
        can_select: row.get(9),
        row_security: row.get(10),
        can_use_schema: row.get(11),
        owner: OwnerRole::at(row, 12),
        schema_owner: OwnerRole::at(row, 14),
        reads_ctid: row.get(16),
        columns: Vec::new(),
        primary_key: None,
        primary_key_deferrable: false,
        identity_index: None,
    }
}

/// Reads a row of [`COLUMNS`].
fn column(row: &tokio_postgres::Row) -> ColumnFacts {
    let column = Column::new(row.get::<_, String>(0), row.get::<_, String>(1), row.get(2));
    let how: String = row.get(3);
    let expression: Option<String> = row.get(4);
    let generated =
        (!how.is_empty()).then(|| Generated { is_stored: how == "s", expression: expression.unwrap_or_default() });
    ColumnFacts { column, type_modifier: row.get(7), generated, can_select: row.get(5) }
}

/// A table that holds rows itself: a plain table, or a leaf of a partitioned table.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) oid: u32,
    pub(crate) name: TableName,
    /// The leaf's size in pages; 0 if it is not stored as a heap, in which case ctids have no meaning.
    pub(crate) pages: u64,
    pub(crate) is_heap: bool,
    /// Whether the leaf can be read by itself. Row-level security of a partition does not apply to reads of the
    /// partitioned table.
    pub(crate) can_select: bool,
    /// Whether the leaf can be read in pieces. The right to read single columns includes the column ctid only if it is
    /// granted too.
    pub(crate) reads_ctid: bool,
}

/// Returns the leaves of a table, or the table itself if it is not partitioned.
pub(crate) async fn leaves(session: &Session, oid: u32) -> Result<Vec<Leaf>, CaptureError> {
    Ok(leaves_of(session, &[oid]).await?.remove(&oid).unwrap_or_default())
}

/// Returns the leaves of each of these tables, by the table's oid. Runs one statement for any number of tables.
pub(crate) async fn leaves_of(session: &Session, tables: &[u32]) -> Result<HashMap<u32, Vec<Leaf>>, CaptureError> {
    // A relation that is being dropped at this moment has no size and no rights.
    let query = "
        SELECT n.nspname::text, c.relname::text,
               CASE WHEN m.amname = 'heap'
                    THEN coalesce(pg_relation_size(c.oid), 0) / current_setting('block_size')::bigint ELSE 0 END,
               coalesce(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
                        AND (NOT row_security_active(c.oid) OR c.oid = leaf.root), false), c.oid,
               coalesce(m.amname = 'heap', false), coalesce(has_column_privilege(c.oid, (-1)::smallint, 'SELECT'), false), leaf.root
        FROM (SELECT root, part.relid::oid FROM unnest($1::oid[]) AS root, pg_partition_tree(root::regclass) AS part WHERE part.isleaf
              UNION SELECT oid, oid FROM pg_class WHERE oid = ANY($1) AND relkind = 'r') AS leaf (root, oid)
        JOIN pg_class c ON c.oid = leaf.oid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_am m ON m.oid = c.relam
        WHERE c.relkind = 'r'
        ORDER BY c.oid";
    let rows = session.query(query, &[&tables]).await;
    let rows = rows.map_err(|error| statement_error("looking up partitions", &error))?;
    let leaf = |row: &tokio_postgres::Row| Leaf {
        oid: row.get(4),
        name: TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
        pages: u64::try_from(row.get::<_, i64>(2)).unwrap_or(0),
        is_heap: row.get(5),
        can_select: row.get(3),
        reads_ctid: row.get(6),
    };
    let mut leaves = HashMap::<u32, Vec<Leaf>>::new();
    for row in &rows {
        leaves.entry(row.get(7)).or_default().push(leaf(row));
    }
    Ok(leaves)
}
