//! The hits of a search, page by page.

use serde_json::json;
use walvec_model::{Point, PointId, Provenance};
use walvec_sink::embedded::Embedded;
use walvec_sink::{
    CollectionSpec, Filter, HitPlace, Keywords, Query, Search, SearchRequest, Sink, Write, page_of_hits,
};

use crate::common::{DIMENSION, point, provenance, spec, vector};
use crate::server::{on_every_server, remote};

/// Points of the collection, and how many of them have the same vector and the same text.
const POINTS: u64 = 120;
const ALIKE: u64 = 40;

/// Divides neither of them, so that pages end inside groups.
const PER_PAGE: usize = 7;

fn keywords() -> Keywords {
    Keywords::new("english").unwrap()
}

fn with_keywords(spec: CollectionSpec) -> CollectionSpec {
    CollectionSpec { keywords: Some("bm25".to_owned()), ..spec }
}

/// Makes one of the three chunks of a row, whose ids lie apart.
fn chunk(id: u64) -> Point {
    let row = Provenance { key: vec![json!(id % (POINTS / 3))], ..provenance(id) };
    let alike = id / ALIKE;
    let text = if alike == 1 { "a whale" } else { "a whale at sea" };
    let keywords = Some(keywords().document(text));
    Point { vector: vector(alike, DIMENSION), keywords, provenance: row, ..point(id, json!({ "number": id })) }
}

/// Returns the points of all consecutive pages.
async fn all_pages(sink: &impl Search, query: &Query, by_row: bool) -> Vec<PointId> {
    let (mut found, mut place) = (Vec::new(), HitPlace::default());
    loop {
        let request =
            SearchRequest { query: query.clone(), limit: PER_PAGE, filter: Filter::default(), min_score: None };
        let page = page_of_hits(sink, request, place, by_row).await.unwrap();
        assert!(page.hits.iter().all(|hit| PointId::Num(hit.payload["number"].as_u64().unwrap()) == hit.id));
        assert!(page.hits.len() == PER_PAGE || page.next.is_none(), "{} hits", page.hits.len());
        found.extend(page.hits.iter().map(|hit| hit.id));
        match page.next {
            Some(next) => place = next,
            None => return found,
        }
    }
}

/// Checks that every point, or every row, is on one page.
async fn nothing_is_left_out_or_repeated(sink: &(impl Sink + Search)) {
    sink.write(&(0..POINTS).map(|id| Write::Upsert(chunk(id))).collect::<Vec<_>>()).await.unwrap();
    let (dense, words) = (vector(1, DIMENSION), keywords().query("whale"));
    for query in [Query::Dense(dense.clone()), Query::Keyword(words.clone()), Query::Hybrid(dense, words)] {
        let found = all_pages(sink, &query, false).await;
        let mut ids = found.clone();
        ids.sort_unstable();
        ids.dedup();
        // Each side of a hybrid search brings in a hundred.
        let least = if matches!(query, Query::Hybrid(..)) { 100 } else { POINTS };
        assert_eq!(ids.len(), found.len(), "{query:?}: a hit came twice: {found:?}");
        assert!(found.len() as u64 >= least, "{query:?}: {} hits", found.len());
        let mut rows: Vec<u64> = all_pages(sink, &query, true)
            .await
            .into_iter()
            .map(|id| if let PointId::Num(id) = id { id % (POINTS / 3) } else { panic!("{id}") })
            .collect();
        rows.sort_unstable();
        assert_eq!(rows, (0..POINTS / 3).collect::<Vec<_>>(), "{query:?}");
    }
}

#[tokio::test]
async fn pages_hold_every_hit_once_however_many_have_the_same_score() {
    let root = tempfile::tempdir().unwrap();
    let sink = Embedded::open(root.path(), with_keywords(spec(DIMENSION))).unwrap();
    nothing_is_left_out_or_repeated(&sink).await;
}

#[tokio::test]
async fn pages_hold_every_hit_once_on_a_server() {
    on_every_server("paged", async |url, spec| {
        let sink = remote(&url, with_keywords(spec));
        sink.prepare().await.unwrap();
        nothing_is_left_out_or_repeated(&sink).await;
    })
    .await;
}

#[tokio::test]
async fn a_page_behind_the_last_one_is_empty() {
    let root = tempfile::tempdir().unwrap();
    let sink = Embedded::open(root.path(), with_keywords(spec(DIMENSION))).unwrap();
    sink.write(&[Write::Upsert(chunk(1))]).await.unwrap();
    for (offset, limit, found) in [(0, 1, 1), (1, 1, 0), (100, 5, 0), (usize::MAX, 100, 0)] {
        let query = Query::Dense(vector(1, DIMENSION));
        let request = SearchRequest { query, limit, filter: Filter::default(), min_score: None };
        let page = page_of_hits(&sink, request, HitPlace { offset, fused_for: 2 }, false).await.unwrap();
        assert_eq!((page.hits.len(), page.next), (found, None), "from {offset} on");
    }
}
