//! Changes that are in the journal but not, or not wholly, in the engine's files. A copy of the data directory of an open collection is what a kill
//! leaves, if no file is created or removed meanwhile.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;
use walvec_model::{Generation, PointId};
use walvec_sink::embedded::Embedded;
use walvec_sink::{Search, Sink, SinkError, Write};

use crate::common::{
    DIMENSION, Fixture, all_points, books, nearest_to, number_of, open, point, provenance, spec, upserts, vector,
};
use crate::durability::copy_directory;

/// Copies what a kill at this moment would leave.
fn killed(root: &Path) -> TempDir {
    loop {
        let copy = tempfile::tempdir().unwrap();
        match copy_directory(root, copy.path()) {
            Ok(()) => return copy,
            // The engine was replacing this file.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Changes of every kind, of which later ones undo earlier ones.
async fn change_everything(sink: &Embedded) {
    sink.write(&upserts(0..100)).await.unwrap();
    sink.write(&[Write::Delete(PointId::Num(1)), Write::Upsert(point(2, json!({ "number": 20 })))]).await.unwrap();
    sink.sweep(&books(), Generation(1)).await.unwrap();
    sink.delete_table(&books()).await.unwrap();
    sink.write(&upserts(0..50)).await.unwrap();
    let mut newer = point(7, json!({ "number": 70 }));
    newer.vector = vector(1007, DIMENSION);
    sink.write(&[Write::Upsert(newer)]).await.unwrap();
    let payload = crate::common::fields(json!({ "number": 80 }));
    sink.write(&[Write::Payload { id: PointId::Num(8), payload, provenance: provenance(8) }]).await.unwrap();
    sink.write(&[Write::Delete(PointId::Num(9))]).await.unwrap();
}

async fn is_what_it_was(sink: &Embedded, before: &[walvec_model::StoredPoint]) {
    assert_eq!(all_points(sink).await, before);
    assert_eq!(sink.count().await.unwrap(), before.len() as u64);
    assert_eq!(number_of(sink, 7).await, Some(70));
    assert_eq!(number_of(sink, 8).await, Some(80));
    let vectors = sink.vectors(&[PointId::Num(7)]).await.unwrap();
    assert!(vectors[0].1.iter().zip(vector(1007, DIMENSION)).all(|(is, should)| (is - should).abs() < 0.001));
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_kill_however_much_of_it_the_engine_has() {
    let fixture = Fixture::new();
    change_everything(&fixture.sink).await;
    let before = all_points(&fixture.sink).await;
    let killed_root = killed(fixture.root.path());
    let sink = open(killed_root.path());
    is_what_it_was(&sink, &before).await;
    sink.close().await.unwrap();

    // The engine is ahead: it has flushed everything, and the journal still has all changes.
    let ahead = killed(fixture.root.path());
    fixture.sink.close().await.unwrap();
    let (shard, other) = ("collections/books/shard", fixture.root.path());
    fs::remove_dir_all(ahead.path().join(shard)).unwrap();
    copy_directory(&other.join(shard), &ahead.path().join(shard)).unwrap();
    // Kill it again after the changes were made once more, twice.
    for _ in 0..2 {
        let again = killed(ahead.path());
        let sink = open(again.path());
        is_what_it_was(&sink, &before).await;
    }
}

#[tokio::test]
async fn a_collection_that_is_not_opened_after_a_kill_keeps_what_it_has_in_the_journal() {
    let fixture = Fixture::new();
    let mut films = spec(DIMENSION);
    films.name = "films".to_owned();
    let other = Embedded::open(fixture.root.path(), films.clone()).unwrap();
    change_everything(&fixture.sink).await;
    other.write(&upserts(0..10)).await.unwrap();
    let before = all_points(&fixture.sink).await;
    let killed_root = killed(fixture.root.path());

    let sink = Embedded::open(killed_root.path(), films.clone()).unwrap();
    sink.write(&upserts(10..20)).await.unwrap();
    let killed_root = killed(killed_root.path());
    let sink = open(killed_root.path());
    is_what_it_was(&sink, &before).await;
    let films = Embedded::open(killed_root.path(), films).unwrap();
    assert_eq!(films.count().await.unwrap(), 20);
}

#[tokio::test]
async fn a_clean_stop_leaves_an_empty_journal() {
    let fixture = Fixture::new();
    change_everything(&fixture.sink).await;
    assert!(fs::read_dir(fixture.root.path().join("journal")).unwrap().count() > 1);
    let fixture = fixture.reopened().await;
    let Fixture { sink, root } = fixture;
    sink.close().await.unwrap();
    let left: Vec<_> =
        fs::read_dir(root.path().join("journal")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"]);
}

#[tokio::test]
async fn the_journal_does_not_grow_beyond_what_a_start_makes_again_in_a_moment() {
    let fixture = Fixture::new();
    let text = "x".repeat(100_000);
    for first in 0..10 {
        let batch: Vec<Write> =
            (0..60).map(|id| Write::Upsert(point(first * 60 + id, json!({ "number": id, "text": text })))).collect();
        fixture.sink.write(&batch).await.unwrap();
    }
    let mut bytes = 0;
    for entry in fs::read_dir(fixture.root.path().join("journal")).unwrap() {
        bytes += entry.unwrap().metadata().unwrap().len();
    }
    assert!(bytes < 32 << 20, "{bytes} bytes of 60 million are in the journal");
    let killed_root = killed(fixture.root.path());
    let sink = open(killed_root.path());
    assert_eq!(sink.count().await.unwrap(), 600);
    assert_eq!(all_points(&sink).await, all_points(&fixture.sink).await);
}

#[tokio::test]
async fn leaving_during_an_index_build_loses_no_write() {
    let fixture = Fixture::new();
    for first in (0..60_000).step_by(1000) {
        fixture.sink.write(&upserts(first..first + 1000)).await.unwrap();
    }
    let build = tokio::spawn({
        let sink = fixture.sink.clone();
        async move { sink.optimize().await }
    });
    fixture
        .sink
        .write(&[Write::Upsert(point(5, json!({ "number": 50 }))), Write::Delete(PointId::Num(6))])
        .await
        .unwrap();
    let mark = fixture.root.path().join("collections/books/building");
    while !mark.exists() && !build.is_finished() {
        tokio::task::yield_now().await;
    }
    let (root, late) = (fixture.root, fixture.sink.clone());
    fixture.sink.leave().await.unwrap();
    assert!(mark.exists(), "the build was over already, or it was waited for");
    assert!(matches!(late.write(&upserts([1])).await, Err(SinkError::Closed)));
    assert!(matches!(build.await.unwrap(), Err(SinkError::Closed)));
    // The build goes on until the process ends, and this process does not end.
    drop(late);
    let sink = loop {
        match Embedded::open(root.path(), spec(DIMENSION)) {
            Err(SinkError::Locked { .. }) => tokio::task::yield_now().await,
            opened => break opened.unwrap(),
        }
    };
    assert_eq!(sink.count().await.unwrap(), 59_999);
    assert_eq!(number_of(&sink, 5).await, Some(50));
    assert_eq!(number_of(&sink, 6).await, None);
    assert_eq!(sink.search(nearest_to(700, 1)).await.unwrap()[0].id, PointId::Num(700));
}

/// An earlier version of walvec that was killed left changes as text in the collection's own directory.
#[tokio::test]
async fn a_data_directory_of_an_earlier_version_is_taken_over_with_what_was_cut_short() {
    let Fixture { sink, root } = Fixture::new();
    sink.write(&upserts(0..100)).await.unwrap();
    sink.close().await.unwrap();
    fs::remove_dir_all(root.path().join("journal")).unwrap();
    let collection = root.path().join("collections/books");
    let upsert = json!([{ "Upsert": [{ "id": 3, "vector": vector(1003, DIMENSION), "payload": { "number": 30 } }] }]);
    fs::write(collection.join("last-change"), format!("{upsert}\n")).unwrap();
    let changes = [json!([{ "Delete": [4] }]), json!([{ "Overwrite": { "id": 5, "payload": { "number": 50 } } }])];
    fs::write(collection.join("journal"), format!("{}\n{}\n[{{\"Delete\": [6", changes[0], changes[1])).unwrap();

    let sink = open(root.path());
    assert_eq!(sink.count().await.unwrap(), 99);
    assert_eq!(number_of(&sink, 3).await, Some(30));
    assert_eq!(number_of(&sink, 4).await, None);
    assert_eq!(number_of(&sink, 5).await, Some(50));
    assert_eq!(number_of(&sink, 6).await, Some(6));
    let vectors = sink.vectors(&[PointId::Num(3)]).await.unwrap();
    assert!(vectors[0].1.iter().zip(vector(1003, DIMENSION)).all(|(is, should)| (is - should).abs() < 0.001));
    assert!(!collection.join("journal").exists() && !collection.join("last-change").exists());
}

#[tokio::test]
async fn a_journal_with_a_hole_is_refused_with_what_to_type() {
    let fixture = Fixture::new();
    let text = "x".repeat(100_000);
    for first in 0..2 {
        let batch: Vec<Write> =
            (0..90).map(|id| Write::Upsert(point(first * 90 + id, json!({ "text": text })))).collect();
        fixture.sink.write(&batch).await.unwrap();
    }
    // Two files: the first one has reached its limit.
    fixture.sink.write(&upserts(1000..1001)).await.unwrap();
    let killed_root = killed(fixture.root.path());
    let mut logs: Vec<_> =
        fs::read_dir(killed_root.path().join("journal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.sort();
    assert!(logs.len() > 1, "{logs:?}");
    let mut bytes = fs::read(&logs[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&logs[0], bytes).unwrap();
    let error = Embedded::open(killed_root.path(), spec(DIMENSION)).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, SinkError::Corrupt { .. }), "{message}");
    assert!(message.contains("journal") && message.contains("walvec verify --repair"), "{message}");
}
