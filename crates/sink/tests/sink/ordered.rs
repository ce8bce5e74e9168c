//! Points in the order of a field, page by page.

use serde_json::{Value, json};
use walvec_model::PointId;
use walvec_sink::embedded::Embedded;
use walvec_sink::{
    CollectionSpec, IndexType, Order, Search, Sink, SinkError, SortRequest, SortedBy, Write, page_in_order,
};

use crate::common::{DIMENSION, point, spec};
use crate::server::{on_every_server, remote};

/// More points than a page, of which many have the same value.
const POINTS: u64 = 300;

fn with_indexes(spec: CollectionSpec) -> CollectionSpec {
    let indexes = [
        ("few", IndexType::Integer),
        ("far", IndexType::Integer),
        ("price", IndexType::Float),
        ("at", IndexType::Datetime),
        ("name", IndexType::Keyword),
    ];
    let indexes = indexes.into_iter().chain([("deep.price", IndexType::Float)]);
    let path = |name| walvec_sink::FieldPath::parse(name).unwrap();
    CollectionSpec { indexes: indexes.map(|(name, index)| (path(name), index)).collect(), ..spec }
}

/// Adjacent whole numbers that share one floating-point representation.
const FAR: i64 = i64::MAX - 5000;

fn payload(id: u64) -> Value {
    let mixed = id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
    #[expect(clippy::cast_possible_wrap, reason = "small numbers")]
    let step = (mixed % 400) as i64;
    match id % 10 {
        0 => json!({"few": null, "far": null, "price": null, "at": null, "name": "x", "deep": {}}),
        1 => json!({"few": -1, "far": i64::MIN + step, "price": "NaN", "at": "infinity", "name": "x", "deep": null}),
        _ => json!({
            "few": mixed % 3,
            "far": FAR + step,
            "price": f64::from(u32::try_from(mixed % 50).unwrap()) / 8.0 - 2.0,
            "at": format!("20{:02}-01-31 18:00:00.{:06}+00", mixed % 7, mixed % 5),
            "name": "x",
            "deep": {"price": mixed % 4},
        }),
    }
}

/// Returns the sort key: whole numbers exactly, others as floating-point numbers. `None` comes last.
fn key(field: &str, id: u64) -> Option<i128> {
    let payload = payload(id);
    match field {
        "at" => {
            let text = payload["at"].as_str()?;
            text.parse::<walvec_sink::Datetime>().ok().map(|moment| moment.0.into())
        }
        "deep.price" => payload["deep"]["price"].as_i64().map(i128::from),
        #[expect(clippy::cast_possible_truncation, reason = "eighths")]
        "price" => payload["price"].as_f64().map(|price| (price * 8.0) as i128),
        field => payload[field].as_i64().map(i128::from),
    }
}

fn order(field: &str, by: SortedBy, descending: bool) -> Order {
    Order { field: walvec_sink::FieldPath::parse(field).unwrap(), by, descending }
}

async fn all_pages(sink: &impl Search, order: &Order, limit: usize) -> Vec<PointId> {
    let (mut found, mut from) = (Vec::new(), None);
    loop {
        let page = page_in_order(sink, order, from, limit, false).await.unwrap();
        assert!(page.points.len() == limit || page.next.is_none(), "{} points", page.points.len());
        found.extend(page.points.iter().map(|point| point.id));
        match page.next {
            Some(next) => from = Some(next),
            None => return found,
        }
    }
}

async fn every_point_has_its_place(sink: &(impl Sink + Search)) {
    sink.write(&(0..POINTS).map(|id| Write::Upsert(point(id, payload(id)))).collect::<Vec<_>>()).await.unwrap();
    // Points that were written twice have moved in the engine's files.
    sink.write(&(50..90).map(|id| Write::Upsert(point(id, payload(id)))).collect::<Vec<_>>()).await.unwrap();
    for (field, by) in [
        ("few", SortedBy::Whole),
        ("far", SortedBy::Whole),
        ("price", SortedBy::Number),
        ("at", SortedBy::Moment),
        ("deep.price", SortedBy::Number),
    ] {
        for descending in [false, true] {
            let (with, without): (Vec<u64>, Vec<u64>) = (0..POINTS).partition(|id| key(field, *id).is_some());
            let mut with: Vec<(i128, u64)> = with.into_iter().map(|id| (key(field, id).unwrap(), id)).collect();
            with.sort_by_key(|(key, id)| (if descending { -key } else { *key }, *id));
            let expected: Vec<PointId> = with.into_iter().map(|(_, id)| id).chain(without).map(PointId::Num).collect();
            for limit in [1, 7, 50, 1000] {
                let found = all_pages(sink, &order(field, by, descending), limit).await;
                assert_eq!(found, expected, "{field}, descending: {descending}, {limit} a page");
            }
        }
    }
}

async fn a_point_that_is_gone_is_no_place_to_be_lost(sink: &(impl Sink + Search)) {
    let order = order("few", SortedBy::Whole, false);
    let first = page_in_order(sink, &order, None, 40, true).await.unwrap();
    assert!(first.points.iter().all(|point| point.vector.is_some()));
    let next = first.next.unwrap();
    let rest = page_in_order(sink, &order, Some(next), 1000, false).await.unwrap().points;
    sink.write(&[Write::Delete(next.id)]).await.unwrap();
    let after = page_in_order(sink, &order, Some(next), 1000, false).await.unwrap().points;
    assert_eq!(after, rest[1..]);
}

async fn a_field_without_an_index_of_the_kind_is_refused(sink: &impl Search) {
    for (field, by, part) in [
        ("name", SortedBy::Whole, "no index that sorts \"name\""),
        ("nosuch", SortedBy::Number, "no index that sorts \"nosuch\""),
        ("price", SortedBy::Whole, "has another type"),
        ("few", SortedBy::Number, "has another type"),
    ] {
        let order = order(field, by, false);
        let request = SortRequest { order, after: None, limit: 10, with_vectors: false };
        let refused = sink.sorted(request).await.unwrap_err();
        assert!(matches!(&refused, SinkError::BadRequest(reason) if reason.contains(part)), "{field}: {refused:?}");
    }
}

#[tokio::test]
async fn pages_in_the_order_of_a_field_hold_every_point_once_those_without_a_value_last() {
    let root = tempfile::tempdir().unwrap();
    let sink = Embedded::open(root.path(), with_indexes(spec(DIMENSION))).unwrap();
    every_point_has_its_place(&sink).await;
    sink.optimize().await.unwrap();
    every_point_has_its_place(&sink).await;
    a_point_that_is_gone_is_no_place_to_be_lost(&sink).await;
    a_field_without_an_index_of_the_kind_is_refused(&sink).await;
}

#[tokio::test]
async fn pages_in_the_order_of_a_field_are_the_same_on_a_server() {
    on_every_server("ordered", async |url, spec| {
        let spec = CollectionSpec { nesting: Some("metadata".to_owned()), ..with_indexes(spec) };
        let nested = spec.clone();
        let sink = remote(&url, CollectionSpec { nesting: None, ..spec });
        sink.prepare().await.unwrap();
        every_point_has_its_place(&sink).await;
        a_point_that_is_gone_is_no_place_to_be_lost(&sink).await;
        a_field_without_an_index_of_the_kind_is_refused(&sink).await;
        // The fields lie inside an object, as in other layouts.
        let sink = remote(&url, CollectionSpec { name: format!("{}_nested", nested.name), ..nested });
        sink.prepare().await.unwrap();
        let held = |id: u64| Write::Upsert(point(id, json!({"metadata": {"few": 9 - id}})));
        sink.write(&(0..9).map(held).collect::<Vec<_>>()).await.unwrap();
        let found = all_pages(&sink, &order("few", SortedBy::Whole, false), 2).await;
        assert_eq!(found, (0..9).rev().map(PointId::Num).collect::<Vec<_>>());
    })
    .await;
}
