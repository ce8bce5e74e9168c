//! Decides which rows need a vector, only a new payload, or nothing.

use std::collections::{HashMap, HashSet};

use walvec_model::{Document, Fingerprint, Generation, PointId, Position, Provenance, RowKey, StoredPoint};

use crate::writer::coalesce::BaseVersion;

/// The generation of records and points that come from no snapshot of walvec: those of other programs.
pub(crate) const FOREIGN: Generation = Generation(0);

/// The stored points of the rows of a batch, and which rows are parked.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Stored points by id. Points that another program wrote count as absent.
    pub(crate) points: HashMap<PointId, StoredPoint>,
    /// Keys whose latest version could not be processed. What is stored for them is out of date.
    pub(crate) parked: HashSet<RowKey>,
    /// Points, by row, whose stored state is not trusted: a late write may have set it back, or the row is being
    /// repaired. Nothing is taken from them.
    pub(crate) doubted: HashMap<RowKey, HashSet<PointId>>,
}

impl Known {
    /// Indexes the points that the sink returned.
    #[must_use]
    pub(crate) fn new(stored: Vec<StoredPoint>, parked: HashSet<RowKey>) -> Self {
        let ours = stored.into_iter().filter(|point| point.provenance.is_some());
        Self { points: ours.map(|point| (point.id, point)).collect(), parked, doubted: HashMap::new() }
    }

    /// Returns whether the sink already shows this version of the point or a newer one, because the stream is being
    /// replayed.
    ///
    /// A point of an older generation never counts: the reason for the new snapshot may affect it.
    #[must_use]
    pub(crate) fn is_current(&self, id: PointId, key: &RowKey, position: Position, generation: Generation) -> bool {
        self.version(id, key, generation).is_some_and(|stored| stored >= position)
    }

    /// Returns whether the sink shows a newer version of the point.
    #[must_use]
    pub(crate) fn is_newer(&self, id: PointId, key: &RowKey, position: Position, generation: Generation) -> bool {
        self.version(id, key, generation).is_some_and(|stored| stored > position)
    }

    /// Returns the stored version, if it counts for a change of this generation.
    fn version(&self, id: PointId, key: &RowKey, generation: Generation) -> Option<Position> {
        let stored = self.points.get(&id)?.provenance.as_ref()?;
        // Another program's positions are its own and may start over. For its records, the order of their topic
        // decides.
        let counts = generation != FOREIGN && stored.generation >= generation && !self.parked.contains(key);
        counts.then_some(stored.position)
    }

    /// Returns the stored point that may supply values which PostgreSQL did not send.
    ///
    /// Three kinds of points cannot: the point of a parked row (the missing value may have changed in the version that
    /// could not be processed), a point that is as new as the change (it may belong to another row that has taken the
    /// key since), and a point of an older generation (it lacks what happened before the snapshot).
    #[must_use]
    pub(crate) fn base(
        &self,
        base: &BaseVersion,
        id: PointId,
        key: &RowKey,
        generation: Generation,
    ) -> Option<&StoredPoint> {
        let BaseVersion::Stored { before } = base else { return None };
        let usable = !self.parked.contains(key) && !self.is_doubted(key, id);
        let is_before = |stored: &Provenance| stored.position < *before && stored.generation >= generation;
        self.points.get(&id).filter(|point| usable && point.provenance.as_ref().is_some_and(is_before))
    }

    /// Returns whether the stored state of a row's point is not to be trusted.
    #[must_use]
    pub(crate) fn is_doubted(&self, key: &RowKey, id: PointId) -> bool {
        self.doubted.get(key).is_some_and(|points| points.contains(&id))
    }

    /// Returns whether a point that was read later is still the known one.
    #[must_use]
    pub(crate) fn has(&self, point: &StoredPoint) -> bool {
        self.points.get(&point.id).is_some_and(|known| known.provenance == point.provenance)
    }

    /// Returns how many points a row has, according to its first one.
    #[must_use]
    pub(crate) fn chunks(&self, first: PointId) -> u32 {
        let provenance = self.points.get(&first).and_then(|point| point.provenance.as_ref());
        provenance.map_or(0, |provenance| provenance.chunks.max(1))
    }

    /// Returns whether the stored vector was made from the same text by the same model.
    #[must_use]
    pub(crate) fn has_vector_for(&self, document: &Document, fingerprint: &Fingerprint) -> bool {
        let usable = self.points.get(&document.id).filter(|point| !self.is_doubted(&document.key, point.id));
        usable.and_then(|point| point.provenance.as_ref()).is_some_and(|provenance| {
            provenance.input_hash == document.input_hash && provenance.fingerprint == *fingerprint
        })
    }
}

/// A document and the version of its row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Versioned {
    /// The document.
    pub(crate) document: Document,
    /// The version of its row.
    pub(crate) position: Position,
}

impl Versioned {
    /// Returns walvec's own payload field for this document.
    #[must_use]
    pub(crate) fn provenance(&self, fingerprint: &Fingerprint, generation: Generation) -> Provenance {
        Provenance {
            position: self.position,
            table: Provenance::table_tag(&self.document.table),
            key: self.document.key.values().to_vec(),
            input_hash: self.document.input_hash.clone(),
            fingerprint: fingerprint.clone(),
            generation,
            chunk: self.document.chunk,
            chunks: self.document.chunks,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use walvec_model::{InputHash, Lsn, Payload, Provenance, TableName};

    use super::*;

    const fn at(lsn: u64) -> Position {
        Position { commit_lsn: Lsn(lsn), ordinal: 1 }
    }

    fn key(id: u64) -> RowKey {
        RowKey::new(vec![json!(id)])
    }

    fn versioned(id: u64, text: &str, lsn: u64) -> Versioned {
        Versioned {
            document: Document {
                id: PointId::Num(id),
                table: TableName::new("public", "books"),
                key: key(id),
                text: text.to_owned(),
                input_hash: InputHash::of(text),
                payload: Payload::new(),
                chunk: 0,
                chunks: 1,
            },
            position: at(lsn),
        }
    }

    fn model(name: &str) -> Fingerprint {
        Fingerprint::of(&[name])
    }

    fn stored(id: u64, text: &str, lsn: u64) -> StoredPoint {
        let provenance: Provenance = versioned(id, text, lsn).provenance(&model("a"), Generation(1));
        StoredPoint { id: PointId::Num(id), payload: Payload::new(), provenance: Some(provenance) }
    }

    #[test]
    fn an_unchanged_text_keeps_its_vector_and_a_changed_one_or_another_model_does_not() {
        let known = Known::new(vec![stored(1, "text", 10)], HashSet::new());
        assert!(known.has_vector_for(&versioned(1, "text", 20).document, &model("a")));
        assert!(!known.has_vector_for(&versioned(1, "other", 20).document, &model("a")));
        assert!(!known.has_vector_for(&versioned(1, "text", 20).document, &model("b")));
        assert!(!known.has_vector_for(&versioned(2, "text", 20).document, &model("a")));
    }

    #[test]
    fn a_replayed_change_never_beats_a_newer_one() {
        let known = Known::new(vec![stored(1, "text", 10)], HashSet::new());
        let is_current =
            |id, lsn, generation| known.is_current(PointId::Num(id), &key(id), at(lsn), Generation(generation));
        assert!(is_current(1, 9, 1));
        assert!(is_current(1, 10, 1));
        assert!(!is_current(1, 11, 1));
        assert!(!is_current(2, 1, 1));
        assert!(!is_current(1, 9, 2), "of an older generation");
        let is_newer = |lsn| known.is_newer(PointId::Num(1), &key(1), at(lsn), Generation(1));
        assert!(is_newer(9) && !is_newer(10));
    }

    #[test]
    fn a_parked_row_is_tried_again_whatever_is_stored() {
        let known = Known::new(vec![stored(1, "text", 10)], HashSet::from([key(1)]));
        assert!(!known.is_current(PointId::Num(1), &key(1), at(10), Generation(1)));
    }

    #[test]
    fn records_of_another_program_count_in_the_order_of_their_topic_whatever_their_positions() {
        let known = Known::new(vec![stored(1, "text", 10)], HashSet::new());
        for lsn in [9, 10, 11] {
            assert!(!known.is_current(PointId::Num(1), &key(1), at(lsn), FOREIGN));
        }
    }

    #[test]
    fn only_an_older_point_of_the_same_row_supplies_values_that_were_not_sent() {
        let base = |before| BaseVersion::Stored { before: at(before) };
        let (id, key) = (PointId::Num(1), key(1));
        let known = Known::new(vec![stored(1, "text", 10)], HashSet::new());
        let of = |base, generation| known.base(&base, id, &key, Generation(generation));
        assert!(of(base(11), 1).is_some());
        assert!(of(base(10), 1).is_none(), "the stored point is of a later state");
        assert!(of(base(11), 2).is_none(), "the stored point is of an older generation");
        assert!(of(BaseVersion::Unknown, 1).is_none());
        let parked = Known::new(vec![stored(1, "text", 10)], HashSet::from([key.clone()]));
        assert!(parked.base(&base(11), id, &key, Generation(1)).is_none(), "the stored point misses a version");
    }

    #[test]
    fn a_point_that_something_else_wrote_counts_as_absent() {
        let foreign = StoredPoint { id: PointId::Num(1), payload: Payload::new(), provenance: None };
        let known = Known::new(vec![foreign], HashSet::new());
        assert!(!known.has_vector_for(&versioned(1, "text", 20).document, &model("a")));
        assert!(!known.is_current(PointId::Num(1), &key(1), at(1), Generation(1)));
    }
}
