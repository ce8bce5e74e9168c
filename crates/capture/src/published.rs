//! What a publication contains, table by table.

use std::collections::BTreeMap;

use walvec_model::TableName;

use crate::CaptureError;
use crate::catalog::Capabilities;
use crate::connect::{Session, statement_error};

/// What a publication contains for one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// The columns that are sent; `None` if the server does not show them (before 15), which means all.
    pub(crate) columns: Option<Vec<String>>,
    /// Whether the publication has a column list for the table. PostgreSQL 15 and later.
    pub(crate) has_list: bool,
    /// The row filter, as the server prints it.
    pub(crate) filter: Option<String>,
}

/// Returns the tables of an existing publication.
pub(crate) async fn published_tables(
    session: &Session,
    publication: &str,
    can: Capabilities,
) -> Result<BTreeMap<TableName, Published>, CaptureError> {
    let query = match can.row_filters {
        true => {
            "SELECT t.schemaname::text, t.tablename::text, t.attnames::text[], t.rowfilter, list.oid IS NOT NULL
             FROM pg_publication_tables t
             LEFT JOIN (SELECT c.oid, n.nspname, c.relname
                        FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                        JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                        WHERE p.pubname = $1 AND r.prattrs IS NOT NULL) AS list
                    ON list.nspname = t.schemaname AND list.relname = t.tablename
             WHERE t.pubname = $1"
        }
        false => {
            "SELECT schemaname::text, tablename::text, NULL::text[], NULL::text, false
             FROM pg_publication_tables WHERE pubname = $1"
        }
    };
    let rows = session.query(query, &[&publication]).await;
    let rows = rows.map_err(|error| statement_error("reading the publication", &error))?;
    Ok(rows
        .iter()
        .map(|row| {
            let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            (name, Published { columns: row.get(2), filter: row.get(3), has_list: row.get(4) })
        })
        .collect())
}
