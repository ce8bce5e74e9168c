//! Columns that do not reach walvec: hidden by grants, left out of a column list, or generated.

use walvec_capture::{Columns, Finding, PublicationState, Severity, Source, SourceConfig};

use crate::preflight::errors;
use crate::support::{Db, changes_to, copy, shown};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_grants_and_publication_hide_is_read_nowhere() {
    if Db::version().await < 15 {
        return;
    }
    let db = Db::new(
        "c_hidden",
        "CREATE ROLE c_me LOGIN REPLICATION PASSWORD 'p';
         CREATE TABLE users (id int PRIMARY KEY, email text, password_hash text, bio text);
         ALTER TABLE users ALTER bio SET STORAGE EXTERNAL;
         INSERT INTO users VALUES (1, 'a@b', 'secret-1', repeat('x', 5000)), (2, 'c@d', 'secret-2', 'short');
         GRANT SELECT (id, email, bio) ON users TO c_me;
         CREATE PUBLICATION c_hidden FOR TABLE users (id, email, bio) WITH (publish_via_partition_root = true)",
    )
    .await;
    let config = SourceConfig { url: db.url_as("c_me", "p").into(), ..db.config(&["users"]) };
    let source = Source::connect(config).await.unwrap();
    let found = source.preflight().await.unwrap();
    assert_eq!(errors(&found), Vec::<&str>::new(), "{found:#?}");
    // Without it, one statement reads the whole table, and the owner's ALTER TABLE waits until it ends.
    let in_one = |found: &[Finding]| found.iter().find(|finding| finding.message.contains("ctid")).cloned();
    let remedy = in_one(&found).map(|finding| finding.remedy.to_string());
    assert_eq!(remedy.as_deref(), Some("GRANT SELECT (ctid) ON \"public\".\"users\" TO \"c_me\";"));
    db.run("GRANT SELECT (ctid) ON users TO c_me").await;
    assert!(in_one(&source.preflight().await.unwrap()).is_none());
    let rows = copy(&source).await;
    let mut stream = source.open_stream().await.unwrap();
    let end = db
        .run_to(
            "UPDATE users SET email = 'e@f', password_hash = 'secret-3' WHERE id = 1;
             INSERT INTO users VALUES (3, 'g@h', 'secret-4', 'new'); DELETE FROM users WHERE id = 2",
        )
        .await;
    let changes = changes_to(&mut stream, end).await;
    assert_eq!((rows.len(), changes.len()), (2, 3));
    let key = changes[0].key().unwrap().clone();
    let fetched = source.fetch_rows(&rows[0].table, &[key]).await.unwrap();
    let all = format!("{} {fetched:?} {:?}", [shown(&rows), shown(&changes)].concat().join(" "), rows[0].table);
    assert!(all.contains("e@f") && !all.contains("secret") && !all.contains("password_hash"), "{all}");
    let withheld = source.withheld(&rows[0].table.name, "password_hash").await.unwrap().unwrap();
    assert!(withheld.reason.contains("list of columns"), "{withheld:?}");

    // A column that is published but may not be read is reported, and nothing else is requested.
    db.run("REVOKE SELECT (email) ON users FROM c_me").await;
    let found = source.preflight().await.unwrap();
    let missing = found.iter().find(|finding| finding.code == "E_RIGHTS").unwrap();
    assert_eq!(missing.remedy.to_string(), "GRANT SELECT (\"email\") ON \"public\".\"users\" TO \"c_me\";");
    stream.close().await.unwrap();
    source.drop_slot().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_columns_that_would_break_the_applications_writes_is_refused() {
    if Db::version().await < 15 {
        return;
    }
    let db = Db::new(
        "c_breaks",
        "CREATE TABLE t (id int PRIMARY KEY, code int NOT NULL UNIQUE, v text);
         CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY LIST (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 PARTITION OF p DEFAULT;
         INSERT INTO t VALUES (1, 1, 'a'); INSERT INTO p VALUES (1, 'a'), (2, 'b');",
    )
    .await;
    for (identity, table, update) in [
        ("ALTER TABLE t REPLICA IDENTITY FULL", "t", "UPDATE t SET v = 'b'"),
        ("ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key", "t", "UPDATE t SET v = 'c'"),
        ("ALTER TABLE p2 REPLICA IDENTITY FULL", "p", "UPDATE p SET v = 'c' WHERE id = 2"),
    ] {
        db.run(&format!(
            "{identity}; CREATE PUBLICATION c_breaks FOR TABLE {table} (id, v) WITH (publish_via_partition_root = true)"
        ))
        .await;
        let source = Source::connect(db.config(&[table])).await.unwrap();
        let found = source.preflight().await.unwrap();
        let finding =
            found.iter().find(|finding| finding.code == "E_REPLICA_IDENTITY" && finding.severity == Severity::Error);
        let finding = finding.unwrap_or_else(|| panic!("{identity}: {found:#?}"));
        assert!(db.client.batch_execute(update).await.is_err(), "{identity}: PostgreSQL refuses the statement");
        db.run(&finding.remedy.to_string()).await;
        db.run(update).await;
        let left = source.preflight().await.unwrap();
        assert_eq!(errors(&left), Vec::<&str>::new(), "{identity}: {left:#?}");
        db.run("DROP PUBLICATION c_breaks").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn walvecs_own_list_of_columns_always_holds_the_replica_identity() {
    if Db::version().await < 15 {
        return;
    }
    let db = Db::new(
        "c_own",
        "CREATE TABLE t (id int PRIMARY KEY, code int NOT NULL, v text, unused text, UNIQUE (id, code));
         INSERT INTO t VALUES (1, 1, 'a', 'x');",
    )
    .await;
    let mut config = db.config(&["t"]);
    // A template may contain words that are not columns.
    config.tables[0].columns = Columns::Listed(["v".to_owned(), "word".to_owned()].into());
    let source = Source::connect(config).await.unwrap();
    source.ensure_publication().await.unwrap();
    let sent = "SELECT array_to_string(attnames, ' ') FROM pg_publication_tables WHERE pubname = 'c_own'";
    for (identity, columns, update) in [
        ("", "id v", "UPDATE t SET v = 'b', unused = 'y'"),
        ("ALTER TABLE t REPLICA IDENTITY USING INDEX t_id_code_key", "id code v", "UPDATE t SET v = 'c'"),
        ("ALTER TABLE t REPLICA IDENTITY FULL", "id code v unused", "UPDATE t SET v = 'd'"),
        ("ALTER TABLE t REPLICA IDENTITY DEFAULT", "id v", "UPDATE t SET v = 'e'"),
    ] {
        db.run(identity).await;
        let is_refused = db.client.batch_execute(update).await.is_err();
        assert_eq!(source.widen_publication().await.unwrap(), is_refused, "{identity}");
        source.mend_publication().await.unwrap();
        db.run(update).await;
        let found: String = db.client.query_one(sent, &[]).await.unwrap().get(0);
        assert_eq!(found, columns, "{identity}");
        assert!(matches!(source.publication().await.unwrap(), PublicationState::Matches { .. }), "{identity}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generated_column_is_read_where_the_server_sends_it_and_explained_where_not() {
    let version = Db::version().await;
    let db = Db::new(
        "c_generated",
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text GENERATED ALWAYS AS (upper(a)) STORED);
         INSERT INTO t (id, a) VALUES (1, 'one')",
    )
    .await;
    let source = Source::connect(db.config(&["t"])).await.unwrap();
    let name = db.config(&["t"]).tables[0].name.clone();
    if version < 18 {
        let withheld = source.withheld(&name, "b").await.unwrap().unwrap();
        assert!(withheld.reason.contains("upper(a)") && withheld.reason.contains(&version.to_string()), "{withheld:?}");
        assert_eq!(source.withheld(&name, "a").await.unwrap(), None);
        assert_eq!(source.withheld(&name, "nosuch").await.unwrap(), None);
        return;
    }
    assert_eq!(source.withheld(&name, "b").await.unwrap(), None, "before the publication exists");
    let before: Vec<_> = source.tables().await.unwrap()[0].columns.clone();
    source.ensure_publication().await.unwrap();
    assert_eq!(source.tables().await.unwrap()[0].columns, before);
    assert_eq!(shown(&copy(&source).await), ["+ {id:1 a:\"one\" b:\"ONE\"}"]);
    let mut stream = source.open_stream().await.unwrap();
    let end = db.run_to("UPDATE t SET a = 'two'").await;
    assert_eq!(shown(&changes_to(&mut stream, end).await), ["~ {id:1 a:\"two\" b:\"TWO\"}"]);
    stream.close().await.unwrap();
    source.drop_slot().await.unwrap();

    // A publication that another role has made, as before 18.
    source.drop_publication().await.unwrap();
    db.run("CREATE PUBLICATION c_generated FOR TABLE t WITH (publish_via_partition_root = true)").await;
    let withheld = source.withheld(&name, "b").await.unwrap().unwrap();
    assert!(withheld.reason.contains("upper(a)"), "{withheld:?}");
    db.run("ALTER TABLE t REPLICA IDENTITY FULL").await;
    let found = source.preflight().await.unwrap();
    let breaks = found.iter().find(|finding| finding.code == "E_REPLICA_IDENTITY").unwrap();
    assert!(db.client.batch_execute("UPDATE t SET a = 'three'").await.is_err(), "{breaks:?}");
    db.run(&withheld.remedy).await;
    db.run("UPDATE t SET a = 'three'").await;
    assert_eq!(source.withheld(&name, "b").await.unwrap(), None);

    db.run("DROP PUBLICATION c_generated; ALTER TABLE t ADD COLUMN c text GENERATED ALWAYS AS (lower(a)) VIRTUAL")
        .await;
    let withheld = source.withheld(&name, "c").await.unwrap().unwrap();
    assert!(withheld.reason.contains("lower(a)") && withheld.remedy.contains("STORED"), "{withheld:?}");
    let found = source.preflight().await.unwrap();
    assert!(errors(&found).contains(&"E_REPLICA_IDENTITY"), "FULL with a virtual column: {found:#?}");
    db.run(withheld.remedy.split_once(": ").unwrap().1).await;
    assert_eq!(source.withheld(&name, "c").await.unwrap(), None);
    assert_eq!(errors(&source.preflight().await.unwrap()), Vec::<&str>::new());
}
