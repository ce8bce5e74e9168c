use std::collections::BTreeMap;

use serde_json::json;
use walvec_model::{Fingerprint, Generation, InputHash, Lsn, Payload, Provenance};

use super::*;
use crate::testing::rows::insert;
use crate::testing::sink::{HeldPoint, unavailable};
use crate::testing::{Fault, SinkCall, TestCollection};

const ID: PointId = PointId::Num(1);

fn provenance(lsn: u64) -> Provenance {
    Provenance {
        position: Position { commit_lsn: Lsn(lsn), ordinal: 1 },
        table: "public.t".to_owned(),
        key: vec![json!(1)],
        input_hash: InputHash::of("text"),
        fingerprint: Fingerprint::of(&["model"]),
        generation: Generation(1),
        chunk: 0,
        chunks: 1,
    }
}

fn payload(lsn: u64) -> Write {
    Write::Payload { id: ID, payload: Payload::new(), provenance: provenance(lsn) }
}

fn stored(lsn: u64) -> Vec<StoredPoint> {
    vec![StoredPoint { id: ID, payload: Payload::new(), provenance: Some(provenance(lsn)) }]
}

fn key() -> RowKey {
    RowKey::new(vec![json!(1)])
}

fn written(late: &LateWrites, write: Write, was_sent_before: bool) {
    late.written(std::iter::once((write, key())), was_sent_before);
}

#[test]
fn only_what_was_sent_twice_is_looked_at() {
    let late = LateWrites::default();
    written(&late, payload(5), false);
    assert!(late.ids().is_empty());
    written(&late, payload(5), true);
    assert_eq!((late.ids(), late.among([ID, PointId::Num(2)].into_iter())), (vec![ID], HashSet::from([ID])));
}

#[test]
fn a_point_that_is_older_than_its_last_write_is_read_again() {
    let late = LateWrites::default();
    written(&late, payload(5), true);
    written(&late, payload(9), false);
    assert!(late.compare(&[ID], &stored(9)).is_empty());
    let rows = HashSet::from([key()]);
    assert_eq!(late.compare(&[ID], &stored(5)), Overtaken { rows: rows.clone(), points: Vec::new() });
    assert_eq!(late.compare(&[ID], &[]), Overtaken { rows, points: Vec::new() }, "a late deletion");
}

#[test]
fn a_point_that_is_back_is_removed() {
    let late = LateWrites::default();
    written(&late, payload(5), true);
    written(&late, Write::Delete(ID), false);
    assert!(late.compare(&[ID], &[]).is_empty());
    let points = vec![(ID, Some(provenance(5).position))];
    assert_eq!(late.compare(&[ID], &stored(5)), Overtaken { rows: HashSet::new(), points: points.clone() });
    late.removed(None);
    assert_eq!(late.compare(&[ID], &stored(5)), Overtaken { rows: HashSet::new(), points });
}

#[test]
fn a_point_that_comes_back_after_a_sweep_is_removed() {
    for sweep in [
        |late: &LateWrites| late.swept(Generation(2)),
        |late: &LateWrites| late.swept_before(provenance(6).position),
        |late: &LateWrites| late.removed(Some(&[ID])),
    ] {
        let late = LateWrites::default();
        written(&late, payload(5), true);
        sweep(&late);
        assert!(late.compare(&[ID], &[]).is_empty());
        assert_eq!(late.compare(&[ID], &stored(5)).points.len(), 1);
    }
}

#[test]
fn a_point_is_forgotten_once_it_was_right_when_no_copy_could_come_any_more() {
    let late = LateWrites::default();
    written(&late, payload(5), true);
    let at_last = Instant::now() + LONGEST_WAY;
    assert!(late.compare(&[ID], &stored(5)).is_empty());
    assert!(!late.compare_at(at_last, &[ID], &stored(4)).is_empty());
    assert_eq!(late.ids(), [ID], "it was not right");
    assert!(late.compare_at(at_last, &[ID], &stored(5)).is_empty());
    assert!(late.ids().is_empty());
}

/// Returns a collection on a server whose answer to the last write was lost, and its points from before that write.
async fn with_a_doubtful_write() -> (TestCollection, BTreeMap<PointId, HeldPoint>) {
    let mut collection = TestCollection::new();
    collection.sink.share();
    collection.writer.watch_late_writes();
    collection.put(vec![insert(10, 1, "one")]).await.unwrap();
    let before = collection.sink.points();
    collection.sink.fail(SinkCall::Write, Fault::After(unavailable()));
    collection.put(vec![insert(20, 1, "two")]).await.unwrap();
    (collection, before)
}

#[tokio::test(start_paused = true)]
async fn a_row_whose_write_is_set_back_by_a_late_copy_is_found() {
    let (collection, before) = with_a_doubtful_write().await;
    assert!(collection.writer.overtaken().await.unwrap().is_empty());
    collection.sink.restore(before);
    let expected = Overtaken { rows: HashSet::from([key()]), points: Vec::new() };
    assert_eq!(collection.writer.overtaken().await.unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_from_a_point_that_a_late_copy_may_have_set_back() {
    let (mut collection, _) = with_a_doubtful_write().await;
    collection.put(vec![insert(30, 1, "two")]).await.unwrap();
    assert_eq!(collection.embedder.times_asked_for("two"), 2, "the vector may be that of the first text");
}

#[tokio::test(start_paused = true)]
async fn a_point_that_may_be_set_back_does_not_prove_that_the_collection_was_restored() {
    let (collection, before) = with_a_doubtful_write().await;
    collection.writer.wrote_everything();
    collection.sink.restore(before);
    collection.writer.look().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_engine_inside_the_program_applies_no_write_late() {
    let mut collection = TestCollection::new();
    collection.writer.watch_late_writes();
    collection.sink.fail(SinkCall::Write, Fault::After(unavailable()));
    collection.put(vec![insert(20, 1, "two")]).await.unwrap();
    assert!(!collection.writer.is_late(ID));
}

#[test]
fn a_network_that_loses_everything_does_not_fill_the_memory() {
    let late = LateWrites::default();
    let write = |id| (Write::Delete(PointId::Num(id)), key());
    late.written((0..MOST as u64 + 5).map(write), true);
    assert_eq!(late.ids().len(), MOST);
    late.written(std::iter::once(write(0)), true);
    assert_eq!(late.of_rows(std::iter::once(&key())).values().map(HashSet::len).sum::<usize>(), MOST);
}
