//! Codes of tables and of single rows.

use super::{Code, CodeSubject};

pub(super) static SUBJECT: CodeSubject = CodeSubject {
    title: "Tables and rows",
    intro: Some(
        "If a table can no longer be followed, only that table stops. Its points stay as they were, and `walvec \
         status` names it. Once the cause is fixed, walvec reads the table again automatically. A row that cannot be \
         processed is parked: its point is missing, or shows its former version, until the row changes, or until \
         `walvec dead-letters retry`.",
    ),
    codes: &[
        Code {
            name: "E_TABLE",
            meaning: "The table cannot be followed, or is not one of the configuration. It does not exist, is a \
                      partition, a view, a foreign, unlogged or temporary table, or is not followed at present. A \
                      row is parked with this code if it was to be rendered with rows of a table that is gone. As a \
                      warning: other tables inherit from it, and their rows are not included.",
            risk: "Nothing is lost. If the table was followed, only this table stops, and its points stay as they \
                   were. The point of a parked row is missing, or shows its former version.",
            remedy: "Correct the table's name, or create the table. Name the root of a partitioned table. `ALTER \
                     TABLE ... SET LOGGED;` for one that is unlogged. For a backfill or a repair, name a table in \
                     the configuration of the running walvec. Parked rows need nothing: once the table is back, they \
                     are written again. For the warning: configure the inheriting tables too.",
            see: Some("postgresql.md#when-one-table-cannot-be-followed-any-more"),
        },
        Code {
            name: "E_NO_KEY",
            meaning: "The table has nothing that names its rows. It has no primary key, only a deferrable one, or \
                      `REPLICA IDENTITY NOTHING`; or its replica identity, or that of a partition, does not hold the \
                      key.",
            risk: "If such a table were published, PostgreSQL would refuse your application's updates and deletes, \
                   or would not say which row was deleted. So walvec does not publish it. If the table was followed, \
                   only this table stops, and walvec takes it out of its own publication.",
            remedy: "`ALTER TABLE ... ADD PRIMARY KEY (...);`. For a partition: `ALTER TABLE ... REPLICA IDENTITY \
                     FULL;`. `walvec check` prints the statements.",
            see: Some("postgresql.md#keys-and-replica-identity"),
        },
        Code {
            name: "E_REPLICA_IDENTITY",
            meaning: "The replica identity of a table does not fit what is published or looked up. It lacks the \
                      columns of a `where` or of a lookup, or holds columns that the publication leaves out.",
            risk: "With a `where` or a list of columns, PostgreSQL would refuse every update and delete of the \
                   table, those of your application too. With a lookup, an update or a delete would not say which \
                   rows have to be rendered again. As a warning: a partition lacks these columns, so a change there \
                   renders every row again.",
            remedy: "`walvec check` prints the statements: `ALTER TABLE ... REPLICA IDENTITY FULL;`, or `DEFAULT` \
                     where a publication leaves columns out. Or let the publication send every column of the replica \
                     identity.",
            see: Some("postgresql.md#keys-and-replica-identity"),
        },
        Code {
            name: "E_SCHEMA",
            meaning: "The configuration, a table or a record does not have the columns that are needed. `text`, \
                      `payload`, `computed`, `index` or a lookup uses a column that the table does not publish, or a \
                      name that is already taken. Or the replica identity no longer holds the key. A row is parked \
                      with this code if its record lacks a column.",
            risk: "Nothing is lost. walvec does not start. If the table was followed, only this table stops, and its \
                   points stay as they were. The point of a parked row is missing, or shows its former version.",
            remedy: "Correct the collection in the configuration, or bring the column back. If a change came without \
                     its key: `walvec reset`, then `walvec run`. For parked rows: fix the program that writes the \
                     topic, then `walvec dead-letters retry`.",
            see: Some("postgresql.md#when-one-table-cannot-be-followed-any-more"),
        },
        Code {
            name: "E_TEMPLATE",
            meaning: "A template of a collection cannot be compiled. The message shows line and column in `text`, or \
                      in the field of `computed`.",
            risk: "Nothing is lost. walvec does not start.",
            remedy: "Correct the collection in the configuration, then start walvec again.",
            see: Some("configuration.md#templates"),
        },
        Code {
            name: "E_RENDER",
            meaning: "The template fails for a row, and the row is parked. As a warning of `walvec check`: it fails \
                      for the row that was tried.",
            risk: "The row's point is missing, or shows its former version. The other rows go on.",
            remedy: "Correct the row, or the template, or let the template test for what may be missing. A change of \
                     `computed` takes a restart, a change of `text` takes `walvec reindex`. Then `walvec \
                     dead-letters retry`.",
            see: Some("operations.md#parked-rows"),
        },
        Code {
            name: "E_TOO_LARGE",
            meaning: "A row does not fit into a message of PostgreSQL, which has at most 1 GB. A `bytea` of 512 MB \
                      already does not fit. In `resync`, or if walvec ended with this code (`source.on_gap: stop`): \
                      the stream came to such a row. As the code of a parked row: the row is too large because of a \
                      column that a collection uses.",
            risk: "The point of such a row is missing, or shows its former version. walvec does not get past the row \
                   in the stream: the tables have to be read again, each time such a row is written. If other rows \
                   look up such a row, walvec stops.",
            remedy: "For the stream nothing, by default. With `source.on_gap: stop`: `walvec resync`, then `walvec \
                     run`. Where no collection uses the column, `source.columns: used` lets PostgreSQL leave it out. \
                     Otherwise make the value shorter, or leave its column out of the collection's templates and \
                     `payload`. If `walvec verify` ends with it: wait until the status shows the row as parked, and \
                     type it again.",
            see: Some("operations.md#rows-that-postgresql-cannot-send"),
        },
        Code {
            name: "E_ALTERED",
            meaning: "A table was altered, and the stream does not say what that did to its rows. walvec reads the \
                      table again automatically, and the other tables continue.",
            risk: "Until it has been read again, rows of the table may be out of date.",
            remedy: "Nothing.",
            see: Some("promises.md#convergence"),
        },
        Code {
            name: "E_REWRITTEN",
            meaning: "A table was altered while the snapshot was copied. walvec tries again automatically.",
            risk: "Nothing. The copy takes longer.",
            remedy: "Nothing.",
            see: Some("promises.md#convergence"),
        },
        Code {
            name: "E_SPOOL",
            meaning: "Rows that the snapshot has read cannot be read back from the data directory. walvec tries \
                      again automatically.",
            risk: "Nothing is lost. The copy cannot finish until then.",
            remedy: "Check the disk of the data directory. The message contains the file system's error.",
            see: None,
        },
        Code {
            name: "E_TOO_FAST",
            meaning: "The table changes faster than a backfill can read it. More than 4 million of its rows changed \
                      meanwhile.",
            risk: "Nothing is lost. The rows that were written are right; the others were not read again.",
            remedy: "Read the table in parts: `walvec backfill --table ... --where ...`.",
            see: Some("reindex-and-backfill.md#reading-rows-again-walvec-backfill"),
        },
        Code {
            name: "E_SLOW",
            meaning: "A table has no index on the columns that a lookup uses. This is a warning.",
            risk: "Nothing is lost. PostgreSQL reads the whole table whenever something is looked up.",
            remedy: "`CREATE INDEX CONCURRENTLY ON ... (...);`. The message has the table and the columns.",
            see: Some("lookups.md#what-it-takes"),
        },
    ],
};
