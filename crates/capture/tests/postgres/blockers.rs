//! Transactions that keep PostgreSQL from creating a slot are reported by name, with the statement that ends them.

use std::sync::Arc;
use std::time::Duration;

use walvec_capture::{Blocker, Holder, Selection, Severity, Source, SourceConfig};
use walvec_model::TableName;

use crate::support::{PATIENCE, copy, spec, start_cluster};

/// Waits until the creation of a slot is seen to wait for a blocker that `is_it` expects.
async fn waiting_for(source: &Source, is_it: impl Fn(&Blocker) -> bool) -> Vec<Blocker> {
    let look = async {
        loop {
            let blockers = source.waiting_for();
            if blockers.iter().any(&is_it) {
                return blockers;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("what is waited for")
}

fn table_t(url: String) -> SourceConfig {
    SourceConfig {
        url: url.into(),
        slot: "b".to_owned(),
        publication: "b".to_owned(),
        tables: vec![spec("t")],
        lookups: Vec::new(),
        copy_workers: 1,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_transaction_is_told_with_the_statement_that_ends_it() {
    let cluster = start_cluster(&[("max_prepared_transactions", "5")]).await;
    let url = cluster.create_database("b_here").await.unwrap();
    cluster.create_database("b_there").await.unwrap();
    let (here, there) = (cluster.connect("b_here").await.unwrap(), cluster.connect("b_there").await.unwrap());
    here.batch_execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int); INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    there
        .batch_execute("CREATE TABLE u (id int); CREATE ROLE coordinator; GRANT ALL ON u TO coordinator")
        .await
        .unwrap();
    there
        .batch_execute(
            "SET ROLE coordinator; BEGIN; INSERT INTO u VALUES (1); PREPARE TRANSACTION 'it''s gone'; RESET ROLE",
        )
        .await
        .unwrap();
    here.batch_execute("SET application_name = 'a shell'; BEGIN; INSERT INTO u VALUES (2)").await.unwrap();
    let config = table_t(url);
    let source = Arc::new(Source::connect(config).await.unwrap());
    source.ensure_publication().await.unwrap();
    let copying = tokio::spawn({
        let source = Arc::clone(&source);
        async move { copy(&source).await.len() }
    });
    let both = |blockers: &[Blocker]| {
        let sessions = blockers.iter().filter(|blocker| matches!(blocker.held_by, Holder::Session { .. })).count();
        (sessions, blockers.len())
    };
    let is_prepared = |blocker: &Blocker| matches!(blocker.held_by, Holder::Prepared { .. });
    let blockers = waiting_for(&source, |blocker| !is_prepared(blocker)).await;
    assert_eq!(both(&blockers), (1, 2), "{blockers:#?}");
    let told = blockers.iter().map(|blocker| format!("{blocker}: {}", blocker.remedy())).collect::<Vec<_>>().join("\n");
    for words in [
        "'it''s gone' of role coordinator in database b_there",
        "ROLLBACK PREPARED 'it''s gone';",
        "a shell",
        "INSERT INTO u VALUES (2)",
        "pg_terminate_backend(",
    ] {
        assert!(told.contains(words), "{words}\n{told}");
    }
    here.batch_execute("ROLLBACK").await.unwrap();
    there.batch_execute("ROLLBACK PREPARED 'it''s gone'").await.unwrap();
    assert_eq!(copying.await.unwrap(), 1);
    assert_eq!(source.waiting_for(), []);

    // Reading rows again needs a slot, too.
    there.batch_execute("BEGIN; INSERT INTO u VALUES (1); PREPARE TRANSACTION 'again'").await.unwrap();
    let reading = tokio::spawn({
        let source = Arc::clone(&source);
        let table = TableName::new("public", "t");
        async move { source.begin_reread(&table, &Selection::Where(None)).await.map(drop) }
    });
    let blockers = waiting_for(&source, is_prepared).await;
    assert!(blockers[0].remedy().ends_with("ROLLBACK PREPARED 'again';"), "{blockers:?}");
    there.batch_execute("ROLLBACK PREPARED 'again'").await.unwrap();
    reading.await.unwrap().unwrap();
    source.drop_slot().await.unwrap();
    cluster.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_nothing_is_told_nothing() {
    let cluster = start_cluster(&[]).await;
    let url = cluster.create_database("b_none").await.unwrap();
    let sql = cluster.connect("b_none").await.unwrap();
    sql.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let config = table_t(url);
    let source = Source::connect(config).await.unwrap();
    let found = source.preflight().await.unwrap();
    assert!(found.iter().all(|finding| finding.severity == Severity::Warning && finding.code != "E_OPEN_TRANSACTION"));
    source.ensure_publication().await.unwrap();
    copy(&source).await;
    assert_eq!(source.waiting_for(), []);
    cluster.close().await.unwrap();
}
