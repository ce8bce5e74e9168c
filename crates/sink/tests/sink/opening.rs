//! Locks, fingerprints, indexes, closing.

use std::fs;

use serde_json::json;
use walvec_model::Fingerprint;
use walvec_sink::catalog::numbered;
use walvec_sink::embedded::{DataDir, Directory, Embedded};
use walvec_sink::{Catalog as _, CollectionSpec, IndexType, Search, Sink, SinkError, Write};

use crate::common::{DIMENSION, Fixture, nearest_to, number_of, point, spec, upserts, vector};

#[test]
fn a_data_directory_has_one_owner_whose_pid_is_told() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("not/yet/there");
    let owner = DataDir::lock(&path).unwrap();
    assert_eq!(owner.path(), path);
    let error = DataDir::lock(&path).unwrap_err();
    let SinkError::Locked { path: locked, pid } = &error else { panic!("{error}") };
    assert_eq!((locked, *pid), (&path, Some(std::process::id())));
    let message = error.to_string();
    assert!(message.contains(&std::process::id().to_string()), "{message}");
    assert!(message.contains(path.to_str().unwrap()), "{message}");

    drop(owner);
    DataDir::lock(&path).unwrap();
}

#[tokio::test]
async fn a_collection_opens_once_at_a_time() {
    let fixture = Fixture::new();
    let clone = fixture.sink.clone();
    let error = Embedded::open(fixture.root.path(), spec(DIMENSION)).unwrap_err();
    assert!(matches!(error, SinkError::Locked { .. }), "{error}");

    fixture.sink.write(&upserts([1])).await.unwrap();
    drop(fixture.sink);
    clone.write(&upserts([2])).await.unwrap();
    drop(clone);
    let reopened = Embedded::open(fixture.root.path(), spec(DIMENSION)).unwrap();
    assert_eq!(reopened.count().await.unwrap(), 2);
}

#[tokio::test]
async fn collections_live_side_by_side() {
    let fixture = Fixture::new();
    let mut other = spec(4);
    other.name = "films".to_owned();
    let films = Embedded::open(fixture.root.path(), other).unwrap();
    fixture.sink.write(&upserts([1])).await.unwrap();
    assert_eq!(films.count().await.unwrap(), 0);
}

#[tokio::test]
async fn another_model_or_dimension_is_refused() {
    let Fixture { sink, root } = Fixture::new();
    sink.write(&upserts([1])).await.unwrap();
    sink.close().await.unwrap();
    let mut other_model = spec(DIMENSION);
    other_model.fingerprint = Fingerprint::of(&["another model"]);
    for other in [other_model, spec(DIMENSION + 1)] {
        let error = Embedded::open(root.path(), other.clone()).unwrap_err();
        assert!(matches!(error, SinkError::Fingerprint { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains(&Fingerprint::of(&["a model"]).0), "{message}");
        assert!(message.contains(&other.fingerprint.0), "{message}");
        assert!(message.contains(&format!("dimension {}", other.dimension)), "{message}");
    }
    let sink = Embedded::open(root.path(), spec(DIMENSION)).unwrap();
    assert_eq!(sink.count().await.unwrap(), 1);
}

#[tokio::test]
async fn a_collection_that_never_held_a_point_takes_another_model() {
    let Fixture { sink, root } = Fixture::new();
    sink.close().await.unwrap();
    let other = spec(DIMENSION + 1);
    let sink = Embedded::open(root.path(), other.clone()).unwrap();
    let mut written = point(1, json!({}));
    written.vector = vector(1, other.dimension);
    sink.write(&[Write::Upsert(written)]).await.unwrap();
    sink.close().await.unwrap();
    assert!(matches!(Embedded::open(root.path(), spec(DIMENSION)), Err(SinkError::Fingerprint { .. })));
    assert_eq!(Embedded::open(root.path(), other).unwrap().count().await.unwrap(), 1);
}

#[tokio::test]
async fn damaged_files_are_an_error_that_names_them() {
    let damages: [(&str, &[u8]); 3] = [
        ("walvec-collection.json", b"{ not json"),
        ("walvec-collection.json", br#"{"format":2,"dimension":8,"distance":"Cosine","fingerprint":"f","opens":1,"created":true,"written":true}"#),
        ("shard/edge_config.json", b""),
    ];
    for (file, content) in damages {
        let Fixture { sink, root } = Fixture::new();
        sink.write(&upserts(0..100)).await.unwrap();
        sink.close().await.unwrap();
        let collection = root.path().join("collections/books");
        if file.starts_with("shard") {
            for segment in fs::read_dir(collection.join("shard/segments")).unwrap() {
                fs::write(segment.unwrap().path().join("segment.json"), content).unwrap();
            }
        } else {
            fs::write(collection.join(file), content).unwrap();
        }
        let error = Embedded::open(root.path(), spec(DIMENSION)).unwrap_err();
        let SinkError::Corrupt { path, .. } = &error else { panic!("{file}: {error}") };
        assert_eq!(path, &collection);
        assert!(!error.is_retryable());
    }
}

#[tokio::test]
async fn a_shard_without_its_manifest_is_not_taken_for_a_new_collection() {
    let Fixture { sink, root } = Fixture::new();
    sink.close().await.unwrap();
    fs::remove_file(root.path().join("collections/books/walvec-collection.json")).unwrap();
    let error = Embedded::open(root.path(), spec(DIMENSION)).unwrap_err();
    assert!(matches!(error, SinkError::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn lost_segments_are_not_taken_for_an_empty_collection() {
    let Fixture { sink, root } = Fixture::new();
    sink.write(&upserts(0..10)).await.unwrap();
    sink.close().await.unwrap();
    fs::remove_dir_all(root.path().join("collections/books/shard")).unwrap();
    let error = Embedded::open(root.path(), spec(DIMENSION)).unwrap_err();
    assert!(matches!(error, SinkError::Corrupt { .. }), "{error}");
}

/// The engine panics when a flush fails.
#[tokio::test]
async fn a_panic_of_the_engine_is_an_error_and_passes_when_its_cause_does() {
    let fixture = Fixture::new();
    fixture.sink.write(&upserts(0..10)).await.unwrap();
    let segments = fixture.root.path().join("collections/books/shard/segments");
    let away = fixture.root.path().join("away");
    fs::rename(&segments, &away).unwrap();
    // Large enough to cause a flush. The write itself is in the journal.
    let text = "x".repeat(100_000);
    let large = |id| Write::Upsert(point(id, json!({ "number": id, "text": text })));
    fixture.sink.write(&(100..300).map(large).collect::<Vec<_>>()).await.unwrap();
    for _ in 0..3 {
        let error = fixture.sink.write(&upserts([10])).await.unwrap_err();
        assert!(matches!(error, SinkError::Engine(_)) && error.is_retryable(), "{error}");
    }
    assert!(matches!(fixture.sink.count().await, Err(SinkError::Engine(_))));

    fs::remove_dir_all(&segments).ok();
    fs::rename(&away, &segments).unwrap();
    fixture.sink.write(&upserts([11])).await.unwrap();
    for id in [9, 11, 299] {
        assert_eq!(number_of(&fixture.sink, id).await, Some(id));
    }
    let fixture = fixture.reopened().await;
    for id in [9, 11, 299] {
        assert_eq!(number_of(&fixture.sink, id).await, Some(id));
    }
}

#[tokio::test]
async fn the_engines_log_is_started_afresh_when_it_grows_long() {
    let fixture = Fixture::new();
    fixture.sink.write(&upserts(0..10)).await.unwrap();
    let log = fixture.root.path().join("collections/books/shard/wal");
    let long = log.join("closed-7");
    fs::File::create(&long).unwrap().set_len(600 << 20).unwrap();
    // The length of the log is checked now and then.
    let text = "x".repeat(100_000);
    let large = |id| Write::Upsert(point(id, json!({ "number": id, "text": text })));
    fixture.sink.write(&(0..200).map(large).collect::<Vec<_>>()).await.unwrap();
    fixture.sink.write(&[Write::Upsert(point(3, json!({ "number": 30 })))]).await.unwrap();
    assert!(!long.exists());
    assert_eq!(number_of(&fixture.sink, 3).await, Some(30));
    assert_eq!(fixture.reopened().await.sink.count().await.unwrap(), 200);
}

#[tokio::test]
async fn a_name_cannot_lead_out_of_the_data_directory() {
    let root = tempfile::tempdir().unwrap();
    for name in ["", "..", "../x", "a/b", ".hidden", "a\\b"] {
        let mut spec = spec(DIMENSION);
        spec.name = name.to_owned();
        let error = Embedded::open(root.path(), spec).unwrap_err();
        assert!(matches!(error, SinkError::Io { .. }) && !error.is_retryable(), "{name:?}: {error}");
    }
    assert!(!root.path().join("collections").exists());
}

#[tokio::test]
async fn an_index_can_be_added_later_and_survives_reopening() {
    let fixture = Fixture::new();
    fixture.sink.write(&upserts(0..50)).await.unwrap();
    let Fixture { sink, root } = fixture;
    sink.close().await.unwrap();
    for _ in 0..2 {
        let mut with_index = spec(DIMENSION);
        with_index.indexes = vec![("number".into(), IndexType::Integer)];
        let sink = Embedded::open(root.path(), with_index).unwrap();
        sink.write(&upserts(50..60)).await.unwrap();
        assert_eq!(sink.count().await.unwrap(), 60);
        sink.close().await.unwrap();
    }
    let shard = root.path().join("collections/books/shard");
    let indexed = tokio::task::spawn_blocking(move || {
        let info = qdrant_edge::EdgeShard::load(&shard, None).unwrap().info();
        let mut indexed: Vec<_> =
            info.payload_schema.iter().map(|(key, index)| (key.to_string(), index.points)).collect();
        indexed.sort();
        indexed
    });
    assert_eq!(indexed.await.unwrap(), [("_walvec.t".to_owned(), 60), ("number".to_owned(), 60)]);
}

#[tokio::test]
async fn a_closed_collection_says_so() {
    let fixture = Fixture::new();
    let clone = fixture.sink.clone();
    fixture.sink.write(&upserts([1])).await.unwrap();
    fixture.sink.close().await.unwrap();
    assert!(matches!(clone.write(&upserts([2])).await, Err(SinkError::Closed)));
    assert!(matches!(clone.search(nearest_to(1, 1)).await, Err(SinkError::Closed)));
    assert!(matches!(clone.count().await, Err(SinkError::Closed)));
    assert!(matches!(clone.optimize().await, Err(SinkError::Closed)));
}

#[tokio::test]
async fn dropping_the_collection_finishes_what_was_sent() {
    let Fixture { sink, root } = Fixture::new();
    let mut sent = Vec::new();
    for id in 0..10 {
        let sink = sink.clone();
        let mut write = Box::pin(async move { sink.write(&upserts([id])).await });
        // Polled once: the batch is queued, and its caller stops waiting.
        assert!(poll_once(&mut write).await.is_none());
        sent.push(write);
    }
    drop(sent);
    drop(sink);
    let reopened = Embedded::open(root.path(), spec(DIMENSION)).unwrap();
    assert_eq!(reopened.count().await.unwrap(), 10);
    assert_eq!(number_of(&reopened, 9).await, Some(9));
}

async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|context| match std::pin::Pin::new(&mut *future).poll(context) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

#[tokio::test]
async fn a_name_is_given_to_another_collection_in_one_step_and_stays_given() {
    let root = tempfile::tempdir().unwrap();
    let directory = Directory::new(root.path());
    assert_eq!(directory.serving("books").await.unwrap(), None);
    assert_eq!(directory.numbers("books").await.unwrap(), [0; 0]);
    let mut ids = Vec::new();
    for number in [1, 2, 10] {
        let own = CollectionSpec { name: numbered("books", number), ..spec(DIMENSION) };
        let sink = Embedded::open(root.path(), own).unwrap();
        ids.push(sink.prepare().await.unwrap());
        sink.close().await.unwrap();
    }
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "each is told from the others");
    assert_eq!(directory.numbers("books").await.unwrap(), [1, 2, 10]);
    let names = |books: &str| vec![("books".to_owned(), books.to_owned()), ("films".to_owned(), "films__1".to_owned())];
    directory.switch(names("books__1")).await.unwrap();
    directory.switch(names("books__10")).await.unwrap();
    directory.remove("books__2").await.unwrap();
    directory.remove("books__2").await.unwrap();
    let reopened = Directory::new(root.path());
    assert_eq!(reopened.serving("books").await.unwrap().as_deref(), Some("books__10"));
    assert_eq!(reopened.serving("films").await.unwrap().as_deref(), Some("films__1"));
    assert_eq!(reopened.numbers("books").await.unwrap(), [1, 10]);
}
