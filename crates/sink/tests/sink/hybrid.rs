//! Sparse vectors in addition to dense ones: searches by keyword, and two rankings fused.

use serde_json::json;
use walvec_model::{Point, PointId, SparseVector};
use walvec_sink::embedded::Embedded;
use walvec_sink::{
    Bounds, CollectionSpec, Condition, Filter, Keywords, Query, Search, SearchRequest, Sink, SinkError, Write,
};

use crate::common::{DIMENSION, fields, nearest_to, point, provenance, spec, vector};
use crate::server::{on_every_server, remote};

/// The texts of the points; their dense vectors have nothing to do with them.
const TEXTS: [&str; 5] = [
    "the martians land in surrey",
    "a whale, a whale, a white whale and a captain",
    "a captain and his island",
    "the and of",
    "an island of martians and of a whale",
];

fn keywords() -> Keywords {
    Keywords::new("english").unwrap()
}

fn with_keywords(spec: CollectionSpec) -> CollectionSpec {
    CollectionSpec { keywords: Some("bm25".to_owned()), ..spec }
}

fn written(id: u64, text: &str) -> Point {
    let keywords = Some(keywords().document(text));
    Point { keywords, ..point(id, json!({ "text": text, "year": id })) }
}

async fn fill(sink: &impl Sink) {
    let upserts = (1..).zip(TEXTS).map(|(id, text)| Write::Upsert(written(id, text)));
    sink.write(&upserts.collect::<Vec<_>>()).await.unwrap();
}

fn request(query: Query) -> SearchRequest {
    SearchRequest { query, limit: 10, filter: Filter::default(), min_score: None }
}

fn words(text: &str) -> SearchRequest {
    request(Query::Keyword(keywords().query(text)))
}

async fn found(sink: &impl Search, request: SearchRequest) -> Vec<u64> {
    let hits = sink.search(request).await.unwrap();
    assert!(hits.is_sorted_by(|left, right| left.score >= right.score), "{hits:?}");
    let number = |id| if let PointId::Num(number) = id { number } else { panic!("{id}") };
    hits.iter().map(|hit| number(hit.id)).collect()
}

/// Checks that each point is found by its words, by its vector, and by both.
async fn is_searchable(sink: &(impl Sink + Search)) {
    // A rare word counts more than a common one, a repeated word more than a single one, a short text more than a long one.
    assert_eq!(found(sink, words("martian")).await, [1, 5]);
    assert_eq!(found(sink, words("WHALES!")).await, [2, 5]);
    assert_eq!(found(sink, words("surrey island")).await, [1, 3, 5]);
    assert_eq!(found(sink, words("submarine")).await, [0_u64; 0]);
    assert_eq!(found(sink, words("the and of")).await, [0_u64; 0]);

    let fused = |id, text| request(Query::Hybrid(vector(id, DIMENSION), keywords().query(text)));
    let both = found(sink, fused(3, "whale")).await;
    assert_eq!(both.len(), 5, "the dense side ranks every point");
    assert_eq!(found(sink, SearchRequest { limit: 1, ..fused(2, "whale") }).await, [2], "first on both sides");
    let place = |id| both.iter().position(|other| *other == id);
    for late in [1, 4] {
        assert!(place(2) < place(late), "found on both sides: {both:?}");
        assert!(place(3) < place(late), "the best of one side: {both:?}");
    }
    assert_eq!(found(sink, fused(3, "the and of")).await, found(sink, nearest_to(3, 10)).await);

    let late =
        Filter(vec![Condition::Range { field: "year".into(), bounds: Bounds { gte: Some(3.0), ..Bounds::default() } }]);
    assert_eq!(found(sink, SearchRequest { filter: late.clone(), ..words("martian captain") }).await, [3, 5]);
    let mut filtered = found(sink, SearchRequest { filter: late, ..fused(1, "martian") }).await;
    filtered.sort_unstable();
    assert_eq!(filtered, [3, 4, 5]);
    let best = sink.search(words("martian")).await.unwrap()[0].score;
    for (lowest, expected) in [(best, vec![1, 5]), (best.next_up(), vec![])] {
        assert_eq!(found(sink, SearchRequest { min_score: Some(lowest), ..words("martian") }).await, expected);
    }
}

/// Returns the stored sparse vectors.
async fn stored(sink: &impl Search, ids: &[u64]) -> Vec<Option<SparseVector>> {
    let mut points = sink.get(ids.iter().copied().map(PointId::Num).collect(), true).await.unwrap();
    points.sort_by_key(|point| point.id);
    points.into_iter().map(|point| point.keywords).collect()
}

/// Checks that a write of the payload alone keeps both vectors, and that a whole point replaces both.
async fn changes_follow(sink: &(impl Sink + Search)) {
    assert_eq!(stored(sink, &[1, 4]).await, [Some(keywords().document(TEXTS[0])), None]);
    let change =
        Write::Payload { id: PointId::Num(1), payload: fields(json!({ "year": 100 })), provenance: provenance(1) };
    sink.write(&[change, Write::Upsert(written(2, "a submarine"))]).await.unwrap();
    assert_eq!(found(sink, words("surrey")).await, [1]);
    assert_eq!(found(sink, words("submarine")).await, [2]);
    assert_eq!(found(sink, words("whale")).await, [5]);
    sink.write(&[Write::Upsert(written(2, "the"))]).await.unwrap();
    assert_eq!(found(sink, words("submarine")).await, [0_u64; 0], "the old words are gone");
    assert_eq!(stored(sink, &[2]).await, [None]);
    sink.write(&[Write::Delete(PointId::Num(5))]).await.unwrap();
    assert_eq!(found(sink, words("whale")).await, [0_u64; 0]);
}

#[tokio::test]
async fn words_are_found_in_the_embedded_engine_through_an_index_build_and_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let open = || Embedded::open(root.path(), with_keywords(spec(DIMENSION)));
    let sink = open().unwrap();
    fill(&sink).await;
    is_searchable(&sink).await;
    sink.optimize().await.unwrap();
    is_searchable(&sink).await;
    sink.close().await.unwrap();
    let sink = open().unwrap();
    is_searchable(&sink).await;
    changes_follow(&sink).await;
    sink.close().await.unwrap();
    for other in [spec(DIMENSION), CollectionSpec { keywords: Some("other".to_owned()), ..spec(DIMENSION) }] {
        let refused = Embedded::open(root.path(), other);
        assert!(matches!(refused, Err(SinkError::Fingerprint { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn words_are_found_on_a_server() {
    on_every_server("hybrid", async |url, spec| {
        let sink = remote(&url, with_keywords(spec.clone()));
        sink.prepare().await.unwrap();
        fill(&sink).await;
        is_searchable(&sink).await;
        changes_follow(&sink).await;
        let named = CollectionSpec { vector: Some("text-dense".to_owned()), ..with_keywords(spec.clone()) };
        for other in [spec.clone(), named, CollectionSpec { keywords: Some("other".to_owned()), ..spec.clone() }] {
            let refused = remote(&url, other).inspect().await;
            assert!(matches!(refused, Err(SinkError::Fingerprint { .. })), "{refused:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn words_are_found_beside_vectors_with_a_name() {
    on_every_server("hybrid_named", async |url, spec| {
        let named = CollectionSpec { vector: Some("text-dense".to_owned()), ..with_keywords(spec) };
        let sink = remote(&url, named);
        sink.prepare().await.unwrap();
        fill(&sink).await;
        is_searchable(&sink).await;
    })
    .await;
}

#[tokio::test]
async fn a_collection_without_sparse_vectors_says_so_when_it_is_searched_by_keyword() {
    let root = tempfile::tempdir().unwrap();
    let sink = Embedded::open(root.path(), spec(DIMENSION)).unwrap();
    for query in
        [Query::Keyword(keywords().query("whale")), Query::Hybrid(vector(1, DIMENSION), keywords().query("whale"))]
    {
        let refused = sink.search(request(query)).await;
        assert!(matches!(&refused, Err(SinkError::BadRequest(reason)) if reason.contains("keyword")), "{refused:?}");
    }
}
