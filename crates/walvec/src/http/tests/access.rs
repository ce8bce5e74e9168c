//! Who is answered.

use super::*;

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
