//! The result of a comparison.

use serde_json::{Value, json};
use walvec_model::{PointId, TableName};

use crate::ParkedRow;

/// How many findings of each kind are shown as examples.
const EXAMPLES: usize = 10;

/// The sorts of mismatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MismatchKind {
    /// A row without its point.
    Missing,
    /// A point without a row, walvec's own or not.
    Extra,
    /// A point that does not show its row: payload, text, key, table or model differ, or walvec did not write
    /// it at all.
    Stale,
    /// A row with another number of chunks than it should have.
    Chunks,
    /// A vector that is not that of the text, or none at all.
    BadVector,
}

impl MismatchKind {
    /// All sorts, in the order in which they are reported.
    pub const ALL: [Self; 5] = [Self::Missing, Self::Extra, Self::Stale, Self::Chunks, Self::BadVector];

    /// Returns its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Stale => "stale",
            Self::Chunks => "chunks",
            Self::BadVector => "bad_vectors",
        }
    }
}

/// One field in which a point differs from its row.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The field's name; parts of walvec's own field are `_walvec.h` and so on, the vector is `vector`.
    pub field: String,
    /// The value that follows from the row; `None` if there is none.
    pub expected: Option<Value>,
    /// The stored value; `None` if there is none.
    pub stored: Option<Value>,
}

/// A proven mismatch.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// The kind of the mismatch.
    pub kind: MismatchKind,
    /// The point's id, or the one that it should have.
    pub id: PointId,
    /// The row's key, if there is a row.
    pub key: Option<Vec<Value>>,
    /// The point's version (`_walvec.v`), if it has one.
    pub version: Option<String>,
    /// The differences, where both row and point exist.
    pub differences: Vec<Difference>,
}

impl Mismatch {
    /// Converts it to JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let differences = self.differences.iter().map(
            |Difference { field, expected, stored }| json!({"field": field, "expected": expected, "stored": stored}),
        );
        json!({
            "sort": self.kind.name(),
            "id": self.id,
            "key": self.key,
            "version": self.version,
            "differences": differences.collect::<Vec<_>>(),
        })
    }
}

/// The result of the comparison of one collection with its table.
#[derive(Clone, Debug)]
pub struct Report {
    /// The collection.
    pub collection: String,
    /// The collection's table.
    pub table: TableName,
    /// Rows of the table's snapshot.
    pub rows: u64,
    /// Points that were read.
    pub points: u64,
    /// Points whose text was embedded again.
    pub sampled: u64,
    /// Rows that changed whenever they were read: neither equal nor proven different.
    pub unsettled: u64,
    /// Rows that the running walvec reports as impossible to process.
    pub parked: u64,
    /// A few of these parked rows.
    pub parked_examples: Vec<ParkedRow>,
    /// A few mismatches of each kind.
    pub examples: Vec<Mismatch>,
    counts: [u64; MismatchKind::ALL.len()],
}

impl Report {
    pub(crate) fn new(collection: &str, table: &TableName) -> Self {
        Self {
            collection: collection.to_owned(),
            table: table.clone(),
            rows: 0,
            points: 0,
            sampled: 0,
            unsettled: 0,
            parked: 0,
            parked_examples: Vec::new(),
            examples: Vec::new(),
            counts: [0; MismatchKind::ALL.len()],
        }
    }

    /// Returns how many mismatches of a kind were proven.
    #[must_use]
    pub fn count(&self, kind: MismatchKind) -> u64 {
        MismatchKind::ALL.iter().zip(self.counts).find(|(known, _)| **known == kind).map_or(0, |(_, count)| count)
    }

    /// Returns how many mismatches were proven.
    #[must_use]
    pub fn mismatches(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(crate) fn add(&mut self, mismatch: Mismatch) {
        for (kind, count) in MismatchKind::ALL.iter().zip(&mut self.counts) {
            if *kind == mismatch.kind {
                *count += 1;
            }
        }
        if self.count(mismatch.kind) <= EXAMPLES as u64 {
            self.examples.push(mismatch);
        }
    }

    pub(crate) fn add_parked(&mut self, row: ParkedRow) {
        self.parked += 1;
        if self.parked_examples.len() < EXAMPLES {
            self.parked_examples.push(row);
        }
    }

    /// Returns the counts as JSON.
    #[must_use]
    pub fn counts_as_json(&self) -> serde_json::Map<String, Value> {
        let mut counts = serde_json::Map::new();
        counts.insert("rows".to_owned(), self.rows.into());
        counts.insert("points".to_owned(), self.points.into());
        counts.extend(MismatchKind::ALL.map(|kind| (kind.name().to_owned(), self.count(kind).into())));
        counts.insert("dead_letters".to_owned(), self.parked.into());
        counts.insert("unsettled".to_owned(), self.unsettled.into());
        counts.insert("sampled".to_owned(), self.sampled.into());
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_counted_and_a_few_of_each_sort_are_shown() {
        let mut report = Report::new("books", &TableName::new("public", "books"));
        let mismatch = |kind, number| Mismatch {
            kind,
            id: PointId::Num(number),
            key: None,
            version: None,
            differences: Vec::new(),
        };
        (0..30).for_each(|number| report.add(mismatch(MismatchKind::Extra, number)));
        report.add(mismatch(MismatchKind::BadVector, 1));
        assert_eq!(
            (report.count(MismatchKind::Extra), report.count(MismatchKind::Stale), report.mismatches()),
            (30, 0, 31)
        );
        assert_eq!(report.examples.len(), EXAMPLES + 1);
        let json = Value::Object(report.counts_as_json());
        assert_eq!((&json["extra"], &json["bad_vectors"], &json["missing"]), (&json!(30), &json!(1), &json!(0)));
    }
}
