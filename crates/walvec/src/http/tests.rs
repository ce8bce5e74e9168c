//! Guarantees to users of the HTTP surface.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use walvec_model::{Fingerprint, Generation, InputHash, Payload, PointId, Position, Provenance, RowKey};
use walvec_pipeline::observe::metrics::UNKNOWN;
use walvec_pipeline::observe::status::{Phase, Problem, Status};
use walvec_pipeline::state::dead_letters::DeadLetter;
use walvec_sink::{Hit, Search, SinkError};

use super::state::Searchable;
use super::tasks::{KEY_HEADER, Operations};
use super::testkit::{
    Answer, BagOfWords, BookFields, Failing, KEY, Memory, books, get, loopback, post, router, router_with, searchable,
    send, state, state_with, streaming, with_collections, with_embedder,
};
use super::{App, AppState, Limits, openapi};

const SEARCH: &str = "/api/v1/search";

#[tokio::test]
async fn a_search_finds_the_nearest_points_and_says_how_fresh_they_are() {
    let answer = get(&router(state()), "/api/v1/search?q=white+whale&limit=2").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("content-type"), "application/json");
    let found = answer.json();
    assert_eq!((&found["query"], &found["collection"]), (&json!("white whale"), &json!("books")));
    assert_eq!(found["freshness"], json!({"lag_ms": 12, "applied_lsn": "0/1D5C408"}));
    let hits = found["hits"].as_array().unwrap();
    assert_eq!(hits.len(), 2);
    assert_eq!((&hits[0]["id"], &hits[0]["payload"]["name"]), (&json!(1), &json!("Moby-Dick")));
    assert!(hits[0]["score"].as_f64() > hits[1]["score"].as_f64());
}

#[tokio::test]
async fn get_and_post_answer_the_same() {
    let router = router(state());
    let by_get =
        get(&router, "/api/v1/search?q=a+village&collection=books&limit=3&filter=classic=true&filter=year%3E=1815")
            .await;
    let body = json!({"query": "a village", "collection": "books", "limit": 3, "filter": {"classic": true, "year": {"gte": 1815}}});
    let by_post = post(&router, SEARCH, body.to_string()).await;
    assert_eq!(by_get.status, 200, "{}", by_get.body);
    assert_eq!(by_get.json()["hits"].as_array().unwrap().len(), 2);
    assert_eq!(by_get.body, by_post.body);
}

#[tokio::test]
async fn pages_of_hits_follow_each_other_to_the_end_and_a_cursor_fits_its_own_search_only() {
    let router = router(state());
    let first = get(&router, "/api/v1/search?q=a+whale&limit=2").await.json();
    let cursor = first["next"].as_str().unwrap();
    let second = get(&router, &format!("/api/v1/search?q=a+whale&limit=2&cursor={cursor}")).await.json();
    let by_post = json!({"query": "a whale", "limit": 2, "cursor": cursor});
    assert_eq!(post(&router, SEARCH, by_post.to_string()).await.json(), second);
    let ids = |page: &serde_json::Value| -> Vec<u64> {
        page["hits"].as_array().unwrap().iter().map(|hit| hit["id"].as_u64().unwrap()).collect()
    };
    let mut all = [ids(&first), ids(&second)].concat();
    all.sort_unstable();
    assert_eq!((all, &second["next"]), (vec![1, 2, 3], &json!(null)));
    for other in
        ["q=a+ship&limit=2", "q=a+whale&limit=1", "q=a+whale&limit=2&group=row", "q=a+whale&limit=2&filter=year=1"]
    {
        let refused = get(&router, &format!("/api/v1/search?{other}&cursor={cursor}")).await;
        assert!(refused.problem(400, "bad-parameter").contains("of another search"), "{other}");
    }
    let refused = get(&router, "/api/v1/search?q=a+whale&cursor=x").await;
    assert!(refused.problem(400, "bad-parameter").contains("\"next\""));
}

#[tokio::test]
async fn a_hit_says_which_row_it_is_of() {
    let (id, provenance) = (PointId::Num(7), provenance());
    let hit = |provenance| Hit { id, score: 0.5, payload: Payload::new(), provenance };
    let of = |hit: &Hit| serde_json::to_value(super::hits::AnswerHit::from(hit)).unwrap();
    let row = json!({"id": 7, "score": 0.5, "table": "public.books", "key": [7, "a"], "chunk": 2, "chunks": 3, "payload": {}});
    assert_eq!(of(&hit(Some(provenance))), row);
    let foreign =
        json!({"id": 7, "score": 0.5, "table": null, "key": null, "chunk": null, "chunks": null, "payload": {}});
    assert_eq!(of(&hit(None)), foreign);
}

fn provenance() -> Provenance {
    Provenance {
        position: Position::default(),
        table: "public.books".to_owned(),
        key: vec![json!(7), json!("a")],
        input_hash: InputHash::of(""),
        fingerprint: Fingerprint::of(&[]),
        generation: Generation(1),
        chunk: 2,
        chunks: 3,
    }
}

#[tokio::test]
async fn the_collections_and_their_fields_are_listed_with_the_filters_that_can_match() {
    let listed = get(&router(state()), "/api/v1/collections").await.json();
    let field = |name, ty, from, index, filters: &[&str]| json!({"name": name, "type": ty, "from": from, "index": index, "filters": filters, "sorted": name == "year"});
    let all = &["=", "!=", "<", "<=", ">", ">="][..];
    let expected = json!({
        "name": "books", "table": "public.books", "layout": "flat", "points": 3, "modes": ["dense"], "chunked": false,
        "fields": [
            field("id", json!("bigint"), "column", json!(null), all),
            field("name", json!("text"), "column", json!(null), &["=", "!="]),
            field("year", json!("integer"), "column", json!("integer"), all),
            field("decade", json!(null), "computed", json!(null), all),
        ],
    });
    assert_eq!(listed, json!({"collections": [expected]}));
}

#[tokio::test]
async fn filters_compare_values_by_their_types() {
    let router = router(state());
    for (filter, ids) in [
        ("year=1965", vec![2]),
        ("year=%221965%22", vec![2]),
        ("author=%22Jane+Austen%22", vec![3]),
        ("author=Jane+Austen", vec![3]),
        ("tags=whale", vec![1]),
        ("classic=no", vec![2]),
        ("year+is+null", vec![]),
        ("year%3E=1816&filter=year%3C=1900", vec![1]),
    ] {
        let answer = get(&router, &format!("{SEARCH}?q=x&filter={filter}")).await.json();
        let found: Vec<_> = answer["hits"].as_array().unwrap().iter().map(|hit| hit["id"].clone()).collect();
        assert_eq!(found, ids, "{filter}");
    }
}

#[tokio::test]
async fn a_bad_search_is_refused_with_what_would_be_right() {
    let router = router(state());
    let long = format!("q={}", "a".repeat(8 * 1024 + 1));
    for (query, kind, words) in [
        ("", "empty-query", "parameter q"),
        ("q=", "empty-query", "parameter q"),
        ("q=%20%09", "empty-query", "parameter q"),
        (long.as_str(), "query-too-long", "8193 bytes"),
        ("q=x&limit=0", "bad-limit", "from 1 to 100"),
        ("q=x&limit=101", "bad-limit", "from 1 to 100"),
        ("q=x&limit=1000000000", "bad-limit", "from 1 to 100"),
        ("q=x&limit=-1", "bad-limit", "\"-1\""),
        ("q=x&limit=99999999999999999999", "bad-limit", "from 1 to 100"),
        ("q=x&limit=five", "bad-limit", "\"five\""),
        ("q=x&limit=", "bad-limit", "\"\""),
        ("q=x&collection=films", "unknown-collection", "there are: \"books\""),
        ("q=x&filter=year", "bad-filter", "field=value"),
        ("q=x&filter=year%3E=old", "bad-filter", "\"old\" is no number"),
        ("q=x&filter=yaer=1", "bad-filter", "did you mean \"year\"?"),
        ("q=x&filter=colour=red", "bad-filter", "author (text)"),
        ("q=x&filter=year=red", "bad-filter", "\"red\" is no whole number"),
        ("q=x&limits=5", "bad-parameter", "\"limits\""),
        ("q=x&q=y", "bad-parameter", "given twice"),
    ] {
        let detail = get(&router, &format!("{SEARCH}?{query}")).await.problem(400, kind);
        assert!(detail.contains(words), "{query}: {detail}");
    }
    assert_eq!(get(&router, &format!("{SEARCH}?q={}", "a".repeat(8 * 1024))).await.status, 200);
}

#[tokio::test]
async fn a_bad_body_is_refused_and_never_a_panic() {
    let router = router(state());
    let deep =
        format!("{{\"query\":\"x\",\"filter\":{}{}}}", "{\"a\":".repeat(10_000), "1".to_owned() + &"}".repeat(10_000));
    for (body, kind) in [
        (String::new(), "bad-json"),
        ("{".to_owned(), "bad-json"),
        ("[]".to_owned(), "bad-json"),
        ("null".to_owned(), "bad-json"),
        ("{}".to_owned(), "bad-json"),
        ("{\"query\": 1}".to_owned(), "bad-json"),
        ("{\"query\": \"x\", \"limit\": 1e30}".to_owned(), "bad-json"),
        ("{\"query\": \"x\", \"limit\": NaN}".to_owned(), "bad-json"),
        ("{\"query\": \"x\", \"k\": 5}".to_owned(), "bad-json"),
        ("{\"query\": \"\\ud800\"}".to_owned(), "bad-json"),
        (deep, "bad-json"),
        ("{\"query\": \"\"}".to_owned(), "empty-query"),
        ("{\"query\": \"x\", \"limit\": -1}".to_owned(), "bad-limit"),
        ("{\"query\": \"x\", \"limit\": 1000000000}".to_owned(), "bad-limit"),
        ("{\"query\": \"x\", \"collection\": \"\"}".to_owned(), "unknown-collection"),
        ("{\"query\": \"x\", \"filter\": {\"year\": [[1]]}}".to_owned(), "bad-filter"),
    ] {
        post(&router, SEARCH, body).await.problem(400, kind);
    }
    post(&router, SEARCH, vec![0xFF, 0xFE]).await.problem(400, "bad-json");
    post(&router, SEARCH, vec![b' '; 64 * 1024 + 1]).await.problem(413, "body-too-large");
    let form = Request::post(SEARCH).header("content-type", "application/x-www-form-urlencoded");
    send(&router, form.body("query=x".into()).unwrap()).await.problem(415, "not-json");
}

#[tokio::test]
async fn with_several_collections_the_search_must_name_one() {
    let two = || vec![searchable("books", books()), searchable("films", books())];
    let router = router(with_collections(two()));
    let detail = get(&router, "/api/v1/search?q=x").await.problem(400, "unknown-collection");
    assert!(detail.contains("\"books\", \"films\""), "{detail}");
    assert_eq!(get(&router, "/api/v1/search?q=x&collection=films").await.json()["collection"], "films");
}

#[tokio::test]
async fn a_failing_engine_or_model_is_a_problem_with_the_right_status() {
    let failing = |error| -> AppState {
        let search: Arc<dyn Search> = Arc::new(Failing(error));
        with_collections(vec![searchable("books", search)])
    };
    let refused = router(failing(|| SinkError::BadRequest("no index".to_owned())));
    assert!(get(&refused, "/api/v1/search?q=x").await.problem(400, "search-refused").contains("no index"));
    let passing = get(&router(failing(|| SinkError::Engine("busy".to_owned()))), "/api/v1/search?q=x").await;
    passing.problem(503, "search-unavailable");
    assert_eq!(passing.header("retry-after"), "1");
    get(&router(failing(|| SinkError::Closed)), "/api/v1/search?q=x").await.problem(500, "search-failed");
    let broken = router(with_embedder(Arc::new(BagOfWords::broken())));
    assert!(get(&broken, "/api/v1/search?q=x").await.problem(500, "search-failed").contains("out of order"));
}

#[tokio::test]
async fn a_search_beyond_the_queue_is_sent_away_at_once_and_the_queued_ones_are_answered() {
    let gate = Arc::new(Semaphore::new(0));
    let limits = Limits { concurrent_searches: 1, waiting_searches: 1, ..Limits::default() };
    let embedder = Arc::new(BagOfWords::behind(Arc::clone(&gate)));
    let router = router_with(with_embedder(embedder), limits);
    let ask = || {
        let router = router.clone();
        tokio::spawn(async move { get(&router, "/api/v1/search?q=x").await })
    };
    let (first, second) = (ask(), ask());
    // On a current-thread runtime both tasks run up to the closed gate before this one goes on.
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    let third = get(&router, "/api/v1/search?q=x").await;
    third.problem(503, "busy");
    assert_eq!(third.header("retry-after"), "1");
    gate.add_permits(2);
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(second.await.unwrap().status, 200);
    gate.add_permits(1);
    assert_eq!(get(&router, "/api/v1/search?q=x").await.status, 200);
}

#[tokio::test]
async fn a_caller_that_goes_away_still_counts_until_its_embedding_is_done() {
    let gate = Arc::new(Semaphore::new(0));
    let limits = Limits { concurrent_searches: 1, waiting_searches: 0, ..Limits::default() };
    let embedder = Arc::new(BagOfWords::behind(Arc::clone(&gate)));
    let app = App::new(with_embedder(embedder), loopback(), limits);
    let query = super::request::SearchQuery::from_pairs(vec![("q".to_owned(), "x".to_owned())]).unwrap();
    let mut abandoned = Box::pin(app.searcher.search(&query));
    assert!(futures::poll!(&mut abandoned).is_pending());
    drop(abandoned);
    assert_eq!(app.searcher.free(), 0);
    gate.add_permits(1);
    while app.searcher.free() == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_search_without_an_answer_ends_after_the_time_limit() {
    let embedder = Arc::new(BagOfWords::behind(Arc::new(Semaphore::new(0))));
    let limits = Limits { time: Duration::from_millis(1), ..Limits::default() };
    let answer = get(&router_with(with_embedder(embedder), limits), "/api/v1/search?q=x").await;
    assert!(answer.problem(503, "timed-out").contains("1ms"));
}

#[tokio::test]
async fn lag_and_problems_never_fail_liveness_and_only_the_phase_decides_readiness() {
    for (phase, ready) in
        [(Phase::Starting, false), (Phase::Snapshot, true), (Phase::Streaming, true), (Phase::Stopping, false)]
    {
        let router = router(state_with(Status { phase, lag_ms: Some(u64::MAX), ..streaming() }));
        assert_eq!(get(&router, "/livez").await.status, 200, "{phase:?}");
        let readiness = get(&router, "/readyz").await;
        if ready {
            assert_eq!(readiness.json(), json!({"status": "ready"}), "{phase:?}");
        } else {
            readiness.problem(503, "not-ready");
        }
    }
}

#[tokio::test]
async fn readiness_names_the_part_that_does_not_work_and_nothing_else() {
    let problem = Problem {
        part: "source".to_owned(),
        message: "cannot reach PostgreSQL at db.internal:5432".to_owned(),
        remedy: None,
        attempts: 7,
    };
    let router = |phase| router(state_with(Status { phase, problem: Some(problem.clone()), ..streaming() }));
    let detail = get(&router(Phase::Starting), "/readyz").await.problem(503, "not-ready");
    assert!(detail.contains("the source does not work") && !detail.contains("db.internal"), "{detail}");
    let ready = get(&router(Phase::Streaming), "/readyz").await.json();
    assert_eq!(ready, json!({"status": "ready", "problem": "source"}));
}

#[tokio::test]
async fn a_metric_whose_value_is_not_known_is_absent() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let router = router(AppState { metrics: recorder.handle(), ..state() });
    metrics::gauge!("walvec_replication_lag_bytes").set(UNKNOWN);
    metrics::gauge!("walvec_up", "part" => "source").set(0.0);
    let answer = get(&router, "/metrics").await;
    assert!(answer.body.contains("walvec_up{part=\"source\"} 0"), "{}", answer.body);
    assert!(!answer.body.lines().any(|line| line.starts_with("walvec_replication_lag_bytes")), "{}", answer.body);
    metrics::gauge!("walvec_replication_lag_bytes").set(5.0);
    assert!(get(&router, "/metrics").await.body.contains("walvec_replication_lag_bytes 5"));
}

#[tokio::test]
async fn status_is_the_pipelines_own_picture() {
    let answer = get(&router(state()), "/api/v1/status").await;
    assert_eq!(serde_json::from_str::<Status>(&answer.body).unwrap(), streaming());
}

#[tokio::test]
async fn searches_are_counted_by_collection_and_result_and_timed() {
    let recorder = PrometheusBuilder::new().set_buckets(&[0.01, 1.0]).unwrap().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let router = router(AppState { metrics: recorder.handle(), ..state() });
    get(&router, "/api/v1/search?q=x").await;
    get(&router, "/api/v1/search?q=x&collection=invented-label").await;
    let answer = get(&router, "/metrics").await;
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(answer.body.contains("walvec_searches_total{collection=\"books\",result=\"ok\"} 1"), "{}", answer.body);
    assert!(answer.body.contains("walvec_search_seconds_bucket{collection=\"books\",le=\"1\"} 1"), "{}", answer.body);
    assert!(!answer.body.contains("invented-label"));
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let router = router(state());
    get(&router, "/nothing").await.problem(404, "not-found");
    get(&router, "/assets/page.css").await.problem(404, "not-found");
    let delete = Request::delete(SEARCH).body(Body::empty()).unwrap();
    let answer = send(&router, delete).await;
    answer.problem(405, "method-not-allowed");
    assert!(answer.header("allow").contains("GET") && answer.header("allow").contains("POST"));
}

#[tokio::test]
async fn the_description_names_only_what_answers() {
    let router = router(state());
    assert_eq!(get(&router, "/openapi.json").await.json(), openapi::describe());
    let description = openapi::describe();
    for (path, operations) in description["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let request = Request::builder().method(method.to_uppercase().as_str()).uri(path.as_str());
            let answer = send(&router, request.body(Body::empty()).unwrap()).await;
            // The task may not exist, but the path must.
            assert!(
                answer.status != 405 && !answer.body.contains("there is nothing at"),
                "{method} {path}: {}",
                answer.body
            );
        }
    }
    let text = description.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(description.pointer(reference).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn points_are_given_page_by_page_exactly_as_they_are_stored() {
    let router = router(state());
    let first = get(&router, "/api/v1/points?collection=books&limit=2").await.json();
    let ids = |page: &serde_json::Value| -> Vec<_> {
        page["points"].as_array().unwrap().iter().map(|point| point["id"].clone()).collect()
    };
    assert_eq!((ids(&first), &first["next"]), (vec![json!(1), json!(2)], &json!(3)));
    assert_eq!(first["points"][1]["payload"]["year"], 1965);
    assert!(first["points"][0].get("vector").is_none());
    let last = get(&router, "/api/v1/points?from=3&vectors=true").await.json();
    assert_eq!((ids(&last), &last["next"]), (vec![json!(3)], &json!(null)));
    assert_eq!(last["points"][0]["vector"].as_array().map(Vec::len), Some(64));
    let beyond = get(&router, "/api/v1/points?from=a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11").await.json();
    assert_eq!(beyond, json!({"points": [], "next": null}));
}

/// Returns the ids of all pages, one page after the other.
async fn in_pages(router: &axum::Router, order_by: &str, limit: usize) -> Vec<Vec<u64>> {
    let path = format!("/api/v1/points?order_by={order_by}&limit={limit}");
    let (mut pages, mut next) = (Vec::new(), None::<String>);
    loop {
        let cursor = next.map_or_else(String::new, |next| format!("&cursor={next}"));
        let page = get(router, &(path.clone() + &cursor)).await.json();
        let points = page["points"].as_array().unwrap_or_else(|| panic!("{page:#}"));
        pages.push(points.iter().map(|point| point["id"].as_u64().unwrap()).collect());
        match page["next"].as_str() {
            Some(cursor) => next = Some(cursor.to_owned()),
            None => return pages,
        }
    }
}

#[tokio::test]
async fn points_come_in_the_order_of_a_field_and_no_page_loses_or_repeats_one_of_many_with_the_same_value() {
    let years =
        [json!(1900), json!(1800), json!(1900), json!(null), json!(1900), json!(1700), json!(1900), json!(1800)];
    let books: Vec<_> =
        years.into_iter().map(|year| json!({"name": "x", "year": year})).chain([json!({"name": "y"})]).collect();
    let books = Searchable { fields: Arc::new(BookFields), ..searchable("books", Arc::new(Memory::of(json!(books)))) };
    let router = router(with_collections(vec![books]));
    let (ascending, descending) = ([6, 2, 8, 1, 3, 5, 7, 4, 9], [1, 3, 5, 7, 2, 8, 6, 4, 9]);
    for limit in 1..=10 {
        for (order_by, ids) in [("year", ascending), ("year:asc", ascending), ("year:desc", descending)] {
            let pages = in_pages(&router, order_by, limit).await;
            assert_eq!(pages, ids.chunks(limit).collect::<Vec<_>>(), "{order_by} {limit}");
        }
    }
    // The size of the page may change, but not the order.
    let first = get(&router, "/api/v1/points?order_by=year&limit=2").await.json();
    let cursor = first["next"].as_str().unwrap();
    let rest = get(&router, &format!("/api/v1/points?order_by=year:asc&vectors=true&cursor={cursor}")).await.json();
    assert_eq!((rest["points"].as_array().map(Vec::len), &rest["next"]), (Some(7), &json!(null)));
    assert_eq!(rest["points"][0]["vector"].as_array().map(Vec::len), Some(64));
    let other = get(&router, &format!("/api/v1/points?order_by=year:desc&cursor={cursor}")).await;
    assert!(other.problem(400, "bad-parameter").contains("the cursor is of another list"));
}

#[tokio::test]
async fn a_field_that_cannot_be_sorted_is_refused_with_those_that_can() {
    let refused = get(&router(state()), "/api/v1/points?order_by=author").await.problem(400, "bad-parameter");
    assert_eq!(refused, "order_by \"author\": the field is text, which cannot be sorted; these can be: year (integer)");
}

#[tokio::test]
async fn points_are_given_by_their_ids_and_those_that_are_missing_are_left_out() {
    let router = router(state());
    let body = json!({"collection": "books", "ids": [2, 9, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"], "vectors": true});
    let found = post(&router, "/api/v1/points", body.to_string()).await.json();
    let points = found["points"].as_array().unwrap();
    assert_eq!((points.len(), &points[0]["id"], &points[0]["payload"]["name"]), (1, &json!(2), &json!("Dune")));
    assert_eq!(points[0]["vector"].as_array().map(Vec::len), Some(64));
}

#[tokio::test]
async fn a_bad_question_for_points_or_dead_letters_is_refused() {
    let router = router(state());
    for (path, kind) in [
        ("/api/v1/points?limit=0", "bad-limit"),
        ("/api/v1/points?limit=10001", "bad-limit"),
        ("/api/v1/points?limit=many", "bad-parameter"),
        ("/api/v1/points?from=x", "bad-parameter"),
        ("/api/v1/points?from=-1", "bad-parameter"),
        ("/api/v1/points?offset=1", "bad-parameter"),
        ("/api/v1/points?collection=films", "unknown-collection"),
        ("/api/v1/points?order_by=nosuch", "bad-parameter"),
        ("/api/v1/points?order_by=name", "bad-parameter"),
        ("/api/v1/points?order_by=year:down", "bad-parameter"),
        ("/api/v1/points?order_by=year&from=1", "bad-parameter"),
        ("/api/v1/points?order_by=year&cursor=1", "bad-parameter"),
        ("/api/v1/points?cursor=w1965.2.0123456789abcdef", "bad-parameter"),
        ("/api/v1/dead-letters?limit=1001", "bad-limit"),
        ("/api/v1/dead-letters?after=7", "bad-parameter"),
        ("/api/v1/dead-letters?collection=films", "unknown-collection"),
    ] {
        get(&router, path).await.problem(400, kind);
    }
    for (body, kind) in [
        (json!({"ids": (0..1001).collect::<Vec<_>>()}), "bad-parameter"),
        (json!({"ids": [-1]}), "bad-json"),
        (json!({"ids": ["x"]}), "bad-json"),
        (json!({}), "bad-json"),
        (json!({"ids": [], "filter": {}}), "bad-json"),
    ] {
        post(&router, "/api/v1/points", body.to_string()).await.problem(400, kind);
    }
    let form = Request::post("/api/v1/points").body(Body::from(json!({"ids": []}).to_string())).unwrap();
    send(&router, form).await.problem(415, "not-json");
}

#[tokio::test]
async fn dead_letters_are_given_page_by_page_in_the_order_of_their_keys() {
    let letter = |number: u64| DeadLetter {
        collection: "books".to_owned(),
        table: "public.books".to_owned(),
        key: vec![json!(number)],
        position: Position::default(),
        generation: Generation(1),
        place: None,
        code: "E_RENDER".to_owned(),
        reason: "no".to_owned(),
        dropped: number == 2,
    };
    let of = move |collection: &str, after: Option<&RowKey>, limit: usize| {
        assert_eq!(collection, "books");
        let after = after.map_or(0, |key| key.values()[0].as_u64().unwrap());
        Ok((after + 1..=5).map(letter).take(limit).collect())
    };
    let router = router(AppState { dead_letters: Arc::new(of), ..state() });
    let first = get(&router, "/api/v1/dead-letters?limit=3").await.json();
    assert_eq!(
        (first["dead_letters"].as_array().map(Vec::len), &first["next"]),
        (Some(2), &json!([3])),
        "one was dropped"
    );
    let last = get(&router, "/api/v1/dead-letters?collection=books&after=[3]&limit=3").await.json();
    assert_eq!((last["dead_letters"].as_array().map(Vec::len), &last["next"]), (Some(2), &json!(null)));
    assert_eq!(last["dead_letters"][0]["key"], json!([4]));
}

// ---- Security ---------------------------------------------------------------------------------------------------

fn with_token() -> AppState {
    AppState { token: Some("a-long-token".into()), ..state() }
}

async fn with_header(router: &axum::Router, path: &str, name: &str, value: &str) -> Answer {
    send(router, Request::get(path).header(name, value).body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn what_is_stored_is_changed_for_nobody_who_does_not_know_the_key() {
    let (requests, mut queue) = mpsc::channel(1);
    let operations = Operations { requests, ..state().operations };
    let router = router(AppState { operations, ..state() });
    let ask = async |path: &str, key: &str, body: &str| {
        let request = Request::post(path).header("content-type", "application/json").header(KEY_HEADER, key);
        send(&router, request.body(body.to_owned().into()).unwrap()).await
    };
    for path in ["/api/v1/backfill", "/api/v1/repair", "/api/v1/reindex"] {
        post(&router, path, "{}").await.problem(403, "forbidden-operation");
        ask(path, "another", "{}").await.problem(403, "forbidden-operation");
    }
    ask("/api/v1/backfill", KEY, r#"{"table": "public.books", "wher": "x"}"#).await.problem(400, "bad-json");
    ask("/api/v1/backfill", KEY, r#"{"table": "a.b.c"}"#).await.problem(400, "bad-parameter");
    assert!(queue.try_recv().is_err());
    let answer = ask("/api/v1/backfill", KEY, r#"{"table": "public.books", "where": "year > 1900"}"#).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (202, json!({"task": 1})));
    ask("/api/v1/reindex", KEY, "{}").await.problem(409, "task-running");
    assert_eq!(get(&router, "/api/v1/tasks/1").await.json()["state"], "running");
    let (_, task) = queue.try_recv().unwrap();
    task.end(Ok(()));
    assert_eq!(get(&router, "/api/v1/tasks/1").await.json()["state"], "done");
    get(&router, "/api/v1/tasks/2").await.problem(404, "not-found");
    assert_eq!(ask("/api/v1/reindex", KEY, "{}").await.json(), json!({"task": 2}));
}

#[tokio::test]
async fn every_answer_carries_the_security_headers() {
    let router = router(state());
    for path in ["/", "/livez", "/nothing", "/api/v1/search", "/api/v1/search?q=x", "/openapi.json"] {
        let answer = get(&router, path).await;
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none';") && policy.ends_with("frame-ancestors 'none'"), "{path}");
        assert!(!policy.contains("unsafe"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "same-origin", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
    }
}

#[tokio::test]
async fn a_name_that_only_resolves_to_this_machine_is_not_served() {
    let router = router(state());
    for path in ["/", "/livez", "/metrics", "/api/v1/search?q=x", "/nothing"] {
        with_header(&router, path, "host", "evil.example:8082").await.problem(403, "forbidden-host");
    }
    assert_eq!(with_header(&router, "/livez", "host", "[::1]:8082").await.status, 200);
    let absolute = Request::get("http://evil.example/livez").body(Body::empty()).unwrap();
    send(&router, absolute).await.problem(403, "forbidden-host");
}

#[tokio::test]
async fn a_page_of_another_site_cannot_post() {
    let router = router(state());
    let ask = async |origin: &str| {
        let request = Request::post(SEARCH).header("content-type", "application/json").header("origin", origin);
        send(&router, request.body("{\"query\":\"x\"}".into()).unwrap()).await
    };
    for origin in ["https://evil.example", "null", "http://localhost:9999", "http://localhost", ""] {
        ask(origin).await.problem(403, "forbidden-origin");
    }
    assert_eq!(ask("http://localhost:8082").await.status, 200);
}

#[tokio::test]
async fn without_the_token_only_the_probes_and_the_style_answer() {
    let router = router(with_token());
    assert_eq!(get(&router, "/livez").await.status, 200);
    assert_eq!(get(&router, "/readyz").await.status, 200);
    for path in [
        "/api/v1/search?q=x",
        "/api/v1/status",
        "/metrics",
        "/openapi.json",
        "/ui/results?q=x",
        "/ui/status",
        "/nothing",
    ] {
        let answer = get(&router, path).await;
        answer.problem(401, "unauthorized");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        for wrong in ["Bearer a-long-toke", "Bearer ", "Bearer", "Basic a-long-token", "a-long-token"] {
            with_header(&router, path, "authorization", wrong).await.problem(401, "unauthorized");
        }
    }
    let page = get(&router, "/?q=whale").await;
    assert_eq!(page.status, 401);
    assert!(page.body.contains("type=\"password\"") && !page.body.contains("Moby"), "{}", page.body);
    let style = page.body.split("href=\"").find(|part| part.starts_with("/assets/page")).unwrap();
    assert_eq!(get(&router, style.split('"').next().unwrap()).await.status, 200);
}

#[tokio::test]
async fn the_token_opens_everything() {
    let router = router(with_token());
    for path in ["/", "/api/v1/search?q=x", "/api/v1/status", "/metrics", "/openapi.json", "/ui/status"] {
        for value in ["Bearer a-long-token", "bearer a-long-token"] {
            assert_eq!(with_header(&router, path, "authorization", value).await.status, 200, "{path}");
        }
    }
}

#[tokio::test]
async fn the_owner_of_the_data_directory_needs_no_token() {
    let router = router(with_token());
    for path in ["/api/v1/search?q=x", "/api/v1/status", "/api/v1/dead-letters", "/metrics"] {
        assert_eq!(with_header(&router, path, KEY_HEADER, KEY).await.status, 200, "{path}");
        with_header(&router, path, KEY_HEADER, "another").await.problem(401, "unauthorized");
        with_header(&router, path, KEY_HEADER, "").await.problem(401, "unauthorized");
    }
}

#[tokio::test]
async fn signing_in_gives_a_session_that_scripts_and_other_sites_cannot_use() {
    let router = router(with_token());
    let sign_in = async |token: &str| {
        let request = Request::post("/login").header("content-type", "application/x-www-form-urlencoded");
        send(&router, request.body(format!("token={token}").into()).unwrap()).await
    };
    let refused = sign_in("wrong").await;
    assert_eq!((refused.status.as_u16(), refused.header("set-cookie")), (401, ""));
    assert!(refused.body.contains("That is not the token"));

    let signed_in = sign_in("a-long-token").await;
    assert_eq!((signed_in.status.as_u16(), signed_in.header("location")), (303, "/"));
    let cookie = signed_in.header("set-cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    assert!(!cookie.contains("a-long-token"), "{cookie}");
    let pair = format!("theme=dark; {}", cookie.split(';').next().unwrap());
    assert_eq!(with_header(&router, "/", "cookie", &pair).await.status, 200);
    assert_eq!(with_header(&router, "/", "cookie", "walvec_session=00").await.status, 401);
}
