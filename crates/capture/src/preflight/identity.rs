//! Checks replica identities: what the server sends of a row that is updated or deleted.

use tokio_postgres::Client;
use walvec_model::TableName;

use super::rights::Rights;
use super::{Finding, OwnedObject, Remedy, Statement, Subject};
use crate::CaptureError;
use crate::catalog::TableFacts;
use crate::connect::statement_error;
use crate::identities::{Identities, Identity};
use crate::published::Published;
use crate::sql::{quote_columns, quote_table};

/// Returns the statement that makes the server log whole old rows of `table`, which is the table of `facts` or one of
/// its partitions.
pub(super) fn full(table: &TableName, facts: &TableFacts, rights: &Rights<'_>) -> Statement {
    let by = rights.actor(&facts.owner, OwnedObject::Table(facts.name.clone()));
    Statement { by, sql: format!("ALTER TABLE {} REPLICA IDENTITY FULL;", quote_table(table)) }
}

/// Returns the leaf partitions of a table that do not log whole old rows. Each partition has its own replica identity.
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

/// Reports partitions without a replica identity: PostgreSQL refuses their updates and deletes once they are published.
/// The identity of the partitioned table does not apply to them. Also reports partitions with an identity that does not
/// contain the key, whose deletes do not identify a row.
pub(super) fn partitions_without_key(
    identities: &Identities,
    facts: &TableFacts,
    rights: &Rights<'_>,
) -> Option<Finding> {
    let key = facts.key().ok().filter(|_| facts.kind == "p")?;
    let lacks =
        |(_, is_full, columns): &&Identity| !is_full && !key.columns().iter().all(|column| columns.contains(column));
    let lacking: Vec<&TableName> = identities.get(facts).iter().filter(lacks).map(|(name, ..)| name).collect();
    let remedy = Remedy::Statements(lacking.iter().map(|leaf| full(leaf, facts, rights)).collect());
    lacking.first().map(|leaf| {
        let what = format!(
            "{} of the partitions of {}, {leaf} for one, have a replica identity of their own that does not hold the key {}: once the \
             table is published, PostgreSQL refuses their updates and deletes, or does not tell which row was deleted",
            lacking.len(),
            facts.name,
            quote_columns(key.columns().iter().map(String::as_str))
        );
        Finding::error("E_NO_KEY", what, remedy)
    })
}

/// Reports columns of the replica identity that the publication leaves out: PostgreSQL then refuses every UPDATE and
/// DELETE of the table. If the identity is the whole row (FULL), any column list has this effect, and so does any
/// generated column that is not sent (18).
pub(super) fn unsent(
    identities: &Identities,
    publication: &str,
    facts: &TableFacts,
    published: Option<&Published>,
    rights: &Rights<'_>,
) -> Option<Finding> {
    let can = rights.server.capabilities;
    let has_list = published.is_some_and(|published| published.has_list);
    let sent = published.and_then(|published| published.columns.as_ref());
    let is_sent = |name: &String| sent.is_none_or(|sent| sent.contains(name));
    // Generated columns that are not sent count as left out only if publications can have them.
    let left_out = |column: &&crate::catalog::ColumnFacts| !column.can_be_sent(can) || !is_sent(&column.column.name);
    let generated = facts.columns.iter().filter(|column| column.generated.is_some() && can.generated_columns);
    let withheld: Vec<&String> = generated.filter(left_out).map(|column| &column.column.name).collect();
    if !has_list && withheld.is_empty() {
        return None;
    }
    let refuses = |(_, is_full, columns): &&Identity| {
        *is_full || columns.iter().any(|name| withheld.contains(&name) || (has_list && !is_sent(name)))
    };
    let tables: Vec<&TableName> = identities.get(facts).iter().filter(refuses).map(|(name, ..)| name).collect();
    let table = tables.first()?;
    let key_is_sent =
        facts.primary_key.as_ref().is_some_and(|key| !facts.primary_key_deferrable && key.iter().all(is_sent));
    let to_default = |table: &&TableName| Statement {
        by: rights.actor(&facts.owner, OwnedObject::Table(facts.name.clone())),
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
    let finding = Finding::error("E_REPLICA_IDENTITY", message, remedy);
    Some(if published.is_some() { finding.about(Subject::Published) } else { finding })
}
