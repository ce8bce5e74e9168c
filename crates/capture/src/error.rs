//! What can go wrong on the way from PostgreSQL, and what to do about it.

use walvec_model::TableName;

use crate::limits::Resource;

/// Why capture could not go on. Messages never contain a password or the connection string.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The connection settings cannot be used.
    #[error("the connection settings of the source cannot be used: {reason}")]
    Config {
        /// What is wrong with them.
        reason: String,
    },
    /// A setting does not fit the server, or what is on it.
    #[error("`{setting}`: {reason}")]
    Setting {
        /// The key in the configuration.
        setting: String,
        /// What is wrong with it.
        reason: String,
        /// What to write instead.
        remedy: String,
    },
    /// A condition in SQL that is not one.
    #[error("the condition cannot be used on {table}: {reason}")]
    Condition {
        /// The table.
        table: TableName,
        /// The server's words.
        reason: String,
    },
    /// The server cannot be reached, or the connection broke.
    #[error("cannot reach PostgreSQL at {server}: {reason}")]
    Connect {
        /// `host:port/database`.
        server: String,
        /// What happened.
        reason: String,
    },
    /// The server is not what `target_session_attrs` asks for.
    #[error("PostgreSQL at {server} is passed over: {found}, and target_session_attrs={wanted} asks for another one")]
    OtherTarget {
        /// `host:port/database`.
        server: String,
        /// The value of `target_session_attrs`.
        wanted: &'static str,
        /// What the server is.
        found: &'static str,
    },
    /// The server is a standby, and has worked as the primary before, or another one has under its address.
    #[error("PostgreSQL at {server} is a standby, in recovery: changes are followed on the primary")]
    Standby {
        /// `host:port/database`.
        server: String,
    },
    /// None of several hosts can be used.
    #[error("no host of the source can be used: {}", listed(.tried))]
    NoHost {
        /// What each of them said, in the order of the settings.
        tried: Vec<CaptureError>,
    },
    /// The server refused the credentials.
    #[error("PostgreSQL at {server} refused the login: {reason}")]
    Auth {
        /// `host:port/database`.
        server: String,
        /// The server's reason.
        reason: String,
    },
    /// The server has no database of that name.
    #[error("there is no database \"{database}\" on the PostgreSQL server {server}")]
    Database {
        /// The database that was asked for.
        database: String,
        /// `host:port`.
        server: String,
    },
    /// The connection could not be encrypted, or the server's certificate did not pass.
    #[error("no trusted TLS connection to PostgreSQL at {server}: {reason}")]
    Tls {
        /// `host:port/database`.
        server: String,
        /// The check that failed.
        reason: String,
    },
    /// `wal_level` does not allow logical decoding.
    #[error("wal_level is \"{found}\", but changes can only be read with \"logical\"")]
    WalLevel {
        /// The server's setting.
        found: String,
    },
    /// The role lacks a right.
    #[error("the role lacks a right, while {doing}: {reason}")]
    Rights {
        /// What was attempted.
        doing: String,
        /// The server's reason.
        reason: String,
        /// The statement that grants it, where it is known.
        grant: Option<String>,
    },
    /// A configured table does not exist, or is not a table whose changes can be read.
    #[error("table {table}: {reason}")]
    Table {
        /// The table.
        table: TableName,
        /// What was found instead.
        reason: String,
    },
    /// A table has nothing that names its rows.
    #[error("table {table} has no usable key: {reason}")]
    NoKey {
        /// The table.
        table: TableName,
        /// What was found.
        reason: String,
    },
    /// The publication is missing, or does not publish exactly the configured tables.
    #[error("publication \"{publication}\" does not match the configuration: {difference}")]
    Publication {
        /// Its name.
        publication: String,
        /// How it differs.
        difference: String,
        /// The SQL that makes it match.
        sql: String,
    },
    /// The publication belongs to something else, and cannot be read instead of one of walvec's own.
    #[error("publication \"{publication}\" is not walvec's, and cannot be read as it is: {difference}")]
    ForeignPublication {
        /// Its name.
        publication: String,
        /// How it differs from what is needed.
        difference: String,
    },
    /// The slot does not exist, so the changes since the last confirmed position cannot be had.
    #[error("replication slot \"{slot}\" does not exist")]
    SlotMissing {
        /// Its name.
        slot: String,
    },
    /// The slot exists already, where a new one has to be created.
    #[error("replication slot \"{slot}\" exists already")]
    SlotExists {
        /// Its name.
        slot: String,
    },
    /// The server has invalidated the slot: changes are gone for good.
    #[error("replication slot \"{slot}\" is lost: {reason}")]
    SlotLost {
        /// Its name.
        slot: String,
        /// The server's reason.
        reason: String,
    },
    /// Somebody else reads from the slot.
    #[error("replication slot \"{slot}\" is in use: {reason}")]
    SlotBusy {
        /// Its name.
        slot: String,
        /// The server's reason, with the process that uses it where known.
        reason: String,
    },
    /// A table changed in a way that its rows can no longer be followed.
    #[error("table {table} can no longer be followed: {reason}")]
    Schema {
        /// The table.
        table: TableName,
        /// What changed.
        reason: String,
    },
    /// A table is another one now than when the session began: who looks again finds out what that means.
    #[error("table {table} was altered: {reason}")]
    Altered {
        /// The table.
        table: TableName,
        /// What was found.
        reason: String,
    },
    /// A table was altered under a snapshot that was being copied, so that its rows cannot be read as they were planned.
    #[error("table {table} was altered while the snapshot was copied")]
    Rewritten {
        /// The table.
        table: TableName,
    },
    /// Rows that a snapshot has read cannot be read back from where they waited.
    #[error("rows that the snapshot has read cannot be read back from the data directory: {reason}")]
    Spool {
        /// What the file system says.
        reason: String,
    },
    /// A value is not text in UTF-8, and cannot be made so.
    #[error("{place}: a value is not valid UTF-8: {reason}")]
    Encoding {
        /// The table and the column, as far as they are known.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server sent something that the replication protocol does not allow.
    #[error("unexpected data from PostgreSQL: {reason}")]
    Protocol {
        /// What was wrong with it.
        reason: String,
    },
    /// A statement failed.
    #[error("PostgreSQL reported an error while {doing}: {reason} (SQLSTATE {sqlstate})")]
    Statement {
        /// What was attempted.
        doing: String,
        /// The server's message.
        reason: String,
        /// The server's error code.
        sqlstate: String,
    },
    /// The server could not send a row: the text of a value is longer than 1 GB.
    #[error("PostgreSQL could not send a row, while {doing}: {reason}")]
    TooLarge {
        /// What was attempted.
        doing: String,
        /// The server's message.
        reason: String,
    },
    /// The server could not send a change: the text of its row is longer than 1 GB. It fails again whenever it comes to that change.
    #[error("PostgreSQL cannot send a change, because its row fits into no message of 1 GB: {reason}")]
    Unsendable {
        /// The server's message.
        reason: String,
    },
    /// Another process writes the collection.
    #[error("collection \"{collection}\" is written by {holder}; two processes would overwrite each other's rows")]
    Owned {
        /// The collection.
        collection: String,
        /// Who writes it.
        holder: String,
    },
    /// The server has none left of something that it has a limited number or amount of.
    #[error("PostgreSQL has no {resource} left, while {doing}: {reason}")]
    Exhausted {
        /// What it has run out of.
        resource: Resource,
        /// What was attempted.
        doing: String,
        /// The server's message.
        reason: String,
    },
    /// What answers is a connection pooler, which shares its sessions out.
    #[error("a connection pooler answers at {server}, not the server itself: {reason}")]
    Pooler {
        /// `host:port/database`.
        server: String,
        /// Its words.
        reason: String,
    },
    /// The stream was closed, by its owner or after an earlier error.
    #[error("the stream is closed")]
    Closed,
}

fn listed(errors: &[CaptureError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl CaptureError {
    /// What decides about several hosts that failed: one that may be there later, else the first one.
    fn decisive(tried: &[Self]) -> Option<&Self> {
        let may_be_there_later =
            |error: &&Self| matches!(error, Self::Connect { .. } | Self::OtherTarget { .. } | Self::Exhausted { .. });
        tried.iter().find(may_be_there_later).or(tried.first())
    }

    /// The stable code under which documentation and programs know the error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Config { .. } | Self::Setting { .. } | Self::Condition { .. } => "E_CONFIG",
            Self::Connect { .. } | Self::OtherTarget { .. } | Self::Standby { .. } => "E_CONNECT",
            Self::NoHost { tried } => Self::decisive(tried).map_or("E_CONNECT", Self::code),
            Self::Owned { .. } => "E_OWNED",
            Self::Auth { .. } => "E_AUTH",
            Self::Database { .. } => "E_DATABASE",
            Self::Tls { .. } => "E_TLS",
            Self::WalLevel { .. } => "E_WAL_LEVEL",
            Self::Rights { .. } => "E_RIGHTS",
            Self::Table { .. } => "E_TABLE",
            Self::NoKey { .. } => "E_NO_KEY",
            Self::Publication { .. } | Self::ForeignPublication { .. } => "E_PUBLICATION",
            Self::SlotMissing { .. } => "E_SLOT_MISSING",
            Self::SlotExists { .. } => "E_SLOT_EXISTS",
            Self::SlotLost { .. } => "E_SLOT_LOST",
            Self::SlotBusy { .. } => "E_SLOT_BUSY",
            Self::Schema { .. } => "E_SCHEMA",
            Self::Altered { .. } => "E_ALTERED",
            Self::Rewritten { .. } => "E_REWRITTEN",
            Self::Spool { .. } => "E_SPOOL",
            Self::Encoding { .. } => "E_ENCODING",
            Self::Protocol { .. } => "E_PROTOCOL",
            Self::Statement { .. } => "E_STATEMENT",
            Self::TooLarge { .. } | Self::Unsendable { .. } => "E_TOO_LARGE",
            Self::Exhausted { .. } => "E_LIMIT",
            Self::Pooler { .. } => "E_POOLER",
            Self::Closed => "E_CLOSED",
        }
    }

    /// What to do about it, if there is something better than trying again.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        let text = match self {
            Self::Owned { .. } => {
                "stop the other process, or give this one collections of its own. If that process is gone, PostgreSQL notices within \
                 seconds"
                    .to_owned()
            }
            Self::Condition { .. } => {
                "write what could stand after WHERE, for example --where \"year >= 1990\"".to_owned()
            }
            Self::Config { .. } => {
                "use postgres://user:password@host:port/database?sslmode=..., with several hosts as \
                host1:port1,host2:port2, and with special characters percent-encoded"
                    .to_owned()
            }
            Self::OtherTarget { .. } => {
                "name the primary among the hosts of `source.url`; once the standby is promoted, walvec \
                goes on there by itself"
                    .to_owned()
            }
            Self::Standby { .. } => {
                "promote it, or give the address of the primary in `source.url`; walvec goes on by itself then".to_owned()
            }
            Self::NoHost { tried } => return Self::decisive(tried).and_then(Self::remedy),
            Self::Auth { .. } => "check user and password, and the server's pg_hba.conf".to_owned(),
            Self::Database { database, .. } => format!(
                "correct the database in `source.url`, or create it: CREATE DATABASE {};",
                crate::sql::quote_ident(database)
            ),
            Self::Tls { .. } => "give the certificate authority with sslrootcert=/path/to/ca.pem and connect by the \
                name in the certificate; sslmode=disable only where nobody can listen"
                .to_owned(),
            Self::WalLevel { .. } => "ALTER SYSTEM SET wal_level = 'logical'; then restart PostgreSQL".to_owned(),
            Self::Rights { grant: Some(grant), .. } => format!("as the owner of the database, or a superuser: {grant}"),
            Self::Rights { grant: None, .. } => {
                "`walvec check` lists the statements that grant what is missing".to_owned()
            }
            Self::Table { .. } => "correct the table's name, or create the table".to_owned(),
            Self::NoKey { table, .. } => {
                format!("ALTER TABLE {} ADD PRIMARY KEY (...);", crate::sql::quote_table(table))
            }
            Self::Publication { sql, .. } => sql.clone(),
            Self::ForeignPublication { publication, .. } => format!(
                "let `source.publication` be another name, for example {publication}_walvec: walvec makes a publication of its \
                 own, and leaves \"{publication}\" as it is"
            ),
            Self::Setting { remedy, .. } => remedy.clone(),
            Self::SlotMissing { .. } | Self::SlotLost { .. } | Self::Schema { .. } => {
                "read the tables again: `walvec reset`, then `walvec run`".to_owned()
            }
            Self::SlotExists { slot } => {
                format!("SELECT pg_drop_replication_slot({});", crate::sql::quote_literal(slot))
            }
            Self::SlotBusy { slot, .. } => format!(
                "stop the other reader, or give this one a slot of its own; a dead session of walvec's own is ended by the \
                 server after wal_sender_timeout, or at once by SELECT pg_terminate_backend(active_pid) FROM \
                 pg_replication_slots WHERE slot_name = {};",
                crate::sql::quote_literal(slot)
            ),
            Self::Encoding { .. } => "repair the value in the table".to_owned(),
            Self::Connect { .. } => "see that PostgreSQL runs there and accepts TCP connections; check host and port \
                of `source.url`"
                .to_owned(),
            Self::Unsendable { .. } => {
                "the text of a value is longer than 1 GB, as that of a bytea of 512 MB is. `walvec resync`, then `walvec run`: the \
                 tables are read again without it; or `source.on_gap: resync`, which does that by itself. Where no collection uses \
                 its column, `source.columns: used` lets PostgreSQL leave it out"
                    .to_owned()
            }
            Self::TooLarge { .. } => {
                "the text of a value is longer than 1 GB, as that of a bytea of 512 MB is: make the value shorter, or leave its column \
                 out of the collection's templates and `payload`"
                    .to_owned()
            }
            Self::Exhausted { resource, .. } => resource.remedy().to_owned(),
            Self::Pooler { .. } => {
                "walvec needs the direct address of the server: put its own host and port into \
                `source.url`, not those of PgBouncer, Supavisor, RDS Proxy or another pooler"
                    .to_owned()
            }
            Self::Altered { .. }
            | Self::Rewritten { .. }
            | Self::Spool { .. }
            | Self::Protocol { .. }
            | Self::Statement { .. }
            | Self::Closed => return None,
        };
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_can_be_pasted_into_psql() {
        let error = CaptureError::NoKey { table: TableName::new("a\"b", "T x"), reason: "none".to_owned() };
        assert_eq!(error.remedy().unwrap(), r#"ALTER TABLE "a""b"."T x" ADD PRIMARY KEY (...);"#);
    }
}
