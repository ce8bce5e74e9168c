//! Replica identities: what the server tells of a row that is updated or deleted.

use tokio_postgres::Client;
use walvec_model::TableName;

use super::rights::Rights;
use super::{Owned, Statement};
use crate::CaptureError;
use crate::catalog::TableFacts;
use crate::connect::statement_error;
use crate::sql::quote_table;

/// The statement that has the server log whole old rows of `table`, which is the one that `facts` are about or a partition of it.
pub(super) fn full(table: &TableName, facts: &TableFacts, rights: &Rights<'_>) -> Statement {
    let by = rights.actor(&facts.owner, Owned::Table(facts.name.clone()));
    Statement { by, sql: format!("ALTER TABLE {} REPLICA IDENTITY FULL;", quote_table(table)) }
}

/// The leaf partitions of a table that log less than whole old rows. Each partition has a replica identity of its own.
pub(super) async fn partitions_without_full(
    session: &Client,
    facts: &TableFacts,
) -> Result<Vec<TableName>, CaptureError> {
    let query = "
        SELECT n.nspname::text, c.relname::text
        FROM pg_partition_tree($1::oid::regclass) AS leaf
        JOIN pg_class c ON c.oid = leaf.relid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE leaf.isleaf AND c.relreplident <> 'f' ORDER BY 1, 2";
    let rows = session.query(query, &[&facts.oid]).await;
    let rows = rows.map_err(|error| statement_error("checking the replica identities of partitions", &error))?;
    Ok(rows.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect())
}
