//! Proof that a collection still has what was written into it.
//!
//! A collection that was restored to an older state looks like itself: it has the same identity and fingerprint. What it does not have is
//! the last write. So the last write of each collection is remembered with the position, and looked for now and then.

use serde::{Deserialize, Serialize};
use walvec_model::{Generation, PointId, Position, StoredPoint};

/// The last write of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// The point.
    pub id: PointId,
    /// The version that it was given; `None` if it was removed.
    pub version: Option<(Generation, Position)>,
}

impl Witness {
    /// Whether the collection has the write, given the point as it is stored now.
    pub(crate) fn holds(&self, stored: Option<&StoredPoint>) -> bool {
        let stored = stored.map(|point| point.provenance.as_ref().map(|own| (own.generation, own.position)));
        match (self.version, stored) {
            (None, None) => true,
            (Some(written), Some(stored)) => stored >= Some(written),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
}

/// What is known of a collection's writes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Witnesses {
    /// One that was there at the last look, or is of before the start. Later writes do not take its place until the next look: they
    /// would also be there if the collection was restored just before them.
    seen: Option<Witness>,
    /// The last write.
    last: Option<Witness>,
}

impl Witnesses {
    /// What was stored with the position.
    pub(crate) const fn stored(witness: Option<Witness>) -> Self {
        Self { seen: witness, last: witness }
    }

    /// The one to look for.
    pub(crate) fn seen(&self) -> Option<Witness> {
        self.seen
    }

    /// The one to store with the position.
    pub(crate) fn newest(&self) -> Option<Witness> {
        self.last.or(self.seen)
    }

    /// Something was written.
    pub(crate) fn wrote(&mut self, last: Witness) {
        self.last = Some(last);
    }

    /// The collection had what was looked for.
    pub(crate) fn found(&mut self) {
        self.seen = self.newest();
    }

    /// Forgets those that are not `kept`.
    pub(crate) fn keep(&mut self, kept: impl Fn(&Witness) -> bool) {
        self.seen = self.seen.filter(&kept);
        self.last = self.last.filter(&kept);
    }

    /// The collection was emptied: the points must not be back.
    pub(crate) fn emptied(&mut self) {
        *self = Self::stored(self.newest().map(|witness| Witness { version: None, ..witness }));
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

    #[test]
    fn a_write_does_not_hide_that_the_one_before_is_gone() {
        let of = |id, lsn| Witness { id: PointId::Num(id), version: Some((Generation(2), position(lsn))) };
        let mut witnesses = Witnesses::stored(Some(of(1, 10)));
        witnesses.wrote(of(2, 11));
        assert_eq!((witnesses.seen(), witnesses.newest()), (Some(of(1, 10)), Some(of(2, 11))));
        witnesses.found();
        assert_eq!(witnesses.seen(), Some(of(2, 11)));
        witnesses.wrote(of(3, 12));
        witnesses.keep(|witness| witness.id != PointId::Num(3));
        assert_eq!(witnesses.newest(), Some(of(2, 11)));
        witnesses.emptied();
        assert_eq!(witnesses.seen(), Some(Witness { id: PointId::Num(2), version: None }));
    }

    #[test]
    fn a_point_that_is_back_was_restored() {
        let witness = Witness { id: PointId::Num(1), version: None };
        assert!(witness.holds(None) && !witness.holds(Some(&stored(2, 10))));
    }
}
