use serde_json::json;
use walvec_model::{Lookup, TableName, Take};
use walvec_sink::Write;

use super::*;
use crate::testing::embedder::{away, vector_of};
use crate::testing::rows::{at, delete, insert, key, point, update};
use crate::testing::{CollectionOptions, SinkCall, TestCollection, TestEmbedder, TestRowSource};

/// Returns what a batch of the sink does, write by write.
fn described(batch: &[Write]) -> Vec<String> {
    let of = |write: &Write| match write {
        Write::Upsert(point) => format!("point {}", point.id),
        Write::Payload { id, .. } => format!("payload {id}"),
        Write::Delete(id) => format!("delete {id}"),
    };
    batch.iter().map(of).collect()
}

fn written(collection: &TestCollection) -> Vec<String> {
    collection.sink.take_batches().iter().flat_map(|batch| described(batch)).collect()
}

/// Returns a collection that shows one row, as of 10.
async fn with_a_whale() -> TestCollection {
    let mut collection = TestCollection::new();
    collection.put(vec![insert(10, 1, "whale")]).await.unwrap();
    collection.sink.take_batches();
    collection.embedder.take_calls();
    collection
}

#[tokio::test]
async fn a_text_that_has_stayed_the_same_is_not_embedded_again_and_only_the_payload_is_written() {
    let mut collection = with_a_whale().await;
    collection.put(vec![update(20, 1, "Moby Dick", Some("whale"))]).await.unwrap();
    assert_eq!(written(&collection), ["payload 1"]);
    assert!(collection.embedder.take_calls().is_empty());
    assert_eq!(collection.shown("title")[&point(1)], json!("Moby Dick"));
    let status = &collection.shared.status().collections[0];
    assert_eq!((status.embeddings_computed, status.embeddings_reused), (1, 1));
}

#[tokio::test]
async fn a_changed_text_gets_a_vector_of_its_own() {
    let mut collection = with_a_whale().await;
    collection.put(vec![update(20, 1, "1", Some("shark"))]).await.unwrap();
    assert_eq!(written(&collection), ["point 1"]);
    assert_eq!(collection.sink.points()[&point(1)].vector, vector_of("shark").await);
}

#[tokio::test]
async fn a_vector_of_another_model_is_never_reused() {
    let mut collection = with_a_whale().await;
    collection.writer.collection.fingerprint = walvec_model::Fingerprint::of(&["another model"]);
    collection.put(vec![update(20, 1, "1", Some("whale"))]).await.unwrap();
    assert_eq!(collection.embedder.take_calls(), [["whale"]]);
}

#[tokio::test]
async fn a_deleted_row_leaves_no_point_and_needs_no_vector() {
    let mut collection = with_a_whale().await;
    collection.put(vec![delete(20, 1), delete(21, 2)]).await.unwrap();
    assert_eq!(written(&collection), ["delete 1", "delete 2"]);
    assert!(collection.embedder.take_calls().is_empty());
    assert!(collection.sink.points().is_empty());
}

#[tokio::test]
async fn what_is_stored_already_decides_by_purpose_which_versions_are_written() {
    // The stored point is of 10. For each purpose: is a row of 9, of 10, of 11 written?
    for (purpose, expected) in [
        (Purpose::Change, [false, false, true]),
        (Purpose::Reread, [false, true, true]),
        (Purpose::Refresh, [true, true, true]),
        (Purpose::Repair, [true, true, true]),
    ] {
        for (lsn, is_written) in [9, 10, 11].into_iter().zip(expected) {
            let mut collection = with_a_whale().await;
            collection.put_for(vec![insert(lsn, 1, "shark")], purpose).await.unwrap();
            assert_eq!(!written(&collection).is_empty(), is_written, "{purpose:?} of {lsn}");
            assert_eq!(!collection.embedder.take_calls().is_empty(), is_written, "{purpose:?} of {lsn}");
        }
    }
}

#[tokio::test]
async fn a_refresh_writes_nothing_while_the_text_is_the_same_and_a_repair_embeds_even_that() {
    let mut collection = with_a_whale().await;
    collection.put_for(vec![insert(11, 1, "whale")], Purpose::Refresh).await.unwrap();
    assert!(written(&collection).is_empty());
    collection.put_for(vec![insert(11, 1, "whale")], Purpose::Repair).await.unwrap();
    assert_eq!(
        (written(&collection), collection.embedder.take_calls()),
        (vec!["point 1".to_owned()], vec![vec!["whale".to_owned()]])
    );
}

#[tokio::test]
async fn a_refresh_writes_a_row_whose_point_is_of_an_older_snapshot() {
    let mut collection = with_a_whale().await;
    collection.writer.begin_generation(Generation(2));
    collection.put_for(vec![insert(10, 1, "whale")], Purpose::Refresh).await.unwrap();
    assert_eq!(written(&collection), ["payload 1"]);
}

#[tokio::test]
async fn a_row_that_a_new_snapshot_meets_unchanged_keeps_its_vector() {
    let mut collection = with_a_whale().await;
    collection.writer.begin_generation(Generation(2));
    collection.put(vec![insert(10, 1, "whale")]).await.unwrap();
    assert_eq!(written(&collection), ["payload 1"], "or the sweep would remove it");
    assert!(collection.embedder.take_calls().is_empty());
}

#[tokio::test]
async fn a_row_that_cannot_be_rendered_is_parked_alone() {
    let options = CollectionOptions { text: "{{ 100 // (title | int) }}", ..CollectionOptions::default() };
    let mut collection = TestCollection::with(options, TestEmbedder::new(2, 8));
    collection.put(vec![update(10, 1, "0", Some("")), update(11, 2, "5", Some(""))]).await.unwrap();
    assert_eq!(collection.parked(), [(key(1).to_string(), "E_RENDER".to_owned())]);
    assert_eq!(written(&collection), ["point 2"]);
}

#[tokio::test]
async fn a_template_that_no_row_can_be_rendered_with_ends_the_pipeline_and_parks_nothing() {
    let options = CollectionOptions { text: "{{ author }}", ..CollectionOptions::default() };
    let mut collection = TestCollection::with(options, TestEmbedder::new(2, 8));
    let outcome = collection.put(vec![insert(10, 1, "")]).await;
    assert!(matches!(outcome, Err(PipelineError::Transform { .. })), "{outcome:?}");
    assert!(collection.parked().is_empty());
}

#[tokio::test]
async fn a_batch_is_divided_into_parts_of_a_call_each() {
    let collection = TestCollection::new();
    let rows = (1..=5).map(|id| insert(id, id, &format!("text {id}"))).collect();
    let batch = collection.writer.batch(rows, Purpose::Change);
    let parts = collection.writer.parts_of(&collection.source, batch).await.unwrap();
    let texts: Vec<usize> = parts.iter().map(EmbedJob::texts).collect();
    let keys: Vec<RowKey> = parts.iter().flat_map(EmbedJob::keys).cloned().collect();
    assert_eq!((texts, keys), (vec![2, 2, 1], (1..=5).map(key).collect()));
    assert!(parts[2].weight() > 512, "a row counts even if its text is short");
}

#[tokio::test]
async fn a_text_that_has_moved_to_another_chunk_takes_its_vector_along() {
    let options = CollectionOptions { sentences: Some(1), ..CollectionOptions::default() };
    let mut collection = TestCollection::with(options, TestEmbedder::new(8, 8));
    collection.put(vec![insert(10, 1, "One came. Two went.")]).await.unwrap();
    collection.embedder.take_calls();
    collection.put(vec![update(20, 1, "1", Some("None was. One came. Two went."))]).await.unwrap();
    assert_eq!(collection.embedder.take_calls(), [["None was."]]);
    let points = collection.sink.points();
    assert_eq!(points.len(), 3);
    for point in points.values() {
        let text = point.payload["chunk"].as_str().unwrap();
        assert_eq!(point.vector, vector_of(text).await, "{text}");
    }
}

/// Returns a collection whose text names the author, who is looked up by the title.
fn with_authors(source: TestRowSource) -> TestCollection {
    let lookup = Lookup {
        name: "author".to_owned(),
        table: TableName::new("public", "authors"),
        on: vec![("name".to_owned(), "title".to_owned())],
        take: Take::One,
    };
    let options =
        CollectionOptions { text: "{{ author.born }}", lookups: vec![lookup], ..CollectionOptions::default() };
    TestCollection { source, ..TestCollection::with(options, TestEmbedder::new(8, 8)) }
}

fn by(id: u64, author: &str) -> walvec_model::Change {
    update(10 + id, id, author, Some(""))
}

#[tokio::test]
async fn rows_that_look_up_the_same_row_share_one_question() {
    let melville = (RowKey::new(vec![json!("Melville")]), json!({ "born": 1819 }));
    let mut collection = with_authors(TestRowSource::looking_up([melville]));
    collection.put(vec![by(1, "Melville"), by(2, "Nemo"), by(3, "Melville")]).await.unwrap();
    let asked = ["Melville", "Nemo"].map(|name| RowKey::new(vec![json!(name)])).to_vec();
    assert_eq!(collection.source.take_asked(), [asked]);
    assert_eq!(collection.embedder.take_calls(), [["1819", "", "1819"]]);
}

#[tokio::test]
async fn rows_whose_looked_up_table_is_gone_are_parked() {
    let source = TestRowSource::looking_up([]);
    source.lose_table("there are no authors any more");
    let mut collection = with_authors(source);
    collection.put(vec![by(1, "Melville")]).await.unwrap();
    assert_eq!(collection.parked(), [(key(1).to_string(), "E_TABLE".to_owned())]);
    assert!(written(&collection).is_empty());
}

#[tokio::test]
async fn a_lookup_without_a_source_is_refused_instead_of_rendering_without_it() {
    let mut collection = with_authors(TestRowSource::default());
    let outcome = collection.put(vec![by(1, "Melville")]).await;
    assert!(matches!(outcome, Err(PipelineError::Refused(Refusal { code: "E_CONFIG", .. }))), "{outcome:?}");
}

#[tokio::test]
async fn an_error_of_a_lookup_parks_nothing() {
    let source = TestRowSource::looking_up([]);
    source.fail(PipelineError::Embed(away()));
    let mut collection = with_authors(source);
    assert!(collection.put(vec![by(1, "Melville")]).await.is_err());
    assert!(collection.parked().is_empty());
}

#[tokio::test]
async fn a_stop_ends_the_preparation_before_a_text_is_rendered() {
    let mut collection = TestCollection::new();
    collection.shared.shared.stop.cancel();
    let outcome = collection.put(vec![insert(10, 1, "whale")]).await;
    assert!(matches!(outcome, Err(PipelineError::Stopped)), "{outcome:?}");
    assert!(collection.embedder.take_calls().is_empty());
}

#[tokio::test]
async fn further_chunks_are_read_only_for_rows_that_are_stored() {
    let options = CollectionOptions { sentences: Some(1), ..CollectionOptions::default() };
    let mut collection = TestCollection::with(options, TestEmbedder::new(8, 8));
    collection.put(vec![insert(10, 1, "One came. Two went.")]).await.unwrap();
    assert_eq!(collection.sink.count_of(SinkCall::Retrieve), 1);
    collection.put(vec![delete(20, 1)]).await.unwrap();
    assert_eq!(collection.sink.count_of(SinkCall::Retrieve), 3);
    assert!(collection.sink.points().is_empty(), "no chunk is left");
}

#[tokio::test]
async fn a_row_under_a_key_that_another_row_had_is_written_whatever_was_stored() {
    let mut collection = with_a_whale().await;
    collection.put(vec![delete(20, 1), insert(21, 1, "shark")]).await.unwrap();
    assert_eq!(written(&collection), ["point 1"]);
    let stored = collection.sink.points().remove(&point(1)).unwrap();
    assert_eq!(stored.provenance.unwrap().position, at(21));
}
