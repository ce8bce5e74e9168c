//! Health, status, metrics, and the description.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

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
    let description = get(&router, "/openapi.json").await.json();
    let mut ids = BTreeSet::new();
    for (path, operations) in description["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let request = Request::builder().method(method.to_uppercase().as_str()).uri(path.as_str());
            let answer = send(&router, request.body(Body::empty()).unwrap()).await;
            // The task may not exist, but the path must.
            assert!(
                answer.status != 405 && !answer.body.contains("there is nothing at"),
                "{method} {path}: {}",
                answer.body
            );
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{method} {path} has the id of another");
            assert!(operation["responses"]["default"].is_object(), "{method} {path} does not say how it fails");
            let declared = |name: &Value| {
                name["in"] == "path" && path.contains(&format!("{{{}}}", name["name"].as_str().unwrap()))
            };
            let declared = operation["parameters"]
                .as_array()
                .map_or(0, |names| names.iter().filter(|name| declared(name)).count());
            assert_eq!(declared, path.matches('{').count(), "{method} {path}");
        }
    }
    let text = description.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(description.pointer(reference).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn the_description_names_the_limits_that_hold() {
    let description = get(&router(state()), "/openapi.json").await.json();
    let parameter = |path: &str, name: &str| {
        let parameters = description["paths"][path]["get"]["parameters"].as_array().unwrap();
        parameters.iter().find(|parameter| parameter["name"] == name).unwrap()["schema"].clone()
    };
    let body = |schema: &str, name: &str| description["components"]["schemas"][schema]["properties"][name].clone();
    for limit in [parameter("/api/v1/search", "limit"), body("SearchRequest", "limit")] {
        assert_eq!(
            (&limit["maximum"], &limit["default"]),
            (&json!(request::MAX_LIMIT), &json!(request::DEFAULT_LIMIT))
        );
    }
    for query in [parameter("/api/v1/search", "q"), body("SearchRequest", "query")] {
        assert_eq!(query["maxLength"], request::MAX_QUERY_BYTES);
    }
    let limit = parameter("/api/v1/points", "limit");
    assert_eq!((&limit["maximum"], &limit["default"]), (&json!(points::MAX_LIMIT), &json!(points::DEFAULT_LIMIT)));
    assert_eq!(body("PointsRequest", "ids")["maxItems"], points::MAX_IDS);
    let limit = parameter("/api/v1/dead-letters", "limit");
    assert_eq!(
        (&limit["maximum"], &limit["default"]),
        (&json!(dead_letters::MAX_LIMIT), &json!(dead_letters::MAX_LIMIT))
    );
}
