use std::sync::Arc;

use serde_json::json;
use walvec_model::{StreamEvent, Table};

use super::*;
use crate::source::fixtures::{altered, at, partitioned, plain, table};
use crate::state::store::Store;

/// What the stream has brought, with the suspicions of the looks so far.
#[derive(Default)]
struct Looks {
    truncates: Truncates,
    leaves: Leaves,
    suspicions: Suspicions,
}

impl Looks {
    /// Returns the looks at a table that had this shape when its rows were read.
    fn at(before: &Shape) -> Self {
        let looks = Self::default();
        looks.leaves.know(&table("items"), before);
        looks
    }

    /// Returns the verdict of a look, with the server at `flushed` and the sink at `applied`.
    fn judge(&mut self, before: &Shape, now: &Shape, (flushed, applied): (u64, u64)) -> Verdict {
        let Self { truncates, leaves, suspicions } = self;
        let evidence = StreamEvidence { truncates, leaves, flushed: Lsn(flushed), applied: Lsn(applied) };
        suspicions.judge(&table("items"), (before, now), evidence)
    }

    /// Returns the verdict once the stream has brought everything.
    fn judge_at_last(&mut self, before: &Shape, now: &Shape) -> Verdict {
        assert_eq!(self.judge(before, now, (100, 0)), Verdict::Wait, "at the first look");
        self.judge(before, now, (200, 200))
    }

    /// Lets the stream name a partition before its rows, in transaction 7.
    fn hear(&self, leaf: u32, lsn: u64) {
        let directory = tempfile::tempdir().unwrap();
        let table = Arc::new(Table { name: table("items"), columns: Vec::new(), key: Vec::new() });
        let named = StreamEvent::Partition { table, leaf, position: at(lsn), xid: 7 };
        self.leaves.hear(&[named], &Store::open(directory.path()).unwrap()).unwrap();
    }
}

fn reads_all(verdict: &Verdict, words: &str) -> bool {
    matches!(verdict, Verdict::Read { partitions: None, why } if why.contains(words))
}

#[test]
fn each_table_has_one_next_step() {
    let (one, other) = (plain(1), altered(&json!({ "versions": "w" })));
    let look = TableLook {
        before: Some(&one),
        now: Some(&one),
        is_followed: true,
        is_owed: false,
        has_lost_partition: false,
        is_being_read: false,
    };
    let other = Some(&other);
    let cases = [
        ("as it was", look, TableStep::Skip),
        ("different", TableLook { now: other, ..look }, TableStep::Judge),
        ("as it was, and owed", TableLook { is_owed: true, ..look }, TableStep::Judge),
        (
            "as it was, with a partition that came and went",
            TableLook { has_lost_partition: true, ..look },
            TableStep::Judge,
        ),
        ("different, and being read", TableLook { now: other, is_being_read: true, ..look }, TableStep::Skip),
        ("not known", TableLook { before: None, ..look }, TableStep::Know),
        ("not known, and being read", TableLook { before: None, is_being_read: true, ..look }, TableStep::Know),
        ("gone", TableLook { now: None, ..look }, TableStep::Missing),
        ("gone, and owed", TableLook { now: None, is_owed: true, ..look }, TableStep::Missing),
    ];
    for (what, look, step) in cases {
        assert_eq!(look.step(), step, "{what}");
    }
}

#[test]
fn of_a_table_that_is_set_aside_only_the_rows_that_look_it_up_are_read() {
    let (one, other) = (plain(1), plain(2));
    let look = TableLook {
        before: Some(&one),
        now: Some(&other),
        is_followed: false,
        is_owed: false,
        has_lost_partition: true,
        is_being_read: false,
    };
    assert_eq!(look.step(), TableStep::Skip, "it keeps the shape with which it was followed");
    assert_eq!(TableLook { before: None, ..look }.step(), TableStep::Skip);
    assert_eq!(TableLook { is_owed: true, ..look }.step(), TableStep::ReadOwed);
    assert_eq!(TableLook { is_owed: true, now: None, ..look }.step(), TableStep::Skip, "its absence is known");
}

#[test]
fn a_table_that_is_owed_is_read_whole_even_if_it_is_as_it_was() {
    assert!(reads_all(&Verdict::Completion.of_owed(), "before"));
    let part = Verdict::Read { partitions: Some(vec![3]), why: "partitions were attached or created" };
    assert!(reads_all(&part.of_owed(), "attached"), "some of its rows may have been read in between");
    assert_eq!(Verdict::Wait.of_owed(), Verdict::Wait);
}

#[test]
fn rows_that_read_differently_are_read_again_at_once() {
    let before = plain(1);
    let verdict = Looks::at(&before).judge(&before, &altered(&json!({ "columns": "d" })), (100, 0));
    assert!(reads_all(&verdict, "columns"), "{verdict:?}");
}

#[test]
fn what_the_stream_brings_is_only_noted() {
    let before = plain(1);
    let verdict = Looks::at(&before).judge(&before, &altered(&json!({ "identity": "j" })), (100, 0));
    assert_eq!(verdict, Verdict::Completion);
    let replaced = Looks::at(&before).judge(&before, &plain(9), (100, 0));
    assert_eq!(replaced, Verdict::Wait, "another session decides about a replaced table");
}

#[test]
fn only_the_partitions_that_came_are_read_and_not_before_the_stream_has_caught_up() {
    let (before, now) = (partitioned(&[(2, 2, 1)]), partitioned(&[(2, 2, 1), (3, 3, 1)]));
    let mut looks = Looks::at(&before);
    assert_eq!(looks.judge(&before, &now, (100, 500)), Verdict::Wait, "the first look has no bound yet");
    assert_eq!(looks.judge(&before, &now, (200, 199)), Verdict::Wait, "a TRUNCATE may still come");
    assert_eq!(looks.judge(&before, &now, (300, 199)), Verdict::Wait);
    let verdict = looks.judge(&before, &now, (400, 200));
    assert!(matches!(verdict, Verdict::Read { partitions: Some(added), .. } if added == [3]), "the bound stays at 200");
}

#[test]
fn a_table_that_changes_again_is_waited_for_again() {
    let before = partitioned(&[(2, 2, 1)]);
    let (now, later) = (partitioned(&[(2, 2, 1), (3, 3, 1)]), partitioned(&[(2, 2, 1), (3, 3, 1), (4, 4, 1)]));
    let mut looks = Looks::at(&before);
    assert_eq!(looks.judge(&before, &now, (100, 100)), Verdict::Wait);
    assert_eq!(looks.judge(&before, &later, (200, 200)), Verdict::Wait, "another shape has another cause");
    assert!(
        matches!(looks.judge(&before, &later, (300, 300)), Verdict::Read { partitions: Some(added), .. } if added == [3, 4])
    );
}

#[test]
fn a_truncate_that_the_stream_has_brought_explains_other_storage() {
    let (before, now) = (partitioned(&[(2, 2, 1), (3, 3, 1)]), partitioned(&[(2, 20, 7), (3, 30, 7)]));
    let mut looks = Looks::at(&before);
    let verdict = looks.judge_at_last(&before, &now);
    assert!(reads_all(&verdict, "truncated or rewritten"), "{verdict:?}");
    let mut looks = Looks::at(&before);
    looks.truncates.note(&table("items"), 7);
    assert_eq!(looks.judge_at_last(&before, &now), Verdict::Completion);
    let partly = partitioned(&[(2, 20, 7), (3, 30, 8)]);
    let mut looks = Looks::at(&before);
    looks.truncates.note(&table("items"), 7);
    let verdict = looks.judge_at_last(&before, &partly);
    assert!(reads_all(&verdict, "truncated or rewritten"), "one of them was truncated on its own: {verdict:?}");
}

#[test]
fn a_partition_that_was_filled_and_went_between_two_looks_means_the_whole_table() {
    let before = partitioned(&[(2, 2, 1)]);
    let mut looks = Looks::at(&before);
    looks.hear(3, 50);
    let verdict = looks.judge(&before, &before, (100, 0));
    assert!(reads_all(&verdict, "come and gone"), "{verdict:?}");
    assert_eq!(looks.judge(&before, &before, (50, 0)), Verdict::Completion, "the look may have been before it came");
}

#[test]
fn a_new_partition_that_may_have_been_emptied_means_the_whole_table() {
    let (before, emptied) = (partitioned(&[(2, 2, 1)]), partitioned(&[(2, 2, 1), (3, 30, 8)]));
    let mut looks = Looks::at(&before);
    looks.hear(3, 50);
    let verdict = looks.judge_at_last(&before, &emptied);
    assert!(reads_all(&verdict, "filled and emptied"), "{verdict:?}");
}
