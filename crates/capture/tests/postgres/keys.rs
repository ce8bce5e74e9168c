//! Keys: what identifies a row, and what happens when it changes.

use serde_json::json;
use walvec_model::RowKey;

use crate::support::{Db, changes_to, shown};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_key_comes_with_the_old_one() {
    let db =
        Db::new("keychange", "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b');")
            .await;
    let (_, _, mut stream) = db.follow(db.config(&["t"])).await;
    let end = db
        .run_to(
            "UPDATE t SET v = 'c' WHERE id = 1;
             UPDATE t SET id = 7 WHERE id = 1;
             BEGIN; UPDATE t SET id = -1 WHERE id = 7; UPDATE t SET id = 7 WHERE id = 2; UPDATE t SET id = 2 WHERE id = -1; COMMIT;
             DELETE FROM t WHERE id = 7;",
        )
        .await;
    assert_eq!(
        shown(&changes_to(&mut stream, end).await),
        [
            r#"~ {id:1 v:"c"}"#,
            r#"~ 1 -> {id:7 v:"c"}"#,
            r#"~ 7 -> {id:-1 v:"c"}"#,
            r#"~ 2 -> {id:7 v:"b"}"#,
            r#"~ -1 -> {id:2 v:"c"}"#,
            "- 7",
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_every_shape_work_in_copy_stream_and_fetch() {
    let db = Db::new(
        "keyshapes",
        "CREATE TABLE composite (b text, n int, a int, PRIMARY KEY (a, b));
         CREATE TABLE ids (id uuid PRIMARY KEY, n int);
         CREATE TABLE words (\"the word\" text PRIMARY KEY, n int);
         CREATE TABLE days (day date, at timestamptz, ok bool, f float8, n int, PRIMARY KEY (day, at, ok, f));
         CREATE TABLE lists (l int[] PRIMARY KEY, n int);
         INSERT INTO composite VALUES ('x', 0, -5);
         INSERT INTO ids VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 0);
         INSERT INTO words VALUES (E'it''s \\\\ \"x\"\\t\\n書', 0), ('', 0), ('NULL', 0);
         INSERT INTO days VALUES ('0044-03-15 BC', 'infinity', true, 0.1, 0);
         INSERT INTO lists VALUES ('{1,NULL,3}', 0), ('{}', 0);",
    )
    .await;
    let tables = ["composite", "ids", "words", "days", "lists"];
    let (source, rows, mut stream) = db.follow(db.config(&tables)).await;
    assert_eq!(rows.len(), 8);
    let update = tables.iter().map(|table| format!("UPDATE {table} SET n = 1;")).collect::<String>();
    let end = db.run_to(&update).await;
    let updates = changes_to(&mut stream, end).await;
    assert_eq!(updates.len(), 8);
    for row in &rows {
        let key = row.key().unwrap();
        let update = updates.iter().find(|update| update.table == row.table && update.key().unwrap() == key);
        let update = update.unwrap_or_else(|| panic!("no update of {} {key}", row.table.name));
        let fetched = source.fetch_rows(&row.table, std::slice::from_ref(&key)).await.unwrap();
        let [(fetched_key, fetched_row)] = fetched.as_slice() else { panic!("{} {key}: {fetched:?}", row.table.name) };
        assert_eq!(*fetched_key, key);
        assert!(matches!(&update.op, walvec_model::Op::Update { old_key: None, new } if new == fetched_row));
    }
    let composite = rows.iter().find(|row| row.table.name.name == "composite").unwrap();
    assert_eq!(composite.key().unwrap().to_string(), "(-5, x)", "in the order of the key, not of the table");
    let end = db.run_to(&tables.map(|table| format!("DELETE FROM {table};")).concat()).await;
    let deletes = changes_to(&mut stream, end).await;
    let keys = |changes: &[walvec_model::Change]| {
        let mut keys: Vec<_> =
            changes.iter().map(|c| (c.table.name.to_string(), c.key().unwrap().to_string())).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(&deletes), keys(&rows));
    let gone = source.fetch_rows(&composite.table, &[composite.key().unwrap()]).await.unwrap();
    assert_eq!(gone, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_read_again_by_keys_of_types_that_extensions_bring() {
    let db = Db::new(
        "extensionkeys",
        "CREATE SCHEMA ext; CREATE EXTENSION ltree SCHEMA ext; CREATE EXTENSION isn SCHEMA ext;
         CREATE EXTENSION hstore; CREATE EXTENSION citext;
         CREATE DOMAIN branch AS ext.ltree; CREATE DOMAIN deeper AS branch;
         CREATE TABLE trees (p ext.ltree PRIMARY KEY, n int);
         CREATE TABLE domains (p deeper, i int, PRIMARY KEY (i, p));
         CREATE TABLE books (isbn ext.isbn13 PRIMARY KEY);
         CREATE TABLE maps (h hstore PRIMARY KEY);
         CREATE TABLE names (c citext PRIMARY KEY);
         INSERT INTO trees VALUES ('a.b', 1), ('a.c', 2);
         INSERT INTO domains VALUES ('a.b', 1), ('a.b', 2);
         INSERT INTO books VALUES ('978-0-393-04002-9'), ('978-0-11-000222-4');
         INSERT INTO maps VALUES ('a=>1,b=>\"it''s\"'), ('');
         INSERT INTO names VALUES ('Emma'), ('it''s');",
    )
    .await;
    let (source, rows, _) = db.follow(db.config(&["trees", "domains", "books", "maps", "names"])).await;
    assert_eq!(rows.len(), 10);
    for row in &rows {
        let key = row.key().unwrap();
        let fetched = source.fetch_rows(&row.table, std::slice::from_ref(&key)).await.unwrap();
        assert_eq!(fetched.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), [key]);
    }
    let trees: Vec<_> = rows.iter().filter(|row| row.table.name.name == "trees").collect();
    let keys: Vec<_> = trees.iter().filter_map(|row| row.key()).collect();
    assert_eq!(source.fetch_rows(&trees[0].table, &keys).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_with_quotes_dots_and_other_scripts_are_just_names() {
    let db = Db::new(
        "weird \"name\".x",
        "CREATE SCHEMA \"s.c\"\"h\"; CREATE TABLE \"s.c\"\"h\".\"Bücher 書.\" (\"ID \"\"x\" int PRIMARY KEY, \"select\" text);
         INSERT INTO \"s.c\"\"h\".\"Bücher 書.\" VALUES (1, 'a');",
    )
    .await;
    let mut config = db.config(&[]);
    config.slot = "weird_name".to_owned();
    config.tables = vec![walvec_capture::TableSpec {
        name: walvec_model::TableName::new("s.c\"h", "Bücher 書."),
        filter: None,
        columns: walvec_capture::Columns::All,
    }];
    let (source, rows, mut stream) = db.follow(config).await;
    assert_eq!(shown(&rows), [r#"+ {ID "x:1 select:"a"}"#]);
    let end = db.run_to("UPDATE \"s.c\"\"h\".\"Bücher 書.\" SET \"select\" = 'b'").await;
    assert_eq!(shown(&changes_to(&mut stream, end).await), [r#"~ {ID "x:1 select:"b"}"#]);
    let fetched = source.fetch_rows(&rows[0].table, &[rows[0].key().unwrap()]).await.unwrap();
    assert_eq!(fetched.len(), 1);
    stream.close().await.unwrap();
    source.drop_slot().await.unwrap();
    source.drop_publication().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_identity_full_and_using_index_carry_the_key() {
    let db = Db::new(
        "identity",
        "CREATE TABLE f (id int PRIMARY KEY, v text, big text); ALTER TABLE f ALTER big SET STORAGE EXTERNAL;
         ALTER TABLE f REPLICA IDENTITY FULL;
         CREATE TABLE i (a int NOT NULL, b text NOT NULL, v text);
         CREATE UNIQUE INDEX i_key ON i (b, a); ALTER TABLE i REPLICA IDENTITY USING INDEX i_key;
         CREATE TABLE twice (id int PRIMARY KEY, code text NOT NULL, v text);
         CREATE UNIQUE INDEX twice_key ON twice (id, code); ALTER TABLE twice REPLICA IDENTITY USING INDEX twice_key;
         INSERT INTO f VALUES (1, 'a', repeat('x', 10000));
         INSERT INTO i VALUES (1, 'k', 'a');
         INSERT INTO twice VALUES (1, 'c', 'a');",
    )
    .await;
    let (_, _, mut stream) = db.follow(db.config(&["f", "i", "twice"])).await;
    let end = db
        .run_to(
            "UPDATE f SET v = 'b', big = big; UPDATE f SET v = 'c'; UPDATE f SET id = 2; DELETE FROM f;
             UPDATE i SET v = 'b'; UPDATE i SET a = 2; DELETE FROM i;
             UPDATE twice SET code = 'd'; UPDATE twice SET id = 2; DELETE FROM twice;",
        )
        .await;
    let changes = shown(&changes_to(&mut stream, end).await);
    let big = "x".repeat(10_000);
    assert_eq!(
        changes,
        [
            format!(r#"~ {{id:1 v:"b" big:"{big}"}}"#),
            format!(r#"~ {{id:1 v:"c" big:"{big}"}}"#),
            format!(r#"~ 1 -> {{id:2 v:"c" big:"{big}"}}"#),
            "- 2".to_owned(),
            r#"~ {a:1 b:"k" v:"b"}"#.to_owned(),
            r#"~ (k, 1) -> {a:2 b:"k" v:"b"}"#.to_owned(),
            "- (k, 2)".to_owned(),
            r#"~ {id:1 code:"d" v:"a"}"#.to_owned(),
            r#"~ 1 -> {id:2 code:"d" v:"a"}"#.to_owned(),
            "- 2".to_owned(),
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_that_loses_the_key_stops_the_stream_and_names_the_table() {
    let db = Db::new(
        "lostkey",
        "CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL UNIQUE); INSERT INTO t VALUES (1, 'a');",
    )
    .await;
    let (_, _, mut stream) = db.follow(db.config(&["t"])).await;
    db.run("ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key; DELETE FROM t;").await;
    let error = loop {
        match stream.next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), "E_ALTERED");
    assert!(error.to_string().contains("public.t"), "{error}");
    assert_eq!(stream.next().await.unwrap_err().code(), "E_CLOSED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_read_again_is_that_of_its_own_table_and_not_of_one_that_inherits() {
    let db = Db::new(
        "inherits",
        "CREATE TABLE p (id int PRIMARY KEY, name text); CREATE TABLE c (PRIMARY KEY (id)) INHERITS (p);
         INSERT INTO p VALUES (1, 'own'); INSERT INTO c VALUES (1, 'of the child'), (2, 'of the child');",
    )
    .await;
    let (source, rows, stream) = db.follow(db.config(&["p"])).await;
    let keys = [1, 2].map(|id| RowKey::new(vec![json!(id)]));
    let fetched = source.fetch_rows(&rows[0].table, &keys).await.unwrap();
    assert_eq!(fetched.len(), 1);
    assert_eq!(fetched[0].1.0[1].value(), Some(&json!("own")));
    stream.close().await.unwrap();
    source.drop_slot().await.unwrap();
}
