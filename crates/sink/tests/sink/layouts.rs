//! Vectors with a name, and the user's fields inside an object, as other libraries' vector stores want them.

use serde_json::{Value, json};
use walvec_model::PointId;
use walvec_sink::embedded::Embedded;
use walvec_sink::{
    Bounds, CollectionSpec, Condition, Filter, IndexType, Search, SearchRequest, Sink, SinkError, Write,
};

use crate::common::{DIMENSION, fields, nearest_to, point, provenance, spec};
use crate::server::{on_every_server, remote};

fn laid_out(spec: CollectionSpec) -> CollectionSpec {
    let indexes = vec![("year".into(), IndexType::Integer), ("a.b".into(), IndexType::Keyword)];
    CollectionSpec { indexes, vector: Some("fast-model".to_owned()), nesting: Some("metadata".to_owned()), ..spec }
}

fn payload(year: u64) -> Value {
    json!({ "document": "a text", "metadata": { "year": year, "a.b": "x", "sold": year > 3 } })
}

async fn fill(sink: &impl Sink) {
    let upserts = (1..=5).map(|id| Write::Upsert(point(id, payload(id))));
    sink.write(&upserts.collect::<Vec<_>>()).await.unwrap();
    let change = Write::Payload { id: PointId::Num(5), payload: fields(payload(50)), provenance: provenance(5) };
    sink.write(&[change, Write::Delete(PointId::Num(4))]).await.unwrap();
}

async fn found(sink: &impl Search, condition: Condition) -> Vec<PointId> {
    let request = SearchRequest { filter: Filter(vec![condition]), ..nearest_to(1, 10) };
    let mut ids: Vec<_> = sink.search(request).await.unwrap().iter().map(|hit| hit.id).collect();
    ids.sort_unstable();
    ids
}

/// Checks that what [`fill`] has written is found by its vectors, and by its fields under the user's names.
async fn is_filled(sink: &(impl Sink + Search)) {
    let nearest = sink.search(nearest_to(5, 1)).await.unwrap().remove(0);
    assert!(nearest.id == PointId::Num(5) && nearest.score > 0.999, "{nearest:?}");
    assert_eq!(nearest.payload, fields(payload(50)));
    let equals = |field: &str, value: Value| Condition::Equals { field: field.into(), value };
    let range = Condition::Range {
        field: "year".into(),
        bounds: Bounds { gte: Some(3.0), lte: Some(50.0), ..Bounds::default() },
    };
    assert_eq!(found(sink, equals("year", json!(2))).await, [PointId::Num(2)]);
    assert_eq!(found(sink, range).await, [3, 5].map(PointId::Num));
    assert_eq!(found(sink, equals("a.b", json!("x"))).await, [1, 2, 3, 5].map(PointId::Num));
    assert_eq!(found(sink, equals("sold", json!(true))).await, [PointId::Num(5)]);
    for outside in ["document", "metadata.year"] {
        assert_eq!(found(sink, equals(outside, json!("a text"))).await, [], "{outside} is no field");
    }
}

#[tokio::test]
async fn named_vectors_and_nested_fields_are_kept_by_the_engine_through_an_index_build() {
    let root = tempfile::tempdir().unwrap();
    let open = || Embedded::open(root.path(), laid_out(spec(DIMENSION)));
    let sink = open().unwrap();
    fill(&sink).await;
    is_filled(&sink).await;
    sink.optimize().await.unwrap();
    sink.close().await.unwrap();
    let sink = open().unwrap();
    is_filled(&sink).await;
    sink.close().await.unwrap();
    let other = CollectionSpec { vector: Some("other".to_owned()), ..laid_out(spec(DIMENSION)) };
    for other in [spec(DIMENSION), other] {
        let error = Embedded::open(root.path(), other).unwrap_err();
        assert!(matches!(error, SinkError::Fingerprint { .. }) && error.to_string().contains("fast-model"), "{error}");
    }
    is_filled(&open().unwrap()).await;
}

#[tokio::test]
async fn named_vectors_and_nested_fields_are_kept_by_a_server() {
    on_every_server("layouts", async |url, spec| {
        let sink = remote(&url, laid_out(spec.clone()));
        sink.prepare().await.unwrap();
        fill(&sink).await;
        is_filled(&sink).await;
        sink.prepare().await.unwrap();
        for other in [spec.clone(), CollectionSpec { vector: Some("other".to_owned()), ..laid_out(spec.clone()) }] {
            let error = remote(&url, other).prepare().await.unwrap_err();
            assert!(matches!(error, SinkError::Fingerprint { .. }), "{error}");
            assert!(error.to_string().contains("fast-model"), "{error}");
        }
        is_filled(&sink).await;
    })
    .await;
}
