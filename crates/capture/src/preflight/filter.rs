//! Checks whether PostgreSQL accepts a condition as a row filter, and can evaluate it when a row is changed.
//!
//! For an UPDATE or a DELETE, PostgreSQL only has the old row's replica identity. If a filter uses another column,
//! PostgreSQL refuses the application's own statements as soon as the publication exists.

use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;
use walvec_model::TableName;

use super::rights::Rights;
use super::{Finding, Remedy, Subject, identity};
use crate::CaptureError;
use crate::catalog::{FIRST_USER_DEFINED, TableFacts};
use crate::config::TableSpec;
use crate::connect::{Session, statement_error};
use crate::published::Published;
use crate::row_filter::{self, FilterVerdict};
use crate::sql::{quote_columns, quote_table};

/// Returns the problems of a table's filter. `index` is the table's place in the configuration.
pub(super) async fn findings(
    session: &Session,
    (index, spec): (usize, &TableSpec),
    facts: &TableFacts,
    published: Option<&Published>,
    rights: &Rights<'_>,
) -> Result<Vec<Finding>, CaptureError> {
    let Some(filter) = spec.filter.as_deref() else { return Ok(Vec::new()) };
    if !rights.server.capabilities.row_filters {
        return Ok(vec![Finding::of(&row_filter::unsupported(index, rights.server.version_num))]);
    }
    // A missing right to use the schema is reported separately.
    if !facts.can_use_schema {
        return Ok(Vec::new());
    }
    let (used, unseen) = match columns_of(session, facts, filter).await? {
        Used::Columns(used) => (Some(used), None),
        Used::Untold => (None, None),
        // The effects of a published filter already show in the application's statements.
        Used::Forbidden if published.is_some_and(|published| published.filter.is_some()) => (None, None),
        Used::Forbidden => (None, Some(rights.making_views(facts))),
    };
    let is_published = match published.and_then(|published| published.filter.as_deref()) {
        Some(theirs) => row_filter::mean_the_same(session, facts, filter, theirs).await? == Some(true),
        None => false,
    };
    let verdict = match is_published {
        true => FilterVerdict::Fits,
        false => {
            let setting = row_filter::setting(index);
            let verdict = row_filter::try_out(session, &setting, facts, filter, rights.may_create).await?;
            refuse_user_defined(verdict, &setting, facts, used.as_deref())
        }
    };
    let mut findings = Vec::from_iter(unseen);
    match verdict {
        FilterVerdict::Fits => {}
        FilterVerdict::Refused(error) => return Ok(vec![Finding::of(&error)]),
        FilterVerdict::Untried(why) => findings.push(untried(&row_filter::setting(index), &why)),
    }
    if let Some(used) = used {
        let finding = outside_of_identity(session, facts, &used, rights).await?;
        findings.extend(finding.map(|finding| if is_published { finding.about(Subject::Published) } else { finding }));
    }
    Ok(findings)
}

/// Refuses columns of user-defined types in a filter that could not be tried.
fn refuse_user_defined(
    verdict: FilterVerdict,
    setting: &str,
    facts: &TableFacts,
    used: Option<&[String]>,
) -> FilterVerdict {
    let is_used = |name: &String| used.is_some_and(|used| used.contains(name));
    let mut columns = facts.columns.iter().map(|column| &column.column).filter(|column| is_used(&column.name));
    match (verdict, columns.find(|column| column.type_oid >= FIRST_USER_DEFINED)) {
        (FilterVerdict::Untried(_), Some(column)) => {
            FilterVerdict::Refused(row_filter::user_defined(setting, &facts.name, column))
        }
        (verdict, _) => verdict,
    }
}

fn untried(setting: &str, why: &str) -> Finding {
    Finding::warning(
        "E_CONFIG",
        format!("whether PostgreSQL takes `{setting}` as a row filter could not be tried: {why}"),
        "the statement that creates the publication will tell; row filters take columns, constants and what is built in and \
         does not change: no enum, no now(), no cast",
    )
}

async fn outside_of_identity(
    session: &Session,
    facts: &TableFacts,
    used: &[String],
    rights: &Rights<'_>,
) -> Result<Option<Finding>, CaptureError> {
    let tables = without(session, facts, used).await?;
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

/// What is known about the columns that a filter uses.
enum Used {
    Columns(Vec<String>),
    /// The filter is wrong, which creating the publication will report, or the server is a standby, where no view can
    /// be created.
    Untold,
    /// The role may not create a view.
    Forbidden,
}

/// Returns the columns that a filter uses. Asks the server by creating a view, which is rolled back.
async fn columns_of(session: &Session, facts: &TableFacts, filter: &str) -> Result<Used, CaptureError> {
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
            Some(state) if *state == SqlState::INSUFFICIENT_PRIVILEGE && !may_make_views(session).await? => {
                return Ok(Used::Forbidden);
            }
            Some(state) if ["22", "42"].contains(&&state.code()[..2]) => return Ok(Used::Untold),
            Some(state) if *state == SqlState::READ_ONLY_SQL_TRANSACTION => return Ok(Used::Untold),
            _ => return Err(statement_error("checking the row filters", &error)),
        },
    };
    let column = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    Ok(Used::Columns(messages.iter().filter_map(column).collect()))
}

async fn may_make_views(session: &Session) -> Result<bool, CaptureError> {
    let row = session.query_one("SELECT has_database_privilege(current_database(), 'TEMPORARY')", &[]).await;
    Ok(row.map_err(|error| statement_error("checking the rights of the role", &error))?.get(0))
}

/// Returns the table, or those of its partitions, whose replica identity lacks one of the columns. Each partition has its own.
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
