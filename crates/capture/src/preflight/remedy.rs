//! Remedies for findings: advice in words, or statements for psql.

use std::fmt;

use walvec_model::TableName;

use super::{Finding, Severity};
use crate::catalog::Service;

/// What to do about a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// A decision, or something to do outside of SQL.
    Words(String),
    /// Statements that succeed in this order.
    Statements(Vec<Statement>),
}

impl From<String> for Remedy {
    fn from(words: String) -> Self {
        Self::Words(words)
    }
}

impl From<&str> for Remedy {
    fn from(words: &str) -> Self {
        Self::Words(words.to_owned())
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => f.write_str(words),
            Self::Statements(statements) => {
                f.write_str(&statements.iter().map(|statement| statement.sql.as_str()).collect::<Vec<_>>().join(" "))
            }
        }
    }
}

/// SQL that fixes a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The role that may run it.
    pub by: Actor,
    /// One line of SQL. It is only a comment if a managed service has no statement for it.
    pub sql: String,
}

/// A role that may run a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A superuser, or the role of a managed service that is closest to one.
    Administrator,
    /// The owner of something.
    Owner {
        /// The role.
        role: String,
        /// What the role owns.
        of: OwnedObject,
    },
}

impl Actor {
    /// Returns the order in which actors run: grants on the database come before what they make possible.
    const fn rank(&self) -> u8 {
        match self {
            Self::Administrator => 0,
            Self::Owner { of: OwnedObject::Database, .. } => 1,
            Self::Owner { .. } => 2,
        }
    }

    fn role(&self) -> Option<&str> {
        match self {
            Self::Administrator => None,
            Self::Owner { role, .. } => Some(role),
        }
    }
}

/// Something that has an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnedObject {
    /// The database.
    Database,
    /// A schema.
    Schema(String),
    /// A table.
    Table(TableName),
    /// A publication.
    Publication(String),
}

impl fmt::Display for OwnedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database => f.write_str("the database"),
            Self::Schema(name) => write!(f, "the schema {name}"),
            Self::Table(name) => write!(f, "{name}"),
            Self::Publication(name) => write!(f, "the publication {name}"),
        }
    }
}

/// The statements for several findings, grouped by the role that runs them, in an order in which they succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The database to connect to.
    pub database: String,
    /// The statements of each role, in order.
    pub parts: Vec<ScriptPart>,
}

/// The statements that one role runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptPart {
    /// The role; `None` for a superuser or an administrator.
    pub role: Option<String>,
    /// A description of the role for users.
    pub who: String,
    /// The statements, in order.
    pub statements: Vec<String>,
}

impl Script {
    /// Returns the statements that fix the errors among `findings`; `None` if there are none.
    pub(super) fn of(findings: &[Finding], database: &str, service: Option<Service>) -> Option<Self> {
        let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
        let mut statements: Vec<&Statement> = errors.flat_map(|finding| finding.remedy.statements()).collect();
        statements.sort_by_key(|statement| statement.by.rank());
        let mut parts: Vec<(&Actor, Vec<&OwnedObject>, Vec<String>)> = Vec::new();
        for Statement { by, sql } in statements {
            let index = parts.iter().position(|(actor, ..)| actor.role() == by.role()).unwrap_or_else(|| {
                parts.push((by, Vec::new(), Vec::new()));
                parts.len() - 1
            });
            let (_, owned, lines) = &mut parts[index];
            if let Actor::Owner { of, .. } = by
                && !owned.contains(&of)
            {
                owned.push(of);
            }
            if !lines.contains(sql) {
                lines.push(sql.clone());
            }
        }
        let part = |(actor, owned, statements): (&Actor, Vec<&OwnedObject>, Vec<String>)| ScriptPart {
            role: actor.role().map(str::to_owned),
            who: who(actor.role(), &owned, service),
            statements,
        };
        let parts: Vec<ScriptPart> = parts.into_iter().map(part).collect();
        (!parts.is_empty()).then(|| Self { database: database.to_owned(), parts })
    }
}

/// Describes a role, for example `"shop", who owns the database and public.books, or a superuser`.
fn who(role: Option<&str>, owned: &[&OwnedObject], service: Option<Service>) -> String {
    let Some(role) = role else {
        return service.map_or_else(
            || "a superuser, or the administrator of a managed service".to_owned(),
            |service| service.administrator().to_owned(),
        );
    };
    let owned: Vec<String> = owned.iter().map(|owned| owned.to_string()).collect();
    let owned = match owned.as_slice() {
        [first, second, third, rest @ ..] if !rest.is_empty() => {
            format!("{first}, {second}, {third} and {} more", rest.len())
        }
        [but_last @ .., last] if !but_last.is_empty() => format!("{} and {last}", but_last.join(", ")),
        all => all.concat(),
    };
    let else_who = if service.is_some() { "a member of that role" } else { "a superuser" };
    format!("\"{role}\", who owns {owned}, or {else_who}")
}

impl fmt::Display for Script {
    /// Formats the script as lines for psql, with comments that name the role for each part.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = vec![format!("-- in psql, connected to the database \"{}\"", self.database)];
        for ScriptPart { who, statements, .. } in &self.parts {
            lines.push(format!("-- as {who}"));
            lines.extend(statements.iter().cloned());
        }
        f.write_str(&lines.join("\n"))
    }
}

impl Remedy {
    /// Returns the statements, if the remedy consists of statements.
    #[must_use]
    pub fn statements(&self) -> &[Statement] {
        match self {
            Self::Words(_) => &[],
            Self::Statements(statements) => statements,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(statements: Vec<Statement>) -> Finding {
        Finding::error("E_RIGHTS", "something is missing", Remedy::Statements(statements))
    }

    fn owner(role: &str, of: OwnedObject) -> Actor {
        Actor::Owner { role: role.to_owned(), of }
    }

    fn statement(by: Actor, sql: &str) -> Statement {
        Statement { by, sql: sql.to_owned() }
    }

    #[test]
    fn what_makes_others_possible_comes_first_and_each_role_has_one_part() {
        let table = OwnedObject::Table(TableName::new("public", "t"));
        let findings = [
            error(vec![statement(owner("shop", table.clone()), "grant 1;")]),
            error(vec![
                statement(owner("dba", OwnedObject::Database), "grant create;"),
                statement(owner("shop", table), "create;"),
            ]),
            error(vec![statement(Actor::Administrator, "alter;"), statement(Actor::Administrator, "alter;")]),
            Finding::warning("E_SLOW", "slow", Remedy::Words("an index".to_owned())),
        ];
        let script = Script::of(&findings, "d", None).unwrap().to_string();
        let expected = "\
            -- in psql, connected to the database \"d\"\n\
            -- as a superuser, or the administrator of a managed service\n\
            alter;\n\
            -- as \"dba\", who owns the database, or a superuser\n\
            grant create;\n\
            -- as \"shop\", who owns public.t, or a superuser\n\
            grant 1;\n\
            create;";
        assert_eq!(script, expected);
        assert_eq!(Script::of(&findings[3..], "d", None), None);
    }

    #[test]
    fn a_managed_service_has_no_superuser() {
        let schema = OwnedObject::Schema("s".to_owned());
        let findings = [error(vec![statement(Actor::Administrator, "a;"), statement(owner("shop", schema), "b;")])];
        let script = Script::of(&findings, "d", Some(Service::Rds)).unwrap().to_string();
        assert!(script.contains("as a member of rds_superuser") && !script.contains("a superuser"), "{script}");
    }
}
