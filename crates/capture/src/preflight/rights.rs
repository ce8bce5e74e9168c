//! Finds the rights that the role lacks, and which role can grant them.

use walvec_model::TableName;

use super::remedy::{Actor, OwnedObject, Remedy, Statement};
use super::{Finding, Severity, Subject};
use crate::CaptureError;
use crate::catalog::{ColumnFacts, Leaf, OwnerRole, ServerFacts, TableFacts, facts_by_oid};
use crate::connect::{Session, statement_error};
use crate::published::Published;
use crate::sql::{quote_columns, quote_ident, quote_table};

/// The role that stands for the database's owner, since PostgreSQL 14.
const DATABASE_OWNER: &str = "pg_database_owner";

/// The role that walvec connects as, and the owners of what it needs.
pub(super) struct Rights<'a> {
    pub(super) server: &'a ServerFacts,
    database_owner: OwnerRole,
    /// Whether the role may create objects in the database.
    pub(super) may_create: bool,
}

const QUERY: &str = "
    SELECT o.rolname::text, o.rolsuper, has_database_privilege(d.oid, 'CREATE')
    FROM pg_database d
    JOIN pg_roles o ON o.oid = d.datdba
    WHERE d.datname = current_database()";

impl<'a> Rights<'a> {
    pub(super) async fn of(session: &Session, server: &'a ServerFacts) -> Result<Self, CaptureError> {
        let row = session.query_one(QUERY, &[]).await.map_err(|error| statement_error("checking rights", &error))?;
        Ok(Self { server, database_owner: OwnerRole::at(&row, 0), may_create: row.get(2) })
    }

    /// Returns the role, quoted.
    pub(super) fn role(&self) -> String {
        quote_ident(&self.server.role)
    }

    /// Returns the role that may run a statement reserved to the owner of `of`.
    pub(super) fn actor(&self, owner: &OwnerRole, of: OwnedObject) -> Actor {
        if owner.name == DATABASE_OWNER && of != OwnedObject::Database {
            return self.actor(&self.database_owner, of);
        }
        if owner.is_superuser {
            return Actor::Administrator;
        }
        Actor::Owner { role: owner.name.clone(), of }
    }

    /// Returns the statement for a setting that takes effect after a restart.
    pub(super) fn setting(&self, name: &str, value: impl std::fmt::Display) -> Statement {
        let sql = match self.server.service {
            Some(service) if name == "wal_level" => format!("-- {}", service.logical_wal()),
            Some(service) => format!("-- set {name} = {value} {}", service.settings()),
            None => format!(
                "ALTER SYSTEM SET {name} = {value}; -- then restart PostgreSQL; a managed service has this in its own settings"
            ),
        };
        Statement { by: Actor::Administrator, sql }
    }

    /// Returns the finding for a replication session that the server has refused with this message.
    pub(super) fn replication(&self, words: &str) -> Finding {
        let role = self.role();
        let sql = match self.server.service {
            Some(service) => service.replication(&role, self.server.version_num),
            None => format!("ALTER ROLE {role} REPLICATION;"),
        };
        missing(
            format!("role {role} may not replicate, so no changes can be read; the server says: {words}"),
            vec![Statement { by: Actor::Administrator, sql }],
        )
    }

    /// Returns what prevents the role from copying a table, or those of its columns that the publication sends.
    pub(super) fn reading(&self, facts: &TableFacts, published: Option<&Published>) -> Vec<Finding> {
        let (table, role) = (&facts.name, self.role());
        let mut findings = Vec::new();
        let sent = published.and_then(|published| published.columns.as_ref());
        let is_sent = |name: &String| sent.is_none_or(|sent| sent.contains(name));
        let columns: Vec<&ColumnFacts> = facts.columns.iter().filter(|column| is_sent(&column.column.name)).collect();
        let hidden = columns.iter().filter(|column| !column.can_select).map(|column| column.column.name.as_str());
        let hidden: Vec<&str> = if facts.can_select { Vec::new() } else { hidden.collect() };
        let mut statements: Vec<Statement> = self.using_schema(facts).into_iter().collect();
        let mut message = format!("role {role} may not read {table}, so it cannot be copied");
        if !hidden.is_empty() {
            let (all, is_whole) = (columns.len() == facts.columns.len(), hidden.len() == columns.len());
            let ctid = (!facts.reads_ctid).then_some("ctid");
            let what =
                if all { String::new() } else { format!(" ({})", quote_columns(hidden.iter().copied().chain(ctid))) };
            let by = self.actor(&facts.owner, OwnedObject::Table(table.clone()));
            statements.push(Statement { by, sql: format!("GRANT SELECT{what} ON {} TO {role};", quote_table(table)) });
            if !is_whole {
                message =
                    format!("role {role} may not read {} of {table}, so it cannot be copied", quote_columns(hidden));
                if self.server.capabilities.column_lists && all {
                    message
                        .push_str("; to keep that hidden, publish the other columns only: FOR TABLE ... (column, ...)");
                }
            }
        }
        if !statements.is_empty() {
            findings.push(missing(message, statements));
        } else if !facts.reads_ctid {
            let by = self.actor(&facts.owner, OwnedObject::Table(table.clone()));
            let sql = format!("GRANT SELECT (ctid) ON {} TO {role};", quote_table(table));
            let message = format!(
                "role {role} may read columns of {table}, and not ctid: the table is copied by one statement, for whose end ALTER TABLE and \
                 TRUNCATE wait, instead of in pieces"
            );
            findings.push(Finding { severity: Severity::Warning, ..missing(message, vec![Statement { by, sql }]) });
        }
        if facts.row_security {
            let sql = format!("ALTER ROLE {role} BYPASSRLS;");
            let statements = vec![Statement { by: Actor::Administrator, sql }];
            findings.push(missing(format!("row-level security hides rows of {table} from role {role}"), statements));
        }
        findings
    }

    /// Returns the finding for a role that may not create views, which show the columns that a filter uses. Without
    /// them, walvec cannot tell whether the filter breaks the application's updates.
    pub(super) fn making_views(&self, facts: &TableFacts) -> Finding {
        let (role, database) = (self.role(), quote_ident(&self.server.database));
        let message = format!(
            "role {role} may not make temporary views, through which walvec asks which columns `where` of {} uses: if the replica \
             identity does not hold them, PostgreSQL refuses every UPDATE and DELETE of the table once it is published",
            facts.name
        );
        let sql = format!("GRANT TEMPORARY ON DATABASE {database} TO {role};");
        missing(message, vec![Statement { by: self.actor(&self.database_owner, OwnedObject::Database), sql }])
    }

    /// Returns the grant on the table's schema, without which nothing in it can be read, if it is missing.
    fn using_schema(&self, facts: &TableFacts) -> Option<Statement> {
        let schema = &facts.name.schema;
        (!facts.can_use_schema).then(|| Statement {
            by: self.actor(&facts.schema_owner, OwnedObject::Schema(schema.clone())),
            sql: format!("GRANT USAGE ON SCHEMA {} TO {};", quote_ident(schema), self.role()),
        })
    }

    /// Returns the statements that let the role read partitions directly.
    pub(super) async fn reading_leaves(
        &self,
        session: &Session,
        leaves: &[Leaf],
    ) -> Result<Vec<Statement>, CaptureError> {
        let mut statements = Vec::new();
        for leaf in leaves {
            let Some(facts) = facts_by_oid(session, leaf.oid).await? else { continue };
            statements.extend(self.using_schema(&facts).filter(|statement| !statements.contains(statement)));
            let by = self.actor(&facts.owner, OwnedObject::Table(leaf.name.clone()));
            let sql = format!("GRANT SELECT ON {} TO {};", quote_table(&leaf.name), self.role());
            statements.push(Statement { by, sql });
        }
        Ok(statements)
    }

    /// Returns what prevents the role from creating the publication with `sql`, for tables with these owners.
    pub(super) async fn creating(
        &self,
        session: &Session,
        publication: &str,
        tables: &[TableFacts],
        sql: String,
    ) -> Result<Option<Finding>, CaptureError> {
        let mut owners: Vec<(&OwnerRole, &TableName)> = Vec::new();
        for facts in tables {
            if !owners.iter().any(|(owner, _)| **owner == facts.owner) {
                owners.push((&facts.owner, &facts.name));
            }
        }
        let mut is_owner = true;
        for (owner, _) in &owners {
            is_owner &= self.has_rights_of(session, &owner.name).await?;
        }
        let statements = match owners.as_slice() {
            _ if is_owner && self.may_create => return Ok(None),
            _ if is_owner => vec![self.grant_create(&self.server.role)],
            [(owner, table)] if !owner.is_superuser => {
                let grant = match may_create(session, &owner.name).await? {
                    true => None,
                    false => Some(self.grant_create(&owner.name)),
                };
                let by = self.actor(owner, OwnedObject::Table((*table).clone()));
                grant.into_iter().chain([Statement { by, sql }]).collect()
            }
            // A publication has one owner, who must own all of its tables or be a superuser.
            owners => {
                let roles: Vec<String> = owners.iter().map(|(owner, _)| quote_ident(&owner.name)).collect();
                let join = self.server.service.map(|_| format!("GRANT {} TO CURRENT_USER;", roles.join(", ")));
                let statement = |sql| Statement { by: Actor::Administrator, sql };
                join.into_iter().chain([sql]).map(statement).collect()
            }
        };
        let message = format!("publication \"{publication}\" is missing, and role {} may not create it", self.role());
        Ok(Some(missing(message, statements)))
    }

    /// Returns the role that can alter the publication with `sql`: its owner, if that role owns the tables too.
    pub(super) async fn altering(
        &self,
        session: &Session,
        publication: &str,
        tables: &[TableFacts],
        sql: String,
    ) -> Result<Statement, CaptureError> {
        let owners: Vec<&str> = tables.iter().map(|facts| facts.owner.name.as_str()).collect();
        let query = "
            SELECT o.rolname::text, o.rolsuper,
                   NOT EXISTS (SELECT FROM unnest($2::text[]) AS t (owner)
                               WHERE NOT pg_has_role(p.pubowner, t.owner::name, 'USAGE'))
            FROM pg_publication p JOIN pg_roles o ON o.oid = p.pubowner WHERE p.pubname = $1";
        let row = session.query_one(query, &[&publication, &owners]).await;
        let row = row.map_err(|error| statement_error("checking rights", &error))?;
        let by = match row.get(2) {
            true => self.actor(&OwnerRole::at(&row, 0), OwnedObject::Publication(publication.to_owned())),
            false => Actor::Administrator,
        };
        Ok(Statement { by, sql })
    }

    fn grant_create(&self, role: &str) -> Statement {
        let database = quote_ident(&self.server.database);
        Statement {
            by: self.actor(&self.database_owner, OwnedObject::Database),
            sql: format!("GRANT CREATE ON DATABASE {database} TO {};", quote_ident(role)),
        }
    }

    async fn has_rights_of(&self, session: &Session, role: &str) -> Result<bool, CaptureError> {
        let row = session.query_one("SELECT pg_has_role($1::text::name, 'USAGE')", &[&role]).await;
        Ok(row.map_err(|error| statement_error("checking rights", &error))?.get(0))
    }
}

async fn may_create(session: &Session, role: &str) -> Result<bool, CaptureError> {
    let query = "SELECT has_database_privilege($1::text::name, current_database(), 'CREATE')";
    let row = session.query_one(query, &[&role]).await;
    Ok(row.map_err(|error| statement_error("checking rights", &error))?.get(0))
}

fn missing(message: String, statements: Vec<Statement>) -> Finding {
    Finding {
        severity: Severity::Error,
        code: "E_RIGHTS",
        message,
        remedy: Remedy::Statements(statements),
        subject: Subject::Other,
    }
}
