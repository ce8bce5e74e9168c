//! A Qdrant server with rate limits.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;
use walvec_model::{Generation, PointId};
use walvec_sink::{Condition, Filter, Limited, RateLimit, Search as _, SearchRequest, Sink, SinkError, Write};
use walvec_test_qdrant::{Call, Code, Fault, RateLimits, TestServer};

use crate::common::{books, nearest_to, point, provenance, upserts};
use crate::server::started;

const SECOND: Duration = Duration::from_secs(1);

fn limit_writes(server: &TestServer, writes: u32) {
    server.limit_rates("books", RateLimits { writes: Some(writes), per: SECOND, ..RateLimits::default() }).unwrap();
}

fn limit_reads(server: &TestServer, reads: u32) {
    server.limit_rates("books", RateLimits { reads: Some(reads), per: SECOND, ..RateLimits::default() }).unwrap();
}

fn limited<T: std::fmt::Debug>(answer: Result<T, SinkError>) -> Limited {
    match answer {
        Err(SinkError::Limited(limited)) => *limited,
        other => panic!("{other:?}"),
    }
}

/// Waits until there is room again, and returns the limit that was met.
async fn room_after(error: SinkError) -> Limited {
    let limited = limited::<()>(Err(error));
    assert!(!limited.is_too_large, "{limited}");
    tokio::time::sleep(limited.retry_after.expect("a time")).await;
    limited
}

/// Writes a batch as the pipeline does, and returns how often it had to wait. Panics if a point is reported
/// twice.
async fn write_on(sink: &impl Sink, batch: Vec<Write>) -> usize {
    let (mut written, mut waits) = (HashSet::new(), 0);
    loop {
        let rest: Vec<Write> = batch.iter().filter(|write| !written.contains(&write.id())).cloned().collect();
        let Err(error) = sink.write(&rest).await else { return waits };
        for id in room_after(error).await.written {
            assert!(written.insert(id), "{id} was written again");
        }
        waits += 1;
        assert!(waits < 30, "no end is in sight: {} of {}", written.len(), batch.len());
    }
}

/// Repeats a call until it is let through.
async fn until_let_through<T>(mut call: impl AsyncFnMut() -> Result<T, SinkError>) -> T {
    for _ in 0..30 {
        match call().await {
            Ok(answer) => return answer,
            Err(error) => drop(room_after(error).await),
        }
    }
    panic!("no end is in sight")
}

#[tokio::test]
async fn a_batch_that_is_larger_than_a_limit_gets_through_in_parts_and_none_is_written_twice() {
    let (server, sink) = started().await;
    limit_writes(&server, 100);
    assert!(write_on(&sink, upserts(0..300)).await > 0, "nothing was limited");
    server.limit_rates("books", RateLimits::default()).unwrap();
    assert_eq!(sink.count().await.unwrap(), 300);
    assert_eq!(server.calls().overlaps(), [""; 0]);
}

#[tokio::test]
async fn payloads_and_deletions_get_through_a_limit_of_fewer_points_than_there_are() {
    let (server, sink) = started().await;
    sink.write(&upserts(0..150)).await.unwrap();
    limit_writes(&server, 40);
    let payload = |id| {
        let payload = point(id, json!({ "number": id + 1 })).payload;
        Write::Payload { id: PointId::Num(id), payload, provenance: provenance(id) }
    };
    let deletions = (90..150).map(|id| Write::Delete(PointId::Num(id)));
    write_on(&sink, (0..90).map(payload).chain(deletions).collect()).await;
    server.limit_rates("books", RateLimits::default()).unwrap();
    assert_eq!(sink.count().await.unwrap(), 90);
    let points = sink.get((0..90).map(PointId::Num).collect(), false).await.unwrap();
    assert!(points.iter().all(|point| PointId::Num(point.payload["number"].as_u64().unwrap() - 1) == point.id));
}

#[tokio::test]
async fn what_a_filter_finds_is_removed_in_parts_where_a_limit_never_takes_it_at_once() {
    for (version, is_alone) in [("1.19.0", false), ("1.18.0", true)] {
        let (server, sink) = started().await;
        server.faults().set_version(version);
        let sink = sink.alone(is_alone);
        sink.prepare().await.unwrap();
        sink.write(&upserts(0..300)).await.unwrap();
        limit_writes(&server, 100);
        until_let_through(async || sink.sweep(&books(), Generation(2)).await).await;
        assert_eq!(sink.count().await.unwrap(), 0, "{version}");
    }
}

#[tokio::test]
async fn a_limit_on_reads_makes_them_smaller_and_is_named() {
    let (server, sink) = started().await;
    sink.write(&upserts(0..200)).await.unwrap();
    limit_reads(&server, 100);
    assert_eq!(sink.ids_per_read(), 1000);
    let refused = limited(sink.retrieve(&(0..200).map(PointId::Num).collect::<Vec<_>>()).await);
    assert_eq!((refused.limit, refused.is_too_large), (RateLimit::Reads, false));
    assert!(refused.to_string().contains("`read_rate_limit` of collection \"books__1\""), "{refused}");
    assert!(refused.remedy().contains("PATCH collections/books__1"), "{}", refused.remedy());
    assert!(sink.ids_per_read() <= 100);
    let few: Vec<PointId> = (0..sink.ids_per_read() as u64).map(PointId::Num).collect();
    let found = until_let_through(async || sink.retrieve(&few).await).await;
    assert_eq!(found.len(), few.len());
}

#[tokio::test]
async fn a_search_that_a_limit_never_lets_through_is_refused_for_good() {
    let (server, sink) = started().await;
    sink.write(&upserts(0..3)).await.unwrap();
    limit_reads(&server, 2);
    let condition = |number: u64| Condition::Equals { field: "number".into(), value: json!(number) };
    let request = |conditions| SearchRequest { filter: Filter(conditions), ..nearest_to(1, 1) };
    let error = sink.search(request(vec![condition(1), condition(1)])).await.unwrap_err();
    assert!(!error.is_retryable() && error.to_string().contains("read_rate_limit"), "{error}");
    assert_eq!(sink.search(request(vec![condition(1)])).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_filter_that_strict_mode_refuses_is_answered_with_the_key_of_the_configuration() {
    let (server, sink) = started().await;
    let words = "Bad request: Index required but not found for \"year\" of one of the following types: [integer]";
    server.faults().next_on(Call::Query, Fault::Status(Code::InvalidArgument, words.to_owned()));
    let error = sink.search(nearest_to(1, 1)).await.unwrap_err();
    assert!(error.to_string().contains(words) && error.to_string().contains("`index: { year: integer }`"), "{error}");
}
