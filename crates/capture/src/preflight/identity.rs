//! Replica identities: what the server tells of a row that is updated or deleted.

use tokio_postgres::{Client, Row};
use walvec_model::TableName;

use super::rights::Rights;
use super::{Finding, Owned, Remedy, Statement};
use crate::CaptureError;
use crate::catalog::TableFacts;
use crate::connect::{Session, statement_error};
use crate::publication::{self, Published};
use crate::sql::{quote_columns, quote_table};

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

/// PostgreSQL refuses every UPDATE and DELETE of a table whose publication leaves out a column of the replica identity. With a
/// list of columns, or with generated ones (18), that happens to whole rows (FULL) whatever is in the list.
pub(super) async fn unsent(
    session: &Session,
    publication: &str,
    facts: &TableFacts,
    published: Option<&Published>,
    rights: &Rights<'_>,
) -> Result<Option<Finding>, CaptureError> {
    let can = rights.server.capabilities;
    let has_list = match published {
        Some(_) if can.column_lists => publication::has_column_list(session, publication, facts.oid).await?,
        _ => false,
    };
    let sent = published.and_then(|published| published.columns.as_ref());
    let is_sent = |name: &String| sent.is_none_or(|sent| sent.contains(name));
    // Generated columns that are not sent count as left out only where publications can have them.
    let left_out = |column: &&crate::catalog::ColumnFacts| !column.can_be_sent(can) || !is_sent(&column.column.name);
    let generated = facts.columns.iter().filter(|column| column.generated.is_some() && can.generated_columns);
    let withheld: Vec<&String> = generated.filter(left_out).map(|column| &column.column.name).collect();
    if !has_list && withheld.is_empty() {
        return Ok(None);
    }
    let rows = session.query(IDENTITIES, &[&facts.oid]).await;
    let rows = rows.map_err(|error| statement_error("checking the replica identities", &error))?;
    let refuses = |row: &&Row| {
        let (is_full, columns): (bool, Vec<String>) = (row.get(2), row.get(3));
        is_full || columns.iter().any(|name| withheld.contains(&name) || (has_list && !is_sent(name)))
    };
    let tables: Vec<TableName> = rows
        .iter()
        .filter(refuses)
        .map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)))
        .collect();
    let Some(table) = tables.first() else { return Ok(None) };
    let key_is_sent =
        facts.primary_key.as_ref().is_some_and(|key| !facts.primary_key_deferrable && key.iter().all(is_sent));
    let to_default = |table: &TableName| Statement {
        by: rights.actor(&facts.owner, Owned::Table(facts.name.clone())),
        sql: format!("ALTER TABLE {} REPLICA IDENTITY DEFAULT;", quote_table(table)),
    };
    let remedy = match key_is_sent {
        true => Remedy::Statements(tables.iter().map(to_default).collect()),
        false => "let the publication send every column of the replica identity".into(),
    };
    let what = match has_list {
        true => format!("sends only {} of it", quote_columns(sent.into_iter().flatten().map(String::as_str))),
        false => {
            format!("does not send its generated columns {}", quote_columns(withheld.iter().map(|name| name.as_str())))
        }
    };
    let message = format!(
        "the replica identity of {table} needs columns that the publication \"{publication}\" leaves out, because it {what}: \
         PostgreSQL refuses every UPDATE and DELETE of the table"
    );
    Ok(Some(Finding::error("E_REPLICA_IDENTITY", message, remedy)))
}

/// The table, or its leaf partitions, with the columns of its identity. Each partition has one of its own.
const IDENTITIES: &str = "
    SELECT n.nspname::text, c.relname::text, c.relreplident = 'f',
           ARRAY(SELECT a.attname::text
                 FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey::int2[])
                 WHERE i.indrelid = c.oid
                   AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END)
    FROM (SELECT $1::oid UNION SELECT relid::oid FROM pg_partition_tree($1::oid::regclass)) AS every (oid)
    JOIN pg_class c ON c.oid = every.oid AND c.relkind = 'r'
    JOIN pg_namespace n ON n.oid = c.relnamespace
    ORDER BY 1, 2";
