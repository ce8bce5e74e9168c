//! The replica identities of tables, and of their leaf partitions.

use std::collections::HashMap;

use walvec_model::TableName;

use crate::CaptureError;
use crate::catalog::TableFacts;
use crate::connect::{Session, statement_error};

/// Lists the table, or its leaf partitions, each with the columns of its own identity.
const IDENTITIES: &str = "
    SELECT n.nspname::text, c.relname::text, c.relreplident = 'f',
           ARRAY(SELECT a.attname::text
                 FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey::int2[])
                 WHERE i.indrelid = c.oid
                   AND CASE c.relreplident WHEN 'd' THEN i.indisprimary AND i.indimmediate WHEN 'i' THEN i.indisreplident ELSE false END),
           every.root
    FROM (SELECT root, root FROM unnest($1::oid[]) AS root
          UNION SELECT root, part.relid::oid FROM unnest($1::oid[]) AS root, pg_partition_tree(root::regclass) AS part
         ) AS every (root, oid)
    JOIN pg_class c ON c.oid = every.oid AND c.relkind = 'r'
    JOIN pg_namespace n ON n.oid = c.relnamespace
    ORDER BY 1, 2";

/// What a table or a leaf partition logs of old rows: its name, whether whole rows are logged, and if not, which columns.
pub(crate) type Identity = (TableName, bool, Vec<String>);

/// The replica identities of tables.
#[derive(Debug, Default)]
pub(crate) struct Identities(HashMap<u32, Vec<Identity>>);

impl Identities {
    /// Reads the replica identities of these tables. Runs one statement for any number of tables.
    pub(crate) async fn of<'f>(
        session: &Session,
        tables: impl Iterator<Item = &'f TableFacts>,
    ) -> Result<Self, CaptureError> {
        let oids: Vec<u32> = tables.map(|facts| facts.oid).collect();
        if oids.is_empty() {
            return Ok(Self::default());
        }
        let rows = session.query(IDENTITIES, &[&oids]).await;
        let rows = rows.map_err(|error| statement_error("checking the replica identities", &error))?;
        let mut identities = HashMap::<u32, Vec<Identity>>::new();
        for row in &rows {
            let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            identities.entry(row.get(4)).or_default().push((name, row.get(2), row.get(3)));
        }
        Ok(Self(identities))
    }

    /// Returns the replica identities of the table, or of its leaf partitions.
    pub(crate) fn get(&self, facts: &TableFacts) -> &[Identity] {
        self.0.get(&facts.oid).map_or(&[], Vec::as_slice)
    }

    /// Returns whether the table or one of its leaf partitions has no identity. PostgreSQL refuses its updates and
    /// deletes once it is published.
    pub(crate) fn is_any_missing(&self, facts: &TableFacts) -> bool {
        self.get(facts).iter().any(|(_, is_full, columns)| !is_full && columns.is_empty())
    }
}
