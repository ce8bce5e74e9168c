//! What the application may do to its tables while they are copied.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_postgres::Client;
use walvec_capture::{Selection, Snapshot, Source, SourceConfig};
use walvec_model::{Change, Op, Position, Row, RowKey, TableName};

use crate::support::{Db, changes_to, cluster};

/// `t` is larger than the memory limit, so a copy of it that is not taken does not end.
const TABLES: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text, other int);
    ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
    INSERT INTO t SELECT i, repeat('x', 1900), i FROM generate_series(1, 20000) i;
    CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
    CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200);
    INSERT INTO p SELECT i, 'x' FROM generate_series(1, 150) i;";

/// The rows that a reader of snapshot and stream ends up with, with their versions.
#[derive(Default)]
struct Rows(BTreeMap<(String, String), (Position, Option<Row>)>);

impl Rows {
    fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            let table = change.table.name.to_string();
            let at = |key: String| (table.clone(), key);
            let (key, position) = (change.key().map(|key| key.to_string()), change.position);
            let mut put = |key: String, row: Option<Row>| {
                let version = self.0.entry(at(key)).or_insert((Position::default(), None));
                if position >= version.0 {
                    *version = (position, row);
                }
            };
            match (change.op, key) {
                (Op::Insert { new }, Some(key)) => put(key, Some(new)),
                (Op::Update { old_key, new }, Some(key)) => {
                    if let Some(old_key) = old_key {
                        put(old_key.to_string(), None);
                    }
                    put(key, Some(new));
                }
                (Op::Delete { .. }, Some(key)) => put(key, None),
                _ => self.0.retain(|(name, _), (version, _)| *name != table || *version >= position),
            }
        }
    }

    fn ids(&self, table: &str) -> Vec<i64> {
        let rows = self.0.iter().filter(|((name, _), _)| name == table).filter_map(|(_, (_, row))| row.as_ref());
        let mut ids: Vec<i64> = rows.map(|row| row.0[0].value().unwrap().as_i64().unwrap()).collect();
        ids.sort_unstable();
        ids
    }
}

async fn ids_in(client: &Client, table: &str) -> Vec<i64> {
    let rows = client.query(&format!("SELECT id::bigint FROM {table} ORDER BY id"), &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Opens a session of the application, which waits for a lock for at most a second.
async fn application(database: &str) -> Client {
    let client = cluster().await.connect(database).await.unwrap();
    client.batch_execute("SET lock_timeout = '1s'").await.unwrap();
    client
}

async fn rest(snapshot: &mut Snapshot) -> Vec<Vec<Change>> {
    let mut chunks = Vec::new();
    while let Some(chunk) = snapshot.next().await.unwrap() {
        chunks.push(chunk);
    }
    chunks
}

async fn one_worker(db: &Db, tables: &[&str]) -> Source {
    db.source(SourceConfig { copy_workers: 1, ..db.config(tables) }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_of_the_application_waits_for_rows_that_are_not_taken_yet() {
    let db = Db::new("unlocked", TABLES).await;
    let source = one_worker(&db, &["p", "t"]).await;
    let client = application("unlocked").await;
    for statement in [
        "ALTER TABLE t ADD extra int",
        "CREATE INDEX ON t (other)",
        "ALTER TABLE p ADD extra int",
        "TRUNCATE p2",
        "VACUUM FULL t",
        "ALTER TABLE p DETACH PARTITION p2; DROP TABLE p2",
        "TRUNCATE p",
        "ALTER TABLE t DROP COLUMN other",
    ] {
        let mut snapshot = source.begin_snapshot().await.unwrap();
        assert!(snapshot.next().await.unwrap().is_some(), "nothing is copied yet");
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        client.batch_execute("SELECT count(*) FROM t").await.unwrap();
        snapshot.close().await.unwrap();
        source.drop_slot().await.unwrap();
    }
    let mut again = source.begin_reread(&TableName::new("public", "t"), &Selection::Where(None)).await.unwrap();
    assert!(again.next().await.unwrap().is_some());
    client.batch_execute("ALTER TABLE t ADD more int").await.unwrap();
    again.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_rewritten_while_it_is_copied_is_read_again_and_no_other() {
    let db = Db::new("rewritten", TABLES).await;
    let source = one_worker(&db, &["t", "p"]).await;
    let client = application("rewritten").await;
    for (statement, again) in [
        ("SELECT 1", &[][..]),
        ("ALTER TABLE p ADD COLUMN quick int DEFAULT 1", &[]),
        ("UPDATE p SET v = 'y' WHERE id < 10; DELETE FROM p WHERE id = 11", &[]),
        ("VACUUM FULL p2", &["public.p"]),
        ("CLUSTER t USING t_pkey", &["public.t"]),
        ("TRUNCATE p1; INSERT INTO p VALUES (3, 'new')", &["public.p"]),
        ("DELETE FROM t WHERE id % 2 = 0; ALTER TABLE t ALTER v TYPE text USING v || 'y'", &["public.t"]),
        ("TRUNCATE p; INSERT INTO p VALUES (7, 'last'); UPDATE p SET id = 8", &["public.p"]),
        ("TRUNCATE t", &["public.t"]),
    ] {
        let mut snapshot = source.begin_snapshot().await.unwrap();
        let first = snapshot.next().await.unwrap().unwrap();
        // In the middle of `t`, which is larger than what may wait.
        for statement in statement.split(';') {
            client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
        let chunks = rest(&mut snapshot).await;
        let begun_again: Vec<String> = chunks
            .iter()
            .filter(|chunk| chunk[0].op == Op::Truncate)
            .inspect(|chunk| assert!(chunk.len() == 1 && chunk[0].position > snapshot.position(), "{statement}"))
            .map(|chunk| chunk[0].table.name.to_string())
            .collect();
        assert_eq!(begun_again, again, "{statement}");
        snapshot.close().await.unwrap();

        let mut rows = Rows::default();
        rows.apply(first);
        rows.apply(chunks.into_iter().flatten());
        let mut stream = source.open_stream().await.unwrap();
        let end = db.run_to("").await;
        rows.apply(changes_to(&mut stream, end).await);
        for table in ["t", "p"] {
            assert!(rows.ids(&format!("public.{table}")) == ids_in(&db.client, table).await, "{statement}: {table}");
        }
        stream.close().await.unwrap();
        source.drop_slot().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_truncated_again_and_again_keeps_no_snapshot_from_ending() {
    let db = Db::new("truncated", TABLES).await;
    let source = db.source(db.config(&["t", "p"])).await;
    let client = application("truncated").await;
    let stop = tokio_util::sync::CancellationToken::new();
    let truncating = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut count = 0;
            while !stop.is_cancelled() {
                client.batch_execute("TRUNCATE p; INSERT INTO p VALUES (1, 'x')").await.expect("no wait for the copy");
                count += 1;
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
            count
        }
    });
    let mut snapshot = source.begin_snapshot().await.unwrap();
    let mut rows = Rows::default();
    while let Some(chunk) = snapshot.next().await.unwrap() {
        rows.apply(chunk);
        // Slower than the table is truncated.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    snapshot.close().await.unwrap();
    stop.cancel();
    assert!(truncating.await.unwrap() > 2, "the copy was over too soon");
    let mut stream = source.open_stream().await.unwrap();
    let end = db.run_to("").await;
    rows.apply(changes_to(&mut stream, end).await);
    assert_eq!(rows.ids("public.p"), [1]);
    assert_eq!(rows.ids("public.t").len(), 20_000);
    stream.close().await.unwrap();
}

/// Returns how many transactions of walvec keep old row versions alive.
async fn transactions(client: &Client) -> i64 {
    let query = "SELECT count(*) FROM pg_stat_activity
                 WHERE application_name = 'walvec' AND datname = current_database() AND backend_xmin IS NOT NULL";
    client.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_snapshot_is_let_go_when_everything_was_read_though_nothing_was_taken() {
    let db = Db::new("horizon", TABLES).await;
    let directory = tempfile::tempdir().unwrap();
    let source = db.source(db.config(&["t", "p"])).await.spooling_in(directory.path());
    let mut snapshot = source.begin_snapshot().await.unwrap();
    while transactions(&db.client).await > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "what a kill leaves behind");
    let rows: usize = rest(&mut snapshot).await.iter().map(Vec::len).sum();
    assert_eq!(rows, 20_150);
    snapshot.close().await.unwrap();
}

/// Ends the sessions of walvec that copy, or the session that holds the snapshot.
async fn terminate(client: &Client, copying: bool) -> i64 {
    let query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE application_name = 'walvec' AND datname = current_database() AND (query LIKE '%pg_export_snapshot%') <> $1
                 AND (NOT $1 OR query LIKE 'COPY%' OR query LIKE 'COMMIT%')";
    client.query_one(query, &[&copying]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copying_session_that_is_lost_costs_a_piece_and_a_lost_snapshot_is_noticed() {
    let db = Db::new("lost", TABLES).await;
    let source = one_worker(&db, &["t", "p"]).await;
    let mut snapshot = source.begin_snapshot().await.unwrap();
    let mut rows = Rows::default();
    rows.apply(snapshot.next().await.unwrap().unwrap());
    while terminate(&db.client, true).await == 0 {
        tokio::task::yield_now().await;
    }
    rows.apply(rest(&mut snapshot).await.into_iter().flatten());
    assert_eq!((rows.ids("public.t").len(), rows.ids("public.p").len()), (20_000, 150));
    snapshot.close().await.unwrap();
    source.drop_slot().await.unwrap();

    let mut snapshot = source.begin_snapshot().await.unwrap();
    assert!(snapshot.next().await.unwrap().is_some());
    assert_eq!(terminate(&db.client, false).await, 1);
    let error = loop {
        match snapshot.next().await {
            Ok(rows) => assert!(rows.is_some(), "the snapshot ended as if it was whole"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, walvec_capture::CaptureError::Closed | walvec_capture::CaptureError::Connect { .. }),
        "{error}"
    );
    snapshot.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_with_very_large_values_are_read_in_small_pieces() {
    let db = Db::new(
        "large",
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
         INSERT INTO t SELECT i, repeat('x', 1000000) FROM generate_series(1, 200) i;",
    )
    .await;
    let source = one_worker(&db, &["t"]).await;
    let everything = Selection::Where(Some("id > 0".to_owned()));
    for again in [false, true] {
        let mut snapshot = match again {
            false => source.begin_snapshot().await.unwrap(),
            true => source.begin_reread(&TableName::new("public", "t"), &everything).await.unwrap(),
        };
        let mut rows = 0;
        while let Some(chunk) = snapshot.next().await.unwrap() {
            assert!(chunk.len() <= 2, "{} large rows at once", chunk.len());
            rows += chunk.len();
        }
        assert_eq!(rows, 200);
        snapshot.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_keeps_a_read_waiting_is_named() {
    let own = crate::support::start_cluster(&[]).await;
    let url = own.create_database("named").await.unwrap();
    let client = own.connect("named").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.unwrap();
    let source = Source::connect(SourceConfig {
        url: url.into(),
        slot: "named".to_owned(),
        publication: "named".to_owned(),
        tables: vec![crate::support::spec("t")],
        lookups: Vec::new(),
        copy_workers: 1,
    });
    let source = Arc::new(source.await.unwrap());
    source.ensure_publication().await.unwrap();
    let mut watch = source.lock_watch();
    let mut waits = async || loop {
        if let Some(wait) = watch.look().await.unwrap().into_iter().next() {
            return wait;
        }
    };
    let application = own.connect("named").await.unwrap();
    let pid: i32 = application.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    application.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let reading = tokio::spawn({
        let source = Arc::clone(&source);
        async move { source.fetch_rows(&source.tables().await.unwrap()[0], &[RowKey::new(vec![1.into()])]).await }
    });
    let wait = waits().await;
    assert_eq!((wait.is_ours, wait.table.as_str(), wait.pid), (true, "public.t", pid), "{wait}");
    application.batch_execute("COMMIT").await.unwrap();
    assert_eq!(reading.await.unwrap().unwrap().len(), 1);
    own.close().await.unwrap();
}
