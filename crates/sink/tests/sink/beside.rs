//! Concurrent reads, writes and index builds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::json;
use walvec_model::{Generation, PointId};
use walvec_sink::embedded::Embedded;
use walvec_sink::{Bounds, Condition, Filter, Query, Search, SearchRequest, Sink, SinkError, Write};

use crate::common::{DIMENSION, Fixture, all_points, books, nearest_to, number_of, open, point, upserts, vector};

/// More points than the engine leaves without an index.
pub(crate) const ENOUGH_FOR_A_BUILD: u64 = 12_000;

/// Few enough that an index is still worth building for the rest.
const CHANGED_BESIDE: u64 = 500;

async fn fill(sink: &Embedded, points: u64) {
    for first in (0..points).step_by(2000) {
        sink.write(&upserts(first..points.min(first + 2000))).await.unwrap();
    }
}

/// Returns whether the shard holds a segment with an index, which only a build makes.
fn has_index(fixture: &Fixture) -> bool {
    let segments = fixture.root.path().join("collections/books/shard/segments");
    std::fs::read_dir(segments).unwrap().any(|segment| {
        let graph = segment.unwrap().path().join("vector_index/graph.bin");
        graph.exists()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_never_disturb_a_writer_nor_see_less_than_is_durable() {
    let fixture = Fixture::new();
    fill(&fixture.sink, 1000).await;
    let durable = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for reader in 0..4 {
        let (sink, durable, stop) = (fixture.sink.clone(), Arc::clone(&durable), Arc::clone(&stop));
        readers.push(tokio::spawn(async move {
            let mut reads = 0;
            while !stop.load(Ordering::SeqCst) {
                let at_least = durable.load(Ordering::SeqCst);
                match reader {
                    0 => assert_eq!(sink.search(nearest_to(reads % 1000, 5)).await.unwrap().len(), 5),
                    1 => assert_eq!(sink.count().await.unwrap(), 1000),
                    2 => assert_eq!(sink.scroll(None, 100).await.unwrap().points.len(), 100),
                    _ => assert!(number_of(&sink, 1).await.unwrap() >= at_least),
                }
                reads += 1;
            }
            reads
        }));
    }
    for round in 1..200 {
        let mut batch = upserts(100..200);
        batch.push(Write::Upsert(point(1, json!({ "number": round }))));
        fixture.sink.write(&batch).await.unwrap();
        durable.store(round, Ordering::SeqCst);
    }
    stop.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.await.unwrap() > 0, "a reader never got an answer");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_search_is_not_short_of_hits_because_others_go_at_that_moment() {
    const ALIKE: u64 = 50;
    let fixture = Fixture::new();
    fill(&fixture.sink, 1000).await;
    let near = move |id| {
        let mut near = point(id, json!({ "number": id }));
        near.vector = vector(5000, DIMENSION);
        near
    };
    let all = move |first: u64| (first..first + ALIKE).map(near).map(Write::Upsert).collect::<Vec<_>>();
    fixture.sink.write(&all(10_000)).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let searches = tokio::spawn({
        let (sink, stop) = (fixture.sink.clone(), Arc::clone(&stop));
        async move {
            while !stop.load(Ordering::SeqCst) {
                let hits = sink.search(nearest_to(5000, 10)).await.unwrap();
                assert_eq!(hits.len(), 10);
                assert!(
                    hits.iter().all(|hit| hit.score > 0.999),
                    "in each state there are {ALIKE} nearer ones: {hits:?}"
                );
            }
        }
    });
    // One write removes the best hits, and as many other points take their places.
    for round in 0..100 {
        let (old, new) = (10_000 + round * ALIKE, 10_000 + (round + 1) * ALIKE);
        let mut exchange = all(new);
        exchange.extend((old..new).map(|id| Write::Delete(PointId::Num(id))));
        fixture.sink.write(&exchange).await.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    searches.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn searches_and_writes_go_on_during_an_index_build() {
    let fixture = Fixture::new();
    fill(&fixture.sink, ENOUGH_FOR_A_BUILD).await;
    assert!(!has_index(&fixture));
    let build = tokio::spawn({
        let sink = fixture.sink.clone();
        async move { sink.optimize().await }
    });
    let mut changed = 0;
    while !build.is_finished() {
        // If more changed, nothing would be left to build: a changed point moves to where there is no
        // index.
        if changed < CHANGED_BESIDE {
            let newer = point(changed, json!({ "number": changed + 1_000_000 }));
            fixture.sink.write(&[Write::Upsert(newer)]).await.unwrap();
            let id = PointId::Num(ENOUGH_FOR_A_BUILD - 1 - changed);
            fixture.sink.write(&[Write::Delete(id)]).await.unwrap();
            changed += 1;
        }
        assert_eq!(number_of(&fixture.sink, 0).await, Some(1_000_000));
        assert_eq!(fixture.sink.search(nearest_to(5000, 3)).await.unwrap()[0].id, PointId::Num(5000));
    }
    build.await.unwrap().unwrap();
    assert!(has_index(&fixture), "nothing was built");
    assert!(changed > 0, "the build was over before anything could run beside it");

    let fixture = fixture.reopened().await;
    assert_eq!(fixture.sink.count().await.unwrap(), ENOUGH_FOR_A_BUILD - changed);
    for id in 0..changed {
        assert_eq!(number_of(&fixture.sink, id).await, Some(id + 1_000_000));
        assert_eq!(number_of(&fixture.sink, ENOUGH_FOR_A_BUILD - 1 - id).await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sweeps_and_table_deletions_hold_during_an_index_build() {
    let fixture = Fixture::new();
    fill(&fixture.sink, ENOUGH_FOR_A_BUILD).await;
    let build = tokio::spawn({
        let sink = fixture.sink.clone();
        async move { sink.optimize().await }
    });
    let mut newer = point(3, json!({ "number": 3 }));
    newer.provenance.generation = Generation(2);
    fixture.sink.write(&[Write::Upsert(newer)]).await.unwrap();
    let swept = fixture.sink.sweep(&books(), Generation(2)).await.unwrap();
    assert_eq!(swept, ENOUGH_FOR_A_BUILD - 1);
    build.await.unwrap().unwrap();
    assert_eq!(fixture.sink.count().await.unwrap(), 1);
    fixture.sink.delete_table(&books()).await.unwrap();
    assert_eq!(fixture.reopened().await.sink.count().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_index_changes_no_answer() {
    let fixture = Fixture::new();
    fill(&fixture.sink, ENOUGH_FOR_A_BUILD).await;
    let filtered = SearchRequest {
        query: Query::Dense(vector(1, DIMENSION)),
        limit: 5,
        filter: Filter(vec![Condition::Range {
            field: "number".into(),
            bounds: Bounds { gte: Some(100.0), lte: Some(200.0), ..Bounds::default() },
        }]),
        min_score: None,
    };
    let before = fixture.sink.search(filtered.clone()).await.unwrap();
    let points = all_points(&fixture.sink).await;
    fixture.sink.optimize().await.unwrap();
    assert!(has_index(&fixture), "nothing was built");
    assert_eq!(fixture.sink.search(filtered).await.unwrap(), before);
    assert_eq!(all_points(&fixture.sink).await, points);
    for id in (0..ENOUGH_FOR_A_BUILD).step_by(500) {
        assert_eq!(fixture.sink.search(nearest_to(id, 1)).await.unwrap()[0].id, PointId::Num(id));
    }
    // Overwrite and delete points that the index covers.
    fixture.sink.write(&[Write::Upsert(point(7, json!({ "number": 70 })))]).await.unwrap();
    fixture.sink.write(&[Write::Delete(PointId::Num(8))]).await.unwrap();
    let fixture = fixture.reopened().await;
    assert_eq!(number_of(&fixture.sink, 7).await, Some(70));
    assert_ne!(fixture.sink.search(nearest_to(8, 1)).await.unwrap()[0].id, PointId::Num(8));
    assert_eq!(fixture.sink.count().await.unwrap(), ENOUGH_FOR_A_BUILD - 1);
    // There is nothing to build, so this returns at once.
    fixture.sink.optimize().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_requests_for_a_build_share_one() {
    let fixture = Fixture::new();
    fill(&fixture.sink, ENOUGH_FOR_A_BUILD).await;
    let (first, second) = tokio::join!(fixture.sink.optimize(), fixture.sink.optimize());
    first.unwrap();
    second.unwrap();
    assert_eq!(fixture.sink.count().await.unwrap(), ENOUGH_FOR_A_BUILD);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn closing_during_an_index_build_loses_no_write_and_hangs_nobody() {
    let fixture = Fixture::new();
    fill(&fixture.sink, ENOUGH_FOR_A_BUILD).await;
    let build = tokio::spawn({
        let sink = fixture.sink.clone();
        async move { sink.optimize().await }
    });
    // More writers than the queue has room for.
    let mut writers = Vec::new();
    for id in 0..200 {
        let sink = fixture.sink.clone();
        writers.push(tokio::spawn(async move {
            let written = sink.write(&[Write::Upsert(point(id, json!({ "number": id + 1_000_000 })))]).await;
            (id, written)
        }));
    }
    let Fixture { sink, root } = fixture;
    sink.close().await.unwrap();
    let mut durable = Vec::new();
    for writer in writers {
        match writer.await.unwrap() {
            (id, Ok(())) => durable.push(id),
            (_, Err(error)) => assert!(matches!(error, SinkError::Closed), "{error}"),
        }
    }
    assert!(matches!(build.await.unwrap(), Ok(()) | Err(SinkError::Closed)));
    let sink = open(root.path());
    for id in durable {
        assert_eq!(number_of(&sink, id).await, Some(id + 1_000_000));
    }
    assert_eq!(sink.count().await.unwrap(), ENOUGH_FOR_A_BUILD);
}
