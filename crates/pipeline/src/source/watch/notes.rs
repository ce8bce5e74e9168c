//! What the state file notes of the tables, so that a change that happened while walvec was not running is found too.
//!
//! The new shape of a table that is read again is noted when the reading is complete. Until then the table is noted as
//! owed. If the session ends first, the next one reads the table, even if the alteration was undone, because some of
//! its rows may have been read in between.

use std::collections::{BTreeMap, BTreeSet};

use walvec_capture::Shape;
use walvec_model::{Position, TableName};

use crate::state::records::{Baseline, Stray};

/// Tables and their shapes.
pub(super) type KnownShapes = BTreeMap<TableName, Shape>;

/// A table with its shape, if there is such a table.
type Found = (TableName, Option<Shape>);

/// The tables that have to be read again, and those that were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TableNotes {
    /// Tables that were found altered and have not been read again to the end.
    pub(super) owed: BTreeSet<TableName>,
    /// The tables of [`Baseline::anew`]: those for which nothing counts that is older than the session.
    anew: BTreeSet<TableName>,
    /// The tables of [`Baseline::unproved`]: those that were not published all the time.
    pub(super) unproved: BTreeSet<TableName>,
    /// The positions as of which altered tables were read whole, as far as they are not stored yet.
    pub(super) floors: BTreeMap<TableName, Position>,
}

impl TableNotes {
    /// Continues from the stored notes. A table that has to be read anew is owed, too.
    pub(super) fn stored(baseline: &Baseline) -> Self {
        let Baseline { owed, anew, unproved, .. } = baseline;
        Self {
            owed: owed.union(anew).cloned().collect(),
            anew: anew.clone(),
            unproved: unproved.clone(),
            floors: BTreeMap::new(),
        }
    }

    /// Notes that a table has been read again to the end. `since`: the position as of which the first of the tables
    /// that depend on it was read whole.
    pub(super) fn complete(&mut self, table: &TableName, since: Option<Position>) {
        self.owed.remove(table);
        self.unproved.remove(table);
        if self.anew.remove(table)
            && let Some(since) = since
        {
            // Older changes of a table that is only looked up are passed over too.
            self.floors.entry(table.clone()).or_insert(since);
        }
    }

    /// Returns the baseline to store in place of `stored`. The positions that were not stored yet are those of newer
    /// readings.
    pub(super) fn merged_into(
        &mut self,
        stored: Baseline,
        known: &KnownShapes,
        strays: Vec<(TableName, BTreeMap<u32, Stray>)>,
    ) -> Baseline {
        let mut floors: BTreeMap<TableName, Position> = stored.floors.iter().cloned().collect();
        floors.append(&mut self.floors);
        let shapes = known.iter().map(|(table, shape)| (table.clone(), shape.clone())).collect();
        let (floors, owed) = (floors.into_iter().collect(), self.owed.clone());
        let (anew, unproved) = (self.anew.clone(), self.unproved.clone());
        Baseline { shapes, floors, owed, anew, unproved, strays, ..stored }
    }
}

/// Returns the baseline of a snapshot that is about to be taken of the tables that were `found`. A table that is set
/// aside was followed before, and keeps the shape that it had then.
pub(super) fn before_snapshot(found: Vec<Found>, unfollowed: Vec<TableName>, stored: Baseline) -> Baseline {
    let found = found.into_iter().filter_map(|(table, shape)| Some((table, shape?)));
    let mut shapes: Vec<_> = found.filter(|(table, _)| !unfollowed.contains(table)).collect();
    shapes.extend(stored.shapes.into_iter().filter(|(table, _)| unfollowed.contains(table)));
    Baseline { shapes, aside: unfollowed, ..Baseline::default() }
}

/// Returns the partitions that were added since the noted shapes. Rows of them were copied as of `position`.
pub(super) fn copied_strays(
    noted: &[(TableName, Shape)],
    now: &[Found],
    position: Position,
) -> Vec<(TableName, BTreeMap<u32, Stray>)> {
    let now = |table: &TableName| now.iter().find(|(found, _)| found == table).and_then(|(_, shape)| shape.as_ref());
    let strays = |(table, before): &(TableName, Shape)| {
        let added = now(table)?.added_since(before);
        let strays: BTreeMap<u32, Stray> = added.into_iter().map(|leaf| (leaf, Stray::copied(position))).collect();
        (!strays.is_empty()).then(|| (table.clone(), strays))
    };
    noted.iter().filter_map(strays).collect()
}

#[cfg(test)]
mod tests;
