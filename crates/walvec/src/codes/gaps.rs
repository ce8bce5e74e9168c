//! Codes of gaps: changes that the stream can no longer bring.

use super::{Code, CodeSubject};

/// The remedy of a gap that only reading the tables again closes.
const BY_ITSELF: &str = "By default nothing: walvec reads the tables again automatically, and embeds only texts that \
                         have changed. With `source.on_gap: stop`: `walvec resync`, then `walvec run`.";

pub(super) static SUBJECT: CodeSubject = CodeSubject {
    title: "Changes that are gone",
    intro: Some(
        "The stream can no longer prove that it brings every change. walvec never continues over such a gap. By \
         default it reads the tables again automatically, and the code is in the log, in `resync` of the status and \
         in the metric `walvec_resyncs_total`. With `source.on_gap: stop` it ends with the code.",
    ),
    codes: &[
        Code {
            name: "E_SLOT_MISSING",
            meaning: "The replication slot does not exist any more.",
            risk: "The changes since the position that was applied last are gone from the stream. Until the tables \
                   have been read again, rows may be missing or out of date, and points of rows that are gone may \
                   stay.",
            remedy: BY_ITSELF,
            see: Some("operations.md#when-changes-are-gone"),
        },
        Code {
            name: "E_SLOT_LOST",
            meaning: "PostgreSQL has invalidated the replication slot. The message gives the reason: usually walvec \
                      was too far behind, or stopped for too long.",
            risk: "The changes since the position that was applied last are gone from the stream. Until the tables \
                   have been read again, rows may be missing or out of date, and points of rows that are gone may \
                   stay.",
            remedy: "By default nothing: walvec reads the tables again automatically, and embeds only texts that \
                     have changed. With `source.on_gap: stop`: `walvec resync`, then `walvec run`. \
                     `max_slot_wal_keep_size` decides how far behind a slot may fall.",
            see: Some("postgresql.md#how-much-wal-is-kept"),
        },
        Code {
            name: "E_POSITION",
            meaning: "The positions of the data directory, the slot and the server do not fit together. Another \
                      program has read the slot, the data directory is an old copy, or the server was restored from \
                      a backup.",
            risk: "Changes may be gone, and rows missing or out of date. After a restored backup, what is stored may \
                   never have happened.",
            remedy: BY_ITSELF,
            see: Some("backup-and-upgrade.md#copying-the-data-directory"),
        },
        Code {
            name: "E_TIMELINE",
            meaning: "The promoted server lacks, or may lack, what walvec applied last. Or the server was restored \
                      from a backup, and its history is not that of the server that filled the data directory.",
            risk: "The collections may show transactions that were lost with the former server, or that never \
                   happened.",
            remedy: BY_ITSELF,
            see: Some("postgresql.md#managed-services"),
        },
        Code {
            name: "E_SINK_BEHIND",
            meaning: "A collection lacks the last writes. It was restored to an older state, or another program has \
                      changed its points.",
            risk: "Changes may be missing in the collection.",
            remedy: BY_ITSELF,
            see: Some("backup-and-upgrade.md#restoring-postgresql-or-qdrant"),
        },
        Code {
            name: "E_SWEEP",
            meaning: "A table was read again, and more than half of a collection's points have no row in it. All \
                      tables are read again, and then a person decides.",
            risk: "Nothing is removed. The points without rows stay, and searches find them, until a person decides.",
            remedy: "Check that `source.url` names the right database. `walvec resync --force` removes the points.",
            see: Some("operations.md#when-changes-are-gone"),
        },
        Code {
            name: "E_RESYNC",
            meaning: "The tables are about to be read again. The message says why.",
            risk: "The session ends, and the work in flight is repeated. The message says what the gap itself endangers.",
            remedy: "Nothing. `walvec status` shows the progress.",
            see: Some("operations.md#when-changes-are-gone"),
        },
        Code {
            name: "E_SOURCE",
            meaning: "The source has changed. The server, the database or `source.slot` is not the one that filled \
                      the data directory or, in a reindex, the served collections. From `walvec verify`: a statement \
                      failed.",
            risk: "Nothing yet: walvec refuses. Positions of one database mean nothing in another, and points would \
                   be removed because their rows are somewhere else. With another `source.slot`, only the former \
                   slot has the changes, and it keeps the log on the server. From `walvec verify`: the comparison \
                   was not finished.",
            remedy: "Put `source.url` or `source.slot` back, or use another data directory and other collections. If \
                     this database has taken the place of the original: `walvec reset`, then `walvec run`. `walvec \
                     reset` also drops a former slot on the same database. For `walvec verify`: what the message \
                     says.",
            see: Some("backup-and-upgrade.md#restoring-postgresql-or-qdrant"),
        },
    ],
};
