//! Decides how to start, from the stored state and what PostgreSQL says.

use std::collections::BTreeMap;

use walvec_model::{Generation, Lsn, TableName};

use crate::error::{Refusal, Resync};
use crate::source::anew::{self, Anew, CollectionFacts, TableAtStart};
use crate::source::gap::{self, Gap, OnGap};
use crate::state::records::{Checkpoint, SnapshotState, SourceIdentity};

/// The state of the slot, as far as starting is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// There is no slot with that name.
    Missing,
    /// The slot can be read from `confirmed` on.
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
    /// The position at which the server's history left the timeline that the data directory was filled from, if that
    /// timeline is one of its ancestors.
    pub left_at: Option<Lsn>,
    /// The slot.
    pub slot: Slot,
    /// The version of the publication as it is now, if there is one.
    pub publication: Option<String>,
    /// The present name of the publication that was used before, if there is none with the configured name.
    pub publication_called: Option<String>,
    /// Whether another table has the name of a table whose rows were read.
    pub replaced: bool,
    /// The server's current WAL position.
    pub server: Lsn,
    /// Digest of the configuration as it is now.
    pub config_digest: String,
    /// The ids of the present collections, by name.
    pub collections: BTreeMap<String, String>,
    /// The table of each followed collection, and whether the collection is empty.
    pub shown: BTreeMap<String, CollectionFacts>,
    /// The followed tables; empty where they are not read one by one.
    pub tables: BTreeMap<TableName, TableAtStart>,
}

impl Facts {
    /// Returns the digests of the tables, as they are stored.
    pub(crate) fn digests(&self) -> Vec<(TableName, String)> {
        self.tables.iter().map(|(table, facts)| (table.clone(), facts.digest.clone())).collect()
    }

    /// Returns the checkpoint with which a snapshot of `generation` begins.
    pub(crate) fn first_checkpoint(self, generation: Generation) -> Checkpoint {
        Checkpoint {
            digests: self.digests(),
            source: self.source,
            generation,
            snapshot: SnapshotState::Copying,
            applied: Lsn::ZERO,
            last_commit: Lsn::ZERO,
            written_to: None,
            resync: None,
            sweep_waits: false,
            witnesses: BTreeMap::new(),
            tables: BTreeMap::new(),
            publication: String::new(),
            config_digest: self.config_digest,
            collections: self.collections,
            written: BTreeMap::new(),
        }
    }
}

/// How to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Take a snapshot as this generation.
    Snapshot {
        /// The new generation.
        generation: Generation,
        /// Why, for the log.
        why: String,
        /// Whether to drop a slot first: it is walvec's own, and useless without its snapshot.
        drop_slot: bool,
        /// The gap or request that made the snapshot necessary, if there was one.
        resync: Option<Resync>,
    },
    /// Follow the stream from the slot's own position.
    Resume {
        /// The checkpoint to continue from.
        checkpoint: Box<Checkpoint>,
        /// The tables to read again concurrently with the stream.
        anew: anew::TablesToRead,
    },
}

/// Decides how to begin.
///
/// A stream with a gap is never continued. Either the tables are read again or walvec does not start, depending on
/// `on_gap`.
///
/// # Errors
/// If the data directory was filled from another source, if the slot does not belong to this data directory, or if
/// there is a gap and `on_gap` is [`OnGap::Stop`].
pub fn decide(stored: Option<&Checkpoint>, facts: &Facts, on_gap: OnGap) -> Result<Start, Refusal> {
    let slot_exists = facts.slot != Slot::Missing;
    let Some(checkpoint) = stored else {
        return if slot_exists { Err(foreign_slot(facts)) } else { Ok(first_snapshot()) };
    };
    let again = |why: &str, resync| {
        let generation = checkpoint.generation.next();
        Ok(Start::Snapshot { generation, why: why.to_owned(), drop_slot: slot_exists, resync })
    };
    if checkpoint.snapshot == SnapshotState::Wanted {
        return again("a new snapshot was asked for", None);
    }
    if !checkpoint.source.is_same_slot(&facts.source) {
        return Err(other_source(&checkpoint.source, &facts.source));
    }
    match checkpoint.snapshot {
        SnapshotState::Copying => return again("the last snapshot was interrupted", checkpoint.resync.clone()),
        SnapshotState::Again => {
            let why = checkpoint.resync.as_ref().map_or("what was read is not as it was", |resync| &resync.why);
            return again(why, checkpoint.resync.clone());
        }
        SnapshotState::Wanted | SnapshotState::Done => {}
    }
    match continuation(checkpoint, facts).and_then(|continued| Ok((anew::compare(&continued, facts)?, continued))) {
        Err(gap) => match on_gap {
            OnGap::Resync => again(&gap.what.clone(), Some(gap.resync())),
            OnGap::Stop => Err(gap.refusal()),
        },
        Ok((Anew::Everything(why), _)) => again(&why, None),
        Ok((Anew::Tables(anew), mut checkpoint)) => {
            if !anew.unproved.is_empty() {
                let gap = gap::publication_changed(None);
                match on_gap {
                    OnGap::Resync => checkpoint.resync = Some(gap.resync()),
                    OnGap::Stop => return Err(gap.refusal()),
                }
            }
            Ok(Start::Resume { checkpoint: Box::new(checkpoint), anew })
        }
    }
}

/// Returns the checkpoint at which the stream goes on without a gap.
fn continuation(checkpoint: &Checkpoint, facts: &Facts) -> Result<Checkpoint, Gap> {
    let slot = &facts.source.slot;
    let checkpoint = on_timeline(checkpoint, facts)?;
    match &facts.slot {
        Slot::Missing => Err(gap::missing_slot(slot, checkpoint.applied)),
        Slot::Lost { reason } => Err(gap::lost_slot(slot, checkpoint.applied, reason)),
        Slot::Ready { confirmed } if *confirmed > checkpoint.applied => {
            Err(gap::slot_ahead(slot, *confirmed, checkpoint.applied))
        }
        Slot::Ready { .. } if checkpoint.applied > facts.server => {
            Err(gap::server_behind(facts.server, checkpoint.applied))
        }
        Slot::Ready { .. } => Ok(checkpoint),
    }
}

/// Returns the checkpoint as it is on the server's present timeline. Everything that was applied has to lie before the
/// point at which the server's history left the timeline that it was read from. The promoted server never had anything
/// after that point.
fn on_timeline(checkpoint: &Checkpoint, facts: &Facts) -> Result<Checkpoint, Gap> {
    let mut checkpoint = checkpoint.clone();
    if checkpoint.source.timeline != facts.source.timeline {
        let (before, now) = (checkpoint.source.timeline, facts.source.timeline);
        match facts.left_at {
            // A position without a commit may lie after that point: it says only that there was nothing more to read.
            Some(left_at) if checkpoint.written_to.is_some_and(|written_to| written_to <= left_at) => {
                checkpoint.applied = checkpoint.applied.min(left_at);
            }
            left_at => return Err(gap::timeline_left(before, now, left_at, checkpoint.written_to)),
        }
        checkpoint.source.timeline = now;
    }
    // The last session was killed before it stored `written_to`. It received nothing that this server, on the same
    // timeline, does not have.
    checkpoint.written_to.get_or_insert(facts.server);
    Ok(checkpoint)
}

fn first_snapshot() -> Start {
    let why = "nothing has been copied yet".to_owned();
    Start::Snapshot { generation: Generation(1), why, drop_slot: false, resync: None }
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
    if stored.is_same_database(found) {
        return renamed_slot(&stored.slot, &found.slot);
    }
    let describe =
        |id: &SourceIdentity| format!("system {}, database {}, slot \"{}\"", id.system_id, id.database_oid, id.slot);
    Refusal {
        code: "E_SOURCE",
        what: format!(
            "this data directory was filled from {}; the source is now {}: positions of one mean nothing in the other, and \
             points would be removed because their rows are somewhere else",
            describe(stored),
            describe(found)
        ),
        remedy: "connect to the original source, or use another data directory and other collections; or, if this database \
                 has taken the place of the original, `walvec reset`, then `walvec run`: the tables are read again, unchanged \
                 texts are not embedded again"
            .to_owned(),
    }
}

fn renamed_slot(stored: &str, configured: &str) -> Refusal {
    Refusal {
        code: "E_SOURCE",
        what: format!(
            "this data directory was filled from slot \"{stored}\", and `source.slot` is now \"{configured}\": the changes since \
             then are in the former slot alone, which goes on keeping WAL on the server"
        ),
        remedy: format!(
            "put `source.slot: {stored}` back; or `walvec reset`, which drops the former slot too, then `walvec run`: the tables are \
             read again, unchanged texts are not embedded again"
        ),
    }
}

#[cfg(test)]
mod tests;
