//! Searches.

use super::*;

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
    let of = |hit: &Hit| serde_json::to_value(AnswerHit::from(hit)).unwrap();
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
    let query = SearchQuery::from_pairs(vec![("q".to_owned(), "x".to_owned())]).unwrap();
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
