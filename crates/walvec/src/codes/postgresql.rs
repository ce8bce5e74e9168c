//! Codes of PostgreSQL.

use super::{Code, CodeSubject};

/// The risk of a problem that walvec waits for, or stops at, without a loss.
const KEPT: &str = "Nothing is lost. PostgreSQL keeps the log for the slot, up to `max_slot_wal_keep_size`, and the \
                    points stay as they were until walvec continues.";

pub(super) static SUBJECT: CodeSubject = CodeSubject {
    title: "PostgreSQL",
    intro: None,
    codes: &[
        Code {
            name: "E_CONNECT",
            meaning: "PostgreSQL cannot be reached, or the connection broke. Or the server is a standby, and \
                      `target_session_attrs` or walvec needs the primary. At the start walvec ends with this error; \
                      later it waits.",
            risk: KEPT,
            remedy: "Check that PostgreSQL runs there and accepts TCP connections, and check the host and port in \
                     `source.url`. If a standby answers, promote it, or name the primary. A running walvec then \
                     continues automatically. At the start, let a supervisor restart walvec with a delay.",
            see: Some("postgresql.md#connection-and-tls"),
        },
        Code {
            name: "E_DATABASE",
            meaning: "The PostgreSQL server has no database of that name.",
            risk: KEPT,
            remedy: "Correct the database in `source.url`, or create it: `CREATE DATABASE ...;`.",
            see: Some("postgresql.md#connection-and-tls"),
        },
        Code {
            name: "E_AUTH",
            meaning: "PostgreSQL refused the login.",
            risk: KEPT,
            remedy: "Check user and password in `source.url`, and the server's `pg_hba.conf`: a line for the \
                     database has to admit the role.",
            see: Some("postgresql.md#as-a-superuser"),
        },
        Code {
            name: "E_TLS",
            meaning: "There is no trusted TLS connection to PostgreSQL. As a warning of `walvec check`: a key \
                      travels unencrypted to a provider or to a Qdrant server on another machine.",
            risk: "walvec does not connect to PostgreSQL, and nothing is lost. Where `walvec check` warns, anyone on the \
                   network path can read the key and the texts, and with the key of a Qdrant server read and delete \
                   everything there.",
            remedy: "Name the certificate authority with `sslrootcert=/path/to/ca.pem`, and connect to the host name \
                     in the certificate. Use `sslmode=disable` only where no one else can listen on the network. For \
                     the warning: let `embedding.url` or `sink.qdrant.url` begin with `https://`.",
            see: Some("postgresql.md#connection-and-tls"),
        },
        Code {
            name: "E_RIGHTS",
            meaning: "The role lacks a right in PostgreSQL. That may be a right on the server, on a schema or on a \
                      table, or row-level security that hides rows from it. As a warning: the first copy cannot read \
                      a table in pieces, or its partitions by several connections.",
            risk: "Nothing is lost. If walvec may no longer read a table that it followed, only that table stops: \
                   its points stay as they were, and the other tables continue. Otherwise walvec does not start, or \
                   stops.",
            remedy: "`walvec check` lists the statements that grant what is missing; paste them into `psql`.",
            see: Some("postgresql.md#what-it-needs"),
        },
        Code {
            name: "E_WAL_LEVEL",
            meaning: "`wal_level` is not `logical`, so the log does not say which rows have changed.",
            risk: "Nothing is lost. walvec does not start.",
            remedy: "`ALTER SYSTEM SET wal_level = 'logical';`, then restart PostgreSQL.",
            see: Some("postgresql.md#what-it-needs"),
        },
        Code {
            name: "E_LIMIT",
            meaning: "A limit of PostgreSQL is reached. That may be replication slots, replication connections, \
                      connections, memory or disk space. At the first start, and for a backfill or a repair, it is \
                      an error, except for memory and disk space. Otherwise walvec waits.",
            risk: KEPT,
            remedy: "End what is not needed (`SELECT slot_name, active FROM pg_replication_slots;`, `SELECT pid, \
                     application_name, state FROM pg_stat_replication;`, `SELECT pid, usename, application_name FROM \
                     pg_stat_activity;`), or raise `max_replication_slots`, `max_wal_senders` or `max_connections` \
                     and restart PostgreSQL. A role or a database may have a `CONNECTION LIMIT` of its own. For \
                     memory and disk space: make room. walvec then continues automatically.",
            see: Some("postgresql.md#what-it-needs"),
        },
        Code {
            name: "E_POOLER",
            meaning: "A connection pooler answers, not the server itself. A pooler shares its sessions among \
                      clients, but walvec's sessions keep settings, locks and snapshots.",
            risk: "Nothing. walvec ends before it sets anything in a session of the pooler.",
            remedy: "Put the server's own host and port into `source.url`, not those of PgBouncer, Supavisor, RDS \
                     Proxy or another pooler.",
            see: Some("postgresql.md#poolers"),
        },
        Code {
            name: "E_PUBLICATION",
            meaning: "The publication is not the one that the configuration needs. It is missing, publishes other \
                      tables or changes, belongs to something else, was renamed, or was dropped, created again or \
                      altered while it was needed.",
            risk: "Changes that the publication left out are never sent later: until the tables are read again, rows \
                   may be missing or out of date, and points of deleted rows may stay. If a publication that walvec \
                   did not make loses a table, only that table stops: its points stay as they were.",
            remedy: "Type the SQL in the message. Or name another publication in `source.publication`: if it does \
                     not exist, walvec creates it. walvec restores its own publication automatically, and reads the \
                     tables again. With `source.on_gap: stop`: `walvec resync`, then `walvec run`.",
            see: Some("postgresql.md#the-publication"),
        },
        Code {
            name: "E_SLOT_EXISTS",
            meaning: "The replication slot exists, and this data directory was never filled from it.",
            risk: "Nothing yet: walvec does not read from it. Rows from before the slot was created would be \
                   missing. Another walvec may be using the slot, and loses its place if you drop it.",
            remedy: "Choose another name with `source.slot`. Or, if nothing needs the slot any more: `walvec reset` \
                     drops it, and the next `walvec run` takes a new snapshot. By hand: `SELECT \
                     pg_drop_replication_slot('...');`.",
            see: Some("backup-and-upgrade.md#what-a-loss-costs"),
        },
        Code {
            name: "E_SLOT_BUSY",
            meaning: "Another session reads the replication slot. walvec waits for it.",
            risk: KEPT,
            remedy: "Stop the other reader, or give this walvec a slot of its own with `source.slot`. The server \
                     ends a dead session of walvec after `wal_sender_timeout`. To end it at once: `SELECT \
                     pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '...';`.",
            see: None,
        },
        Code {
            name: "E_SLOT_AT_RISK",
            meaning: "The replication slot is about to be lost: it is beyond `max_slot_wal_keep_size`.",
            risk: "PostgreSQL may drop log that walvec has not read. Then the tables have to be read again.",
            remedy: "Let walvec catch up, or: `ALTER SYSTEM SET max_slot_wal_keep_size = ...; SELECT \
                     pg_reload_conf();`.",
            see: Some("postgresql.md#how-much-wal-is-kept"),
        },
        Code {
            name: "E_WAL_UNLIMITED",
            meaning: "`max_slot_wal_keep_size` is not limited. This is a warning.",
            risk: "While walvec does not run, the log that PostgreSQL keeps for the slot can fill the server's disk.",
            remedy: "`ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf();`.",
            see: Some("postgresql.md#how-much-wal-is-kept"),
        },
        Code {
            name: "E_OPEN_TRANSACTION",
            meaning: "A prepared transaction has been open for more than a minute, and the first start waits for it. \
                      PostgreSQL creates no replication slot before it has ended. This is a warning.",
            risk: "Nothing is lost. No row is copied until then.",
            remedy: "If its coordinator is gone: `ROLLBACK PREPARED '...';`, in its database, as its role or a \
                     superuser. `SELECT * FROM pg_prepared_xacts;` lists prepared transactions.",
            see: Some("operations.md#when-the-first-copy-does-not-begin"),
        },
        Code {
            name: "E_STATEMENT",
            meaning: "PostgreSQL reported an error for a statement of walvec. walvec retries transient errors, such \
                      as a deadlock, and stops for all others.",
            risk: KEPT,
            remedy: "Do what the message says. It contains the server's message and the SQLSTATE. If that does not \
                     help, report it.",
            see: None,
        },
        Code {
            name: "E_PROTOCOL",
            meaning: "PostgreSQL sent a message that walvec cannot read.",
            risk: KEPT,
            remedy: "Report it, with the message, `walvec --version` and `SELECT version();`.",
            see: None,
        },
        Code {
            name: "E_ENCODING",
            meaning: "A value is not valid UTF-8. As a warning: the database has no encoding (`SQL_ASCII`), so such \
                      a value would stop walvec.",
            risk: "Nothing is lost. walvec stops at the value and does not get past it. Later changes are not shown.",
            remedy: "Repair the value in the table. If the stream still holds the former value: `walvec resync`, \
                     then `walvec run`. Move the data to a database with `ENCODING 'UTF8'`.",
            see: None,
        },
        Code {
            name: "E_CLOSED",
            meaning: "The stream of changes was closed after an earlier error. walvec opens it again.",
            risk: KEPT,
            remedy: "Nothing. The log names the error before it.",
            see: Some("operations.md#logs"),
        },
    ],
};
