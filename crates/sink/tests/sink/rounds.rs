//! Index builds of several rounds. The engine moves a point whose payload is overwritten during a build, and a later round
//! leaves the moved points out of the segment that it writes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use walvec_model::{Point, PointId, RawPoint, SparseVector};
use walvec_sink::embedded::Embedded;
use walvec_sink::{CollectionSpec, Search, Sink, Write};

use crate::common::{DIMENSION, fields, point, provenance, spec, vector};

/// More than the engine leaves without an index.
const POINTS: u64 = 12_000;
/// So many that the engine cleans the new segment up, in a second round.
const OVERWRITTEN: u64 = 4_000;
const BATCH: usize = 500;

fn open(root: &Path) -> Embedded {
    Embedded::open(root, CollectionSpec { keywords: Some("bm25".to_owned()), ..spec(DIMENSION) }).unwrap()
}

fn keywords(id: u64) -> SparseVector {
    SparseVector { indices: vec![u32::try_from(id).unwrap()], values: vec![1.0] }
}

fn written(id: u64) -> Write {
    Write::Upsert(Point { keywords: Some(keywords(id)), ..point(id, json!({ "number": 0 })) })
}

fn overwritten(id: u64) -> Write {
    Write::Payload { id: PointId::Num(id), payload: fields(json!({ "number": id })), provenance: provenance(id) }
}

/// Returns the names of the collection's segments.
fn segments(root: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(root.join("collections/books/shard/segments")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Waits until none of these segments is left. The engine builds without telling how far it is.
async fn wait_for_end_of(replaced: &BTreeSet<String>, root: &Path) {
    while !replaced.is_disjoint(&segments(root)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The process that ends in a later round; not a test of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs inside a_kill_in_a_later_round_of_an_index_build_loses_no_point"]
async fn the_process_that_ends_in_a_later_round() {
    let root = PathBuf::from(std::env::var("WALVEC_TEST_ROOT").unwrap());
    let sink = open(&root);
    sink.write(&(0..POINTS).map(written).collect::<Vec<_>>()).await.unwrap();
    let filled = segments(&root);
    tokio::spawn({
        let sink = sink.clone();
        async move { sink.optimize().await }
    });
    while segments(&root) == filled {
        tokio::task::yield_now().await;
    }
    let moved_to: BTreeSet<String> = segments(&root).difference(&filled).cloned().collect();
    for batch in (0..OVERWRITTEN).map(overwritten).collect::<Vec<_>>().chunks(BATCH) {
        sink.write(batch).await.unwrap();
    }
    assert!(segments(&root).is_superset(&filled), "the first round ended too early");
    // From here on, the end of the build makes nothing durable.
    sink.clone().leave().await.unwrap();
    wait_for_end_of(&filled, &root).await;
    let first: BTreeSet<String> = segments(&root).difference(&moved_to).cloned().collect();
    wait_for_end_of(&first, &root).await;
    std::process::abort();
}

async fn stored(sink: &Embedded) -> BTreeMap<PointId, RawPoint> {
    let (mut points, mut from) = (BTreeMap::new(), None);
    loop {
        let page = sink.page(from, 1000, true).await.unwrap();
        points.extend(page.points.into_iter().map(|point| (point.id, point)));
        from = page.next;
        if from.is_none() {
            return points;
        }
    }
}

#[tokio::test]
async fn a_kill_in_a_later_round_of_an_index_build_loses_no_point() {
    let root = tempfile::tempdir().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "rounds::the_process_that_ends_in_a_later_round", "--ignored", "--nocapture"])
        .env("WALVEC_TEST_ROOT", root.path())
        .output()
        .unwrap();
    assert_eq!(child.status.code(), None, "{}", String::from_utf8_lossy(&child.stderr));
    assert!(root.path().join("collections/books/building").exists(), "the build ended before the kill");

    let sink = open(root.path());
    let points = stored(&sink).await;
    let missing = (0..POINTS).filter(|id| !points.contains_key(&PointId::Num(*id))).count();
    assert_eq!(missing, 0, "points are missing");
    assert_eq!(sink.count().await.unwrap(), POINTS);
    for id in 0..POINTS {
        let RawPoint { payload, vector: dense, keywords: sparse, .. } = &points[&PointId::Num(id)];
        assert_eq!(payload["number"], if id < OVERWRITTEN { id } else { 0 });
        assert_eq!(sparse.as_ref(), Some(&keywords(id)));
        let is_same = |(is, should): (&f32, f32)| (is - should).abs() < 0.001;
        assert!(dense.as_ref().unwrap().iter().zip(vector(id, DIMENSION)).all(is_same), "{id}");
    }
}
