use super::*;
use crate::testing::rows::{at, insert, key, renumber, update};
use crate::writer::coalesce::{BaseVersion, coalesce};

fn failure(id: u64) -> RowFailure {
    RowFailure { key: key(id), position: at(9), code: "E", reason: String::new() }
}

/// Returns a batch of these rows, and of rows that could not be read.
fn batch(rows: &[u64], failed: &[u64]) -> Batch {
    let changes = rows.iter().map(|id| insert(10, *id, "text")).collect();
    let failed = failed.iter().copied().map(failure).collect();
    let purpose = Purpose::Reread;
    Batch { entries: coalesce(changes), purpose, has_inserts_only: false, context: Arc::default(), failed }
}

fn keys(batch: &Batch) -> Vec<RowKey> {
    batch.keys().cloned().collect()
}

#[test]
fn a_batch_is_taken_in_portions_and_each_failure_with_its_row() {
    // Row 1 has failed in a later version than the one that the batch holds, and row 9 was not read in any version.
    let mut rest = batch(&[1, 2, 3], &[3, 1, 9]);
    let first = rest.take_first(2);
    assert_eq!(keys(&first), [1, 2, 1, 9].map(key));
    assert_eq!(keys(&rest), [3, 3].map(key), "or it would be parked before its earlier version is written");
    assert_eq!((first.purpose, Arc::ptr_eq(&first.context, &rest.context)), (Purpose::Reread, true));
    assert_eq!(keys(&rest.take_first(100)), [3, 3].map(key));
    assert!(rest.is_empty());
}

#[test]
fn a_batch_of_failures_alone_is_taken_and_is_not_empty() {
    let mut rest = batch(&[], &[1, 2]);
    assert!(!rest.is_empty());
    assert_eq!(keys(&rest.take_first(1)), [1, 2].map(key));
    assert!(rest.is_empty());
}

#[test]
fn of_a_table_that_was_altered_no_value_is_taken_from_stored_points() {
    let changes = vec![insert(10, 1, "text"), update(11, 2, "2", None), renumber(12, 3, 4, None)];
    let mut distrusting = Batch { entries: coalesce(changes), ..batch(&[], &[]) };
    let trusting: Vec<_> = distrusting.entries.clone();
    distrusting.distrust_stored();
    for ((key, before), (_, after)) in trusting.iter().zip(&distrusting.entries) {
        let expected = match before.state.clone() {
            RowState::Present { row, base: BaseVersion::Stored { .. } } => {
                RowState::Present { row, base: BaseVersion::Unknown }
            }
            other => other,
        };
        assert_eq!(after.state, expected, "{key}");
        assert_eq!(after.position, before.position);
    }
    let unknown =
        |(_, last): &&(RowKey, FinalRow)| matches!(last.state, RowState::Present { base: BaseVersion::Unknown, .. });
    assert_eq!(distrusting.entries.iter().filter(unknown).count(), 2, "rows 2 and 4");
}
