//! A collection that is sharded by the value of a field: on the server inside this process, and on a real cluster, of at least
//! one node, if `WALVEC_TEST_QDRANT_CLUSTER_URL` names it.

use std::collections::BTreeMap;

use qdrant_client::Qdrant;
use qdrant_client::qdrant::shard_key::Key;
use qdrant_client::qdrant::{CollectionClusterInfoRequest, CountPoints, ShardKeySelector};
use serde_json::{Value, json};
use walvec_model::{Generation, PointId, Provenance, TableName};
use walvec_sink::qdrant::{CollectionLayout, Remote, Server};
use walvec_sink::{CollectionSpec, Condition, Filter, Search, SearchRequest, Sink, SinkError, Write};
use walvec_test_qdrant::{Call, Code, Fault, TestServer};

use crate::common::{DIMENSION, all_points, books, fields, nearest_to, point, provenance, spec};
use crate::server::remote;

fn sharded(url: &str, spec: CollectionSpec) -> Remote {
    let layout = CollectionLayout { shard_key: Some("tenant".to_owned()), ..CollectionLayout::default() };
    Remote::new(Server { layout, ..Server::at(url) }, spec).unwrap()
}

async fn on_every_cluster<F: Future<Output = ()>>(name: &str, test: impl Fn(String, CollectionSpec) -> F) {
    let test_server = TestServer::start().unwrap();
    test(test_server.url(), spec(DIMENSION)).await;
    let Ok(url) = std::env::var("WALVEC_TEST_QDRANT_CLUSTER_URL") else {
        eprintln!("NOT TRIED on a real Qdrant cluster: set WALVEC_TEST_QDRANT_CLUSTER_URL=http://localhost:6334");
        return;
    };
    let spec = CollectionSpec { name: format!("walvec_test_{name}"), ..spec(DIMENSION) };
    let server = || Server::at(&url);
    Remote::purge(server(), &spec.name).await.unwrap();
    test(url.clone(), spec.clone()).await;
    Remote::purge(server(), &spec.name).await.unwrap();
}

fn of_tenant(id: u64, tenant: Value) -> Write {
    Write::Upsert(point(id, json!({ "tenant": tenant, "number": id })))
}

/// Returns how many points each shard holds, as the server counts them.
async fn shards(url: &str, name: &str) -> BTreeMap<String, u64> {
    let client = Qdrant::from_url(url).skip_compatibility_check().build().unwrap();
    let request = CollectionClusterInfoRequest { collection_name: name.to_owned() };
    let info = client.collection_cluster_info(request).await.unwrap();
    let mut counts = BTreeMap::new();
    for key in info.local_shards.into_iter().filter_map(|shard| shard.shard_key) {
        let name_of_key = match key.key.clone().unwrap() {
            Key::Keyword(text) => text,
            Key::Number(number) => number.to_string(),
        };
        let selector = ShardKeySelector { shard_keys: vec![key], fallback: None };
        let request = CountPoints {
            collection_name: name.to_owned(),
            exact: Some(true),
            shard_key_selector: Some(selector),
            ..CountPoints::default()
        };
        counts.insert(name_of_key, client.count(request).await.unwrap().result.unwrap().count);
    }
    counts
}

fn counts<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.map(|(shard, count)| (shard.to_owned(), count)).into()
}

async fn found(sink: &impl Search, tenant: Value) -> Vec<PointId> {
    let condition = Condition::Equals { field: "tenant".into(), value: tenant };
    let request = SearchRequest { filter: Filter(vec![condition]), ..nearest_to(1, 100) };
    let mut ids: Vec<_> = sink.search(request).await.unwrap().iter().map(|hit| hit.id).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn each_point_is_in_the_shard_of_its_value_and_in_no_other() {
    on_every_cluster("tenants", async |url, spec| {
        let sink = sharded(&url, spec.clone());
        sink.prepare().await.unwrap();
        let tenants = [json!("acme"), json!("acme"), json!(7), json!(null), json!("other"), json!("other")];
        sink.write(&(1..).zip(tenants).map(|(id, tenant)| of_tenant(id, tenant)).collect::<Vec<_>>()).await.unwrap();
        assert_eq!(shards(&url, &spec.name).await, counts([("acme", 2), ("7", 1), ("_none", 1), ("other", 2)]));

        // A new value with and without a new vector, a deletion, and the deletion of a point that does not exist.
        let payload = fields(json!({ "tenant": "other", "number": 20 }));
        let moved = Write::Payload { id: PointId::Num(2), payload, provenance: provenance(2) };
        let gone = [3, 999].map(|id| Write::Delete(PointId::Num(id)));
        let batch = [vec![of_tenant(1, json!("new")), moved, of_tenant(4, json!("acme"))], gone.to_vec()].concat();
        // Written twice, as after a crash.
        for _ in 0..2 {
            sink.write(&batch).await.unwrap();
            let expected = counts([("acme", 1), ("7", 0), ("_none", 0), ("other", 3), ("new", 1)]);
            assert_eq!(shards(&url, &spec.name).await, expected);
        }
        assert_eq!(sink.count().await.unwrap(), 5);
        let stored: Vec<_> = all_points(&sink).await.iter().map(|point| point.id).collect();
        assert_eq!(stored, [1, 2, 4, 5, 6].map(PointId::Num));

        // The moved point has kept its vector, and filters find it under its new value.
        let nearest = sink.search(nearest_to(2, 1)).await.unwrap().remove(0);
        assert!(nearest.id == PointId::Num(2) && nearest.score > 0.999, "{nearest:?}");
        assert_eq!(found(&sink, json!("other")).await, [2, 5, 6].map(PointId::Num));
        assert_eq!(found(&sink, json!("acme")).await, [PointId::Num(4)]);
        assert_eq!(found(&sink, json!("nobody has this one")).await, []);
        assert_eq!(sink.search(nearest_to(1, 100)).await.unwrap().len(), 5, "without a filter all shards answer");

        let again = sharded(&url, spec.clone());
        assert_eq!(again.prepare().await.unwrap(), sink.prepare().await.unwrap());
        again.write(&[of_tenant(8, json!("acme"))]).await.unwrap();
        assert_eq!(found(&again, json!("acme")).await, [4, 8].map(PointId::Num));
    })
    .await;
}

#[tokio::test]
async fn sweeps_and_truncations_reach_every_shard() {
    on_every_cluster("tenants_swept", async |url, spec| {
        let sink = sharded(&url, spec.clone());
        sink.prepare().await.unwrap();
        assert_eq!(sink.sweep(&books(), Generation(2)).await.unwrap(), 0);
        sink.delete_table(&books()).await.unwrap();
        let mut batch: Vec<Write> = (1..=4).map(|id| of_tenant(id, json!(format!("tenant {}", id % 2)))).collect();
        for write in &mut batch[2..] {
            let Write::Upsert(point) = write else { unreachable!() };
            point.provenance = Provenance { generation: Generation(2), ..point.provenance.clone() };
        }
        sink.write(&batch).await.unwrap();
        assert_eq!(sink.sweep(&books(), Generation(2)).await.unwrap(), 2);
        assert_eq!(shards(&url, &spec.name).await, counts([("_none", 0), ("tenant 0", 1), ("tenant 1", 1)]));
        sink.delete_table(&TableName::new("public", "films")).await.unwrap();
        assert_eq!(sink.count().await.unwrap(), 2);
        sink.delete_table(&books()).await.unwrap();
        assert_eq!(sink.count().await.unwrap(), 0);
        sink.write(&[of_tenant(1, json!("tenant 0"))]).await.unwrap();
        assert_eq!(sink.count().await.unwrap(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_collection_that_is_sharded_in_another_way_is_refused() {
    on_every_cluster("tenants_refused", async |url, spec| {
        let sink = sharded(&url, spec.clone());
        sink.prepare().await.unwrap();
        assert!(matches!(remote(&url, spec.clone()).prepare().await, Err(SinkError::Sharding { .. })));
        let other = CollectionSpec { name: format!("{}_auto", spec.name), ..spec };
        remote(&url, other.clone()).prepare().await.unwrap();
        let error = sharded(&url, other.clone()).prepare().await.unwrap_err();
        assert!(matches!(error, SinkError::Sharding { .. }) && error.to_string().contains("ids"), "{error}");
        Remote::purge(Server::at(url), &other.name).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_point_whose_value_names_no_shard_is_refused_alone() {
    on_every_cluster("tenants_lists", async |url, spec| {
        let sink = sharded(&url, spec);
        sink.prepare().await.unwrap();
        let batch = vec![of_tenant(1, json!("acme")), of_tenant(2, json!(["acme"]))];
        let Err(SinkError::BadPoint { id, reason }) = sink.write(&batch).await else { panic!("not refused") };
        assert!(id == PointId::Num(2) && reason.contains("\"tenant\""), "{reason}");
        let Err(SinkError::BadPoint { .. }) = sink.write(&[Write::Upsert(point(3, json!({})))]).await else {
            panic!("not refused")
        };
        sink.write(&batch[..1]).await.unwrap();
        assert_eq!(sink.count().await.unwrap(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_search_with_a_filter_on_the_value_asks_one_shard_and_a_shard_is_made_once() {
    let test_server = TestServer::start().unwrap();
    let sink = sharded(&test_server.url(), spec(DIMENSION));
    sink.prepare().await.unwrap();
    for id in 0..3 {
        sink.write(&[of_tenant(id, json!("acme"))]).await.unwrap();
    }
    assert_eq!(test_server.calls().of(Call::CreateShardKey), 2, "one for rows without a value");
    // Two workers create the same shard at the same time, without knowing of each other.
    let other = sharded(&test_server.url(), spec(DIMENSION));
    other.prepare().await.unwrap();
    let new = |id| vec![of_tenant(id, json!("new"))];
    let (of_left, of_right) = (new(10), new(11));
    let (left, right) = tokio::join!(sink.write(&of_left), other.write(&of_right));
    left.unwrap();
    right.unwrap();
    assert_eq!(found(&sink, json!("new")).await, [10, 11].map(PointId::Num));
}

#[tokio::test]
async fn a_server_that_makes_no_shards_is_told_from_a_value_that_it_does_not_take() {
    let test_server = TestServer::start().unwrap();
    let sink = sharded(&test_server.url(), spec(DIMENSION));
    let refuse = || {
        let refused = Fault::Status(Code::InvalidArgument, "Distributed mode disabled".to_owned());
        test_server.faults().next_on(Call::CreateShardKey, refused);
    };
    refuse();
    let error = sink.prepare().await.unwrap_err();
    assert!(matches!(error, SinkError::Server { .. }) && error.to_string().contains("runs as a cluster"), "{error}");
    sink.prepare().await.unwrap();
    refuse();
    let Err(SinkError::BadPoint { id, .. }) = sink.write(&[of_tenant(1, json!("a"))]).await else {
        panic!("not refused")
    };
    assert_eq!(id, PointId::Num(1));
    sink.write(&[of_tenant(1, json!("a"))]).await.unwrap();
    // A shard that is gone means another collection, and no point is to blame.
    test_server.restart_empty().await.unwrap();
    assert!(matches!(sink.write(&[of_tenant(2, json!("a"))]).await, Err(SinkError::Missing { .. })));
}
