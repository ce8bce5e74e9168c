//! What to do at start, from what is stored and what PostgreSQL says.

use std::collections::BTreeMap;

use walvec_model::{Generation, Lsn};

use crate::store::{Checkpoint, SnapshotState, SourceIdentity};

/// The slot, as far as starting is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// There is none of that name.
    Missing,
    /// It can be read from `confirmed` on.
    Ready {
        /// Its `confirmed_flush_lsn`.
        confirmed: Lsn,
    },
    /// PostgreSQL has invalidated it.
    Lost {
        /// Why, in PostgreSQL's words.
        reason: String,
    },
}

/// What PostgreSQL says at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The cluster, database and slot that are configured.
    pub source: SourceIdentity,
    /// The slot.
    pub slot: Slot,
    /// What identifies the publication as it is now, if there is one.
    pub publication: Option<String>,
    /// The server's current WAL position.
    pub server: Lsn,
    /// Digest of the configuration as it is now.
    pub config_digest: String,
    /// Which collections there are now, by their names.
    pub collections: BTreeMap<String, String>,
}

/// How to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Take a snapshot as this generation.
    Snapshot {
        /// The new generation.
        generation: Generation,
        /// Why, for the log.
        why: &'static str,
        /// Whether a slot is in the way: ours, and of no use without its snapshot.
        drop_slot: bool,
    },
    /// Follow the stream from the slot's own position.
    Resume(Checkpoint),
}

/// Why walvec does not start: going on would silently lose changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Refusal {
    /// The code on the last line of stderr.
    pub code: &'static str,
    /// What was found and what it endangers.
    pub what: String,
    /// What to type.
    pub remedy: String,
}

/// Decides how to begin.
///
/// # Errors
/// If the data directory and the slot do not belong together. A missing or foreign slot is never replaced and continued:
/// the changes in between would be lost without a word.
pub fn decide(stored: Option<&Checkpoint>, facts: &Facts) -> Result<Start, Refusal> {
    let slot_exists = facts.slot != Slot::Missing;
    let Some(checkpoint) = stored else {
        return if slot_exists { Err(foreign_slot(facts)) } else { Ok(first_snapshot()) };
    };
    let wanted = checkpoint.snapshot == SnapshotState::Wanted;
    if checkpoint.source != facts.source && !wanted {
        return Err(other_source(&checkpoint.source, &facts.source));
    }
    let again = |why| Ok(Start::Snapshot { generation: checkpoint.generation.next(), why, drop_slot: slot_exists });
    match checkpoint.snapshot {
        SnapshotState::Copying => return again("the last snapshot was interrupted"),
        SnapshotState::Wanted => return again("a new snapshot was asked for"),
        SnapshotState::Done => {}
    }
    match &facts.slot {
        Slot::Missing => Err(missing_slot(facts, checkpoint)),
        Slot::Lost { reason } => Err(lost_slot(facts, checkpoint, reason)),
        Slot::Ready { confirmed } => {
            check_positions(checkpoint, *confirmed, facts)?;
            if checkpoint.config_digest != facts.config_digest {
                return again("the configuration of a collection, or its table, has changed");
            }
            if checkpoint.collections != facts.collections {
                return again("what was filled is not there any more");
            }
            if facts.publication.as_ref() != Some(&checkpoint.publication) {
                return Err(publication_changed());
            }
            Ok(Start::Resume(checkpoint.clone()))
        }
    }
}

const fn first_snapshot() -> Start {
    Start::Snapshot { generation: Generation(1), why: "nothing has been copied yet", drop_slot: false }
}

fn check_positions(checkpoint: &Checkpoint, confirmed: Lsn, facts: &Facts) -> Result<(), Refusal> {
    let slot = &facts.source.slot;
    let found = if confirmed > checkpoint.applied {
        format!(
            "slot \"{slot}\" is at {confirmed}, but this data directory holds only what was committed up to {}: \
             somebody else has read the slot, or the data directory is an old copy; the changes in between are gone",
            checkpoint.applied
        )
    } else if checkpoint.applied > facts.server {
        format!(
            "this data directory holds what was committed up to {}, but the server has only come to {}: the server was \
             restored from a backup, or the state file was altered; what is stored may never have happened",
            checkpoint.applied, facts.server
        )
    } else {
        return Ok(());
    };
    Err(Refusal { code: "E_POSITION", what: found, remedy: resync() })
}

fn foreign_slot(facts: &Facts) -> Refusal {
    Refusal {
        code: "E_SLOT_EXISTS",
        what: format!(
            "slot \"{}\" exists, but this data directory was never filled from it: another walvec may be using it, and \
             the rows from before its creation would be missing",
            facts.source.slot
        ),
        remedy:
            "choose another name with `source.slot`; or, if the slot is a left-over, `walvec reset` drops it and the \
                 next `walvec run` takes a new snapshot"
                .to_owned(),
    }
}

fn other_source(stored: &SourceIdentity, found: &SourceIdentity) -> Refusal {
    let describe = |id: &SourceIdentity| {
        format!("system {}, timeline {}, database {}, slot \"{}\"", id.system_id, id.timeline, id.database_oid, id.slot)
    };
    Refusal {
        code: "E_SOURCE",
        what: format!(
            "this data directory was filled from {}; the source is now {}: positions of one mean nothing in the other, and \
             changes may be missing",
            describe(stored),
            describe(found)
        ),
        remedy: format!(
            "connect to the original source, use another data directory and other collections, or {}",
            resync()
        ),
    }
}

fn missing_slot(facts: &Facts, checkpoint: &Checkpoint) -> Refusal {
    Refusal {
        code: "E_SLOT_MISSING",
        what: format!(
            "slot \"{}\" does not exist any more; changes since {} are gone",
            facts.source.slot, checkpoint.applied
        ),
        remedy: resync(),
    }
}

fn lost_slot(facts: &Facts, checkpoint: &Checkpoint, reason: &str) -> Refusal {
    Refusal {
        code: "E_SLOT_LOST",
        what: format!(
            "slot \"{}\" is invalid ({reason}); changes since {} are gone",
            facts.source.slot, checkpoint.applied
        ),
        remedy: format!("{}; `max_slot_wal_keep_size` decides how far behind a slot may fall", resync()),
    }
}

/// A publication that was dropped, or dropped and made anew, did not publish in between, and the slot cannot tell.
pub(crate) fn publication_changed() -> Refusal {
    Refusal {
        code: "E_PUBLICATION",
        what: "the publication was dropped, made anew or altered since the snapshot; changes may be missing from the stream"
            .to_owned(),
        remedy: resync(),
    }
}

fn resync() -> String {
    "`walvec reset`, then `walvec run`: the tables are read again, unchanged texts are not embedded again".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> SourceIdentity {
        SourceIdentity { system_id: "7".to_owned(), timeline: 1, database_oid: 5, slot: "walvec".to_owned() }
    }

    fn facts(slot: Slot) -> Facts {
        Facts {
            source: source(),
            slot,
            publication: Some("9".to_owned()),
            server: Lsn(1000),
            config_digest: "a".to_owned(),
            collections: collections("1"),
        }
    }

    fn ready(confirmed: u64) -> Slot {
        Slot::Ready { confirmed: Lsn(confirmed) }
    }

    fn checkpoint(snapshot: SnapshotState, applied: u64) -> Checkpoint {
        Checkpoint {
            source: source(),
            generation: Generation(4),
            snapshot,
            applied: Lsn(applied),
            publication: "9".to_owned(),
            config_digest: "a".to_owned(),
            collections: collections("1"),
            written: BTreeMap::new(),
        }
    }

    fn collections(id: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("books".to_owned(), id.to_owned())])
    }

    fn refused(stored: Option<&Checkpoint>, facts: &Facts) -> &'static str {
        decide(stored, facts).unwrap_err().code
    }

    #[test]
    fn the_first_start_takes_a_snapshot() {
        assert_eq!(decide(None, &facts(Slot::Missing)), Ok(first_snapshot()));
    }

    #[test]
    fn a_slot_that_this_directory_never_read_is_left_alone() {
        assert_eq!(refused(None, &facts(ready(10))), "E_SLOT_EXISTS");
    }

    #[test]
    fn an_interrupted_snapshot_starts_again_as_a_new_generation() {
        let stored = checkpoint(SnapshotState::Copying, 0);
        for (slot, in_the_way) in [(Slot::Missing, false), (ready(10), true)] {
            let Ok(Start::Snapshot { generation, drop_slot, .. }) = decide(Some(&stored), &facts(slot)) else {
                panic!("no snapshot");
            };
            assert_eq!((generation, drop_slot), (Generation(5), in_the_way));
        }
    }

    #[test]
    fn a_finished_snapshot_is_followed_by_the_stream() {
        let stored = checkpoint(SnapshotState::Done, 500);
        assert_eq!(decide(Some(&stored), &facts(ready(500))), Ok(Start::Resume(stored.clone())));
        let lagging = decide(Some(&stored), &facts(ready(400)));
        assert_eq!(lagging, Ok(Start::Resume(stored)), "feedback may lag");
    }

    #[test]
    fn a_slot_that_is_gone_is_never_replaced_and_continued() {
        let stored = checkpoint(SnapshotState::Done, 500);
        assert_eq!(refused(Some(&stored), &facts(Slot::Missing)), "E_SLOT_MISSING");
        let lost = Slot::Lost { reason: "wal_removed".to_owned() };
        assert_eq!(refused(Some(&stored), &facts(lost)), "E_SLOT_LOST");
    }

    #[test]
    fn positions_that_cannot_be_are_refused() {
        let stored = checkpoint(SnapshotState::Done, 500);
        assert_eq!(refused(Some(&stored), &facts(ready(501))), "E_POSITION", "the slot was read by somebody else");
        let tampered = checkpoint(SnapshotState::Done, 1001);
        assert_eq!(refused(Some(&tampered), &facts(ready(500))), "E_POSITION", "ahead of the server");
    }

    #[test]
    fn a_publication_that_was_made_anew_is_refused() {
        let stored = checkpoint(SnapshotState::Done, 500);
        for now in [None, Some("10".to_owned())] {
            let facts = Facts { publication: now, ..facts(ready(500)) };
            assert_eq!(refused(Some(&stored), &facts), "E_PUBLICATION");
        }
    }

    #[test]
    fn another_cluster_is_refused() {
        let mut stored = checkpoint(SnapshotState::Done, 500);
        stored.source.system_id = "8".to_owned();
        assert_eq!(refused(Some(&stored), &facts(ready(500))), "E_SOURCE");
        stored.snapshot = SnapshotState::Wanted;
        assert!(decide(Some(&stored), &facts(ready(500))).is_ok(), "a reset heals it");
    }

    #[test]
    fn a_collection_that_was_made_anew_is_filled_again() {
        let stored = checkpoint(SnapshotState::Done, 500);
        let facts = Facts { collections: collections("2"), ..facts(ready(500)) };
        assert!(matches!(decide(Some(&stored), &facts), Ok(Start::Snapshot { generation: Generation(5), .. })));
    }

    #[test]
    fn a_changed_configuration_reads_the_tables_again() {
        let mut stored = checkpoint(SnapshotState::Done, 500);
        stored.config_digest = "b".to_owned();
        assert!(matches!(
            decide(Some(&stored), &facts(ready(500))),
            Ok(Start::Snapshot { generation: Generation(5), drop_slot: true, .. })
        ));
    }
}
