//! Publications that walvec did not make are read if possible, and never altered.

use walvec_capture::{PublicationState, Source};

use crate::preflight::errors;
use crate::support::{Db, changes_to, copy, shown};

const TABLES: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE extra (id int PRIMARY KEY);
    INSERT INTO t VALUES (1, 'one');";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_of_all_tables_is_read_as_it_is_and_other_tables_are_passed_over() {
    let mut kinds = vec!["FOR ALL TABLES"];
    if Db::version().await >= 15 {
        kinds.push("FOR TABLES IN SCHEMA public");
    }
    for (number, kind) in kinds.into_iter().enumerate() {
        let db = Db::new(&format!("p_all{number}"), TABLES).await;
        db.run(&format!("CREATE PUBLICATION p_all{number} {kind} WITH (publish_via_partition_root = true)")).await;
        let source = Source::connect(db.config(&["t"])).await.unwrap();
        let found = source.preflight().await.unwrap();
        assert_eq!(errors(&found), Vec::<&str>::new(), "{kind}: {found:#?}");
        source.ensure_publication().await.unwrap();
        assert_eq!(shown(&copy(&source).await), ["+ {id:1 v:\"one\"}"], "{kind}");
        let before = source.publication_identity().await.unwrap();
        let mut stream = source.open_stream().await.unwrap();
        db.run("INSERT INTO extra VALUES (7); CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later VALUES (8)")
            .await;
        let end = db.run_to("INSERT INTO t VALUES (2, 'two'); TRUNCATE extra; INSERT INTO t VALUES (3, 'three')").await;
        let changes = changes_to(&mut stream, end).await;
        assert_eq!(shown(&changes), ["+ {id:2 v:\"two\"}", "+ {id:3 v:\"three\"}"], "{kind}");
        assert_eq!(source.publication_identity().await.unwrap(), before, "{kind}: a new table changes nothing");
        stream.close().await.unwrap();
        source.drop_slot().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_was_made_for_something_else_is_not_to_be_dropped() {
    let mut cases = vec![
        ("FOR ALL TABLES WITH (publish = 'insert', publish_via_partition_root = true)", "leaves out", None),
        ("FOR ALL TABLES", "publish_via_partition_root", None),
    ];
    if Db::version().await >= 15 {
        cases.push(("FOR ALL TABLES WITH (publish_via_partition_root = true)", "does not filter", Some("id > 1")));
        cases.push(("FOR TABLES IN SCHEMA other WITH (publish_via_partition_root = true)", "is not in it", None));
    }
    let db = Db::new(
        "p_theirs",
        &format!("{TABLES} CREATE SCHEMA other; CREATE TABLE p (id int PRIMARY KEY) PARTITION BY LIST (id);"),
    )
    .await;
    for (content, words, filter) in cases {
        db.run(&format!("CREATE PUBLICATION p_theirs {content}")).await;
        let mut config = db.config(&["t", "p"]);
        config.tables[0].filter = filter.map(str::to_owned);
        let source = Source::connect(config).await.unwrap();
        let found = source.preflight().await.unwrap();
        assert_eq!(errors(&found), ["E_PUBLICATION"], "{content}: {found:#?}");
        let finding = found.iter().find(|finding| finding.code == "E_PUBLICATION").unwrap();
        let remedy = finding.remedy.to_string();
        assert!(finding.message.contains(words), "{content}: {}", finding.message);
        assert!(remedy.contains("`source.publication` be another name"), "{content}: {remedy}");
        assert!(!remedy.contains("DROP") && !remedy.contains("ALTER"), "{content}: {remedy}");
        assert_eq!(source.ensure_publication().await.unwrap_err().code(), "E_PUBLICATION");
        db.run("DROP PUBLICATION p_theirs").await;
    }
    assert_eq!(
        Source::connect(db.config(&["t"])).await.unwrap().publication().await.unwrap(),
        PublicationState::Missing
    );
}
