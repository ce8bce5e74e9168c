//! Row filters: whether a publication accepts one, and whether two of them mean the same.
//!
//! Only the server can tell. walvec asks it by creating a publication, or views, that are rolled back.

use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;
use walvec_model::{Column, TableName};

use crate::CaptureError;
use crate::catalog::TableFacts;
use crate::connect::{Session, describe, statement_error};
use crate::sql::{quote_columns, quote_ident, quote_table};

/// The server's verdict on a row filter.
#[derive(Debug)]
pub(crate) enum FilterVerdict {
    /// A publication accepts the filter.
    Fits,
    /// No publication accepts the filter.
    Refused(CaptureError),
    /// The filter could not be tried, for this reason.
    Untried(String),
}

/// Returns the configuration key of a table's filter, by the table's place in the configuration.
pub(crate) fn setting(index: usize) -> String {
    format!("collections[{index}].where")
}

/// Returns the error for a row filter on a server that does not support them.
pub(crate) fn unsupported(index: usize, version: u32) -> CaptureError {
    CaptureError::Setting {
        setting: setting(index),
        reason: format!("PostgreSQL filters rows since version 15; this server is version {}", version / 10_000),
        remedy: format!("update PostgreSQL to 15 or later, or {SEARCH_INSTEAD}"),
    }
}

/// Returns the error for a row filter on a column whose type is not built in.
pub(crate) fn user_defined(setting: &str, table: &TableName, column: &Column) -> CaptureError {
    let Column { name, type_name, .. } = column;
    CaptureError::Setting {
        setting: setting.to_owned(),
        reason: format!(
            "PostgreSQL cannot filter the rows of {table} by \"{name}\": its type {type_name} is user-defined"
        ),
        remedy: format!("{BUILT_IN_ONLY}; or {SEARCH_INSTEAD}"),
    }
}

const BUILT_IN_ONLY: &str = "row filters know built-in types only, no enum, domain or citext: filter by a column of a built-in \
    type that the application keeps with it";

/// The alternative that always works.
const SEARCH_INSTEAD: &str =
    "remove `where`, keep the column in `payload`, and filter when searching: `walvec search --filter field=value`";

/// Lets the server parse a condition on a table. Fails if the text is not a complete condition by itself.
pub(crate) async fn prepare(
    session: &Session,
    table: &TableName,
    condition: &str,
) -> Result<(), tokio_postgres::Error> {
    // Try two kinds of brackets: a text that is balanced in both cannot close either of them.
    for bracketed in [format!("({condition}\n)"), format!("(ARRAY[{condition}\n])[1]")] {
        session.prepare(&format!("SELECT 1 FROM {} WHERE {bracketed}", quote_table(table))).await?;
    }
    Ok(())
}

/// Asks the server whether a publication accepts `filter`. `may_create` says whether the role may create publications.
pub(crate) async fn try_out(
    session: &Session,
    setting: &str,
    facts: &TableFacts,
    filter: &str,
    may_create: bool,
) -> Result<FilterVerdict, CaptureError> {
    if let Err(error) = prepare(session, &facts.name, filter).await {
        return verdict(setting, facts, may_create, &error);
    }
    if !may_create {
        return Ok(FilterVerdict::Untried("the role may not create publications in this database".to_owned()));
    }
    // One message is one transaction, and no other statement of this session can come in between. Creating a
    // publication locks its tables against VACUUM and DDL, and may have to wait for these.
    let statements = format!(
        "SET LOCAL lock_timeout = '2s'; CREATE PUBLICATION {} FOR TABLE ONLY {} WHERE ({filter}\n)
         WITH (publish_via_partition_root = true); ROLLBACK;",
        quote_ident(&format!("walvec_probe_{}", std::process::id())),
        quote_table(&facts.name)
    );
    match session.simple_query(&statements).await {
        Ok(_) => Ok(FilterVerdict::Fits),
        Err(error) => verdict(setting, facts, may_create, &error),
    }
}

fn verdict(
    setting: &str,
    facts: &TableFacts,
    may_create: bool,
    error: &tokio_postgres::Error,
) -> Result<FilterVerdict, CaptureError> {
    let Some(state) = error.code() else { return Err(statement_error("trying the row filters", error)) };
    Ok(match (state, state.code().get(..2)) {
        // The server checks the filter first, and the ownership of the table second.
        (state, _) if *state == SqlState::INSUFFICIENT_PRIVILEGE && may_create && facts.can_use_schema => {
            FilterVerdict::Fits
        }
        (state, _) if [SqlState::INSUFFICIENT_PRIVILEGE, SqlState::READ_ONLY_SQL_TRANSACTION].contains(state) => {
            FilterVerdict::Untried(describe(error))
        }
        (state, _) if *state == SqlState::LOCK_NOT_AVAILABLE => {
            FilterVerdict::Untried("the table is locked by another session".to_owned())
        }
        (_, Some("0A" | "22" | "42")) => FilterVerdict::Refused(CaptureError::Setting {
            setting: setting.to_owned(),
            reason: format!("PostgreSQL cannot filter the rows of {} by it: {}", facts.name, describe(error)),
            remedy: way_out(state, &describe(error), facts),
        }),
        _ => return Err(statement_error("trying the row filters", error)),
    })
}

/// Returns what to write instead of a filter that the server refused with this message.
fn way_out(state: &SqlState, words: &str, facts: &TableFacts) -> String {
    if *state == SqlState::UNDEFINED_COLUMN {
        let columns = facts.columns.iter().map(|column| column.column.name.as_str());
        return format!("the columns of {} are {}", facts.name, quote_columns(columns));
    }
    if *state != SqlState::FEATURE_NOT_SUPPORTED {
        return "write what could stand after WHERE in SQL, for example year >= 1990".to_owned();
    }
    let rule = if words.contains("User-defined types") {
        BUILT_IN_ONLY
    } else if words.contains("mutable functions") {
        "a row filter takes nothing that changes by itself, such as now(): rows would have to leave without being changed. \
         Filter by a column that the application sets"
    } else {
        "compare a column with constants of its own type, without casts and subqueries; for varchar write a = 'x' OR a = 'y' \
         in place of a IN ('x', 'y')"
    };
    format!("{rule}; or {SEARCH_INSTEAD}")
}

/// Returns whether two filters of a table mean the same, by comparing how the server prints them; `None` if it cannot be asked.
pub(crate) async fn mean_the_same(
    session: &Session,
    facts: &TableFacts,
    ours: &str,
    theirs: &str,
) -> Result<Option<bool>, CaptureError> {
    let view = |name: &str, filter: &str| {
        let table = quote_table(&facts.name);
        format!("CREATE TEMPORARY VIEW {name} AS SELECT 1 AS one FROM {table} WHERE ({filter}\n);")
    };
    let statements = format!(
        "{} {} SELECT pg_get_viewdef('pg_temp.walvec_ours'::regclass) = pg_get_viewdef('pg_temp.walvec_theirs'::regclass); \
         ROLLBACK;",
        view("walvec_ours", ours),
        view("walvec_theirs", theirs)
    );
    match session.simple_query(&statements).await {
        Ok(messages) => Ok(messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(|same| same == "t"),
            _ => None,
        })),
        // No view can be created on a standby, and a role may lack the right.
        Err(error)
            if error.code().is_some_and(|state| {
                [SqlState::INSUFFICIENT_PRIVILEGE, SqlState::READ_ONLY_SQL_TRANSACTION].contains(state)
            }) =>
        {
            Ok(None)
        }
        // The publication has one of them, so it is the other one that is not valid.
        Err(error) if error.code().is_some_and(|state| ["22", "42"].contains(&&state.code()[..2])) => Ok(Some(false)),
        Err(error) => Err(statement_error("comparing the row filters", &error)),
    }
}
