//! Tests of texts that are embedded while points are read.

use futures::poll;

use crate::testing::embedder::bad_text;
use crate::testing::rows::{insert, point, update};
use crate::testing::{CollectionOptions, SinkCall, TestCollection, TestEmbedder};

fn books(embedder: TestEmbedder) -> TestCollection {
    TestCollection::with(CollectionOptions::default(), embedder)
}

#[tokio::test]
async fn the_text_of_an_inserted_row_is_embedded_while_its_point_is_read_and_only_once() {
    let mut books = books(TestEmbedder::new(8, 2).local());
    books.sink.hold(SinkCall::Retrieve);
    let (sink, embedder) = (books.sink.clone(), std::sync::Arc::clone(&books.embedder));
    {
        let mut put = Box::pin(books.put(vec![insert(10, 1, "whale")]));
        assert!(poll!(&mut put).is_pending());
        embedder.asked_for("whale", 1).await;
        sink.release(SinkCall::Retrieve);
        put.await.unwrap();
    }
    assert_eq!(books.shown("body")[&point(1)], "whale");
    assert_eq!(books.embedder.times_asked_for("whale"), 1);
    assert_eq!(books.shared.status().collections[0].embeddings_computed, 1);
}

#[tokio::test]
async fn a_provider_is_not_asked_before_it_is_known_that_a_vector_is_needed() {
    let mut books = books(TestEmbedder::new(8, 2));
    books.put(vec![insert(10, 1, "whale")]).await.unwrap();
    books.embedder.take_calls();
    books.put(vec![insert(10, 1, "whale")]).await.unwrap();
    assert_eq!(books.embedder.take_calls(), Vec::<Vec<String>>::new(), "the point has the vector");
}

#[tokio::test]
async fn an_update_and_a_large_batch_wait_for_what_is_stored() {
    let mut books = books(TestEmbedder::new(8, 2).local());
    let many: Vec<_> = (1..=8).map(|id| insert(10 + id, id, &format!("book {id}"))).collect();
    books.put(many).await.unwrap();
    books.embedder.take_calls();
    let replayed: Vec<_> = (1..=8).map(|id| insert(10 + id, id, &format!("book {id}"))).collect();
    books.put(replayed).await.unwrap();
    books.put(vec![update(30, 1, "another title", Some("book 1"))]).await.unwrap();
    assert_eq!(books.embedder.take_calls(), Vec::<Vec<String>>::new(), "the texts are the same");
}

#[tokio::test]
async fn a_text_that_cannot_be_embedded_early_parks_its_row_and_no_other() {
    let mut books = books(TestEmbedder::new(8, 2).local());
    books.embedder.refuse("bad", bad_text());
    books.put(vec![insert(10, 1, "whale"), insert(10, 2, "bad")]).await.unwrap();
    assert_eq!(books.shown("body").len(), 1);
    assert_eq!(books.parked().len(), 1);
    assert_eq!(books.embedder.times_asked_for("whale"), 1);
}

#[tokio::test]
async fn a_row_that_was_written_already_keeps_its_point_when_its_insert_is_replayed() {
    let mut books = books(TestEmbedder::new(8, 2).local());
    books.put(vec![insert(10, 1, "whale")]).await.unwrap();
    books.put(vec![update(20, 1, "1", Some("shark"))]).await.unwrap();
    books.put(vec![insert(10, 1, "whale")]).await.unwrap();
    assert_eq!(books.shown("body")[&point(1)], "shark");
}
