//! The test server answers as the client expects, also when a test makes it fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use qdrant_client::config::CompressionEncoding;
use qdrant_client::qdrant::points_update_operation::{Operation, OverwritePayload, PointStructList};
use qdrant_client::qdrant::{
    Condition, CountPointsBuilder, CreateAliasBuilder, CreateCollectionBuilder, CreateFieldIndexCollectionBuilder,
    DeletePointsBuilder, Distance, FieldType, Filter, GetPointsBuilder, PointId, PointStruct, PointsSelector,
    PointsUpdateOperation, QueryPointsBuilder, Range, ScrollPointsBuilder, StrictModeConfigBuilder, UpdateBatchPoints,
    UpdateCollectionBuilder, UpdateStatus, UpsertPointsBuilder, Value, VectorParamsBuilder, VectorsConfigBuilder,
};
use qdrant_client::{Payload, Qdrant, QdrantError};
use serde_json::json;
use tonic::Code;

use walvec_test_qdrant::{Call, Fault, TestServer};

const NAME: &str = "books";

async fn started() -> (TestServer, Qdrant) {
    let server = TestServer::start().unwrap();
    let client = client(&server, None);
    let request =
        CreateCollectionBuilder::new(NAME).vectors_config(VectorParamsBuilder::new(2, Distance::Cosine)).build();
    client.create_collection(request).await.unwrap();
    (server, client)
}

fn client(server: &TestServer, key: Option<&str>) -> Qdrant {
    Qdrant::from_url(&server.url())
        .api_key(key)
        .timeout(Duration::from_secs(20))
        .compression(Some(CompressionEncoding::Gzip))
        .skip_compatibility_check()
        .build()
        .unwrap()
}

fn point(id: u64, vector: [f32; 2]) -> PointStruct {
    let payload =
        Payload::try_from(json!({ "n": id, "kind": if id.is_multiple_of(2) { "even" } else { "odd" } })).unwrap();
    PointStruct::new(id, vector.to_vec(), payload)
}

fn points(ids: impl IntoIterator<Item = u64>) -> UpsertPointsBuilder {
    let points: Vec<_> = ids.into_iter().map(|id| point(id, [1.0, f32::from(u8::try_from(id).unwrap())])).collect();
    UpsertPointsBuilder::new(NAME, points).wait(true)
}

async fn upsert(client: &Qdrant, ids: impl IntoIterator<Item = u64>) -> Result<UpdateStatus, QdrantError> {
    Ok(client.upsert_points(points(ids)).await?.result.unwrap().status())
}

async fn count(client: &Qdrant, name: &str) -> Result<u64, QdrantError> {
    Ok(client.count(CountPointsBuilder::new(name).exact(true)).await?.result.unwrap().count)
}

fn code<T: std::fmt::Debug>(result: Result<T, QdrantError>) -> (Code, String) {
    match result.unwrap_err() {
        QdrantError::ResponseError { status } => (status.code(), status.message().to_owned()),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn what_is_stored_is_found_counted_and_scrolled() {
    let (_server, client) = started().await;
    assert_eq!(upsert(&client, 0..5).await.unwrap(), UpdateStatus::Completed);
    let found = client
        .query(QueryPointsBuilder::new(NAME).query(vec![1.0, 0.0]).limit(2).with_payload(true).with_vectors(true))
        .await
        .unwrap()
        .result;
    assert_eq!(found.iter().map(|hit| hit.id.clone().unwrap()).collect::<Vec<_>>(), [0.into(), 1.into()]);
    assert!((found[0].score - 1.0).abs() < 1e-5);
    assert_eq!(found[1].payload["kind"], Value::from("odd"));
    assert!(found[1].vectors.is_some());

    let odd = Filter::must([Condition::matches("kind", "odd".to_owned())]);
    let counted = client.count(CountPointsBuilder::new(NAME).filter(odd.clone()).exact(true)).await.unwrap();
    assert_eq!(counted.result.unwrap().count, 2);
    let page = client.scroll(ScrollPointsBuilder::new(NAME).limit(2).offset(1)).await.unwrap();
    assert_eq!(page.result.len(), 2);
    assert_eq!(page.next_page_offset, Some(3.into()));
    let page = client.scroll(ScrollPointsBuilder::new(NAME).limit(2).filter(odd)).await.unwrap();
    assert_eq!(page.result.iter().map(|found| found.id.clone().unwrap()).collect::<Vec<_>>(), [1.into(), 3.into()]);
}

#[tokio::test]
async fn a_deletion_by_filter_takes_what_matches_and_nothing_else() {
    let (_server, client) = started().await;
    upsert(&client, 0..10).await.unwrap();
    let mut filter = Filter::must([Condition::range("n", Range { gte: Some(4.0), lt: Some(9.0), ..Range::default() })]);
    filter.must.push(Condition::matches("kind", "even".to_owned()));
    filter.must_not = vec![Condition::has_id([6])];
    client.delete_points(DeletePointsBuilder::new(NAME).points(filter).wait(true)).await.unwrap();
    let left = client.scroll(ScrollPointsBuilder::new(NAME).limit(20)).await.unwrap().result;
    let left: Vec<PointId> = left.into_iter().filter_map(|point| point.id).collect();
    assert_eq!(left, [0, 1, 2, 3, 5, 6, 7, 9].map(PointId::from));
    let ids: Vec<PointId> = vec![0.into(), 99.into()];
    client.delete_points(DeletePointsBuilder::new(NAME).points(ids).wait(true)).await.unwrap();
    assert_eq!(count(&client, NAME).await.unwrap(), 7);
}

#[tokio::test]
async fn a_batch_answers_for_each_operation_and_is_refused_as_a_whole() {
    let (_server, client) = started().await;
    let batch = |operations: Vec<Operation>| UpdateBatchPoints {
        collection_name: NAME.to_owned(),
        wait: Some(true),
        operations: operations.into_iter().map(|it| PointsUpdateOperation { operation: Some(it) }).collect(),
        ..UpdateBatchPoints::default()
    };
    let store = |vector: Vec<f32>| {
        let points = vec![PointStruct::new(1, vector, Payload::new())];
        Operation::Upsert(PointStructList { points, ..PointStructList::default() })
    };
    let overwrite = |id: u64| {
        Operation::OverwritePayload(OverwritePayload {
            payload: Payload::try_from(json!({ "a": [1, { "b": null }] })).unwrap().into(),
            points_selector: Some(PointsSelector::from(vec![PointId::from(id)])),
            ..OverwritePayload::default()
        })
    };
    let (refused, message) =
        code(client.update_points_batch(batch(vec![store(vec![1.0, 0.0]), store(vec![1.0])])).await);
    assert_eq!(refused, Code::InvalidArgument);
    assert_eq!(message, "Wrong input: Vector dimension error: expected dim: 2, got 1");
    assert_eq!(count(&client, NAME).await.unwrap(), 0);

    let done = client.update_points_batch(batch(vec![store(vec![1.0, 0.0]), overwrite(1)])).await.unwrap();
    assert_eq!(done.result.iter().map(|result| result.status()).collect::<Vec<_>>(), [UpdateStatus::Completed; 2]);
    let found = client.get_points(GetPointsBuilder::new(NAME, vec![1.into()])).await.unwrap().result;
    assert_eq!(serde_json::Value::from(found[0].payload["a"].clone()), json!([1, { "b": null }]));

    let (refused, message) = code(client.update_points_batch(batch(vec![overwrite(7)])).await);
    assert_eq!((refused, message.as_str()), (Code::NotFound, "Not found: No point with id 7 found"));
}

#[tokio::test]
async fn a_collection_shows_what_it_was_created_with_and_its_indexes() {
    let server = TestServer::start().unwrap();
    let client = client(&server, None);
    assert_eq!(client.health_check().await.unwrap().version, "1.18.0");
    let mut request = CreateCollectionBuilder::new(NAME)
        .vectors_config(VectorParamsBuilder::new(3, Distance::Dot))
        .shard_number(4)
        .build();
    request.metadata.insert("a".to_owned(), "b".into());
    client.create_collection(request.clone()).await.unwrap();
    assert_eq!(code(client.create_collection(request).await).0, Code::AlreadyExists);
    let index = CreateFieldIndexCollectionBuilder::new(NAME, "_walvec.t", FieldType::Keyword).wait(true);
    client.create_field_index(index).await.unwrap();
    let index = CreateFieldIndexCollectionBuilder::new(NAME, "\"a b\"", FieldType::Integer).wait(true);
    client.create_field_index(index).await.unwrap();

    server.restart().await.unwrap();
    let info = client.collection_info(NAME).await.unwrap().result.unwrap();
    let config = info.config.unwrap();
    assert_eq!(config.metadata["a"], Value::from("b"));
    assert_eq!(config.params.unwrap().shard_number, 4);
    let mut indexes: Vec<_> = info.payload_schema.into_iter().map(|(name, index)| (name, index.data_type)).collect();
    indexes.sort();
    // 1 is a keyword, 2 an integer.
    assert_eq!(indexes, [("\"a b\"".to_owned(), 2), ("_walvec.t".to_owned(), 1)]);
    assert_eq!(client.list_collections().await.unwrap().collections[0].name, NAME);
    client.delete_collection(NAME).await.unwrap();
    assert!(!client.collection_exists(NAME).await.unwrap());
}

#[tokio::test]
async fn vectors_can_have_a_name_and_another_name_is_refused() {
    let server = TestServer::start().unwrap();
    let client = client(&server, None);
    let mut vectors = VectorsConfigBuilder::default();
    vectors.add_named_vector_params("title", VectorParamsBuilder::new(2, Distance::Cosine));
    client.create_collection(CreateCollectionBuilder::new(NAME).vectors_config(vectors)).await.unwrap();
    let point = |name: &str| {
        let vectors = HashMap::from([(name.to_owned(), vec![1.0, 0.0])]);
        UpsertPointsBuilder::new(NAME, vec![PointStruct::new(1, vectors, Payload::new())]).wait(true)
    };
    let query = |name: &str| QueryPointsBuilder::new(NAME).query(vec![1.0, 0.0]).using(name).with_vectors(true);
    client.upsert_points(point("title")).await.unwrap();
    let found = client.query(query("title")).await.unwrap().result;
    assert!(found[0].vectors.as_ref().unwrap().get_vector_by_name("title").is_some());
    for (refused, message) in [code(client.upsert_points(point("")).await), code(client.query(query("body")).await)] {
        assert_eq!(refused, Code::InvalidArgument);
        assert!(message.starts_with("Wrong input: Not existing vector name error: "), "{message}");
    }
}

#[tokio::test]
async fn a_restart_keeps_the_data_and_an_empty_one_loses_it() {
    let (server, client) = started().await;
    upsert(&client, 0..5).await.unwrap();
    server.restart().await.unwrap();
    assert_eq!(count(&client, NAME).await.unwrap(), 5);
    server.stop().await;
    assert!(count(&client, NAME).await.is_err());
    server.resume().await.unwrap();
    assert_eq!(count(&client, NAME).await.unwrap(), 5);
    server.restart_empty().await.unwrap();
    let (missing, message) = code(upsert(&client, [1]).await);
    assert_eq!((missing, message.as_str()), (Code::NotFound, "Not found: Collection `books` doesn't exist!"));
}

#[tokio::test]
async fn an_alias_stands_for_its_collection() {
    let (_server, client) = started().await;
    client.create_alias(CreateAliasBuilder::new(NAME, "novels")).await.unwrap();
    upsert(&client, 0..3).await.unwrap();
    assert_eq!(count(&client, "novels").await.unwrap(), 3);
    assert!(client.collection_exists("novels").await.unwrap());
    assert_eq!(client.list_collection_aliases(NAME).await.unwrap().aliases[0].alias_name, "novels");
    client.delete_alias("novels").await.unwrap();
    assert_eq!(code(count(&client, "novels").await).0, Code::NotFound);
}

#[tokio::test]
async fn faults_happen_once_and_in_order() {
    let (server, client) = started().await;
    let faults = server.faults();
    // The client repeats a call once by itself if the code means that the connection may have broken.
    faults.next(Fault::Status(Code::Unavailable, "starting".to_owned()));
    faults.next(Fault::Status(Code::Unavailable, "busy".to_owned()));
    faults.next(Fault::Update { status: UpdateStatus::Acknowledged, applied: true });
    faults.next(Fault::Update { status: UpdateStatus::WaitTimeout, applied: false });
    faults.next_on(Call::Count, Fault::Status(Code::DataLoss, "count".to_owned()));
    assert_eq!(code(count(&client, NAME).await), (Code::DataLoss, "count".to_owned()));
    assert_eq!(code(upsert(&client, [1]).await), (Code::Unavailable, "busy".to_owned()));
    assert_eq!(upsert(&client, [1]).await.unwrap(), UpdateStatus::Acknowledged);
    assert_eq!(upsert(&client, [2]).await.unwrap(), UpdateStatus::WaitTimeout);
    assert_eq!(count(&client, NAME).await.unwrap(), 1);
    assert_eq!(faults.pending(), 0);
    assert_eq!(server.calls().of(Call::Upsert), 4);
    assert_eq!(server.calls().writes(), 4);
}

#[tokio::test]
async fn a_cut_connection_fails_the_call_before_or_after_it_took_effect() {
    let (server, client) = started().await;
    for (id, fault, effect) in [(1, Fault::DropConnection, 0), (2, Fault::LoseAnswer, 1)] {
        server.faults().next(fault.clone());
        // This fault is for the client's own repetition.
        server.faults().next(Fault::Status(Code::FailedPrecondition, "a repetition".to_owned()));
        let result = upsert(&client, [id]).await;
        assert!(result.is_err(), "{fault:?}: {result:?}");
        server.faults().clear();
        assert_eq!(count(&client, NAME).await.unwrap(), effect, "{fault:?}");
    }
}

#[tokio::test]
async fn requests_are_refused_by_point_by_size_and_by_key() {
    let (server, client) = started().await;
    server.faults().refuse_points([3]);
    let (refused, message) = code(upsert(&client, 0..5).await);
    assert_eq!((refused, message.as_str()), (Code::InvalidArgument, "Wrong input: point 3 is not accepted"));
    upsert(&client, 0..3).await.unwrap();
    server.faults().clear();

    server.faults().limit_message_bytes(100);
    let (refused, message) = code(upsert(&client, 0..5).await);
    assert_eq!(refused, Code::OutOfRange);
    assert!(message.starts_with("Error, decoded message length too large: found "), "{message}");
    upsert(&client, [3]).await.unwrap();
    server.faults().limit_message_bytes(None);

    server.faults().require_api_key("secret");
    assert_eq!(code(count(&client, NAME).await).0, Code::Unauthenticated);
    assert_eq!(count(&self::client(&server, Some("secret")), NAME).await.unwrap(), 4);
}

#[tokio::test]
async fn writes_in_flight_are_counted_and_overlaps_recorded() {
    let (server, client) = started().await;
    let pause = Duration::from_millis(300);
    let start = Instant::now();
    server.faults().next(Fault::Delay(pause));
    server.faults().next(Fault::Delay(pause));
    let (left, right) = tokio::join!(upsert(&client, [1, 2]), upsert(&client, [3, 4]));
    assert_eq!((left.unwrap(), right.unwrap()), (UpdateStatus::Completed, UpdateStatus::Completed));
    assert!(start.elapsed() >= pause);
    assert_eq!(server.calls().most_writes_in_flight(), 2);
    assert!(server.calls().overlaps().is_empty());

    server.reset_calls();
    server.faults().next(Fault::Delay(pause));
    server.faults().next(Fault::Delay(pause));
    let (left, right) = tokio::join!(upsert(&client, [1, 2]), upsert(&client, [2, 3]));
    assert!(left.is_ok() && right.is_ok());
    assert_eq!(server.calls().overlaps(), ["books/2"]);
}

/// Returns the time after which the server has room, if it ever has, and the server's message.
fn limited<T: std::fmt::Debug>(result: Result<T, QdrantError>) -> (Option<u64>, String) {
    match result.unwrap_err() {
        QdrantError::ResourceExhaustedError { status, retry_after_seconds } => {
            (Some(retry_after_seconds), status.message().to_owned())
        }
        QdrantError::ResponseError { status } if status.code() == Code::ResourceExhausted => {
            (None, status.message().to_owned())
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn strict_mode_counts_points_and_conditions_and_says_when_there_is_room_again() {
    let (_server, client) = started().await;
    let strict = StrictModeConfigBuilder::default().enabled(true).write_rate_limit(6).read_rate_limit(3);
    client.update_collection(UpdateCollectionBuilder::new(NAME).strict_mode_config(strict)).await.unwrap();
    let (never, words) = limited(upsert(&client, 0..7).await);
    assert!(never.is_none() && words.contains("Write rate limit exceeded, request larger than"), "{words}");
    upsert(&client, 0..4).await.unwrap();
    let (wait, words) = limited(upsert(&client, 4..7).await);
    assert!(words.contains("requires 3 tokens but only 2.0 were available. Retry after 10s"), "{words}");
    assert_eq!(wait, Some(10));

    let delete = |filter: Filter| client.delete_points(DeletePointsBuilder::new(NAME).points(filter).wait(true));
    let even = Filter::must([Condition::matches("kind", "even".to_owned())]);
    delete(even.clone()).await.unwrap();
    assert!(limited(delete(Filter::default()).await).0.is_some(), "two points are left, and no room for them");

    client.count(CountPointsBuilder::new(NAME).filter(even.clone())).await.unwrap();
    let (wait, words) = limited(client.count(CountPointsBuilder::new(NAME).filter(even)).await);
    assert!(wait == Some(20) && words.contains("Read rate limit exceeded"), "{words}");
    let points = |count: u64| GetPointsBuilder::new(NAME, (0..count).map(PointId::from).collect::<Vec<_>>());
    assert!(limited(client.get_points(points(4)).await).0.is_none());
    client.get_points(points(1)).await.unwrap();
}
