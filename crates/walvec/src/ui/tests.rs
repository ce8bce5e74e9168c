//! Guarantees to users of the page.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::watch;
use walvec_model::{Fingerprint, Generation, InputHash, PointId, Position, Provenance};
use walvec_pipeline::observe::status::{CollectionStatus, Phase, Problem, Status};
use walvec_sink::{Hit, Search};
use walvec_transform::PayloadLayout;

use super::hit::{self, Page, Scale};
use super::page_query::PageQuery;
use crate::http::AppState;
use crate::search::mode::Mode;
use crate::search::serving::Searchable;
use crate::search::words::QueryWords;
use crate::testkit::{Memory, books, english, get, router, searchable, state, state_with, streaming, with_collections};

fn with_collection(collection: Memory) -> AppState {
    let collection: Arc<dyn Search> = Arc::new(collection);
    with_collections(vec![searchable("books", collection)])
}

#[tokio::test]
async fn the_page_searches_without_any_script() {
    let page = get(&router(state()), "/?q=white+whale&limit=10").await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    let position = |text: &str| page.body.find(text).unwrap_or_else(|| panic!("{text} in {}", page.body));
    assert!(position("Moby-Dick") < position("Dune"));
    assert!(page.body.contains("A captain hunts a <mark>white</mark> <mark>whale</mark> across"));
    assert!(page.body.contains("<title>white whale · walvec</title>"));
    assert!(page.body.contains("value=\"white whale\""));
    assert!(page.body.contains("<option value=\"10\" selected>"));
    assert!(page.body.contains("3 hits in "));
}

#[tokio::test]
async fn payloads_and_queries_are_text_and_never_markup() {
    let attack = "<img src=x onerror=alert(1)>";
    let payload = json!([{
        "name": attack, "note": attack, "nested": {"a": attack}, "tags": [attack, "\"'><script>"],
        "long": format!("{attack} {}", "a ".repeat(200)), "<b>field": "\" onclick=\"x",
    }]);
    let query = "%3Cimg%20src=x%20onerror=alert(1)%3E%22'%3E%3Cscript%3E";
    let attacked = AppState { examples: vec![attack.to_owned()], ..with_collection(Memory::of(payload)) };
    let router = router(attacked);
    for path in [
        format!("/?q={query}&limit={query}&filter={query}"),
        format!("/?q={query}"),
        format!("/?q={query}&collection={query}"),
        format!("/ui/results?q={query}"),
        "/".to_owned(),
    ] {
        let body = get(&router, &path).await.body;
        for markup in ["<img src=x", "<script>", "<b>field", "\" onclick=", "'><"] {
            assert!(!body.contains(markup), "{markup} in {path}: {body}");
        }
        assert!(path == "/ui/results" || body.contains("onerror"), "{path} shows the text");
    }
}

#[tokio::test]
async fn nothing_is_inline_so_that_the_policy_holds() {
    let body = get(&router(state()), "/?q=whale").await.body;
    assert!(!body.contains(" style=") && !body.contains("<style"));
    assert!(!body.contains("onclick") && !body.contains("javascript:"));
    for script in body.split("<script").skip(1) {
        assert!(script.starts_with(" src=\"/assets/"), "{script}");
    }
}

#[tokio::test]
async fn assets_are_kept_for_ever_under_names_that_change_with_their_content() {
    let router = router(state());
    let body = get(&router, "/").await.body;
    let paths: Vec<_> = body.split('"').filter(|part| part.starts_with("/assets/")).collect();
    let kinds = [".css", ".js", ".svg"];
    assert!(kinds.iter().all(|kind| paths.iter().any(|path| path.ends_with(kind))), "{paths:?}");
    for path in paths {
        let asset = get(&router, path).await;
        assert_eq!((asset.status.as_u16(), asset.body.is_empty()), (200, false), "{path}");
        assert_eq!(asset.header("cache-control"), "public, max-age=31536000, immutable");
        let digest = path.split('.').nth(1).unwrap();
        assert!(blake3::hash(asset.body.as_bytes()).to_hex().starts_with(digest), "{path}");
    }
}

#[tokio::test]
async fn every_payload_column_is_shown_in_the_form_that_suits_its_value() {
    let long = "A long text. ".repeat(40);
    let payload = json!([{"id": 7, "name": "Dune", "story": long, "price": 1.5, "sold": null, "tags": ["a b", "c"], "extra": {"k": 1}}]);
    let body = get(&router(with_collection(Memory::of(payload))), "/?q=spice").await.body;
    assert!(body.contains("<h2 id=\"hit-1\">Dune</h2>"), "{body}");
    assert!(body.contains("type=\"checkbox\"") && body.contains("Show all of story"));
    assert!(body.contains("filter=id%3D7") && body.contains("filter=tags%3Da%20b"), "values narrow the search");
    assert!(body.contains("filter=price%3D1.5") && body.contains("null</span>"));
    assert!(body.contains("{&quot;k&quot;:1}"));
}

#[tokio::test]
async fn a_payload_in_the_layout_of_another_library_is_shown_by_its_columns() {
    let payload = json!([{"page_content": "the text that was embedded", "metadata": {"name": "Dune", "year": 1965}}]);
    let dune = Searchable { layout: PayloadLayout::LangChain, ..searchable("books", Arc::new(Memory::of(payload))) };
    let body = get(&router(with_collections(vec![dune])), "/?q=spice").await.body;
    assert!(body.contains("<h2 id=\"hit-1\">Dune</h2>") && body.contains("filter=year%3D1965"), "{body}");
    assert!(!body.contains("metadata") && !body.contains("page_content"), "{body}");
}

#[tokio::test]
async fn a_collection_with_words_can_be_searched_by_either_and_scores_are_called_what_they_are() {
    let words = || Some(Arc::new(english()));
    let router = router(with_collections(vec![Searchable { keywords: words(), ..searchable("books", books()) }]));
    for (path, chosen, score) in [
        ("/?q=whale", "<option value=\"\" selected>meaning and words", "Reciprocal rank fusion"),
        ("/?q=whale&mode=dense", "<option value=\"dense\" selected>meaning", "Cosine similarity"),
        ("/?q=whale&mode=keyword", "<option value=\"keyword\" selected>words", "BM25"),
    ] {
        let body = get(&router, path).await.body;
        assert!(body.contains(chosen) && body.contains(score), "{path}: {body}");
    }
    let kept = get(&router, "/?q=whale&mode=keyword").await.body;
    assert!(kept.contains("&amp;mode=keyword&amp;filter="), "links keep the mode: {kept}");
    let unknown = get(&router, "/?q=whale&mode=sparse").await;
    assert!(unknown.status.as_u16() == 400 && unknown.body.contains("hybrid, dense or keyword"), "{}", unknown.body);
    let plain = get(&self::router(state()), "/?q=whale").await.body;
    assert!(!plain.contains("name=\"mode\""), "there is nothing to choose");
}

#[tokio::test]
async fn a_chunk_says_which_one_of_its_row_it_is() {
    let chunk = |chunk, chunks| {
        let provenance = Provenance {
            position: Position::default(),
            table: "public.books".to_owned(),
            key: vec![json!(1)],
            input_hash: InputHash::of("the white whale"),
            fingerprint: Fingerprint::of(&["model"]),
            generation: Generation(1),
            chunk,
            chunks,
        };
        let payload = json!({"name": "Moby-Dick", "chunk": "the white whale"}).as_object().cloned().unwrap();
        Hit { id: PointId::Num(1), score: 0.5, payload, provenance: Some(provenance) }
    };
    let page_query = PageQuery::from_pairs(vec![("q".to_owned(), "whale".to_owned())], &["books".to_owned()]);
    let scale = Scale { mode: Mode::Dense, best: 0.5 };
    let page = Page { layout: PayloadLayout::Flat, page_query: &page_query, words: QueryWords::of("whale"), scale };
    let third = hit::render(&chunk(2, 5), 1, &page).into_string();
    assert!(third.contains("<dt>chunk</dt><dd>3 of 5</dd>"), "{third}");
    assert!(!hit::render(&chunk(0, 1), 1, &page).into_string().contains(" of "), "a row of one point has no chunks");
}

#[tokio::test]
async fn a_table_without_short_texts_is_still_readable() {
    let story = format!("{} the end", "word ".repeat(2_000));
    let payload = json!([{"story": story, "many": (0..1_000).collect::<Vec<_>>(), "none": []}]);
    let body = get(&router(with_collection(Memory::of(payload))), "/?q=word").await.body;
    let title = body.split("<h2 id=\"hit-1\">").nth(1).and_then(|rest| rest.split("</h2>").next()).unwrap();
    assert!(title.ends_with('…') && title.matches("word").count() == 32, "{title}");
    assert!(body.contains("Show all of story") && body.contains("6,008 more characters"));
    assert!(body.contains("Show all of many") && body.contains("<dt>none</dt><dd><span class=\"null\">none"));
}

#[tokio::test]
async fn a_filter_is_shown_kept_and_can_be_removed() {
    let body = get(&router(state()), "/?q=book&filter=year=1965").await.body;
    assert!(body.contains("Dune") && !body.contains("Emma"));
    assert!(body.contains("<input type=\"hidden\" name=\"filter\" value=\"year=1965\">"));
    assert!(body.contains("href=\"/?q=book&amp;collection=books&amp;limit=5\""), "{body}");
    let none = get(&router(state()), "/?q=book&filter=year=1").await.body;
    assert!(none.contains("No hits with these filters"));
}

#[tokio::test]
async fn without_a_query_the_page_offers_examples() {
    for path in ["/", "/?q=", "/?q=%20", "/?unknown=1"] {
        let page = get(&router(state()), path).await;
        assert_eq!(page.status, 200);
        assert!(page.body.contains("href=\"/?q=a%20whale%20at%20sea&amp;collection=books&amp;limit=5\""), "{path}");
        assert!(page.body.contains("public.books"));
    }
}

#[tokio::test]
async fn an_empty_collection_says_why_it_is_empty() {
    let collection = |estimated| CollectionStatus {
        snapshot_rows_copied: 1_240,
        snapshot_rows_estimated: estimated,
        points: Some(0),
        ..streaming().collections.remove(0)
    };
    for (phase, estimated, words) in [
        (Phase::Starting, 0, "still connecting"),
        (Phase::Snapshot, 2_000, "1,240 of about 2,000 rows."),
        (Phase::Snapshot, 0, "1,240 rows so far."),
        (Phase::Streaming, 0, "There are no rows in public.books yet."),
    ] {
        let status = Status { phase, collections: vec![collection(estimated)], ..streaming() };
        let empty: Arc<dyn Search> = Arc::new(Memory::default());
        let status = watch::Sender::new(status).subscribe();
        let router = router(AppState { status, ..with_collections(vec![searchable("books", empty)]) });
        for path in ["/", "/?q=whale"] {
            let body = get(&router, path).await.body;
            assert!(body.contains("is empty") && body.contains(words), "{phase:?} {path}: {body}");
        }
    }
}

#[tokio::test]
async fn a_snapshot_shows_how_far_it_is() {
    let collection = CollectionStatus {
        snapshot_rows_copied: 1_240,
        snapshot_rows_estimated: 2_000,
        ..streaming().collections.remove(0)
    };
    let status = Status { phase: Phase::Snapshot, collections: vec![collection], ..streaming() };
    let body = get(&router(state_with(status)), "/ui/status").await.body;
    assert!(body.contains("<progress value=\"1240\" max=\"2000\""), "{body}");
    assert!(!get(&router(state()), "/ui/status").await.body.contains("<progress"));
}

#[tokio::test]
async fn what_is_being_retried_is_shown_and_search_goes_on() {
    let problem =
        Problem { part: "source".to_owned(), message: "connection <refused>".to_owned(), remedy: None, attempts: 7 };
    let router = router(state_with(Status { problem: Some(problem), ..streaming() }));
    let body = get(&router, "/?q=whale").await.body;
    assert!(body.contains("connection &lt;refused&gt;") && body.contains("attempt 7") && body.contains("Moby-Dick"));
}

#[tokio::test]
async fn an_error_is_shown_with_its_status_and_the_query_stays() {
    let router = router(state());
    for path in ["/?q=whale&limit=900", "/ui/results?q=whale&limit=900"] {
        let page = get(&router, path).await;
        assert_eq!((page.status.as_u16(), page.header("content-type")), (400, "text/html; charset=utf-8"));
        assert!(page.body.contains("a whole number from 1 to 100 is expected"));
    }
    assert!(get(&router, "/?q=whale&limit=900").await.body.contains("value=\"whale\""));
    assert!(get(&router, "/?q=whale&collection=films").await.body.contains("there are: &quot;books&quot;"));
}

#[tokio::test]
async fn collections_can_be_chosen_when_there_are_several() {
    let two = vec![searchable("books", books()), searchable("films", books())];
    let router = router(with_collections(two));
    let body = get(&router, "/?q=whale&collection=films").await.body;
    assert!(body.contains("<option value=\"films\" selected>") && body.contains("collection=films"));
}
