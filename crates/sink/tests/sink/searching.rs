//! Order, filters, refused requests.

use serde_json::{Value, json};
use walvec_model::PointId;
use walvec_sink::{
    Bounds, Condition, Datetime, Filter, Hit, IndexType, Query, Search, SearchRequest, Sink, SinkError, Write,
};

use crate::common::{DIMENSION, Fixture, fields, nearest_to, point, provenance, upserts, vector};

fn equals(field: &str, value: Value) -> Condition {
    Condition::Equals { field: field.into(), value }
}

fn range(field: &str, gte: Option<f64>, lte: Option<f64>) -> Condition {
    Condition::Range { field: field.into(), bounds: Bounds { gte, lte, ..Bounds::default() } }
}

fn between(field: &str, bounds: Bounds<&str>) -> Condition {
    let bounds = bounds.try_map(str::parse).unwrap();
    Condition::DatetimeRange { field: field.into(), bounds }
}

fn numbers(hits: &[Hit]) -> Vec<u64> {
    let number = |hit: &Hit| if let PointId::Num(number) = hit.id { number } else { panic!("{hit:?}") };
    let mut numbers: Vec<_> = hits.iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

async fn matching(fixture: &Fixture, conditions: Vec<Condition>) -> Vec<u64> {
    let request = SearchRequest { filter: Filter(conditions), ..nearest_to(1, 100) };
    numbers(&fixture.sink.search(request).await.unwrap())
}

#[tokio::test]
async fn hits_are_the_nearest_points_best_first() {
    let fixture = Fixture::new();
    fixture.sink.write(&upserts(0..500)).await.unwrap();
    let query = vector(7, DIMENSION);
    let mut expected: Vec<(f32, u64)> = (0..500)
        .map(|id| (vector(id, DIMENSION).iter().zip(&query).map(|(left, right)| left * right).sum(), id))
        .collect();
    expected.sort_by(|left, right| right.0.total_cmp(&left.0));

    let hits = fixture.sink.search(nearest_to(7, 10)).await.unwrap();
    assert_eq!(hits.len(), 10);
    for (hit, (score, id)) in hits.iter().zip(expected) {
        assert_eq!(hit.id, PointId::Num(id));
        assert!((hit.score - score).abs() < 1e-5, "{} is not {score}", hit.score);
    }
    assert!(hits[0].score <= 1.0);
}

#[tokio::test]
async fn a_hit_carries_the_users_fields_and_the_provenance_apart() {
    let fixture = Fixture::new();
    fixture.sink.write(&[Write::Upsert(point(3, json!({ "name": "Dune" })))]).await.unwrap();
    let hit = fixture.sink.search(nearest_to(3, 5)).await.unwrap().remove(0);
    assert_eq!(hit.payload, fields(json!({ "name": "Dune" })));
    assert_eq!(hit.provenance, Some(provenance(3)));
}

#[tokio::test]
async fn hits_that_are_not_near_enough_are_left_out() {
    let fixture = Fixture::new();
    fixture.sink.write(&upserts(0..100)).await.unwrap();
    let all = fixture.sink.search(nearest_to(7, 100)).await.unwrap();
    // Between the tenth score and the next: an engine may round its own scores when it compares.
    let bound = f32::midpoint(all[9].score, all[10].score);
    let near = fixture.sink.search(SearchRequest { min_score: Some(bound), ..nearest_to(7, 100) }).await.unwrap();
    assert_eq!(numbers(&near), numbers(&all[..10]));
}

async fn filters_find(fixture: &Fixture) {
    let rows = [
        json!({ "kind": "novel", "year": 1965, "sold": true, "tags": ["desert", "worm"], "price": 9.5,
                "day": "2024-01-31", "at": "2024-01-31 23:30:00.000001+00" }),
        json!({ "kind": "novel", "year": 1984, "sold": false, "tags": ["cyber"], "price": 7.0,
                "day": "2024-02-01", "at": "2024-02-01 00:30:00+05:30" }),
        json!({ "kind": "poem", "year": 1965, "sold": true, "tags": [], "price": null, "day": "infinity" }),
        json!({ "a.b": "dot", "c[0]": "bracket", "d \"e\"": "quote", "": "nameless", "g": { "h": "nested" } }),
    ];
    let points = rows.into_iter().zip(1..).map(|(row, id)| Write::Upsert(point(id, row)));
    fixture.sink.write(&points.collect::<Vec<_>>()).await.unwrap();

    assert_eq!(matching(fixture, vec![]).await, [1, 2, 3, 4]);
    assert_eq!(matching(fixture, vec![equals("kind", json!("novel"))]).await, [1, 2]);
    assert_eq!(matching(fixture, vec![equals("kind", json!("nov"))]).await, [0; 0]);
    assert_eq!(matching(fixture, vec![equals("year", json!(1965))]).await, [1, 3]);
    assert_eq!(matching(fixture, vec![equals("sold", json!(true))]).await, [1, 3]);
    assert_eq!(matching(fixture, vec![equals("tags", json!("worm"))]).await, [1]);
    assert_eq!(matching(fixture, vec![range("year", Some(1966.0), None)]).await, [2]);
    assert_eq!(matching(fixture, vec![range("year", None, Some(1965.0))]).await, [1, 3]);
    assert_eq!(matching(fixture, vec![range("price", Some(7.0), Some(9.5))]).await, [1, 2]);
    assert_eq!(matching(fixture, vec![range("year", Some(1985.0), Some(1964.0))]).await, [0; 0]);
    let strict = Bounds { gt: Some(7.0), lt: Some(9.6), ..Bounds::default() };
    let strict = Condition::Range { field: "price".into(), bounds: strict };
    assert_eq!(matching(fixture, vec![strict]).await, [1]);
    let open = Bounds::default();
    for (field, bounds, found) in [
        ("day", Bounds { gte: Some("2024-01-31"), ..open }, &[1, 2][..]),
        ("day", Bounds { gt: Some("2024-01-31"), ..open }, &[2]),
        ("day", Bounds { lte: Some("2024-02-01T00:00:00Z"), ..open }, &[1, 2]),
        ("day", Bounds { gte: Some("2024-01-31"), lt: Some("2024-02-01"), ..open }, &[1]),
        // The second one is at 19:00 UTC.
        ("at", Bounds { lt: Some("2024-01-31T23:00:00Z"), ..open }, &[2]),
        ("at", Bounds { gt: Some("2024-01-31T23:30:00Z"), ..open }, &[1]),
        ("at", Bounds { gt: Some("2024-01-31T23:30:00.000001Z"), ..open }, &[]),
        ("kind", Bounds { gte: Some("0001-01-01"), ..open }, &[]),
    ] {
        assert_eq!(matching(fixture, vec![between(field, bounds)]).await, *found, "{field} {bounds:?}");
    }
    assert_eq!(matching(fixture, vec![equals("kind", json!("novel")), equals("sold", json!(true))]).await, [1]);
    assert_eq!(matching(fixture, vec![equals("absent", json!("x"))]).await, [0; 0]);
    let any = |conditions| vec![Condition::AnyOf(conditions)];
    let not = |condition| Condition::Not(Box::new(condition));
    assert_eq!(matching(fixture, any(vec![equals("kind", json!("poem")), equals("year", json!(1984))])).await, [2, 3]);
    assert_eq!(matching(fixture, any(vec![equals("kind", json!("play"))])).await, [0; 0]);
    assert_eq!(matching(fixture, vec![not(equals("kind", json!("novel")))]).await, [3, 4], "also where there is none");
    let neither = not(Condition::AnyOf(vec![equals("tags", json!("worm")), equals("tags", json!("cyber"))]));
    assert_eq!(matching(fixture, vec![neither, equals("sold", json!(true))]).await, [3]);
    for (field, value) in [("a.b", "dot"), ("c[0]", "bracket"), ("d \"e\"", "quote"), ("", "nameless")] {
        assert_eq!(matching(fixture, vec![equals(field, json!(value))]).await, [4], "field {field:?}");
    }
    assert_eq!(matching(fixture, vec![equals("g.h", json!("nested"))]).await, [0; 0], "a name is not a path");
}

#[tokio::test]
async fn filters_work_on_fields_of_any_name_without_an_index() {
    filters_find(&Fixture::new()).await;
}

#[tokio::test]
async fn filters_find_the_same_with_indexes() {
    let fixture = Fixture::with_indexes(&[
        ("kind", IndexType::Keyword),
        ("year", IndexType::Integer),
        ("sold", IndexType::Bool),
        ("tags", IndexType::Keyword),
        ("price", IndexType::Float),
        ("day", IndexType::Datetime),
        ("at", IndexType::Datetime),
        ("a.b", IndexType::Keyword),
        ("c[0]", IndexType::Keyword),
    ]);
    filters_find(&fixture).await;
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused() {
    let fixture = Fixture::new();
    fixture.sink.write(&upserts([1])).await.unwrap();
    let mut requests = vec![nearest_to(1, 1_000_000_000)];
    for vector in [vec![1.0; 7], vec![f32::NAN; 8], vec![0.0; 8], Vec::new()] {
        requests.push(SearchRequest { query: Query::Dense(vector), ..nearest_to(1, 5) });
    }
    for condition in [
        equals("year", json!(1.5)),
        equals("year", json!(u64::MAX)),
        equals("year", json!(null)),
        equals("year", json!([1])),
        equals("year", json!({})),
        range("year", Some(f64::NAN), None),
        Condition::DatetimeRange {
            field: "day".into(),
            bounds: Bounds { lt: Some(Datetime(i64::MAX)), ..Bounds::default() },
        },
    ] {
        requests.push(SearchRequest { filter: Filter(vec![condition]), ..nearest_to(1, 5) });
    }
    for request in requests {
        let answer = fixture.sink.search(request.clone()).await;
        assert!(matches!(answer, Err(SinkError::BadRequest(_))), "{request:?}: {answer:?}");
    }
    assert_eq!(fixture.sink.search(nearest_to(1, 0)).await.unwrap(), []);
    assert_eq!(fixture.sink.search(nearest_to(1, 10_000)).await.unwrap().len(), 1);
}
