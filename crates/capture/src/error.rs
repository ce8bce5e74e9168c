//! Errors of capture, and what to do about them.

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
    /// A setting does not fit the server or its contents.
    #[error("`{setting}`: {reason}")]
    Setting {
        /// The key in the configuration.
        setting: String,
        /// What is wrong with it.
        reason: String,
        /// What to write instead.
        remedy: String,
    },
    /// A condition in SQL is not valid.
    #[error("the condition cannot be used on {table}: {reason}")]
    Condition {
        /// The table.
        table: TableName,
        /// The server's message.
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
    /// The server does not match `target_session_attrs`.
    #[error("PostgreSQL at {server} is passed over: {found}, and target_session_attrs={wanted} asks for another one")]
    OtherTarget {
        /// `host:port/database`.
        server: String,
        /// The value of `target_session_attrs`.
        wanted: &'static str,
        /// What kind of server it is.
        found: &'static str,
    },
    /// The server is a standby, but it was the primary before, or a primary was at its address.
    #[error("PostgreSQL at {server} is a standby, in recovery: changes are followed on the primary")]
    Standby {
        /// `host:port/database`.
        server: String,
    },
    /// None of several hosts can be used.
    #[error("no host of the source can be used: {}", listed(.tried))]
    NoHost {
        /// The errors of all hosts, in the order of the settings.
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
    /// The server has no database with this name.
    #[error("there is no database \"{database}\" on the PostgreSQL server {server}")]
    Database {
        /// The requested database.
        database: String,
        /// `host:port`.
        server: String,
    },
    /// The connection could not be encrypted, or the server's certificate was not accepted.
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
    /// A table has no columns that identify its rows.
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
        /// The publication's name.
        publication: String,
        /// How it differs.
        difference: String,
        /// The SQL that makes it match.
        sql: String,
    },
    /// The publication belongs to another program, and cannot be used in place of walvec's own.
    #[error("publication \"{publication}\" is not walvec's, and cannot be read as it is: {difference}")]
    ForeignPublication {
        /// The publication's name.
        publication: String,
        /// How it differs from what is needed.
        difference: String,
    },
    /// The slot does not exist, so the changes since the last confirmed position are not available.
    #[error("replication slot \"{slot}\" does not exist")]
    SlotMissing {
        /// The slot's name.
        slot: String,
    },
    /// The slot already exists, but a new one has to be created.
    #[error("replication slot \"{slot}\" exists already")]
    SlotExists {
        /// The slot's name.
        slot: String,
    },
    /// The server has invalidated the slot. Changes are lost.
    #[error("replication slot \"{slot}\" is lost: {reason}")]
    SlotLost {
        /// The slot's name.
        slot: String,
        /// The server's reason.
        reason: String,
    },
    /// Another process reads from the slot.
    #[error("replication slot \"{slot}\" is in use: {reason}")]
    SlotBusy {
        /// The slot's name.
        slot: String,
        /// The server's reason, with the process that uses the slot if it is known.
        reason: String,
    },
    /// A table changed in such a way that its rows can no longer be followed.
    #[error("table {table} can no longer be followed: {reason}")]
    Schema {
        /// The table.
        table: TableName,
        /// What changed.
        reason: String,
    },
    /// A table is no longer as it was when the session began. The next look at the catalogue shows what that means.
    #[error("table {table} was altered: {reason}")]
    Altered {
        /// The table.
        table: TableName,
        /// What was found.
        reason: String,
    },
    /// A table was altered while a snapshot of it was copied, so its rows cannot be read as planned.
    #[error("table {table} was altered while the snapshot was copied")]
    Rewritten {
        /// The table.
        table: TableName,
    },
    /// Rows that a snapshot has read cannot be read back from the data directory.
    #[error("rows that the snapshot has read cannot be read back from the data directory: {reason}")]
    Spool {
        /// The error of the file system.
        reason: String,
    },
    /// A value is not text in UTF-8, and cannot be converted to it.
    #[error("{place}: a value is not valid UTF-8: {reason}")]
    Encoding {
        /// The table and the column, if they are known.
        place: String,
        /// What is wrong with the value.
        reason: String,
    },
    /// The server sent something that the replication protocol does not allow.
    #[error("unexpected data from PostgreSQL: {reason}")]
    Protocol {
        /// What is wrong with the data.
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
    /// The server could not send a change, because the text of its row is longer than 1 GB. It fails again whenever it
    /// reaches that change.
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
        /// The process that writes the collection.
        holder: String,
    },
    /// The server has exhausted a limited resource.
    #[error("PostgreSQL has no {resource} left, while {doing}: {reason}")]
    Exhausted {
        /// The exhausted resource.
        resource: Resource,
        /// What was attempted.
        doing: String,
        /// The server's message.
        reason: String,
    },
    /// The server is a connection pooler that shares its sessions between clients.
    #[error("a connection pooler answers at {server}, not the server itself: {reason}")]
    Pooler {
        /// `host:port/database`.
        server: String,
        /// The pooler's message.
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
    /// Returns the error that decides when several hosts failed: the first that may pass, or else the first one.
    fn decisive(tried: &[Self]) -> Option<&Self> {
        let may_be_there_later =
            |error: &&Self| matches!(error, Self::Connect { .. } | Self::OtherTarget { .. } | Self::Exhausted { .. });
        tried.iter().find(may_be_there_later).or(tried.first())
    }

    /// Returns the stable code by which documentation and programs refer to the error.
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

    /// Returns what to do about the error, if there is something better than trying again.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        let text = match self {
            Self::Owned { .. } => END_THE_OTHER.to_owned(),
            Self::Condition { .. } => {
                "write what could stand after WHERE, for example --where \"year >= 1990\"".to_owned()
            }
            Self::Config { .. } => WRITE_AS_URL.to_owned(),
            Self::OtherTarget { .. } => NAME_THE_PRIMARY.to_owned(),
            Self::Standby { .. } => {
                "promote it, or give the address of the primary in `source.url`; walvec then continues automatically"
                    .to_owned()
            }
            Self::NoHost { tried } => return Self::decisive(tried).and_then(Self::remedy),
            Self::Auth { .. } => "check user and password, and the server's pg_hba.conf".to_owned(),
            Self::Database { database, .. } => format!(
                "correct the database in `source.url`, or create it: CREATE DATABASE {};",
                crate::sql::quote_ident(database)
            ),
            Self::Tls { .. } => GIVE_THE_AUTHORITY.to_owned(),
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
            Self::Connect { .. } => CHECK_THE_ADDRESS.to_owned(),
            Self::Unsendable { .. } => READ_WITHOUT_IT.to_owned(),
            Self::TooLarge { .. } => MAKE_IT_SHORTER.to_owned(),
            Self::Exhausted { resource, .. } => resource.remedy().to_owned(),
            Self::Pooler { .. } => NO_POOLER.to_owned(),
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

// What to do about an error.
const END_THE_OTHER: &str = "\
    stop the other process, or give this one collections of its own. If that process is gone, PostgreSQL notices within \
    seconds";
const WRITE_AS_URL: &str = "\
    use postgres://user:password@host:port/database?sslmode=..., with several hosts as \
    host1:port1,host2:port2, and with special characters percent-encoded";
const NAME_THE_PRIMARY: &str = "\
    name the primary among the hosts of `source.url`; once the standby is promoted, walvec \
    continues there automatically";
const GIVE_THE_AUTHORITY: &str = "\
    name the certificate authority with sslrootcert=/path/to/ca.pem, and connect to the host \
    name in the certificate; use sslmode=disable only where no one can listen on the network";
const READ_WITHOUT_IT: &str = "\
    the text of a value is longer than 1 GB, as that of a bytea of 512 MB is. `walvec resync`, then `walvec run`: the \
    tables are read again without it; or `source.on_gap: resync`, which does that automatically. Where no collection uses \
    its column, `source.columns: used` lets PostgreSQL leave it out";
const MAKE_IT_SHORTER: &str = "\
    the text of a value is longer than 1 GB, as that of a bytea of 512 MB is: make the value shorter, or leave its column \
    out of the collection's templates and `payload`";
const NO_POOLER: &str = "\
    walvec needs the direct address of the server: put its own host and port into \
    `source.url`, not those of PgBouncer, Supavisor, RDS Proxy or another pooler";
const CHECK_THE_ADDRESS: &str = "\
    check that PostgreSQL runs there and accepts TCP connections, and check the host and port \
    in `source.url`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_can_be_pasted_into_psql() {
        let error = CaptureError::NoKey { table: TableName::new("a\"b", "T x"), reason: "none".to_owned() };
        assert_eq!(error.remedy().unwrap(), r#"ALTER TABLE "a""b"."T x" ADD PRIMARY KEY (...);"#);
    }
}
