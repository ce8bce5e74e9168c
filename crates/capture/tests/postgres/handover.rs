//! From the snapshot to the stream, and from one stream to the next.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use walvec_capture::{SlotState, SourceConfig};
use walvec_model::{Op, Row, StreamEvent};

use crate::support::{Db, Image, changes_to, cluster, copy, events_to, next, shown};

/// Changes rows of both tables, some of them for nothing, until told to stop.
async fn keep_writing(writer: i32, stop: Arc<AtomicBool>) {
    let client = cluster().await.connect("handover").await.unwrap();
    for round in 0.. {
        let id = 1 + (round * 7919 + writer * 31) % 20_000;
        let end = if round % 5 == 4 { "ROLLBACK" } else { "COMMIT" };
        let sql = format!(
            "BEGIN;
             UPDATE a SET n = n + 1 WHERE id = {id};
             DELETE FROM b WHERE k = 'k{id}';
             INSERT INTO b VALUES ('w{writer}-{round}', 'new');
             UPDATE b SET k = k || '+' WHERE k = 'w{writer}-{}';
             {end}",
            round - 1
        );
        client.batch_execute(&sql).await.unwrap();
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Returns the rows of both tables, each as a text.
async fn rows_of_the_database(db: &Db) -> BTreeSet<String> {
    let query = "SELECT 'a' || id || '=' || n FROM a UNION ALL SELECT 'b' || k || '=' || v FROM b";
    db.client.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Returns the rows of an image in the form of [`rows_of_the_database`].
fn rows_of_the_image(image: &Image) -> BTreeSet<String> {
    let text = |value: Option<&serde_json::Value>| match value {
        Some(serde_json::Value::String(text)) => text.clone(),
        other => other.map(ToString::to_string).unwrap_or_default(),
    };
    let row = |((table, key), row): (&(String, String), &Row)| {
        format!("{}{key}={}", table.strip_prefix("public.").unwrap(), text(row.0[1].value()))
    };
    image.0.iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_and_stream_together_are_exact_while_writers_run() {
    let db = Db::new(
        "handover",
        "CREATE TABLE a (id int PRIMARY KEY, n int NOT NULL); CREATE TABLE b (k text PRIMARY KEY, v text);
         INSERT INTO a SELECT i, 0 FROM generate_series(1, 20000) i;
         INSERT INTO b SELECT 'k' || i, repeat('x', 300) FROM generate_series(1, 20000) i;",
    )
    .await;
    let source = db.source(db.config(&["a", "b"])).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3).map(|writer| tokio::spawn(keep_writing(writer, Arc::clone(&stop)))).collect();

    let mut image = Image::default();
    image.apply(copy(&source).await);
    let mut stream = source.open_stream().await.unwrap();
    // Some more writes after the copy, seen through the stream itself.
    let mut commits = 0;
    while commits < 200 {
        for event in next(&mut stream).await {
            match event {
                StreamEvent::Change(change) => image.apply([change]),
                StreamEvent::Commit { .. } => commits += 1,
                StreamEvent::Begin { .. }
                | StreamEvent::Partition { .. }
                | StreamEvent::LookedUp(_)
                | StreamEvent::Idle { .. } => {}
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let end = db.run_to("").await;
    image.apply(changes_to(&mut stream, end).await);

    let (wanted, found) = (rows_of_the_database(&db).await, rows_of_the_image(&image));
    assert_eq!(found.difference(&wanted).count(), 0, "rows that should not be there");
    assert_eq!(wanted.difference(&found).count(), 0, "rows that are missing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_grow_and_a_replay_gives_every_change_the_version_it_had() {
    let db = Db::new("versions", "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (0, 'old');").await;
    let (source, rows, mut stream) = db.follow(db.config(&["t"])).await;
    db.run("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 3) i").await;
    let end = db.run_to("UPDATE t SET v = 'y' WHERE id = 1; DELETE FROM t WHERE id = 2;").await;
    let first = events_to(&mut stream, end).await;
    stream.close().await.unwrap();

    // Nothing was confirmed, so the next stream begins where the first one did.
    let mut stream = source.open_stream().await.unwrap();
    let second = events_to(&mut stream, end).await;
    let changes = |events: &[StreamEvent]| -> Vec<_> {
        events.iter().filter(|event| matches!(event, StreamEvent::Change(_))).cloned().collect()
    };
    assert_eq!(changes(&first), changes(&second));

    let positions: Vec<_> = changes(&first)
        .into_iter()
        .map(|event| match event {
            StreamEvent::Change(change) => change.position,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(positions.iter().map(|position| position.ordinal).collect::<Vec<_>>(), [1, 2, 3, 1, 2]);
    assert!(positions.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(rows[0].position < positions[0], "the snapshot is older than every change");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_was_confirmed_is_not_streamed_again() {
    let db = Db::new("confirmed", "CREATE TABLE t (id int PRIMARY KEY);").await;
    let (source, _, mut stream) = db.follow(db.config(&["t"])).await;
    let middle = db.run_to("INSERT INTO t VALUES (1);").await;
    let events = events_to(&mut stream, middle).await;
    let end_lsn = events
        .iter()
        .find_map(|event| match event {
            StreamEvent::Commit { end_lsn, .. } => Some(*end_lsn),
            StreamEvent::Begin { .. }
            | StreamEvent::Partition { .. }
            | StreamEvent::LookedUp(_)
            | StreamEvent::Change(_)
            | StreamEvent::Idle { .. } => None,
        })
        .unwrap();
    stream.confirm(end_lsn);
    // A lower position afterwards has no effect.
    stream.confirm(walvec_model::Lsn(1));
    stream.close().await.unwrap();
    let SlotState::Ready { confirmed, active_pid, .. } = source.slot().await.unwrap() else { panic!("no slot") };
    assert_eq!(confirmed, end_lsn, "close tells the server before it returns");
    assert_eq!(active_pid, None, "and the slot is free again");

    let end = db.run_to("INSERT INTO t VALUES (2);").await;
    let mut stream = source.open_stream().await.unwrap();
    assert_eq!(shown(&changes_to(&mut stream, end).await), ["+ {id:2}"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_big_transaction_comes_in_bounded_batches() {
    let db = Db::new("big", "CREATE TABLE t (id int PRIMARY KEY, v text);").await;
    let (_, _, mut stream) = db.follow(db.config(&["t"])).await;
    db.run("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i;").await;
    let mut changes = 0;
    loop {
        let batch = next(&mut stream).await;
        assert!(batch.len() <= 1001, "{}", batch.len());
        changes += batch.iter().filter(|event| matches!(event, StreamEvent::Change(_))).count();
        if batch.iter().any(|event| matches!(event, StreamEvent::Commit { .. })) {
            break;
        }
    }
    assert_eq!(changes, 20_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_table_reports_progress_so_that_its_slot_can_move() {
    let db = Db::new("idle", "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE busy (v text);").await;
    let (source, _, mut stream) = db.follow(db.config(&["t"])).await;
    let end = db.run_to("INSERT INTO busy SELECT repeat('x', 1000) FROM generate_series(1, 1000);").await;
    let events = events_to(&mut stream, end).await;
    assert!(!events.iter().any(|event| matches!(event, StreamEvent::Change(_))));
    let wal_end = match events.last() {
        Some(StreamEvent::Idle { wal_end }) => wal_end,
        // Before 15, transactions without published changes are sent as empty ones.
        Some(StreamEvent::Commit { end_lsn, .. }) if Db::version().await < 15 => end_lsn,
        other => panic!("{other:?}"),
    };
    stream.confirm(*wal_end);
    stream.close().await.unwrap();
    let SlotState::Ready { confirmed, .. } = source.slot().await.unwrap() else { panic!("no slot") };
    assert_eq!(confirmed, *wal_end);
    let position = source.server_position().await.unwrap();
    assert!(position.flushed >= confirmed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_many_pages_is_copied_completely_and_once() {
    // 40,000 rows of about 1 KiB: more than the size from which a table is read in ranges.
    let db = Db::new(
        "ranges",
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
         INSERT INTO t SELECT i, repeat(chr(65 + i % 26), 1900) FROM generate_series(1, 40000) i;
         DELETE FROM t WHERE id % 10 = 0;",
    )
    .await;
    let source = db.source(db.config(&["t"])).await;
    let mut ids: Vec<i64> = copy(&source)
        .await
        .iter()
        .map(|change| match &change.op {
            Op::Insert { new } => new.0[0].value().unwrap().as_i64().unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=40_000).filter(|id| id % 10 != 0).collect::<Vec<_>>());
    assert_eq!(source.begin_snapshot().await.err().unwrap().code(), "E_SLOT_EXISTS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_fails_leaves_no_slot_behind() {
    let db = Db::new("failing", "CREATE TABLE t (id int PRIMARY KEY);").await;
    let source = db.source(db.config(&["t"])).await;
    db.run("DROP TABLE t").await;
    assert_eq!(source.begin_snapshot().await.err().unwrap().code(), "E_TABLE");
    assert_eq!(source.slot().await.unwrap(), SlotState::Missing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_snapshot_waits_for_an_open_transaction_and_contains_it() {
    let db = Db::new("waiting", "CREATE TABLE t (id int PRIMARY KEY);").await;
    let source = Arc::new(db.source(db.config(&["t"])).await);
    let writer = cluster().await.connect("waiting").await.unwrap();
    writer.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let copying = tokio::spawn({
        let source = Arc::clone(&source);
        async move { copy(&source).await }
    });
    // The server itself shows that it waits for the writer.
    let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'walsender'
                   AND datname = 'waiting' AND cardinality(pg_blocking_pids(pid)) > 0)";
    while !db.client.query_one(waiting, &[]).await.unwrap().get::<_, bool>(0) {
        tokio::task::yield_now().await;
    }
    writer.batch_execute("COMMIT").await.unwrap();
    assert_eq!(shown(&copying.await.unwrap()), ["+ {id:1}"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_nobody_waits_for_any_more_leaves_no_slot_behind() {
    let db = Db::new("abandoned", "CREATE TABLE t (id int PRIMARY KEY);").await;
    let source = Arc::new(db.source(db.config(&["t"])).await);
    let writer = cluster().await.connect("abandoned").await.unwrap();
    writer.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let copying = tokio::spawn({
        let source = Arc::clone(&source);
        async move { copy(&source).await }
    });
    let senders = "SELECT count(*), count(*) FILTER (WHERE cardinality(pg_blocking_pids(pid)) > 0)
                   FROM pg_stat_activity WHERE backend_type = 'walsender' AND datname = 'abandoned'";
    let count = async || {
        let row = db.client.query_one(senders, &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    while count().await.1 == 0 {
        tokio::task::yield_now().await;
    }
    copying.abort();
    // A session that no longer waits may still be ending.
    while count().await.0 > 0 {
        tokio::task::yield_now().await;
    }
    writer.batch_execute("COMMIT").await.unwrap();
    assert_eq!(source.slot().await.unwrap(), SlotState::Missing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_waits_for_a_standby_is_either_in_the_snapshot_or_in_the_stream() {
    // Such a transaction is in the WAL, but no SELECT sees it. This is why a SELECT cannot replace a snapshot.
    let own = crate::support::start_cluster(&[]).await;
    let url = own.create_database("ghost").await.unwrap();
    let client = own.connect("ghost").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'old')").await.unwrap();
    let source = walvec_capture::Source::connect(SourceConfig {
        url: url.into(),
        slot: "ghost".to_owned(),
        publication: "ghost".to_owned(),
        tables: vec![crate::support::spec("t")],
        lookups: Vec::new(),
        copy_workers: 1,
    });
    let source = Arc::new(source.await.unwrap());
    source.ensure_publication().await.unwrap();
    let standby = async |name: &str| {
        client.batch_execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'")).await.unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    };
    standby("ghost").await;
    let writer = loop {
        let writer = own.connect("ghost").await.unwrap();
        let row = writer.query_one("SHOW synchronous_standby_names", &[]).await.unwrap();
        if row.get::<_, String>(0) == "ghost" {
            break writer;
        }
    };
    let waiting = tokio::spawn(async move { writer.batch_execute("UPDATE t SET v = 'new'").await });
    let hung = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    while client.query_one(hung, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::task::yield_now().await;
    }
    let copying = tokio::spawn({
        let source = Arc::clone(&source);
        async move { copy(&source).await }
    });
    let blocked = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'walsender'
                   AND cardinality(pg_blocking_pids(pid)) > 0)";
    while !copying.is_finished() && !client.query_one(blocked, &[]).await.unwrap().get::<_, bool>(0) {
        tokio::task::yield_now().await;
    }
    standby("").await;
    waiting.await.unwrap().unwrap();
    let mut image = Image::default();
    image.apply(copying.await.unwrap());
    let mut stream = source.open_stream().await.unwrap();
    let row = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap();
    image.apply(changes_to(&mut stream, row.get::<_, String>(0).parse().unwrap()).await);
    let values: Vec<_> = image.0.values().map(|row| row.0[1].value().unwrap().clone()).collect();
    assert_eq!(values, ["new"]);
    stream.close().await.unwrap();
    own.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_this_server_never_began_is_told_from_one_that_cannot_be_seen_yet() {
    let db = Db::new("never_begun", "CREATE TABLE t (id int PRIMARY KEY)").await;
    let source = db.source(db.config(&["t"])).await;
    db.client.batch_execute("BEGIN").await.unwrap();
    let open: String = db.client.query_one("SELECT pg_current_xact_id()::text", &[]).await.unwrap().get(0);
    let open: u32 = open.parse().unwrap();
    let foreign = open + 300_000_000;
    assert_eq!(source.invisible(&[open, foreign]).await.unwrap(), [open, foreign]);
    assert_eq!(source.never_begun(&[open, foreign]).await.unwrap(), [foreign]);
}
