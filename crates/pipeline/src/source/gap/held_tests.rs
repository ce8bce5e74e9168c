use walvec_model::{Change, Generation, Provenance};

use super::*;
use crate::testing::rows::{insert, table_named};
use crate::testing::{CollectionOptions, TestCollection, TestEmbedder};

/// Returns a collection that had `before` rows, of which the present snapshot has met the first `now`.
async fn reread(name: &'static str, before: u64, now: u64) -> TestCollection {
    let options = CollectionOptions { name, ..CollectionOptions::default() };
    let mut collection = TestCollection::with(options, TestEmbedder::new(2, 8));
    let row = |lsn, id: u64| Change { table: table_named(name), ..insert(lsn, id, &id.to_string()) };
    let rows = |lsn, count| (1..=count).map(|id| row(lsn, id)).collect();
    collection.put(rows(10, before)).await.unwrap();
    collection.writer.begin_generation(Generation(2));
    collection.put(rows(20, now)).await.unwrap();
    collection
}

fn message(collection: &TestCollection) -> Option<String> {
    collection.shared.status().problem.map(|problem| problem.message)
}

#[tokio::test]
async fn points_wait_if_most_of_a_collection_would_go() {
    for (before, now, waits) in [(4, 4, false), (4, 2, false), (4, 1, true), (1, 0, true)] {
        let mut collection = reread("books", before, now).await;
        let held = most_would_go(&[&mut collection.writer], &TablesByCollection::new()).await.unwrap();
        assert_eq!(held.is_some(), waits, "{now} of {before} rows are left");
        let words = format!("{} of {before} points of collection \"books\"", before - now);
        assert_eq!(message(&collection).is_some_and(|message| message.contains(&words)), waits);
        drop(held);
        assert_eq!(message(&collection), None);
    }
}

#[tokio::test]
async fn one_collection_that_would_lose_most_is_enough_and_is_the_one_that_is_named() {
    let (mut books, mut films) = (reread("books", 4, 3).await, reread("films", 4, 1).await);
    let held = most_would_go(&[&mut books.writer, &mut films.writer], &TablesByCollection::new()).await.unwrap();
    assert!(held.is_some());
    let message = message(&books).unwrap();
    assert!(message.contains("3 of 4 points of collection \"films\"") && !message.contains("books"), "{message}");
}

#[tokio::test]
async fn points_that_wait_go_on_waiting_when_rows_are_added_until_none_is_left() {
    let mut collection = reread("books", 4, 3).await;
    assert!(still_held(&[&mut collection.writer], &TablesByCollection::new()).await.unwrap().is_some());
    collection.put(vec![insert(30, 4, "4")]).await.unwrap();
    assert!(still_held(&[&mut collection.writer], &TablesByCollection::new()).await.unwrap().is_none());
}

#[tokio::test]
async fn the_rows_of_a_former_table_would_go_too() {
    let mut collection = reread("books", 4, 4).await;
    let mut points = collection.sink.points();
    for point in points.values_mut().take(3) {
        point.provenance.as_mut().unwrap().table = Provenance::table_tag(&TableName::new("public", "old"));
    }
    collection.sink.restore(points);
    let tables = |names: &[&str]| {
        let names = names.iter().map(|name| TableName::new("public", *name)).collect();
        TablesByCollection::from([("books".to_owned(), names)])
    };
    let writers = &[&mut collection.writer];
    assert!(most_would_go(writers, &tables(&["books"])).await.unwrap().is_none());
    assert!(most_would_go(writers, &tables(&["books", "old"])).await.unwrap().is_some());
}
