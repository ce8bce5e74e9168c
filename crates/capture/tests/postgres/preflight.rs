//! What would stop the pipeline is found before it starts.

use walvec_capture::{Finding, PublicationDrop, PublicationState, Severity, Source, SourceConfig};

use crate::support::{Db, spec, start_cluster};

async fn findings(config: SourceConfig) -> Vec<Finding> {
    Source::connect(config).await.unwrap().preflight().await.unwrap()
}

/// Returns the codes of everything that stops the pipeline.
pub(crate) fn errors(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().filter(|finding| finding.severity == Severity::Error).map(|finding| finding.code).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_table_has_no_errors_and_every_finding_has_a_remedy() {
    let db = Db::new("good", "CREATE TABLE t (id int PRIMARY KEY);").await;
    let found = findings(db.config(&["t"])).await;
    assert_eq!(errors(&found), Vec::<&str>::new(), "{found:?}");
    assert!(found.iter().all(|finding| !finding.remedy.to_string().is_empty()));
    // The cluster does not limit how much WAL a slot may keep.
    let unlimited = found.iter().find(|finding| finding.message.contains("max_slot_wal_keep_size"));
    assert_eq!(unlimited.map(|finding| finding.code), Some("E_WAL_UNLIMITED"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_unfit_table_is_named_with_its_reason() {
    let db = Db::new(
        "unfit",
        "CREATE TABLE nokey (id int);
         CREATE TABLE fullonly (id int); ALTER TABLE fullonly REPLICA IDENTITY FULL;
         CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
         CREATE TABLE other (id int PRIMARY KEY, code int NOT NULL UNIQUE);
         ALTER TABLE other REPLICA IDENTITY USING INDEX other_code_key;
         CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE);
         CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
         CREATE VIEW v AS SELECT 1 AS id;
         CREATE TABLE root (id int PRIMARY KEY) PARTITION BY LIST (id);
         CREATE TABLE leaf PARTITION OF root DEFAULT;",
    )
    .await;
    for (table, code, reason) in [
        ("absent", "E_TABLE", "does not exist"),
        ("nokey", "E_NO_KEY", "no primary key"),
        ("fullonly", "E_NO_KEY", "REPLICA IDENTITY FULL"),
        ("nothing", "E_NO_KEY", "NOTHING"),
        ("other", "E_NO_KEY", "key column \"id\""),
        ("deferred", "E_NO_KEY", "key column \"id\""),
        ("unlogged", "E_TABLE", "unlogged"),
        ("v", "E_TABLE", "view"),
        ("leaf", "E_TABLE", "public.root"),
    ] {
        let found = findings(db.config(&[table])).await;
        let finding = found.iter().find(|finding| finding.severity == Severity::Error);
        let finding = finding.unwrap_or_else(|| panic!("nothing about {table}"));
        assert_eq!(finding.code, code, "{table}: {finding:?}");
        assert!(finding.message.contains(reason) && finding.message.contains(table), "{table}: {finding:?}");
        assert!(!finding.remedy.to_string().is_empty());
    }
    let source = Source::connect(db.config(&["absent"])).await.unwrap();
    assert_eq!(source.tables().await.unwrap_err().code(), "E_TABLE");
    let source = Source::connect(db.config(&["nokey"])).await.unwrap();
    assert_eq!(source.tables().await.unwrap_err().code(), "E_NO_KEY");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_with_other_content_is_refused_with_the_sql_that_repairs_it() {
    let db = Db::new(
        "pubdiff",
        "CREATE TABLE t (id int PRIMARY KEY, v varchar(10)); CREATE TABLE extra (id int PRIMARY KEY);
         CREATE TABLE p (id int PRIMARY KEY) PARTITION BY LIST (id);",
    )
    .await;
    let source = Source::connect(db.config(&["t", "p"])).await.unwrap();
    assert_eq!(source.publication().await.unwrap(), PublicationState::Missing);
    for (content, words) in [
        ("FOR TABLE t, extra, p WITH (publish_via_partition_root = true)", "also publishes public.extra"),
        ("FOR TABLE t WITH (publish_via_partition_root = true)", "public.p is not in it"),
        ("FOR TABLE t, p WITH (publish = 'insert', publish_via_partition_root = true)", "leaves out"),
        ("FOR TABLE t, p", "publish_via_partition_root"),
    ] {
        db.run(&format!("CREATE PUBLICATION pubdiff {content}")).await;
        let error = source.ensure_publication().await.unwrap_err();
        assert_eq!(error.code(), "E_PUBLICATION", "{content}");
        assert!(error.to_string().contains(words), "{content}: {error}");
        db.run(&error.remedy().unwrap()).await;
        source.ensure_publication().await.unwrap();
        assert_eq!(source.drop_publication().await.unwrap(), PublicationDrop::NotOurs);
        db.run("DROP PUBLICATION pubdiff").await;
    }
    source.ensure_publication().await.unwrap();
    source.ensure_publication().await.unwrap();
    assert!(matches!(source.publication().await.unwrap(), PublicationState::Matches { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_filters_are_compared_by_what_they_mean() {
    if Db::version().await < 15 {
        return;
    }
    let db = Db::new("filterdiff", "CREATE TABLE t (id int PRIMARY KEY, v varchar(10));").await;
    let with = |filter: &str| {
        let mut config = db.config(&["t"]);
        config.tables[0].filter = Some(filter.to_owned());
        config
    };
    let source = db.source(with("id >= 10 and v <> 'x'")).await;
    source.ensure_publication().await.unwrap();
    let same = Source::connect(with("((id>=10)) AND v<>'x'")).await.unwrap();
    same.ensure_publication().await.unwrap();
    let other = Source::connect(with("id >= 11 AND v <> 'x'")).await.unwrap();
    assert_eq!(other.ensure_publication().await.unwrap_err().code(), "E_PUBLICATION");
    let none = Source::connect(db.config(&["t"])).await.unwrap();
    assert_eq!(none.ensure_publication().await.unwrap_err().code(), "E_PUBLICATION");
    assert_eq!(db.client.query("SELECT FROM pg_publication", &[]).await.unwrap().len(), 1, "the probe is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_logical_wal_is_found() {
    let own = start_cluster(&[("wal_level", "replica")]).await;
    let url = own.create_database("replica").await.unwrap();
    own.connect("replica").await.unwrap().batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let config = SourceConfig {
        url: url.into(),
        slot: "s".to_owned(),
        publication: "p".to_owned(),
        tables: vec![spec("t")],
        lookups: Vec::new(),
        copy_workers: 1,
    };
    let source = Source::connect(config).await.unwrap();
    let found = source.preflight().await.unwrap();
    assert_eq!(errors(&found), ["E_WAL_LEVEL"], "{found:?}");
    source.ensure_publication().await.unwrap();
    assert_eq!(source.begin_snapshot().await.err().unwrap().code(), "E_WAL_LEVEL");
    own.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_publication_that_was_made_here_and_that_no_other_slot_may_need_is_dropped() {
    let db = Db::new("pubdrop", "CREATE TABLE t (id int PRIMARY KEY);").await;
    let (source, _, stream) = db.follow(db.config(&["t"])).await;
    stream.close().await.unwrap();
    db.run("SELECT pg_create_logical_replication_slot('pubdrop_other', 'pgoutput')").await;
    let needed = PublicationDrop::Needed { slots: vec!["pubdrop_other".to_owned()] };
    assert_eq!(source.drop_publication().await.unwrap(), needed);
    db.run("SELECT pg_drop_replication_slot('pubdrop_other'); COMMENT ON PUBLICATION pubdrop IS 'ours'").await;
    assert_eq!(source.drop_publication().await.unwrap(), PublicationDrop::NotOurs);
    db.run("DROP PUBLICATION pubdrop").await;
    assert_eq!(source.drop_publication().await.unwrap(), PublicationDrop::Missing);
    source.ensure_publication().await.unwrap();
    assert_eq!(source.drop_publication().await.unwrap(), PublicationDrop::Dropped);
    source.drop_slot().await.unwrap();
}
