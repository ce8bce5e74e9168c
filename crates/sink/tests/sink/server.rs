//! A collection on a Qdrant server: one inside this process that can fail on command, and a real one if
//! `WALVEC_TEST_QDRANT_URL` names it.

use qdrant_client::qdrant::{
    CreateCollectionBuilder, DeletePointsBuilder, Distance, PointStruct, UpsertPointsBuilder, VectorParamsBuilder,
};
use secrecy::SecretString;
use serde_json::json;
use walvec_model::point::MAX_NESTING;
use walvec_model::{Fingerprint, Generation, Lsn, PointId, Position, Provenance, TableName};
use walvec_sink::catalog::{number_of as number_in, numbered};
use walvec_sink::qdrant::{Aliases, Remote, Server};
use walvec_sink::{
    Bounds, Catalog as _, CollectionSpec, Condition, Filter, IndexType, Search, SearchRequest, Sink, SinkError, Write,
};
use walvec_test_qdrant::{Call, Code, Fault, TestServer, UpdateStatus};

use crate::common::{
    DIMENSION, all_points, books, fields, nearest_to, number_of, point, provenance, spec, upserts, vector,
};

fn server(url: &str) -> Server {
    let key = std::env::var("WALVEC_TEST_QDRANT_API_KEY").ok().map(SecretString::from);
    Server { api_key: key, ..Server::at(url) }
}

pub(crate) fn remote(url: &str, spec: CollectionSpec) -> Remote {
    Remote::new(server(url), spec).unwrap()
}

/// Starts a server with an empty collection.
pub(crate) async fn started() -> (TestServer, Remote) {
    let test_server = TestServer::start().unwrap();
    let sink = remote(&test_server.url(), spec(DIMENSION));
    sink.prepare().await.unwrap();
    test_server.reset_calls();
    (test_server, sink)
}

/// Runs a test on the server inside this process, and on a real one if there is one.
pub(crate) async fn on_every_server<F: Future<Output = ()>>(name: &str, test: impl Fn(String, CollectionSpec) -> F) {
    let test_server = TestServer::start().unwrap();
    test(test_server.url(), spec(DIMENSION)).await;
    let Ok(url) = std::env::var("WALVEC_TEST_QDRANT_URL") else {
        eprintln!("NOT TRIED on a real Qdrant server: set WALVEC_TEST_QDRANT_URL=http://localhost:6334");
        return;
    };
    let spec = CollectionSpec { name: format!("walvec_test_{name}"), ..spec(DIMENSION) };
    Remote::purge(server(&url), &spec.name).await.unwrap();
    test(url.clone(), spec.clone()).await;
    Remote::purge(server(&url), &spec.name).await.unwrap();
}

/// Returns conditions on the points of [`what_is_written_can_be_read_and_found`], each with the points that it finds.
fn conditions(uuid: uuid::Uuid) -> Vec<(Condition, Vec<PointId>)> {
    let year = |year: i32| Condition::Equals { field: "year".into(), value: json!(year) };
    let open = Bounds::default();
    let at = |bounds: Bounds<&str>| Condition::DatetimeRange {
        field: "at".into(),
        bounds: bounds.try_map(str::parse).unwrap(),
    };
    vec![
        (Condition::Equals { field: "year".into(), value: json!(1898) }, vec![PointId::Num(1)]),
        (Condition::Equals { field: "a.b".into(), value: json!("x") }, vec![PointId::Num(1)]),
        (
            Condition::Range { field: "year".into(), bounds: Bounds { gte: Some(1899.0), ..Bounds::default() } },
            vec![PointId::Uuid(uuid)],
        ),
        (
            at(Bounds { gt: Some("2024-01-31T19:00:00Z"), lt: Some("2024-01-31T19:00:01Z"), ..open }),
            vec![PointId::Num(1)],
        ),
        (at(Bounds { lte: Some("2024-01-31T19:00:00.499999Z"), ..open }), vec![]),
        (at(Bounds { gte: Some("1914-07-28"), lte: Some("2024-01-31T19:00:00.5Z"), ..open }), vec![PointId::Num(1)]),
        (Condition::AnyOf(vec![year(1898), year(1)]), vec![PointId::Num(1)]),
        (Condition::AnyOf(vec![Condition::Not(Box::new(Condition::Not(Box::new(year(1898)))))]), vec![PointId::Num(1)]),
    ]
}

#[tokio::test]
async fn what_is_written_can_be_read_and_found() {
    on_every_server("written", async |url, spec| {
        let indexes = vec![("year".into(), IndexType::Integer), ("a.b".into(), IndexType::Keyword)];
        let sink = remote(&url, CollectionSpec { indexes, ..spec });
        let id = sink.prepare().await.unwrap();
        assert_eq!(sink.prepare().await.unwrap(), id, "the same collection");
        let payload =
            json!({"year": 1898, "at": "2024-01-31 19:00:00.5+00", "a.b": "x", "long": "é".repeat(1000), "none": null, "list": [1, {"deep": true}]});
        sink.write(&[Write::Upsert(point(1, payload.clone()))]).await.unwrap();
        sink.write(&upserts(2..600)).await.unwrap();
        let uuid = uuid::Uuid::from_u128(42);
        let mut other = point(1000, json!({"year": 1900}));
        other.id = PointId::Uuid(uuid);
        sink.write(&[Write::Upsert(other), Write::Delete(PointId::Num(2)), Write::Delete(PointId::Num(9999))])
            .await
            .unwrap();

        assert_eq!(sink.count().await.unwrap(), 599);
        let ids = || vec![PointId::Num(1), PointId::Num(2)];
        assert_eq!(sink.get(ids(), false).await.unwrap().len(), 1);
        assert_eq!(all_points(&sink).await[0].payload, fields(payload));
        let stored = sink.retrieve(&ids()).await.unwrap();
        assert_eq!((stored.len(), &stored[0].payload), (1, &fields(json!({}))));
        let faithful = sink.faithful(&ids()).await.unwrap().remove(0).payload;
        assert_eq!(faithful.keys().collect::<Vec<_>>(), ["a.b", "at", "long", "none", "year"]);
        // gRPC parses messages to a depth of a hundred: three for an object, two for a list.
        let deep = (0..MAX_NESTING + 20).fold(json!(1), |inner, _| json!({ "a": inner }));
        sink.write(&[Write::Upsert(point(3, json!({ "deep": deep })))]).await.unwrap();
        assert!(sink.get(vec![PointId::Num(3)], true).await.unwrap()[0].payload["deep"].is_object());
        assert_eq!(stored[0].provenance, Some(provenance(1)));
        let ids: Vec<PointId> = all_points(&sink).await.iter().map(|point| point.id).collect();
        let numbers = std::iter::once(1).chain(3..600).map(PointId::Num);
        assert_eq!(ids, numbers.chain([PointId::Uuid(uuid)]).collect::<Vec<_>>());

        let nearest = sink.search(nearest_to(77, 3)).await.unwrap();
        assert_eq!(nearest[0].id, PointId::Num(77));
        assert!(nearest[0].score > 0.999 && nearest[0].score <= 1.0);
        let near = sink.search(SearchRequest { min_score: Some(0.999), ..nearest_to(77, 3) }).await.unwrap();
        assert_eq!(near.iter().map(|hit| hit.id).collect::<Vec<_>>(), [PointId::Num(77)]);
        for (condition, found) in conditions(uuid) {
            let request = SearchRequest { filter: Filter(vec![condition]), ..nearest_to(5, 10) };
            let ids: Vec<_> = sink.search(request).await.unwrap().iter().map(|hit| hit.id).collect();
            assert_eq!(ids, found);
        }
    })
    .await;
}

#[tokio::test]
async fn a_payload_is_replaced_whole_and_its_vector_stays() {
    on_every_server("payload", async |url, spec| {
        let sink = remote(&url, spec);
        sink.prepare().await.unwrap();
        sink.write(&[Write::Upsert(point(1, json!({"old": 1})))]).await.unwrap();
        let provenance = Provenance { generation: Generation(2), ..provenance(1) };
        let payload = fields(json!({"new": 2}));
        let write = Write::Payload { id: PointId::Num(1), payload: payload.clone(), provenance: provenance.clone() };
        sink.write(&[write]).await.unwrap();
        let hits = sink.search(nearest_to(1, 1)).await.unwrap();
        assert!(hits[0].score > 0.999);
        assert_eq!((&hits[0].payload, &hits[0].provenance), (&payload, &Some(provenance)));
    })
    .await;
}

#[tokio::test]
async fn deleting_a_table_and_sweeping_old_generations_leave_everything_else() {
    on_every_server("sweep", async |url, spec| {
        let sink = remote(&url, spec);
        sink.prepare().await.unwrap();
        let mut batch = upserts(1..=4);
        for (write, (table, generation)) in
            batch.iter_mut().zip([("public.books", 1), ("public.books", 2), ("public.films", 1), ("public.films", 2)])
        {
            let Write::Upsert(point) = write else { unreachable!() };
            point.provenance.table = table.to_owned();
            point.provenance.generation = Generation(generation);
        }
        sink.write(&batch).await.unwrap();
        assert_eq!(sink.sweep(&books(), Generation(2)).await.unwrap(), 1);
        assert_eq!(sink.sweep(&books(), Generation(2)).await.unwrap(), 0);
        sink.delete_table(&TableName::new("public", "films")).await.unwrap();
        let ids: Vec<_> = all_points(&sink).await.iter().map(|point| point.id).collect();
        assert_eq!(ids, [PointId::Num(2)]);
    })
    .await;
}

/// If a server before 1.19 crashes, it may bring back points that were removed by a filter.
#[tokio::test]
async fn whoever_writes_alone_deletes_by_ids_and_others_leave_what_was_made_newer_meanwhile() {
    let test_server = TestServer::start().unwrap();
    for (version, is_alone, by_filter) in [("1.18.3", true, 0), ("1.18.3", false, 3), ("1.19.0", true, 2)] {
        test_server.faults().set_version(version);
        let sink = remote(&test_server.url(), spec(DIMENSION)).alone(is_alone);
        sink.prepare().await.unwrap();
        for chunk in upserts(1..=2500).chunks(500) {
            sink.write(chunk).await.unwrap();
        }
        test_server.reset_calls();
        assert_eq!(sink.sweep(&books(), Generation(2)).await.unwrap(), 2500);
        assert_eq!(sink.count().await.unwrap(), 0);
        sink.write(&upserts(1..=10)).await.unwrap();
        let newest = Position { commit_lsn: Lsn(u64::MAX), ..Position::default() };
        sink.delete_older(&books(), newest, Generation(0)..=Generation(0), None).await.unwrap();
        assert_eq!(sink.count().await.unwrap(), 10, "a later generation's positions may be lower");
        sink.delete_older(&books(), newest, Generation(0)..=Generation(1), None).await.unwrap();
        assert_eq!(sink.count().await.unwrap(), 0);
        sink.write(&upserts(1..=10)).await.unwrap();
        sink.delete_table(&books()).await.unwrap();
        assert_eq!(sink.count().await.unwrap(), 0);
        assert_eq!(test_server.calls().by_filter(), by_filter, "{version}, {is_alone}");
    }
}

#[tokio::test]
async fn a_collection_of_another_model_or_dimension_is_refused_and_not_changed() {
    on_every_server("fingerprint", async |url, spec| {
        let sink = remote(&url, spec.clone());
        sink.prepare().await.unwrap();
        sink.write(&upserts(1..=3)).await.unwrap();
        for other in [
            CollectionSpec { dimension: DIMENSION + 1, ..spec.clone() },
            CollectionSpec { fingerprint: Fingerprint::of(&["another model"]), ..spec.clone() },
        ] {
            let other = remote(&url, other);
            assert!(matches!(other.prepare().await, Err(SinkError::Fingerprint { .. })));
            assert!(matches!(other.inspect().await, Err(SinkError::Fingerprint { .. })));
        }
        sink.prepare().await.unwrap();
        assert_eq!(sink.count().await.unwrap(), 3);
    })
    .await;
}

#[tokio::test]
async fn an_empty_collection_of_somebody_else_is_taken_over_and_a_filled_one_is_left_alone() {
    on_every_server("adopted", async |url, spec| {
        let client = qdrant_client::Qdrant::from_url(&url).skip_compatibility_check().build().unwrap();
        let vectors = VectorParamsBuilder::new(DIMENSION as u64, Distance::Cosine);
        client.create_collection(CreateCollectionBuilder::new(&spec.name).vectors_config(vectors)).await.unwrap();
        let foreign = PointStruct::new(1, vector(1, DIMENSION), [("theirs", true.into())]);
        let upsert = UpsertPointsBuilder::new(&spec.name, vec![foreign]).wait(true);
        client.upsert_points(upsert).await.unwrap();
        let sink = remote(&url, spec.clone());
        // It is refused whatever its vectors are like: no model of ours would fit.
        for spec in [spec.clone(), CollectionSpec { dimension: DIMENSION + 1, ..spec.clone() }] {
            assert!(matches!(remote(&url, spec).prepare().await, Err(SinkError::Foreign { .. })));
        }
        assert_eq!(sink.count().await.unwrap(), 1);
        let delete =
            DeletePointsBuilder::new(&spec.name).points(vec![qdrant_client::qdrant::PointId::from(1)]).wait(true);
        client.delete_points(delete).await.unwrap();
        let id = sink.prepare().await.unwrap();
        assert_eq!(sink.prepare().await.unwrap(), id);
    })
    .await;
}

#[tokio::test]
async fn a_collection_that_was_recreated_with_another_dimension_blames_no_point() {
    let (test_server, sink) = started().await;
    Remote::purge(server(&test_server.url()), "books").await.unwrap();
    remote(&test_server.url(), spec(DIMENSION + 1)).prepare().await.unwrap();
    assert!(matches!(sink.write(&upserts(1..=3)).await, Err(SinkError::Fingerprint { .. })));
}

#[tokio::test]
async fn a_write_counts_only_when_the_server_has_applied_it() {
    let (test_server, sink) = started().await;
    for status in [UpdateStatus::Acknowledged, UpdateStatus::WaitTimeout] {
        test_server.faults().next(Fault::Update { status, applied: false });
        let error = sink.write(&upserts(1..=2)).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
    }
    sink.write(&upserts(1..=2)).await.unwrap();
    assert_eq!(sink.count().await.unwrap(), 2);
}

#[tokio::test]
async fn the_one_point_that_is_refused_is_named_and_the_others_can_be_written_without_it() {
    let (test_server, sink) = started().await;
    test_server.faults().refuse_points([77]);
    let mut batch = upserts(0..200);
    let Err(SinkError::BadPoint { id, .. }) = sink.write(&batch).await else { panic!("not refused") };
    assert_eq!(id, PointId::Num(77));
    batch.retain(|write| write.id() != id);
    sink.write(&batch).await.unwrap();
    assert_eq!(sink.count().await.unwrap(), 199);
    let mut short = point(300, json!({}));
    short.vector = vector(1, DIMENSION - 1);
    assert!(matches!(sink.write(&[Write::Upsert(short)]).await, Err(SinkError::BadPoint { .. })));
}

#[tokio::test]
async fn requests_that_are_too_large_for_the_server_are_made_smaller() {
    let (test_server, sink) = started().await;
    test_server.faults().limit_message_bytes(64_000);
    let text = "x".repeat(10_000);
    let batch: Vec<Write> =
        (0..100).map(|id| Write::Upsert(point(id, json!({ "number": id, "text": text })))).collect();
    sink.write(&batch).await.unwrap();
    assert_eq!(sink.count().await.unwrap(), 100);
    let huge = Write::Upsert(point(200, json!({ "text": "x".repeat(100_000) })));
    let Err(SinkError::BadPoint { id, .. }) = sink.write(&[huge]).await else { panic!("not refused") };
    assert_eq!(id, PointId::Num(200));
}

#[tokio::test]
async fn several_requests_are_in_flight_and_never_two_for_one_point() {
    let (test_server, sink) = started().await;
    for _ in 0..8 {
        test_server.faults().next(Fault::Delay(std::time::Duration::from_millis(50)));
    }
    sink.write(&upserts(0..2000)).await.unwrap();
    sink.write(&upserts(0..2000)).await.unwrap();
    let calls = test_server.calls();
    assert!(calls.most_writes_in_flight() > 1, "one after the other");
    assert_eq!(calls.overlaps(), [""; 0]);
    assert_eq!(sink.count().await.unwrap(), 2000);
}

#[tokio::test]
async fn a_server_that_goes_away_is_an_error_that_passes() {
    let (test_server, sink) = started().await;
    sink.write(&upserts(1..=5)).await.unwrap();
    test_server.stop().await;
    let error = sink.write(&upserts(6..=7)).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    test_server.resume().await.unwrap();
    sink.write(&upserts(6..=7)).await.unwrap();
    for fault in [Fault::DropConnection, Fault::LoseAnswer, Fault::Status(Code::Unavailable, "busy".to_owned())] {
        test_server.faults().next(fault.clone());
        let error = sink.write(&upserts(8..=9)).await.unwrap_err();
        assert!(error.is_retryable(), "{fault:?}: {error}");
        sink.write(&upserts(8..=9)).await.unwrap();
    }
    test_server.restart().await.unwrap();
    assert_eq!(number_of(&sink, 9).await, Some(9));
    assert_eq!(sink.count().await.unwrap(), 9);
}

#[tokio::test]
async fn a_collection_that_is_gone_is_told_from_one_that_cannot_be_reached_and_made_again() {
    let (test_server, sink) = started().await;
    let id = sink.prepare().await.unwrap();
    sink.write(&upserts(1..=5)).await.unwrap();
    test_server.restart_empty().await.unwrap();
    // The connection was lost with the former server, and nothing is silently sent twice.
    assert!(matches!(sink.write(&upserts(6..=7)).await, Err(SinkError::Unavailable { .. })));
    assert!(matches!(sink.write(&upserts(6..=7)).await, Err(SinkError::Missing { .. })));
    assert!(!sink.inspect().await.unwrap());
    let again = sink.prepare().await.unwrap();
    assert_ne!(again, id, "another collection of the same name");
    assert_eq!(sink.prepare().await.unwrap(), again);
    sink.write(&upserts(6..=7)).await.unwrap();
    assert_eq!(sink.count().await.unwrap(), 2);
}

#[tokio::test]
async fn a_wrong_key_and_an_old_server_are_refused_for_good_and_the_key_is_not_in_the_message() {
    let test_server = TestServer::start().unwrap();
    test_server.faults().require_api_key("right");
    let with_key = |key: &str| {
        let server = Server { api_key: Some(key.into()), ..server(&test_server.url()) };
        Remote::new(server, spec(DIMENSION)).unwrap()
    };
    let error = with_key("s3cret").prepare().await.unwrap_err();
    assert!(matches!(error, SinkError::Server { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("s3cret"));
    with_key("right").prepare().await.unwrap();
    let Err(error) =
        Remote::new(Server { api_key: Some("s3cret\n".into()), ..server(&test_server.url()) }, spec(DIMENSION))
    else {
        panic!("not refused")
    };
    assert!(!format!("{error} {error:?}").contains("s3cret"));
    test_server.faults().set_version("1.15.4");
    let error = with_key("right").prepare().await.unwrap_err();
    assert!(error.to_string().contains("1.16 or newer"), "{error}");
    assert_eq!(test_server.calls().of(Call::CreateCollection), 1);
}

#[tokio::test]
async fn a_name_stands_for_a_numbered_collection_and_can_be_given_to_another_in_one_step() {
    on_every_server("names", async |url, spec| {
        let names = Aliases::new(server(&url));
        let (first, second) = (numbered(&spec.name, 1), numbered(&spec.name, 2));
        let served = remote(&url, spec.clone());
        let id = served.prepare().await.unwrap();
        served.write(&upserts(1..=3)).await.unwrap();
        assert_eq!(names.serving(&spec.name).await.unwrap().as_ref(), Some(&first));

        let beside = CollectionSpec { name: second.clone(), fingerprint: Fingerprint::of(&["other"]), ..spec.clone() };
        let beside = Remote::own(server(&url), beside).unwrap();
        assert_ne!(beside.prepare().await.unwrap(), id);
        beside.write(&upserts(1..=5)).await.unwrap();
        assert_eq!(names.numbers(&spec.name).await.unwrap(), [1, 2]);
        assert_eq!((served.count().await.unwrap(), beside.count().await.unwrap()), (3, 5));

        names.switch(vec![(spec.name.clone(), second.clone())]).await.unwrap();
        let reader = remote(&url, spec.clone());
        assert_eq!(reader.count().await.unwrap(), 5, "by its name");
        assert!(matches!(reader.prepare().await, Err(SinkError::Fingerprint { .. })));
        assert_eq!(served.count().await.unwrap(), 3, "who has opened it before stays with it");
        names.remove(&first).await.unwrap();
        names.remove(&first).await.unwrap();
        assert_eq!(names.numbers(&spec.name).await.unwrap(), [2]);
        let error = names.switch(vec![(spec.name.clone(), first.clone())]).await.unwrap_err();
        assert!(error.to_string().contains(&first), "{error}");
        assert_eq!(names.serving(&spec.name).await.unwrap(), Some(second));
    })
    .await;
}

#[tokio::test]
async fn a_collection_that_lost_its_name_is_found_again() {
    let (test_server, sink) = started().await;
    let id = sink.prepare().await.unwrap();
    let client = qdrant_client::Qdrant::from_url(&test_server.url()).skip_compatibility_check().build().unwrap();
    client.delete_alias("books").await.unwrap();
    let again = remote(&test_server.url(), spec(DIMENSION));
    assert!(!again.inspect().await.unwrap());
    assert_eq!(again.prepare().await.unwrap(), id);
    assert!(again.inspect().await.unwrap());
}

#[tokio::test]
async fn collections_of_others_with_such_names_are_left_alone() {
    on_every_server("others", async |url, spec| {
        let client = qdrant_client::Qdrant::from_url(&url).skip_compatibility_check().build().unwrap();
        let foreign = [1, 2024].map(|number| numbered(&spec.name, number));
        for name in &foreign {
            client.delete_collection(name).await.unwrap();
            let vectors = VectorParamsBuilder::new(3, Distance::Cosine);
            client.create_collection(CreateCollectionBuilder::new(name).vectors_config(vectors)).await.unwrap();
        }
        let sink = remote(&url, spec.clone());
        sink.prepare().await.unwrap();
        sink.write(&upserts(1..=3)).await.unwrap();
        let names = Aliases::new(server(&url));
        let own = names.serving(&spec.name).await.unwrap().unwrap();
        assert!(!foreign.contains(&own));
        assert_eq!(names.numbers(&spec.name).await.unwrap(), [number_in(&spec.name, &own).unwrap()]);
        assert!(names.is_taken(&foreign[1]).await.unwrap() && names.is_taken(&own).await.unwrap());
        assert!(!names.is_taken(&numbered(&spec.name, 2025)).await.unwrap());
        Remote::purge(server(&url), &spec.name).await.unwrap();
        assert!(!names.is_taken(&own).await.unwrap());
        for name in &foreign {
            assert!(names.is_taken(name).await.unwrap(), "{name} is gone");
            client.delete_collection(name).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_collection_that_was_not_looked_at_yet_is_not_searched() {
    let (test_server, sink) = started().await;
    sink.write(&upserts(1..=3)).await.unwrap();
    let another = CollectionSpec { fingerprint: Fingerprint::of(&["another model"]), ..spec(DIMENSION) };
    for spec in [another, spec(DIMENSION)] {
        let unseen = remote(&test_server.url(), spec);
        assert!(unseen.search(nearest_to(1, 1)).await.unwrap_err().is_retryable());
    }
    let seen = remote(&test_server.url(), spec(DIMENSION));
    assert!(seen.inspect().await.unwrap());
    assert_eq!(seen.search(nearest_to(1, 1)).await.unwrap().len(), 1);
}
