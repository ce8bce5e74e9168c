//! Keeping the connection alive, and failing with a reason.

use std::time::Duration;

use walvec_capture::{CaptureError, ChangeStream, SlotState};
use walvec_model::StreamEvent;

use crate::support::{Db, PATIENCE, changes_to, cluster, events_to, shown, start_cluster};

async fn first_error(stream: &mut ChangeStream) -> CaptureError {
    let wait = async {
        loop {
            if let Err(error) = stream.next().await {
                return error;
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("an error in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_reads_nothing_for_long_keeps_its_stream() {
    let db = Db::new("patient", "CREATE TABLE t (id int PRIMARY KEY, v text);").await;
    let source = db.source(db.config(&["t"])).await;
    // The role's setting applies to the walsender.
    db.run("CREATE ROLE patient LOGIN REPLICATION SUPERUSER PASSWORD 'p'; ALTER ROLE patient SET wal_sender_timeout = '1s'").await;
    let mut config = db.config(&["t"]);
    config.url = db.url_as("patient", "p").into();
    let impatient = db.source(config).await;
    let _ = crate::support::copy(&source).await;
    let mut stream = impatient.open_stream().await.unwrap();
    let pid = async || match source.slot().await.unwrap() {
        SlotState::Ready { active_pid, .. } => active_pid,
        other => panic!("{other:?}"),
    };
    let before = pid().await;
    assert!(before.is_some());
    // More than all buffers between the server and walvec can hold, so that the server is stuck in sending.
    let end = db.run_to("INSERT INTO t SELECT i, repeat('x', 2000) FROM generate_series(1, 30000) i").await;
    // The time matters here: three and a half of the server's timeouts, without a single call.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert_eq!(pid().await, before, "the same walsender");
    assert_eq!(changes_to(&mut stream, end).await.len(), 30_000);
    stream.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confirmation_reaches_the_server_without_another_call() {
    let db = Db::new("prompt", "CREATE TABLE t (id int PRIMARY KEY);").await;
    let (source, _, mut stream) = db.follow(db.config(&["t"])).await;
    let end = db.run_to("INSERT INTO t VALUES (1)").await;
    let commit = events_to(&mut stream, end).await.into_iter().find_map(|event| match event {
        StreamEvent::Commit { end_lsn, .. } => Some(end_lsn),
        StreamEvent::Begin { .. }
        | StreamEvent::Partition { .. }
        | StreamEvent::LookedUp(_)
        | StreamEvent::Change(_)
        | StreamEvent::Idle { .. } => None,
    });
    stream.confirm(commit.unwrap());
    let moved = async {
        loop {
            match source.slot().await.unwrap() {
                SlotState::Ready { confirmed, .. } if Some(confirmed) == commit => return,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, moved).await.expect("the slot to move");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_walsender_is_an_error_to_retry_and_the_next_stream_goes_on() {
    let db = Db::new("killed", "CREATE TABLE t (id int PRIMARY KEY);").await;
    let (source, _, mut stream) = db.follow(db.config(&["t"])).await;
    db.run("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'killed'").await;
    let error = first_error(&mut stream).await;
    assert_eq!(error.code(), "E_CONNECT", "{error}");
    assert!(stream.close().await.is_err(), "the last word did not reach the server");
    let end = db.run_to("INSERT INTO t VALUES (1)").await;
    let mut stream = source.open_stream().await.unwrap();
    assert_eq!(shown(&changes_to(&mut stream, end).await), ["+ {id:1}"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_has_one_reader() {
    let db = Db::new("busy", "CREATE TABLE t (id int PRIMARY KEY);").await;
    let (source, _, stream) = db.follow(db.config(&["t"])).await;
    let error = source.open_stream().await.err().unwrap();
    assert_eq!(error.code(), "E_SLOT_BUSY");
    assert_eq!(source.drop_slot().await.unwrap_err().code(), "E_SLOT_BUSY");
    let findings = source.preflight().await.unwrap();
    assert!(findings.iter().any(|finding| finding.code == "E_SLOT_BUSY"), "{findings:?}");
    stream.close().await.unwrap();
    source.drop_slot().await.unwrap();
    assert_eq!(source.slot().await.unwrap(), SlotState::Missing);
    assert_eq!(source.open_stream().await.err().unwrap().code(), "E_SLOT_MISSING");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_slot_is_told_from_a_missing_one() {
    let own =
        start_cluster(&[("max_slot_wal_keep_size", "1MB"), ("min_wal_size", "32MB"), ("max_wal_size", "32MB")]).await;
    let url = own.create_database("lost").await.unwrap();
    let client = own.connect("lost").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let source = walvec_capture::Source::connect(walvec_capture::SourceConfig {
        url: url.into(),
        slot: "lost".to_owned(),
        publication: "lost".to_owned(),
        tables: vec![crate::support::spec("t")],
        lookups: Vec::new(),
        copy_workers: 1,
    })
    .await
    .unwrap();
    source.ensure_publication().await.unwrap();
    let _ = crate::support::copy(&source).await;
    for _ in 0..6 {
        client
            .batch_execute("SELECT pg_logical_emit_message(false, 'x', 'y'); SELECT pg_switch_wal(); CHECKPOINT;")
            .await
            .unwrap();
    }
    assert!(matches!(source.slot().await.unwrap(), SlotState::Lost { .. }));
    let error = source.open_stream().await.err().unwrap();
    assert_eq!(error.code(), "E_SLOT_LOST");
    own.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_publication_does_not_pass_in_silence() {
    let db = Db::new("nopub", "CREATE TABLE t (id int PRIMARY KEY);").await;
    let (source, _, stream) = db.follow(db.config(&["t"])).await;
    stream.close().await.unwrap();
    source.drop_publication().await.unwrap();
    assert_eq!(source.open_stream().await.err().unwrap().code(), "E_PUBLICATION");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarts_is_found_again_by_the_same_source() {
    let own = start_cluster(&[]).await;
    let url = own.create_database("again").await.unwrap();
    let client = own.connect("again").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.unwrap();
    let source = walvec_capture::Source::connect(walvec_capture::SourceConfig {
        url: url.into(),
        slot: "again".to_owned(),
        publication: "again".to_owned(),
        tables: vec![crate::support::spec("t")],
        lookups: Vec::new(),
        copy_workers: 1,
    })
    .await
    .unwrap();
    source.ensure_publication().await.unwrap();
    let _ = crate::support::copy(&source).await;
    let mut stream = source.open_stream().await.unwrap();
    own.stop_immediate().await.unwrap();
    assert_eq!(first_error(&mut stream).await.code(), "E_CONNECT");
    let refused = source.open_stream().await.err().unwrap();
    assert_eq!(refused.code(), "E_CONNECT", "{refused}");
    own.start_again().await.unwrap();
    assert_eq!(source.identify().await.unwrap(), *source.server());
    let mut stream = source.open_stream().await.unwrap();
    let client = own.connect("again").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    let changes = loop {
        let batch = crate::support::next(&mut stream).await;
        let found: Vec<_> = batch
            .into_iter()
            .filter_map(|event| match event {
                StreamEvent::Change(change) => Some(change),
                StreamEvent::Begin { .. }
                | StreamEvent::Partition { .. }
                | StreamEvent::LookedUp(_)
                | StreamEvent::Commit { .. }
                | StreamEvent::Idle { .. } => None,
            })
            .collect();
        if !found.is_empty() {
            break found;
        }
    };
    assert_eq!(shown(&changes), ["+ {id:2}"]);
    stream.close().await.unwrap();
    own.close().await.unwrap();
}

#[tokio::test]
async fn a_runtime_of_one_thread_is_enough() {
    let db = Db::new("onethread", "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);").await;
    let (_, rows, mut stream) = db.follow(db.config(&["t"])).await;
    assert_eq!(shown(&rows), ["+ {id:1}"]);
    let end = db.run_to("INSERT INTO t VALUES (2)").await;
    assert_eq!(shown(&changes_to(&mut stream, end).await), ["+ {id:2}"]);
    stream.close().await.unwrap();
    assert!(cluster().await.connect("onethread").await.is_ok());
}
