use std::sync::Arc;

use walvec_model::{Column, Op, Table};

use super::*;
use crate::testing::collection::collection;
use crate::testing::rows::{delete, insert, key, table, table_named, update};
use crate::testing::{CollectionOptions, TestEmbedder, TestShared, TestSink};

/// Returns collections of these tables. The second one of a table only stores titles.
fn collections(tables: &[&'static str]) -> PipelineCollections {
    let shared = TestShared::of(tables);
    let embedder = Arc::new(TestEmbedder::new(2, 8));
    let writer = |(index, name): (usize, &&'static str)| {
        let options = match tables[..index].contains(name) {
            true => CollectionOptions {
                name,
                text: "{{ title }}",
                payload: Some(&["title"]),
                ..CollectionOptions::default()
            },
            false => CollectionOptions { name, ..CollectionOptions::default() },
        };
        Writer::new(index, collection(options, &TestSink::default(), &embedder), shared.shared.clone()).unwrap()
    };
    PipelineCollections::new(tables.iter().enumerate().map(writer).collect())
}

fn of(change: Change, table: &str) -> Change {
    Change { table: table_named(table), ..change }
}

/// Returns the keys that each writer gets.
fn dealt(batches: &[(usize, Batch)]) -> Vec<(usize, Vec<String>)> {
    let keys = |batch: &Batch| batch.keys().map(ToString::to_string).collect();
    batches.iter().map(|(index, batch)| (*index, keys(batch))).collect()
}

fn keys(ids: &[u64]) -> Vec<String> {
    ids.iter().map(|id| key(*id).to_string()).collect()
}

fn tables(names: &[&str]) -> Vec<TableName> {
    names.iter().map(|name| table_named(name).name.clone()).collect()
}

#[test]
fn each_collection_gets_the_changes_of_its_table_in_their_order() {
    let collections = collections(&["books", "films", "books"]);
    let changes = vec![
        insert(10, 2, "two"),
        of(insert(11, 5, "five"), "films"),
        insert(12, 1, "one"),
        of(insert(13, 9, "nine"), "actors"),
        delete(14, 2),
    ];
    let batches = collections.batches(changes, Purpose::Change);
    assert_eq!(dealt(&batches), [(0, keys(&[2, 1])), (1, keys(&[5])), (2, keys(&[2, 1]))]);
}

#[test]
fn a_collection_gets_only_the_columns_that_it_uses() {
    let collections = collections(&["books", "books"]);
    let batches = collections.batches(vec![insert(10, 1, "a long text")], Purpose::Change);
    let sizes: Vec<usize> = batches.iter().map(|(_, batch)| batch.entries.len()).collect();
    assert_eq!(sizes, [1, 1]);
    let reduced = collections.writers[1].reduced(&update(10, 1, "title", Some("a long text")));
    let Op::Update { new, .. } = reduced.op else { panic!("an update stays one") };
    assert_eq!(new.0[2].value(), Some(&walvec_model::Value::Null), "{new:?}");
}

#[test]
fn a_table_that_is_set_aside_is_shown_by_no_collection_until_it_is_followed_again() {
    let mut collections = collections(&["books", "films"]);
    collections.set_aside(tables(&["books"]));
    assert!(collections.is_aside(&table().name) && collections.writers_of(&table().name).is_empty());
    assert!(collections.batches(vec![insert(10, 1, "one")], Purpose::Change).is_empty());
    let followed: Vec<String> = collections.followed().iter().map(|writer| writer.collection.name.clone()).collect();
    assert_eq!(followed, ["films"]);
    collections.set_aside(tables(&["films"]));
    assert_eq!(collections.batches(vec![insert(10, 1, "one")], Purpose::Change).len(), 1);
}

#[test]
fn a_table_that_differs_from_the_one_that_was_checked_is_refused() {
    let mut collections = collections(&["books"]);
    let refused =
        |collections: &PipelineCollections, table: Table| collections.refuse_altered(&Arc::new(table)).is_err();
    let altered = || {
        let mut table = table().as_ref().clone();
        table.columns.push(Column::new("isbn", "text", 25));
        table
    };
    assert!(!refused(&collections, altered()), "nothing was checked yet");
    collections.found(vec![table()]);
    assert!(refused(&collections, altered()));
    assert!(!refused(&collections, table().as_ref().clone()));
    assert!(!refused(&collections, table_named("films").as_ref().clone()), "another table");
    collections.found(vec![Arc::new(altered())]);
    assert!(!refused(&collections, altered()) && refused(&collections, table().as_ref().clone()));
}

#[test]
fn a_collection_may_hold_rows_of_each_table_that_it_ever_showed() {
    let collections = collections(&["books", "films"]);
    let of = |collection: &str, names: &[&str]| (collection.to_owned(), tables(names).into_iter().collect());
    let found = TablesByCollection::from([of("books", &["novels"]), of("former", &["plays"])]);
    let expected = TablesByCollection::from([
        of("books", &["books", "novels"]),
        of("films", &["films"]),
        of("former", &["plays"]),
    ]);
    assert_eq!(collections.tables_of(None, found), expected);
}

#[test]
fn a_generation_begins_for_all_collections_at_once() {
    let mut collections = collections(&["books", "films"]);
    collections.begin_generation(Generation(7));
    assert!(collections.writers.iter().all(|writer| writer.generation() == Generation(7)));
    assert_eq!((collections.writer_of("films"), collections.writer_of("plays")), (Some(1), None));
}
