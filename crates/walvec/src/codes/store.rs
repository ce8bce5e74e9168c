//! Codes of Qdrant and of the data directory.

use super::{Code, CodeSubject, UNTOUCHED};

pub(super) static SUBJECT: CodeSubject = CodeSubject {
    title: "Qdrant and the data directory",
    intro: None,
    codes: &[
        Code {
            name: "E_SINK",
            meaning: "The sink, which stores the points, failed. The Qdrant server refuses or cannot be reached, one \
                      of its limits is reached, files of a collection cannot be read, the file system refuses, or \
                      there is no collection yet. walvec retries transient failures.",
            risk: "Nothing is lost: nothing is confirmed to PostgreSQL before it is stored. Changes wait, and \
                   searches may fail.",
            remedy: "Do what the message says. For a server: check that it runs, and check `sink.qdrant.url` and \
                     `sink.qdrant.api_key`. With another `sink.qdrant.shard_key` than the collection was made with: \
                     put it back, give the collection another `name`, or `walvec reset --purge`. If a limit of \
                     strict mode is in the way: raise it, the message names the setting. For a data directory: check \
                     free space and permissions. If there is nothing yet: `walvec run`.",
            see: Some("qdrant.md#faults"),
        },
        Code {
            name: "E_FINGERPRINT",
            meaning: "The collection was not built as the configuration says. It has another model, text, chunking, \
                      lookup or layout, or other vectors. A row is parked with this code if another program made its \
                      vector, and it does not fit the configuration.",
            risk: "Nothing yet: walvec refuses. Vectors of two models cannot be compared, and mixing them would make \
                   every search wrong. The point of a parked row is missing, or shows its former version.",
            remedy: "`walvec reindex` builds another collection as configured, while the former one answers \
                     searches, and switches. Or go back to the former model, text template and layout. For `walvec \
                     reindex --rollback`: put the former model and text back into the configuration, then type it \
                     again.",
            see: Some("reindex-and-backfill.md"),
        },
        Code {
            name: "E_FOREIGN",
            meaning: "The Qdrant server has a collection of that name which walvec did not make.",
            risk: "Nothing yet: walvec refuses. It would overwrite or delete what is in the collection.",
            remedy: "Give the collection another `name` in the configuration. Or, if nothing needs the one that is \
                     there, delete it on the server.",
            see: Some("qdrant.md#names"),
        },
        Code {
            name: "E_ALIAS",
            meaning: "The name belongs to a collection and not to an alias, so a reindex cannot switch it.",
            risk: "Nothing. The served collection stays, and answers searches.",
            remedy: "Give the collection another `name`, let `walvec run` fill it, then delete the old one.",
            see: Some("qdrant.md#names"),
        },
        Code {
            name: "E_OWNED",
            meaning: "Another walvec writes the collection, or it is filled from another database. Or the session \
                      that held the right to write is gone: walvec then writes nothing until it holds it again.",
            risk: "Nothing yet: walvec does not write. Two processes, or two databases, would overwrite and remove \
                   each other's rows.",
            remedy: "Stop the other process; if it is gone already, PostgreSQL notices within seconds. Or give this \
                     one a collection of another `name`. If this database has taken the place of the other one, and \
                     its former data directory is lost: `walvec reset --purge`, then `walvec run`. For a lost \
                     session: nothing.",
            see: Some("qdrant.md#faults"),
        },
        Code {
            name: "E_LOCKED",
            meaning: "Another walvec uses the data directory. From `walvec reset --offsets`: workers of the group \
                      run.",
            risk: UNTOUCHED,
            remedy: "Stop the other process, or set another `sink.embedded.path`. Stop workers first; a stopped \
                     worker counts until its session is over, 45 seconds by default.",
            see: Some("operations.md#starting-and-stopping"),
        },
        Code {
            name: "E_STATE",
            meaning: "The state file of the data directory cannot be read or written. In `resync` of the status: a \
                      collection has points that this data directory knows nothing of, so its tables are read again.",
            risk: "Nothing is lost: walvec confirms to PostgreSQL only what it has stored. If the disk is full, it \
                   waits. In `resync`: more than half of a collection is not removed before a person decides.",
            remedy: "Check free space and permissions of the data directory, then start walvec again. If the file is \
                     damaged: put a copy of the whole data directory back, or `walvec reset --purge`, which embeds \
                     every text again. For `resync`: check that `source.url` names the right database; `walvec \
                     resync --force` removes points without rows.",
            see: Some("backup-and-upgrade.md#what-to-keep"),
        },
        Code {
            name: "E_POINT",
            meaning: "Qdrant refuses the point of a row, and the row is parked.",
            risk: "The row's point is missing, or shows its former version. The other rows go on.",
            remedy: "Fix what the reason names, then `walvec dead-letters retry`.",
            see: Some("operations.md#parked-rows"),
        },
    ],
};
