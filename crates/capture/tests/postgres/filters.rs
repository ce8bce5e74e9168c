//! A row filter that PostgreSQL does not accept is reported before anything is created, with its configuration key.

use walvec_capture::{Finding, Severity, Source, SourceConfig};

use crate::preflight::errors;
use crate::support::{Db, start_cluster_of};

const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN positive AS int CHECK (value > 0);
    CREATE FUNCTION chosen(int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1 > 1';
    CREATE TABLE first (id int PRIMARY KEY);
    CREATE TABLE t (id int PRIMARY KEY, m mood, p positive, v varchar(5), x text, at timestamptz, price numeric, ok bool);
    ALTER TABLE t REPLICA IDENTITY FULL;";

/// Returns the settings for two tables, of which the second has a filter.
fn filtered(db: &Db, filter: &str) -> SourceConfig {
    let mut config = db.config(&["first", "t"]);
    config.tables[1].filter = Some(filter.to_owned());
    config
}

async fn findings(config: SourceConfig) -> Vec<Finding> {
    Source::connect(config).await.unwrap().preflight().await.unwrap()
}

async fn publications(db: &Db) -> usize {
    db.client.query("SELECT FROM pg_publication", &[]).await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_postgresql_refuses_is_named_with_its_key_and_a_way_out() {
    if Db::version().await < 15 {
        return;
    }
    let db = Db::new("f_refused", TABLES).await;
    for (filter, words, way_out) in [
        ("m = 'ok'", "User-defined types", "built-in type"),
        ("p > 1", "allowed", "`walvec search --filter"),
        ("v IN ('a', 'b')", "allowed", "a = 'x' OR a = 'y'"),
        ("at > now()", "mutable", "sets"),
        ("at > current_timestamp", "allowed", "`walvec search --filter"),
        ("id::text = '5'", "allowed", "without casts"),
        ("id IN (SELECT 1)", "allowed", "without casts and subqueries"),
        ("public.chosen(id)", "allowed", "`walvec search --filter"),
        ("ctid IS NOT NULL", "System columns", "`walvec search --filter"),
        ("nosuch = 1", "\"nosuch\" does not exist", "\"id\", \"m\", \"p\""),
        ("at > 'never'", "invalid input syntax", "after WHERE"),
        ("id", "boolean", "after WHERE"),
        ("id = ", "syntax error", "after WHERE"),
        ("true); DROP TABLE first; --", "syntax error", "after WHERE"),
    ] {
        let found = findings(filtered(&db, filter)).await;
        assert_eq!(errors(&found), ["E_CONFIG"], "{filter}: {found:#?}");
        let finding = found.iter().find(|finding| finding.severity == Severity::Error).unwrap();
        assert!(finding.message.contains("`collections[1].where`"), "{filter}: {}", finding.message);
        assert!(finding.message.contains(words), "{filter}: {}", finding.message);
        assert!(finding.remedy.to_string().contains(way_out), "{filter}: {}", finding.remedy);
        // As at a start: the existing publication is checked first.
        db.run(
            "CREATE PUBLICATION f_refused FOR TABLE first, t WHERE (id > 1) WITH (publish_via_partition_root = true)",
        )
        .await;
        assert_eq!(errors(&findings(filtered(&db, filter)).await), ["E_CONFIG"], "{filter}");
        let source = Source::connect(filtered(&db, filter)).await.unwrap();
        assert_ne!(source.publication().await.map_err(|error| error.code().to_owned()), Err("E_STATEMENT".to_owned()));
        db.run("DROP PUBLICATION f_refused").await;
    }
    assert_eq!(publications(&db).await, 0, "what was tried is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_fits_is_published_and_found_again_as_what_it_means() {
    if Db::version().await < 15 {
        return;
    }
    let db = Db::new("f_fits", TABLES).await;
    let filters = [
        "id >= 10 and v <> 'x'",
        "v = 'a' OR v = 'b'",
        "x IN ('a', 'b') AND id NOT IN (1, 2)",
        "price > 1 AND price BETWEEN 2 AND 30.5",
        "at >= '2020-01-01'",
        "ok AND NOT (x IS NULL) -- a comment",
        "x ~ '^a' AND lower(x) <> 'abc'",
        "CASE WHEN id > 3 THEN ok ELSE x = 'q' END",
        "coalesce(x, 'none') <> 'none' AND length(x) > 3",
    ];
    for filter in filters {
        let config = filtered(&db, filter);
        assert_eq!(errors(&findings(config.clone()).await), Vec::<&str>::new(), "{filter}");
        let source = Source::connect(config).await.unwrap();
        source.ensure_publication().await.unwrap_or_else(|error| panic!("{filter}: {error}"));
        source.ensure_publication().await.unwrap_or_else(|error| panic!("{filter} again: {error}"));
        let other = Source::connect(filtered(&db, "id = 77")).await.unwrap();
        assert_eq!(other.ensure_publication().await.unwrap_err().code(), "E_PUBLICATION", "{filter}");
        source.drop_publication().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_not_publish_is_told_what_could_not_be_tried() {
    if Db::version().await < 15 {
        return;
    }
    let db = Db::new("f_rights", TABLES).await;
    db.run("CREATE ROLE f_me LOGIN REPLICATION PASSWORD 'p'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO f_me")
        .await;
    let of = |filter: &str| SourceConfig { url: db.url_as("f_me", "p").into(), ..filtered(&db, filter) };
    let found = findings(of("at > now()")).await;
    let untried = found.iter().find(|finding| finding.message.contains("could not be tried")).unwrap();
    assert!(untried.message.contains("`collections[1].where`") && untried.severity == Severity::Warning, "{untried:?}");
    // What can be found without creating a publication is found nevertheless.
    for filter in ["m = 'ok'", "p > 1", "nosuch = 1"] {
        let found = findings(of(filter)).await;
        let refused = found.iter().find(|finding| finding.code == "E_CONFIG").unwrap();
        assert!(refused.message.contains("`collections[1].where`"), "{filter}: {refused:?}");
        assert_eq!(refused.severity, Severity::Error, "{filter}: {refused:?}");
    }
    // A role that may create objects in the database learns everything before it needs the table's owner.
    db.run("GRANT CREATE ON DATABASE f_rights TO f_me").await;
    for filter in ["at > now()", "v IN ('a', 'b')"] {
        let found = findings(of(filter)).await;
        assert!(
            found.iter().any(|finding| finding.code == "E_CONFIG" && finding.severity == Severity::Error),
            "{found:#?}"
        );
    }
    // Once the owner has created the publication, it is compared without any right to create one.
    db.run(
        "REVOKE CREATE ON DATABASE f_rights FROM f_me;
         CREATE PUBLICATION f_rights FOR TABLE ONLY first, ONLY t WHERE (v <> 'x') WITH (publish_via_partition_root = true)",
    )
    .await;
    assert_eq!(errors(&findings(of("(v<>'x')")).await), Vec::<&str>::new());
    assert_eq!(errors(&findings(of("v <> 'y'")).await), ["E_PUBLICATION"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_row_filters_is_named_with_the_key_that_needs_them() {
    let Some(cluster) = start_cluster_of("14").await else { return };
    let url = cluster.create_database("f_old").await.unwrap();
    cluster.connect("f_old").await.unwrap().batch_execute(TABLES).await.unwrap();
    let db = Db { name: "f_old".to_owned(), url, client: cluster.connect("f_old").await.unwrap() };
    for publication in ["", "CREATE PUBLICATION f_old FOR TABLE first, t WITH (publish_via_partition_root = true)"] {
        db.run(publication).await;
        let found = findings(filtered(&db, "id > 1")).await;
        assert_eq!(errors(&found), ["E_CONFIG"], "{found:#?}");
        let finding = found.iter().find(|finding| finding.severity == Severity::Error).unwrap();
        let told = format!("{} {}", finding.message, finding.remedy);
        for words in ["`collections[1].where`", "version 14", "PostgreSQL to 15", "`walvec search --filter"] {
            assert!(told.contains(words), "{words}: {told}");
        }
    }
    cluster.close().await.unwrap();
}
