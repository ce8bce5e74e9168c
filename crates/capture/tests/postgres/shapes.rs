//! Shapes of tables, and how they change.

use walvec_model::{Op, StreamEvent};

use crate::support::{Db, Image, changes_to, copy, shown, spec};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncate_is_one_change_for_each_table() {
    let db = Db::new(
        "truncating",
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p);
         INSERT INTO p VALUES (1); INSERT INTO c VALUES (1, 1);",
    )
    .await;
    let (_, _, mut stream) = db.follow(db.config(&["p", "c"])).await;
    let end = db.run_to("BEGIN; TRUNCATE p CASCADE; INSERT INTO p VALUES (2); COMMIT;").await;
    let changes = changes_to(&mut stream, end).await;
    assert_eq!(shown(&changes), ["truncate", "truncate", "+ {id:2}"]);
    assert_ne!(changes[0].table.name, changes[1].table.name);
    assert_eq!(changes.iter().map(|change| change.position.ordinal).collect::<Vec<_>>(), [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_untouched_big_value_is_unchanged_and_can_be_fetched() {
    let db = Db::new(
        "toast",
        "CREATE TABLE t (id int PRIMARY KEY, v text, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
         INSERT INTO t VALUES (1, 'a', repeat('x', 100000)), (2, NULL, NULL);",
    )
    .await;
    let (source, _, mut stream) = db.follow(db.config(&["t"])).await;
    let end = db.run_to("UPDATE t SET v = 'b'; UPDATE t SET id = 3 WHERE id = 1;").await;
    let changes = changes_to(&mut stream, end).await;
    assert_eq!(
        shown(&changes),
        [r#"~ {id:1 v:"b" big:(unchanged)}"#, r#"~ {id:2 v:"b" big:null}"#, r#"~ 1 -> {id:3 v:"b" big:(unchanged)}"#]
    );
    let keys: Vec<_> = changes.iter().filter_map(walvec_model::Change::key).collect();
    let fetched = source.fetch_rows(&changes[0].table, &keys).await.unwrap();
    assert_eq!(fetched.len(), 2, "key 1 is gone");
    let (_, row) = fetched.iter().find(|(key, _)| key.to_string() == "3").unwrap();
    assert_eq!(row.0[2].value().unwrap().as_str().unwrap().len(), 100_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partitioned_table_is_one_table() {
    let db = Db::new(
        "partitioned",
        "CREATE TABLE t (id int, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
         CREATE TABLE t24 PARTITION OF t FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
         CREATE TABLE t25 (v text, at date NOT NULL, id int NOT NULL, gone int, PRIMARY KEY (id, at));
         ALTER TABLE t25 DROP gone;
         ALTER TABLE t ATTACH PARTITION t25 FOR VALUES FROM ('2025-01-01') TO ('2027-01-01');
         CREATE TABLE trest PARTITION OF t DEFAULT PARTITION BY LIST (id);
         CREATE TABLE trest_x PARTITION OF trest DEFAULT;
         INSERT INTO t VALUES (1, '2024-05-05', 'a'), (2, '2025-05-05', 'b'), (3, '1999-01-01', 'c');",
    )
    .await;
    let (source, rows, mut stream) = db.follow(db.config(&["t"])).await;
    let mut copied = shown(&rows);
    copied.sort();
    assert_eq!(
        copied,
        [r#"+ {id:1 at:"2024-05-05" v:"a"}"#, r#"+ {id:2 at:"2025-05-05" v:"b"}"#, r#"+ {id:3 at:"1999-01-01" v:"c"}"#]
    );
    let end = db
        .run_to("UPDATE t SET v = 'z' WHERE id = 2; UPDATE t SET at = '2026-01-01' WHERE id = 1; DELETE FROM t WHERE id = 3; TRUNCATE t;")
        .await;
    let changes = changes_to(&mut stream, end).await;
    assert!(changes.iter().all(|change| change.table.name == spec("t").name));
    // A row that moves to another partition is deleted in the old one and inserted in the new one.
    assert_eq!(
        shown(&changes),
        [
            r#"~ {id:2 at:"2025-05-05" v:"z"}"#,
            "- (1, 2024-05-05)",
            r#"+ {id:1 at:"2026-01-01" v:"a"}"#,
            "- (3, 1999-01-01)",
            "truncate"
        ]
    );
    assert!(source.estimate_rows().await.unwrap().iter().any(|(name, _)| name.name == "t"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_may_change_its_shape_in_the_middle_of_a_transaction() {
    let db =
        Db::new("altering", "CREATE TABLE t (id int PRIMARY KEY, v text, w int); INSERT INTO t VALUES (1, 'a', 1);")
            .await;
    let (_, _, mut stream) = db.follow(db.config(&["t"])).await;
    let end = db
        .run_to(
            "BEGIN;
             INSERT INTO t VALUES (2, 'b', 2);
             ALTER TABLE t ADD COLUMN x bool DEFAULT true;
             INSERT INTO t VALUES (3, 'c', 3, false);
             ALTER TABLE t DROP COLUMN w;
             ALTER TABLE t RENAME v TO body;
             UPDATE t SET body = 'd' WHERE id = 1;
             COMMIT;
             ALTER TABLE t ALTER body TYPE int USING id;
             INSERT INTO t VALUES (4, 4, NULL);",
        )
        .await;
    let changes: Vec<_> = shown(&changes_to(&mut stream, end).await);
    let (before, after) = changes.split_at(3);
    assert_eq!(before, [r#"+ {id:2 v:"b" w:2}"#, r#"+ {id:3 v:"c" w:3 x:false}"#, r#"~ {id:1 body:"d" x:true}"#]);
    assert_eq!(after.last().unwrap(), "+ {id:4 body:4 x:null}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_filter_is_the_servers_and_rows_that_leave_it_are_deleted() {
    let db = Db::new(
        "filtered",
        "CREATE TABLE t (id int PRIMARY KEY, year int, body text); ALTER TABLE t ALTER body SET STORAGE EXTERNAL;
         ALTER TABLE t REPLICA IDENTITY FULL;
         INSERT INTO t SELECT i, 1790 + i, repeat('x', 5000) FROM generate_series(1, 20) i;",
    )
    .await;
    let mut config = db.config(&["t"]);
    config.tables[0].filter = Some("year >= 1800 AND year < 1805".to_owned());
    if Db::version().await < 15 {
        let source = walvec_capture::Source::connect(config).await.unwrap();
        assert_eq!(source.ensure_publication().await.unwrap_err().code(), "E_CONFIG");
        return;
    }
    let (source, rows, mut stream) = db.follow(config).await;
    let mut image = Image::default();
    image.apply(rows);
    assert_eq!(image.0.len(), 5);
    let end = db
        .run_to(
            "UPDATE t SET year = 1700 WHERE id = 10; UPDATE t SET year = 1801 WHERE id = 1;
             UPDATE t SET year = 1701 WHERE id = 2; DELETE FROM t WHERE id = 3; DELETE FROM t WHERE id = 11;
             INSERT INTO t VALUES (100, 1804, 'new'), (101, 1805, 'hidden');",
        )
        .await;
    let changes = changes_to(&mut stream, end).await;
    let table = changes[0].table.clone();
    let hidden = changes.iter().find(|change| matches!(change.op, Op::Delete { .. })).unwrap().key().unwrap();
    image.apply(changes);
    let ids: Vec<_> = image.0.keys().map(|(_, key)| key.as_str()).collect();
    assert_eq!(ids, ["1", "100", "12", "13", "14"]);
    assert!(image.0.values().all(|row| !row.is_partial()));
    assert_eq!(source.fetch_rows(&table, &[hidden]).await.unwrap(), [], "the filter hides it from a fetch too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_enters_the_filter_without_its_big_value_asks_for_it() {
    let db = Db::new(
        "entering",
        "CREATE TABLE t (id int PRIMARY KEY, body text); ALTER TABLE t ALTER body SET STORAGE EXTERNAL;
         INSERT INTO t VALUES (-1, repeat('x', 5000));",
    )
    .await;
    if Db::version().await < 15 {
        return;
    }
    let mut config = db.config(&["t"]);
    config.tables[0].filter = Some("id > 0".to_owned());
    let (_, _, mut stream) = db.follow(config).await;
    let end = db.run_to("UPDATE t SET id = 1").await;
    assert_eq!(shown(&changes_to(&mut stream, end).await), ["~ {id:1 body:(unchanged)}"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_are_those_that_the_stream_has() {
    let db = Db::new(
        "columns",
        "CREATE TABLE g (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED, gone int);
         ALTER TABLE g DROP gone;
         CREATE TABLE l (secret text, id int PRIMARY KEY, v text);
         INSERT INTO g VALUES (1, 2); INSERT INTO l VALUES ('s', 1, 'a');",
    )
    .await;
    let lists = Db::version().await >= 15;
    let mut config = db.config(&["g", "l"]);
    config.tables[1].columns = walvec_capture::Columns::Listed(["v".to_owned()].into());
    let (source, rows, mut stream) = db.follow(config).await;
    let end = db.run_to("UPDATE g SET n = 3; UPDATE l SET v = 'b';").await;
    let changes = changes_to(&mut stream, end).await;
    for (table, row, change) in [(0, "g", "g"), (1, "l", "l")].map(|(index, row, change)| {
        let of = |changes: &[walvec_model::Change], name: &str| {
            changes.iter().find(|change| change.table.name.name == name).unwrap().table.clone()
        };
        (index, of(&rows, row), of(&changes, change))
    }) {
        assert_eq!(source.tables().await.unwrap()[table], row);
        assert_eq!(row, change, "the copy and the stream have the same columns");
    }
    let shown_rows = shown(&rows);
    let generated = if Db::version().await >= 18 { "+ {id:1 n:2 twice:4}" } else { "+ {id:1 n:2}" };
    assert!(shown_rows.contains(&generated.to_owned()), "{shown_rows:?}");
    assert_eq!(shown_rows.contains(&r#"+ {id:1 v:"a"}"#.to_owned()), lists, "{shown_rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_that_nothing_uses_are_not_read() {
    let db = Db::new(
        "unused",
        "CREATE TABLE t (id int PRIMARY KEY, v text, w text); ALTER TABLE t ALTER w SET STORAGE EXTERNAL;
         INSERT INTO t VALUES (1, 'a', repeat('x', 5000));",
    )
    .await;
    let mut config = db.config(&["t"]);
    config.tables[0].columns = walvec_capture::Columns::Used(["v".to_owned()].into());
    let (source, rows, mut stream) = db.follow(config).await;
    assert_eq!(shown(&rows), [r#"+ {id:1 v:"a" w:null}"#]);
    let end = db.run_to("UPDATE t SET v = 'b'; UPDATE t SET w = repeat('y', 5000)").await;
    let changes = changes_to(&mut stream, end).await;
    assert_eq!(shown(&changes), [r#"~ {id:1 v:"b" w:null}"#, r#"~ {id:1 v:"b" w:null}"#]);
    let fetched = source.fetch_rows(&rows[0].table, &[rows[0].key().unwrap()]).await.unwrap();
    assert_eq!(fetched[0].1.0[2], walvec_model::Cell::Value(walvec_model::Value::Null));
    stream.close().await.unwrap();
    source.drop_slot().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolled_back_changes_never_come() {
    let db = Db::new("rollback", "CREATE TABLE t (id int PRIMARY KEY);").await;
    let (_, _, mut stream) = db.follow(db.config(&["t"])).await;
    let end = db
        .run_to(
            "BEGIN; INSERT INTO t VALUES (1); ROLLBACK;
             BEGIN; INSERT INTO t VALUES (2); SAVEPOINT s; INSERT INTO t VALUES (3); ROLLBACK TO s; INSERT INTO t VALUES (4); COMMIT;",
        )
        .await;
    assert_eq!(shown(&changes_to(&mut stream, end).await), ["+ {id:2}", "+ {id:4}"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_carries_the_servers_time() {
    let db = Db::new("committime", "CREATE TABLE t (id int PRIMARY KEY);").await;
    let (_, _, mut stream) = db.follow(db.config(&["t"])).await;
    let before = std::time::SystemTime::now();
    let end = db.run_to("INSERT INTO t VALUES (1)").await;
    let at = crate::support::events_to(&mut stream, end).await.into_iter().find_map(|event| match event {
        StreamEvent::Commit { at, .. } => Some(at),
        StreamEvent::Begin { .. }
        | StreamEvent::Partition { .. }
        | StreamEvent::LookedUp(_)
        | StreamEvent::Change(_)
        | StreamEvent::Idle { .. } => None,
    });
    let distance = at.unwrap().duration_since(before).unwrap_or_else(|error| error.duration());
    assert!(distance < crate::support::PATIENCE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_may_not_be_read_are_copied_through_their_root() {
    let db = Db::new(
        "rootonly",
        "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY LIST (id);
         CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE t2 PARTITION OF t DEFAULT;
         INSERT INTO t VALUES (1), (2);
         CREATE ROLE rootonly LOGIN REPLICATION PASSWORD 'secret'; GRANT SELECT ON t TO rootonly;
         CREATE PUBLICATION rootonly FOR TABLE t WITH (publish_via_partition_root = true);",
    )
    .await;
    let mut config = db.config(&["t"]);
    config.url = db.url_as("rootonly", "secret").into();
    let source = db.source(config).await;
    let mut rows = shown(&copy(&source).await);
    rows.sort();
    assert_eq!(rows, ["+ {id:1}", "+ {id:2}"]);
    source.drop_slot().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_is_no_text_stops_the_copy_and_the_stream_by_its_own_name() {
    let cluster = crate::support::cluster().await;
    let admin = cluster.connect("postgres").await.unwrap();
    let create = "CREATE DATABASE noencoding ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0";
    admin.batch_execute(create).await.unwrap();
    let client = cluster.connect("noencoding").await.unwrap();
    client
        .batch_execute("SET client_encoding = 'SQL_ASCII'; CREATE TABLE t (id int PRIMARY KEY, v text)")
        .await
        .unwrap();
    let db = Db { name: "noencoding".to_owned(), url: cluster.url("noencoding"), client };
    let (source, _, mut stream) = db.follow(db.config(&["t"])).await;
    let findings = source.preflight().await.unwrap();
    assert!(findings.iter().any(|finding| finding.code == "E_ENCODING"), "{findings:?}");
    db.run("INSERT INTO t VALUES (1, convert_from('\\xff', 'SQL_ASCII'))").await;
    let error = loop {
        if let Err(error) = stream.next().await {
            break error;
        }
    };
    assert_eq!(error.code(), "E_ENCODING", "{error}");
    assert!(stream.close().await.is_err());

    let mut config = db.config(&["t"]);
    config.slot = "noencoding_again".to_owned();
    let again = db.source(config).await;
    let mut snapshot = again.begin_snapshot().await.unwrap();
    let error = snapshot.next().await.unwrap_err();
    assert_eq!(error.code(), "E_ENCODING", "{error}");
    assert!(error.to_string().contains("public.t"), "{error}");
}
