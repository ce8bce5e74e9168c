//! Points and parked rows, as they are stored.

use super::*;

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
