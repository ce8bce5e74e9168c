//! Batches, deletions, sweeps, and what is refused.

use serde_json::{Value, json};
use uuid::Uuid;
use walvec_model::point::MAX_NESTING;
use walvec_model::{Generation, PointId, Provenance, StoredPoint, TableName};
use walvec_sink::{Search, Sink, SinkError, Write};

use crate::beside::ENOUGH_FOR_A_BUILD;
use crate::common::{Fixture, all_points, books, fields, nearest_to, number_of, point, provenance, upserts, vector};

#[tokio::test]
async fn a_point_comes_back_as_it_was_written() {
    let fixture = Fixture::new();
    let payload = json!({
        "text": "Dune \u{1F3DC} \"quoted\"", "largest": u64::MAX, "smallest": i64::MIN, "float": 0.1, "flag": true,
        "nothing": null, "list": [1, "two", [3]], "object": { "a.b": { "c": [] } }, "": "empty name", "a.b[0]": 1,
    });
    let written = point(7, payload.clone());
    fixture.sink.write(&[Write::Upsert(written.clone())]).await.unwrap();

    let expected = StoredPoint { id: written.id, payload: fields(payload), provenance: Some(written.provenance) };
    assert_eq!(all_points(&fixture.sink).await, std::slice::from_ref(&expected));
    let fixture = fixture.reopened().await;
    assert_eq!(all_points(&fixture.sink).await, std::slice::from_ref(&expected));

    let own = StoredPoint { payload: fields(json!({})), ..expected.clone() };
    assert_eq!(fixture.sink.retrieve(&[written.id]).await.unwrap(), std::slice::from_ref(&own));
    assert_eq!(fixture.sink.scroll(None, 9).await.unwrap().points, [own]);
    let mut faithful = expected;
    faithful.payload.retain(|name, _| !matches!(name.as_str(), "largest" | "float"));
    assert_eq!(fixture.sink.faithful(&[written.id]).await.unwrap(), [faithful]);
}

/// Makes arrays nested to this depth.
fn nested(depth: usize) -> Value {
    (1..depth).fold(json!([]), |inner, _| json!([inner]))
}

#[tokio::test]
async fn what_is_nested_too_deeply_is_stored_as_text_where_it_is() {
    let fixture = Fixture::new();
    fixture.sink.write(&[Write::Upsert(point(1, json!({ "deep": nested(126), "flat": 1 })))]).await.unwrap();
    let stored = all_points(&fixture.sink).await.remove(0).payload;
    assert_eq!(stored["flat"], 1);
    let outer = (0..MAX_NESTING + 2).fold(&stored["deep"], |value, _| &value[0]);
    assert_eq!(outer, &json!(nested(126 - MAX_NESTING - 2).to_string()));
}

#[tokio::test]
async fn a_point_that_the_engine_cannot_read_blocks_nobody_and_can_be_replaced() {
    for indexed in [false, true] {
        let fixture = Fixture::new();
        fixture.sink.write(&upserts(1..=if indexed { ENOUGH_FOR_A_BUILD } else { 20 })).await.unwrap();
        if indexed {
            fixture.sink.optimize().await.unwrap();
        }
        let fixture = overwritten(fixture, json!({ "deep": nested(127), "number": 14 })).await;
        let ids = || (13..16).map(PointId::Num).collect::<Vec<_>>();
        let mut own = fixture.sink.retrieve(&ids()).await.unwrap();
        own.sort_by_key(|point| point.id);
        assert_eq!(own.iter().map(|point| point.id).collect::<Vec<_>>(), ids());
        assert_eq!((&own[1].provenance, own[2].provenance.is_some()), (&None, true));
        assert_eq!(fixture.sink.scroll(Some(PointId::Num(13)), 3).await.unwrap().points, own);
        let page = fixture.sink.page(Some(PointId::Num(13)), 3, true).await.unwrap();
        assert_eq!(page.points.iter().map(|point| point.id).collect::<Vec<_>>(), ids());
        assert!(page.points[1].payload.is_empty() && page.points[1].vector.is_some());
        let hits = fixture.sink.search(nearest_to(14, 3)).await.unwrap();
        assert_eq!((hits[0].id, hits[0].payload.is_empty()), (PointId::Num(14), true));
        assert!(!hits[1].payload.is_empty());

        fixture.sink.write(&upserts(13..16)).await.unwrap();
        assert_eq!(number_of(&fixture.sink, 14).await, Some(14));
        let fixture = fixture.reopened().await;
        assert_eq!(number_of(&fixture.sink, 14).await, Some(14));
    }
}

#[tokio::test]
async fn retrieve_leaves_out_what_does_not_exist() {
    let fixture = Fixture::new();
    fixture.sink.write(&upserts([1, 3])).await.unwrap();
    let ids = [1, 2, 3].map(PointId::Num).to_vec();
    let mut found: Vec<_> = fixture.sink.retrieve(&ids).await.unwrap().into_iter().map(|point| point.id).collect();
    found.sort();
    assert_eq!(found, [1, 3].map(PointId::Num));
    assert_eq!(fixture.sink.retrieve(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn a_payload_write_replaces_all_fields_and_keeps_the_vector() {
    let fixture = Fixture::new();
    fixture.sink.write(&[Write::Upsert(point(1, json!({ "old": 1, "both": 1 })))]).await.unwrap();
    let newer = Provenance { generation: Generation(9), ..provenance(1) };
    let write =
        Write::Payload { id: PointId::Num(1), payload: fields(json!({ "both": 2 })), provenance: newer.clone() };
    fixture.sink.write(&[write]).await.unwrap();

    let hits = fixture.sink.search(nearest_to(1, 1)).await.unwrap();
    assert!(hits[0].score > 0.999, "the vector changed: {}", hits[0].score);
    assert_eq!(hits[0].payload, fields(json!({ "both": 2 })));
    assert_eq!(hits[0].provenance, Some(newer));
}

#[tokio::test]
async fn a_batch_mixes_all_kinds_of_writes() {
    let fixture = Fixture::new();
    fixture.sink.write(&upserts([1, 2, 3])).await.unwrap();
    let payload =
        Write::Payload { id: PointId::Num(2), payload: fields(json!({ "number": 22 })), provenance: provenance(2) };
    let mut batch = vec![Write::Delete(PointId::Num(1)), payload, Write::Delete(PointId::Num(99))];
    batch.extend(upserts([4]));
    fixture.sink.write(&batch).await.unwrap();
    let state = all_points(&fixture.sink).await;
    assert_eq!(state.iter().map(|point| point.payload["number"].as_u64().unwrap()).collect::<Vec<_>>(), [22, 3, 4]);

    fixture.sink.write(&batch).await.unwrap();
    assert_eq!(all_points(&fixture.sink).await, state, "writing a batch twice changed something");
    fixture.sink.write(&[]).await.unwrap();
}

#[tokio::test]
async fn a_bad_vector_is_refused_by_name_before_anything_is_written() {
    let fixture = Fixture::new();
    let bad_vectors = [vec![1.0; 7], vec![f32::NAN; 8], vec![f32::INFINITY; 8], vec![0.0; 8], Vec::new()];
    for bad in bad_vectors {
        let mut batch = upserts(1..=9);
        let Write::Upsert(point) = &mut batch[4] else { unreachable!() };
        point.vector.clone_from(&bad);
        let error = fixture.sink.write(&batch).await.unwrap_err();
        assert!(matches!(error, SinkError::BadPoint { id: PointId::Num(5), .. }), "{bad:?}: {error}");
        assert!(!error.is_retryable());
        assert_eq!(fixture.sink.count().await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_payload_for_a_missing_point_is_refused_by_name_before_anything_is_written() {
    let fixture = Fixture::new();
    let mut batch = upserts([1]);
    batch.push(Write::Payload { id: PointId::Num(2), payload: fields(json!({})), provenance: provenance(2) });
    let error = fixture.sink.write(&batch).await.unwrap_err();
    assert!(matches!(error, SinkError::BadPoint { id: PointId::Num(2), .. }), "{error}");
    assert_eq!(fixture.sink.count().await.unwrap(), 0);

    fixture.sink.write(&upserts([1])).await.unwrap();
    assert_eq!(number_of(&fixture.sink, 1).await, Some(1));
}

#[tokio::test]
async fn a_scroll_visits_every_point_once_in_id_order_numbers_first() {
    let fixture = Fixture::new();
    let mut batch = upserts((0..40).map(|number| number * 1000));
    let uuids: Vec<_> = (0..20).map(|number: u128| Uuid::from_u128(number << 100 | number)).collect();
    batch.extend(uuids.iter().map(|uuid| {
        let mut point = point(1, json!({}));
        point.id = PointId::Uuid(*uuid);
        Write::Upsert(point)
    }));
    batch.reverse();
    let mut expected: Vec<_> = batch.iter().map(Write::id).collect();
    expected.sort();
    fixture.sink.write(&batch).await.unwrap();

    let mut visited = Vec::new();
    let mut from = None;
    loop {
        let page = fixture.sink.scroll(from, 7).await.unwrap();
        assert!(page.points.len() <= 7);
        visited.extend(page.points.iter().map(|point| point.id));
        let Some(next) = page.next else { break };
        from = Some(next);
    }
    assert_eq!(visited, expected);
    assert_eq!(fixture.sink.count().await.unwrap(), 60);
}

/// Writes ten points of `public.books` in generations 1 and 2, three of `public.book`, and one without
/// walvec's field.
async fn two_tables_and_a_stranger(fixture: &Fixture) {
    let mut batch = upserts(1..=13);
    for write in &mut batch {
        let Write::Upsert(point) = write else { unreachable!() };
        let PointId::Num(number) = point.id else { unreachable!() };
        point.provenance.generation = Generation(1 + number % 2);
        if number > 10 {
            point.provenance.table = "public.book".to_owned();
        }
    }
    fixture.sink.write(&batch).await.unwrap();
    fixture.sink.write(&[Write::Upsert(point(14, json!({})))]).await.unwrap();
}

/// Removes walvec's field from point 14, as if another program had written it.
async fn estrange(fixture: Fixture) -> Fixture {
    overwritten(fixture, json!({ "stranger": true })).await
}

/// Gives point 14 another payload, without walvec's field.
async fn overwritten(fixture: Fixture, payload: Value) -> Fixture {
    let Fixture { sink, root } = fixture;
    sink.close().await.unwrap();
    let shard = root.path().join("collections/books/shard");
    tokio::task::spawn_blocking(move || {
        let shard = qdrant_edge::EdgeShard::load(&shard, None).unwrap();
        let overwrite = qdrant_edge::SetPayloadOp {
            payload: qdrant_edge::Payload(fields(payload)),
            points: Some(vec![qdrant_edge::PointId::NumId(14)]),
            filter: None,
            key: None,
        };
        let operation =
            qdrant_edge::UpdateOperation::PayloadOperation(qdrant_edge::PayloadOps::OverwritePayload(overwrite));
        shard.update(operation).unwrap();
    })
    .await
    .unwrap();
    Fixture { sink: crate::common::open(root.path()), root }
}

async fn numbers_left(fixture: &Fixture) -> Vec<PointId> {
    all_points(&fixture.sink).await.into_iter().map(|point| point.id).collect()
}

#[tokio::test]
async fn deleting_a_table_spares_other_tables_and_strangers() {
    let fixture = Fixture::new();
    two_tables_and_a_stranger(&fixture).await;
    let fixture = estrange(fixture).await;
    assert_eq!(fixture.sink.retrieve(&[PointId::Num(14)]).await.unwrap()[0].provenance, None);

    fixture.sink.delete_table(&books()).await.unwrap();
    assert_eq!(numbers_left(&fixture).await, [11, 12, 13, 14].map(PointId::Num));
    let fixture = fixture.reopened().await;
    fixture.sink.delete_table(&TableName::new("public", "absent")).await.unwrap();
    assert_eq!(numbers_left(&fixture).await, [11, 12, 13, 14].map(PointId::Num));
}

#[tokio::test]
async fn a_sweep_removes_the_older_generations_of_its_table_only() {
    let fixture = Fixture::new();
    two_tables_and_a_stranger(&fixture).await;
    let fixture = estrange(fixture).await;

    assert_eq!(fixture.sink.sweep(&books(), Generation(1)).await.unwrap(), 0);
    assert_eq!(fixture.sink.sweep(&books(), Generation(2)).await.unwrap(), 5);
    assert_eq!(numbers_left(&fixture).await, [1, 3, 5, 7, 9, 11, 12, 13, 14].map(PointId::Num));
    assert_eq!(fixture.sink.sweep(&books(), Generation(2)).await.unwrap(), 0);
    assert_eq!(fixture.sink.sweep(&books(), Generation(3)).await.unwrap(), 5);
    assert_eq!(numbers_left(&fixture.reopened().await).await, [11, 12, 13, 14].map(PointId::Num));
}

/// The engine skips operations that it takes for old, so numbering must continue after the highest number.
#[tokio::test]
async fn a_write_after_reopening_beats_those_before() {
    let mut fixture = Fixture::new();
    for round in 0..5 {
        for step in 0..10 {
            let mut newer = point(1, json!({ "number": round * 10 + step }));
            newer.vector = vector(round * 10 + step, crate::common::DIMENSION);
            fixture.sink.write(&[Write::Upsert(newer)]).await.unwrap();
        }
        fixture = fixture.reopened().await;
        assert_eq!(number_of(&fixture.sink, 1).await, Some(round * 10 + 9));
        assert!(fixture.sink.search(nearest_to(round * 10 + 9, 1)).await.unwrap()[0].score > 0.999);
        fixture.sink.write(&[Write::Delete(PointId::Num(1))]).await.unwrap();
        assert_eq!(number_of(&fixture.sink, 1).await, None);
        fixture.sink.write(&upserts([1])).await.unwrap();
    }
}
