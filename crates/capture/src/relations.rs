//! Lists the tables, and which of them cannot be the source of a collection, for proposals.

use std::fmt;

use walvec_model::TableName;

use crate::CaptureError;
use crate::connect::{Session, statement_error};

/// A relation of the database, and whether it can be the source of a collection.
#[derive(Clone, Debug, PartialEq)]
pub struct Relation {
    /// The relation's name.
    pub name: TableName,
    /// The reason why it cannot be, if there is one.
    pub obstacle: Option<Obstacle>,
}

/// Why a relation cannot be the source of a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// A partition of this root, which is read as a whole.
    Partition(TableName),
    /// A view, materialized or not.
    View,
    /// A foreign table.
    Foreign,
    /// An unlogged table, whose changes are not in the WAL.
    Unlogged,
    /// The role may not read the table.
    NoRight,
    /// Policies hide rows from the role.
    Policies,
    /// No key identifies its rows.
    NoKey,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(root) => write!(f, "is a partition of {root}, which is read as a whole"),
            Self::View => f.write_str("is a view: name the tables under it"),
            Self::Foreign => f.write_str("is a foreign table: read it where it lives"),
            Self::Unlogged => f.write_str("is unlogged, so that its changes are not in the WAL"),
            Self::NoRight => f.write_str("may not be read by this role"),
            Self::Policies => f.write_str("has row-level security, which hides rows from this role"),
            Self::NoKey => f.write_str("has no primary key, so that nothing tells its rows apart"),
        }
    }
}

/// Returns all tables and views in user schemas, by name, without those that belong to extensions.
///
/// # Errors
/// Fails if the server does not answer.
pub async fn relations(session: &Session) -> Result<Vec<Relation>, CaptureError> {
    let query = "
        SELECT n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, rn.nspname::text, r.relname::text,
               has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'),
               EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND
                       (i.indisprimary OR (i.indisreplident AND c.relreplident = 'i'))),
               c.relkind IN ('r', 'p') AND row_security_active(c.oid)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_class r ON c.relispartition AND r.oid = pg_partition_root(c.oid)
        LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'
          AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                          AND d.deptype = 'e')
        ORDER BY 1, 2";
    let rows = session.query(query, &[]).await.map_err(|error| statement_error("listing tables", &error))?;
    Ok(rows.iter().map(relation).collect())
}

fn relation(row: &tokio_postgres::Row) -> Relation {
    let (kind, persistence): (String, String) = (row.get(2), row.get(3));
    let root: (Option<String>, Option<String>) = (row.get(4), row.get(5));
    let (may_read, has_key, has_policies): (bool, bool, bool) = (row.get(6), row.get(7), row.get(8));
    let obstacle = match (kind.as_str(), persistence.as_str(), root) {
        (_, _, (Some(schema), Some(name))) => Some(Obstacle::Partition(TableName { schema, name })),
        ("v" | "m", ..) => Some(Obstacle::View),
        ("f", ..) => Some(Obstacle::Foreign),
        (_, "u", _) => Some(Obstacle::Unlogged),
        _ if !may_read => Some(Obstacle::NoRight),
        _ if has_policies => Some(Obstacle::Policies),
        _ if !has_key => Some(Obstacle::NoKey),
        _ => None,
    };
    Relation { name: TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)), obstacle }
}
