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
    /// The generation of the batch. A point of an older one never counts: the reason for the new snapshot may affect it.
    generation: Generation,
}

impl Known {
    /// Indexes the points that the sink returned for a batch of this generation.
    #[must_use]
    pub(crate) fn new(stored: Vec<StoredPoint>, parked: HashSet<RowKey>, generation: Generation) -> Self {
        let ours = stored.into_iter().filter(|point| point.provenance.is_some());
        let points = ours.map(|point| (point.id, point)).collect();
        Self { points, parked, doubted: HashMap::new(), generation }
    }

    /// Returns whether the sink already shows this version of the point or a newer one, because the stream is being
    /// replayed.
    #[must_use]
    pub(crate) fn is_current(&self, id: PointId, key: &RowKey, position: Position) -> bool {
        self.version(id, key).is_some_and(|stored| stored >= position)
    }

    /// Returns whether the sink shows a newer version of the point.
    #[must_use]
    pub(crate) fn is_newer(&self, id: PointId, key: &RowKey, position: Position) -> bool {
        self.version(id, key).is_some_and(|stored| stored > position)
    }

    /// Returns the stored version, if it counts.
    fn version(&self, id: PointId, key: &RowKey) -> Option<Position> {
        let stored = self.points.get(&id)?.provenance.as_ref()?;
        // Another program's positions are its own and may start over. For its records, the order of their topic
        // decides.
        let counts = self.generation != FOREIGN && stored.generation >= self.generation && !self.parked.contains(key);
        counts.then_some(stored.position)
    }

    /// Returns the stored point that may supply values which PostgreSQL did not send.
    ///
    /// Three kinds of points cannot: the point of a parked row (the missing value may have changed in the version that
    /// could not be processed), a point that is as new as the change (it may belong to another row that has taken the
    /// key since), and a point of an older generation (it lacks what happened before the snapshot).
    #[must_use]
    pub(crate) fn base(&self, base: &BaseVersion, id: PointId, key: &RowKey) -> Option<&StoredPoint> {
        let BaseVersion::Stored { before } = base else { return None };
        let usable = !self.parked.contains(key) && !self.is_doubted(key, id);
        let is_before = |stored: &Provenance| stored.position < *before && stored.generation >= self.generation;
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

    /// Returns whether a point is of the batch's generation, and its row has a version: it has none while its chunks are
    /// being written.
    #[must_use]
    pub(crate) fn is_complete(&self, id: PointId) -> bool {
        let stored = self.points.get(&id).and_then(|point| point.provenance.as_ref());
        stored.is_some_and(|own| own.generation == self.generation && own.position > Position::default())
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

    /// Returns what is known to a batch of a generation of a point that was written in generation 1.
    fn known_in(generation: u64, parked: HashSet<RowKey>) -> Known {
        Known::new(vec![stored(1, "text", 10)], parked, Generation(generation))
    }

    fn known() -> Known {
        known_in(1, HashSet::new())
    }

    #[test]
    fn an_unchanged_text_keeps_its_vector_and_a_changed_one_or_another_model_does_not() {
        let known = known();
        assert!(known.has_vector_for(&versioned(1, "text", 20).document, &model("a")));
        assert!(!known.has_vector_for(&versioned(1, "other", 20).document, &model("a")));
        assert!(!known.has_vector_for(&versioned(1, "text", 20).document, &model("b")));
        assert!(!known.has_vector_for(&versioned(2, "text", 20).document, &model("a")));
    }

    #[test]
    fn a_replayed_change_never_beats_a_newer_one() {
        let is_current =
            |id, lsn, generation| known_in(generation, HashSet::new()).is_current(PointId::Num(id), &key(id), at(lsn));
        assert!(is_current(1, 9, 1));
        assert!(is_current(1, 10, 1));
        assert!(!is_current(1, 11, 1));
        assert!(!is_current(2, 1, 1));
        assert!(!is_current(1, 9, 2), "of an older generation");
        let is_newer = |lsn| known().is_newer(PointId::Num(1), &key(1), at(lsn));
        assert!(is_newer(9) && !is_newer(10));
    }

    #[test]
    fn a_parked_row_is_tried_again_whatever_is_stored() {
        assert!(!known_in(1, HashSet::from([key(1)])).is_current(PointId::Num(1), &key(1), at(10)));
    }

    #[test]
    fn records_of_another_program_count_in_the_order_of_their_topic_whatever_their_positions() {
        for lsn in [9, 10, 11] {
            assert!(!known_in(FOREIGN.0, HashSet::new()).is_current(PointId::Num(1), &key(1), at(lsn)));
        }
    }

    #[test]
    fn only_an_older_point_of_the_same_row_supplies_values_that_were_not_sent() {
        let base = |before| BaseVersion::Stored { before: at(before) };
        let (id, key) = (PointId::Num(1), key(1));
        let has = |known: Known, base| known.base(&base, id, &key).is_some();
        assert!(has(known(), base(11)));
        assert!(!has(known(), base(10)), "the stored point is of a later state");
        assert!(!has(known_in(2, HashSet::new()), base(11)), "the stored point is of an older generation");
        assert!(!has(known(), BaseVersion::Unknown));
        assert!(!has(known_in(1, HashSet::from([key.clone()])), base(11)), "the stored point misses a version");
        let doubted = HashMap::from([(key.clone(), HashSet::from([id]))]);
        assert!(!has(Known { doubted, ..known() }, base(11)), "a late write may have set the stored point back");
    }

    #[test]
    fn a_row_whose_chunks_are_being_written_is_not_complete() {
        assert!(known().is_complete(PointId::Num(1)) && !known().is_complete(PointId::Num(2)));
        assert!(!known_in(2, HashSet::new()).is_complete(PointId::Num(1)), "an older snapshot wrote it");
        let mut announced = stored(1, "text", 10);
        announced.provenance.as_mut().unwrap().position = Position::default();
        assert!(!Known::new(vec![announced], HashSet::new(), Generation(1)).is_complete(PointId::Num(1)));
    }

    #[test]
    fn a_row_has_as_many_points_as_its_first_one_says_and_at_least_that_one() {
        let with = |chunks| {
            let mut first = stored(1, "text", 10);
            first.provenance.as_mut().unwrap().chunks = chunks;
            Known::new(vec![first], HashSet::new(), Generation(1))
        };
        let counts = [0, 1, 3].map(|chunks| with(chunks).chunks(PointId::Num(1)));
        assert_eq!((counts, known().chunks(PointId::Num(2))), ([1, 1, 3], 0));
    }

    #[test]
    fn a_point_that_something_else_wrote_counts_as_absent() {
        let foreign = StoredPoint { id: PointId::Num(1), payload: Payload::new(), provenance: None };
        let known = Known::new(vec![foreign], HashSet::new(), Generation(1));
        assert!(!known.has_vector_for(&versioned(1, "text", 20).document, &model("a")));
        assert!(!known.is_current(PointId::Num(1), &key(1), at(1)));
    }
}
