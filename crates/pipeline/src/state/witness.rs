//! Proof that a collection still has what was written into it.
//!
//! A collection that was restored to an older state has the same identity and fingerprint as before. It lacks only the
//! last writes. So some writes of each collection are remembered with the position, and the pipeline checks for them
//! periodically.
//!
//! A write that is there proves that every write before it is there. It proves nothing once its row is written again or
//! removed. So several writes are remembered: the newest are close together, the older ones further and further apart.
//! When a batch reads their points before it writes them again, they are compared first.

use serde::{Deserialize, Serialize};
use walvec_model::{Generation, PointId, Position, StoredPoint};

/// How many written rows each list remembers, and how many removed ones.
const MOST: usize = 8;

/// A write that a collection must still have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Witness {
    /// The point.
    pub(crate) id: PointId,
    /// The version that the write gave the point; `None` if it removed the point.
    pub(crate) version: Option<(Generation, Position)>,
}

impl Witness {
    /// Returns whether the collection has this write, given the point as it is stored now.
    pub(crate) fn holds(&self, stored: Option<&StoredPoint>) -> bool {
        let stored = stored.map(|point| point.provenance.as_ref().map(|own| (own.generation, own.position)));
        match (self.version, stored) {
            (None, None) => true,
            (Some(written), Some(stored)) => stored >= Some(written),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    /// Returns whether the point is stored in an older version. A row whose chunks are being written has no version
    /// yet.
    fn is_newer_than(&self, stored: Option<&StoredPoint>) -> bool {
        let own = stored.and_then(|point| point.provenance.as_ref());
        let versions = self.version.zip(own.filter(|own| own.position > Position::default()));
        versions.is_some_and(|((generation, position), own)| own.generation <= generation && own.position < position)
    }

    const fn is_written(&self) -> bool {
        self.version.is_some()
    }
}

/// Which differences between a remembered write and the stored point prove that the collection was restored to an older
/// state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Proof {
    /// No difference: other workers write too, or the rows are being read again as a whole.
    #[default]
    Nothing,
    /// Only an older version. The previous process may have removed rows, or written removed rows again, and the stream
    /// may still have to repeat those changes.
    OlderVersion,
    /// Every difference: since the last look, or since a snapshot, only this process has written.
    Difference,
}

/// A write that the collection does not have any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// The write.
    pub(crate) missing: Witness,
    /// A newer write. If the collection has that one, it was not restored: another program has changed the point of
    /// `missing`.
    pub(crate) unless: Option<Witness>,
}

/// The remembered writes of one collection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witnesses {
    /// Writes that the last look found, or that come from before the start. Oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    seen: Vec<Witness>,
    /// Later writes. They join `seen` at the next look: they would also be there if the collection had been restored
    /// just before they were written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    new: Vec<Witness>,
    #[serde(skip)]
    proof: Proof,
}

impl Witnesses {
    /// Takes over what was stored with the position. `may_go_back`: after a crash, rows may be stored in older versions
    /// than before.
    pub(crate) fn remembered(mut self, may_go_back: bool) -> Self {
        self.join();
        Self { proof: if may_go_back { Proof::Nothing } else { Proof::OlderVersion }, ..self }
    }

    /// Returns the writes to look for: the newest written row, which proves all writes before it, and the rows removed
    /// since. After a start it returns all of them, because the collection may have been restored before the newest
    /// were written.
    pub(crate) fn to_look_for(&self) -> Vec<Witness> {
        let from = match self.proof {
            Proof::Difference => self.seen.iter().rposition(Witness::is_written).unwrap_or_default(),
            Proof::Nothing | Proof::OlderVersion => 0,
        };
        self.seen[from..].to_vec()
    }

    /// Notes a new write.
    pub(crate) fn wrote(&mut self, last: Witness) {
        add(&mut self.new, last);
    }

    /// Notes that the collection had the writes that were looked for, or that a snapshot has written all of it.
    pub(crate) fn found(&mut self) {
        self.join();
        self.proof = Proof::Difference;
    }

    fn join(&mut self) {
        for witness in std::mem::take(&mut self.new) {
            add(&mut self.seen, witness);
        }
    }

    /// Compares the writes whose points were read with those points as they are stored now, and forgets the ones that
    /// the collection does not have. Writes in `new` prove nothing: a replica may not have them yet.
    pub(crate) fn compare(&mut self, was_read: impl Fn(PointId) -> bool, stored: &[StoredPoint]) -> Option<Doubt> {
        let point = |id| stored.iter().find(|point| point.id == id);
        let is_missing = |witness: &Witness| was_read(witness.id) && !witness.holds(point(witness.id));
        let is_proof = |witness: &Witness| match self.proof {
            Proof::Nothing => false,
            Proof::OlderVersion => is_missing(witness) && witness.is_newer_than(point(witness.id)),
            Proof::Difference => is_missing(witness),
        };
        let doubt = self.seen.iter().rposition(is_proof).map(|at| {
            let newer = self.seen[at + 1..].iter().rfind(|witness| witness.is_written());
            Doubt { missing: self.seen[at], unless: newer.copied().filter(|_| self.proof == Proof::Difference) }
        });
        self.keep(|witness| !is_missing(witness));
        doubt
    }

    /// Forgets the writes for which `kept` returns false.
    pub(crate) fn keep(&mut self, kept: impl Fn(&Witness) -> bool) {
        self.seen.retain(&kept);
        self.new.retain(&kept);
    }

    /// Notes that the collection was emptied: from now on, the points must stay absent.
    pub(crate) fn emptied(&mut self) {
        self.join();
        for witness in std::mem::take(&mut self.seen) {
            add(&mut self.seen, Witness { version: None, ..witness });
        }
    }
}

/// Adds the newest write. If there are too many of its kind, every second one is dropped: the oldest and the newest
/// stay, and those between them are further apart the older they are.
fn add(witnesses: &mut Vec<Witness>, newest: Witness) {
    let is_alike = |witness: &Witness| witness.is_written() == newest.is_written();
    witnesses.push(newest);
    if witnesses.iter().filter(|witness| is_alike(witness)).count() > MOST {
        let mut is_next_kept = false;
        witnesses.retain(|witness| {
            is_next_kept ^= is_alike(witness);
            is_next_kept || !is_alike(witness)
        });
    }
}

#[cfg(test)]
mod tests {
    use walvec_model::{Fingerprint, InputHash, Lsn, Payload, Provenance};

    use super::*;

    fn position(lsn: u64) -> Position {
        Position { commit_lsn: Lsn(lsn), ordinal: 1 }
    }

    fn stored(generation: u64, lsn: u64) -> StoredPoint {
        let provenance = Provenance {
            position: position(lsn),
            table: "public.t".to_owned(),
            key: Vec::new(),
            input_hash: InputHash::of("text"),
            fingerprint: Fingerprint::of(&["model"]),
            generation: Generation(generation),
            chunk: 0,
            chunks: 1,
        };
        StoredPoint { id: PointId::Num(1), payload: Payload::default(), provenance: Some(provenance) }
    }

    #[test]
    fn a_point_that_is_older_or_gone_was_restored() {
        let witness = Witness { id: PointId::Num(1), version: Some((Generation(2), position(10))) };
        assert!(
            witness.holds(Some(&stored(2, 10))) && witness.holds(Some(&stored(2, 11))),
            "the same, or written since"
        );
        assert!(witness.holds(Some(&stored(3, 5))), "a later snapshot");
        assert!(!witness.holds(Some(&stored(2, 9))) && !witness.holds(Some(&stored(1, 20))) && !witness.holds(None));
    }

    fn written(id: u64, lsn: u64) -> Witness {
        Witness { id: PointId::Num(id), version: Some((Generation(2), position(lsn))) }
    }

    fn removed(id: u64) -> Witness {
        Witness { id: PointId::Num(id), version: None }
    }

    /// Returns witnesses that were looked for and found.
    fn seen(witnesses: impl IntoIterator<Item = Witness>) -> Witnesses {
        let mut all = Witnesses::default();
        witnesses.into_iter().for_each(|witness| all.wrote(witness));
        all.found();
        all
    }

    /// Compares point 1, as it was read before it is written again.
    fn compared(witnesses: &mut Witnesses, stored: Option<StoredPoint>) -> Option<Doubt> {
        witnesses.compare(|id| id == PointId::Num(1), &stored.into_iter().collect::<Vec<_>>())
    }

    #[test]
    fn a_write_does_not_hide_that_the_one_before_is_gone() {
        let mut witnesses = seen([written(1, 10)]);
        witnesses.wrote(written(2, 11));
        assert_eq!(witnesses.to_look_for(), [written(1, 10)]);
        witnesses.found();
        assert_eq!(witnesses.to_look_for(), [written(2, 11)]);
        witnesses.keep(|witness| witness.id != PointId::Num(2));
        assert_eq!(witnesses.to_look_for(), [written(1, 10)], "one that is being written again leaves those before it");
        witnesses.emptied();
        assert_eq!(witnesses.to_look_for(), [removed(1)]);
    }

    #[test]
    fn rows_that_came_and_went_leave_the_write_before_them_to_look_for() {
        let mut witnesses = seen([written(1, 10)]);
        for id in 2..1000 {
            witnesses.wrote(removed(id));
            if id % 7 == 0 {
                witnesses.found();
            }
        }
        witnesses.found();
        let wanted = witnesses.to_look_for();
        assert!(wanted[0] == written(1, 10) && wanted.last() == Some(&removed(999)), "{wanted:?}");
        assert!(wanted.len() <= MOST + 1, "{wanted:?}");
    }

    #[test]
    fn the_newest_write_tells_of_all_before_it_and_after_a_start_all_of_them_are_looked_for() {
        let all = [written(1, 10), removed(2), written(3, 12), removed(4)];
        assert_eq!(seen(all).to_look_for(), all[2..].to_vec());
        assert_eq!(seen(all).remembered(false).to_look_for(), all.to_vec());
    }

    #[test]
    fn a_row_that_changes_all_the_time_is_compared_before_it_is_written() {
        let mut witnesses = seen([written(2, 8), written(1, 10)]);
        assert_eq!(compared(&mut witnesses, Some(stored(2, 10))), None);
        for stored in [Some(stored(2, 9)), None] {
            let doubt = Doubt { missing: written(1, 10), unless: None };
            assert_eq!(compared(&mut witnesses.clone(), stored), Some(doubt));
        }
    }

    #[test]
    fn a_point_that_another_program_removed_is_told_by_a_newer_write() {
        let mut witnesses = seen([written(1, 10), written(2, 11)]);
        assert_eq!(
            compared(&mut witnesses, None),
            Some(Doubt { missing: written(1, 10), unless: Some(written(2, 11)) })
        );
        assert_eq!(compared(&mut witnesses, None), None, "it is told once");
    }

    #[test]
    fn what_the_stream_still_has_to_explain_after_a_start_is_no_proof() {
        let remembered = |witness, may_go_back| seen([witness]).remembered(may_go_back);
        let mut announced = stored(2, 9);
        announced.provenance.as_mut().unwrap().position = Position::default();
        let (gone, back, announced) = (None, Some(stored(2, 10)), Some(announced));
        for (witness, stored) in [(written(1, 10), gone), (removed(1), back), (written(1, 10), announced)] {
            let mut witnesses = remembered(witness, false);
            assert_eq!(compared(&mut witnesses, stored), None);
            assert!(witnesses.to_look_for().is_empty(), "it is explained then");
        }
        let older = || Some(stored(2, 9));
        assert!(compared(&mut remembered(written(1, 10), false), older()).is_some(), "no change makes a row older");
        assert_eq!(compared(&mut remembered(written(1, 10), true), older()), None, "what it looks up may");
    }

    #[test]
    fn where_others_write_too_nothing_is_proof() {
        let mut witnesses = Witnesses::default();
        witnesses.wrote(written(1, 10));
        assert_eq!(compared(&mut witnesses, None), None);
    }

    #[test]
    fn a_point_that_is_back_was_restored() {
        let witness = Witness { id: PointId::Num(1), version: None };
        assert!(witness.holds(None) && !witness.holds(Some(&stored(2, 10))));
    }
}
