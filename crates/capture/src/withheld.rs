//! Finds out why a column of a table is not read.

use walvec_model::TableName;

use crate::CaptureError;
use crate::catalog::{Generated, facts_by_name};
use crate::published::published_tables;
use crate::server::Source;
use crate::sql::{quote_ident, quote_table};

/// A column that a table has and that is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withheld {
    /// The reason, as a relative clause.
    pub reason: String,
    /// What to type.
    pub remedy: String,
}

impl Source {
    /// Returns why `column` of `table` is not read; `None` if the table has no such column, or if it is read.
    ///
    /// # Errors
    /// Fails if the catalogue cannot be read.
    pub async fn withheld(&self, table: &TableName, column: &str) -> Result<Option<Withheld>, CaptureError> {
        let (session, server) = (self.session().await?, self.server());
        let Some(facts) = facts_by_name(&session, table).await? else { return Ok(None) };
        let Some(found) = facts.columns.iter().find(|found| found.column.name == column) else { return Ok(None) };
        let can = server.capabilities;
        let major = server.version_num / 10_000;
        let name = &self.config.publication;
        Ok(match &found.generated {
            Some(Generated { expression, .. }) if !can.generated_columns => Some(Withheld {
                reason: format!(
                    "which is generated as {expression}: PostgreSQL {major} does not send generated columns (18 sends those that \
                     are stored)"
                ),
                remedy: format!(
                    "write the expression in the template, from the columns that it uses; or let a trigger fill an ordinary \
                     column in place of \"{column}\""
                ),
            }),
            Some(Generated { is_stored: false, expression }) => Some(Withheld {
                reason: format!(
                    "which is generated as {expression} when it is read: PostgreSQL sends only generated columns that are stored"
                ),
                remedy: format!(
                    "write the expression in the template, from the columns that it uses; or store the column: ALTER TABLE {table} \
                     DROP COLUMN {column}, ADD COLUMN {column} {type_name} GENERATED ALWAYS AS ({expression}) STORED;",
                    table = quote_table(table),
                    column = quote_ident(column),
                    type_name = found.column.type_name,
                ),
            }),
            generated => {
                let published = published_tables(&session, name, can).await?;
                let sent = published.get(table).and_then(|published| published.columns.as_ref());
                sent.filter(|sent| !sent.iter().any(|sent| sent == column)).map(|_| match generated {
                    Some(Generated { expression, .. }) => Withheld {
                        reason: format!(
                            "which is generated as {expression}: the publication \"{name}\" does not send generated columns"
                        ),
                        remedy: format!(
                            "ALTER PUBLICATION {} SET (publish_generated_columns = stored);",
                            quote_ident(name)
                        ),
                    },
                    None => Withheld {
                        reason: format!("which the publication \"{name}\" leaves out of its list of columns"),
                        remedy: format!(
                            "remove \"{column}\" from the configuration, or add it to the list of columns of {table} in the \
                             publication"
                        ),
                    },
                })
            }
        })
    }
}
