//! Whether PostgreSQL can decide about a row filter when a row is changed.
//!
//! For an UPDATE or a DELETE it has the old row's replica identity and nothing else. A filter that uses another column makes it
//! refuse the application's own statements, from the moment at which the publication exists.

use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;
use walvec_model::TableName;

use super::rights::Rights;
use super::{Finding, Remedy, identity};
use crate::CaptureError;
use crate::catalog::TableFacts;
use crate::config::TableSpec;
use crate::connect::{Session, statement_error};
use crate::sql::{quote_columns, quote_table};

pub(super) async fn finding(
    session: &Session,
    spec: &TableSpec,
    facts: &TableFacts,
    rights: &Rights<'_>,
) -> Result<Option<Finding>, CaptureError> {
    let Some(filter) = spec.filter.as_deref().filter(|_| rights.server.capabilities.row_filters) else {
        return Ok(None);
    };
    let Some(used) = columns_of(session, facts, filter).await? else { return Ok(None) };
    let tables = without(session, facts, &used).await?;
    let remedy = Remedy::Statements(tables.iter().map(|table| identity::full(table, facts, rights)).collect());
    Ok(tables.first().map(|table| {
        let what = format!(
            "`where` of {} uses {}, and the replica identity of {table} does not hold all of that: once such a publication exists, \
             PostgreSQL refuses every UPDATE and DELETE of the table",
            facts.name,
            quote_columns(used.iter().map(String::as_str))
        );
        Finding::error("E_REPLICA_IDENTITY", what, remedy)
    }))
}

/// The columns that a filter uses, as the server understands it: it is asked through a view that is rolled back. `None` if the role
/// may not make one, or the filter is wrong, which creating the publication will say.
async fn columns_of(session: &Session, facts: &TableFacts, filter: &str) -> Result<Option<Vec<String>>, CaptureError> {
    let statements = format!(
        "CREATE TEMPORARY VIEW walvec_filter AS SELECT 1 AS one FROM {} WHERE ({filter}\n);
         SELECT a.attname FROM pg_depend d
         JOIN pg_rewrite r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
         JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
         WHERE r.ev_class = 'pg_temp.walvec_filter'::regclass AND d.refobjid = {} AND d.refobjsubid > 0 ORDER BY a.attnum;
         ROLLBACK;",
        quote_table(&facts.name),
        facts.oid
    );
    let messages = match session.simple_query(&statements).await {
        Ok(messages) => messages,
        Err(error) => match error.code() {
            Some(state) if *state == SqlState::INSUFFICIENT_PRIVILEGE || state.code().starts_with("42") => {
                return Ok(None);
            }
            // A standby makes no views.
            Some(state) if *state == SqlState::READ_ONLY_SQL_TRANSACTION => return Ok(None),
            _ => return Err(statement_error("checking the row filters", &error)),
        },
    };
    let column = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    Ok(Some(messages.iter().filter_map(column).collect()))
}

/// The table, or the partitions of it, whose replica identity lacks one of the columns. Each partition has one of its own.
async fn without(session: &Session, facts: &TableFacts, used: &[String]) -> Result<Vec<TableName>, CaptureError> {
    if facts.kind != "p" {
        let identity = facts.identity_columns();
        let lacks = identity.is_some_and(|sent| used.iter().any(|column| !sent.contains(column)));
        return Ok(lacks.then(|| facts.name.clone()).into_iter().collect());
    }
    if facts.primary_key.as_ref().is_some_and(|key| used.iter().all(|column| key.contains(column))) {
        return Ok(Vec::new());
    }
    identity::partitions_without_full(session, facts).await
}
