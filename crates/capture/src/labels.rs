//! Reads the labels of the enums in a table's columns.

use std::collections::HashMap;

use walvec_model::TableName;

use crate::CaptureError;
use crate::connect::{Session, statement_error};

/// Follows domains to their base types and arrays to their elements.
const QUERY: &str = "
    WITH RECURSIVE under (name, oid) AS (
        SELECT a.attname, a.atttypid
        FROM pg_namespace n
        JOIN pg_class c ON c.relnamespace = n.oid
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE n.nspname = $1 AND c.relname = $2
        UNION
        SELECT under.name, part.oid
        FROM under JOIN pg_type t ON t.oid = under.oid,
             LATERAL (VALUES (t.typbasetype), (t.typelem)) AS part (oid)
        WHERE part.oid <> 0
    )
    SELECT under.name::text, array_agg(e.enumlabel::text ORDER BY e.enumsortorder)
    FROM under JOIN pg_enum e ON e.enumtypid = under.oid
    GROUP BY under.name";

impl Session {
    /// Returns the current labels, in the order of the enum, for each column of `table` that holds an enum or a list of
    /// enum values.
    ///
    /// # Errors
    /// Fails if the catalogue cannot be read.
    pub async fn enum_labels(&self, table: &TableName) -> Result<HashMap<String, Vec<String>>, CaptureError> {
        let rows = self.query(QUERY, &[&table.schema, &table.name]).await;
        let rows = rows.map_err(|error| statement_error("looking up the labels of enums", &error))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}
