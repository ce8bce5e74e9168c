//! The rights that a role lacks are listed at once, as statements that succeed when they are pasted.

use tokio_postgres::Client;
use walvec_capture::{Columns, Finding, Script, Source, SourceConfig, TableSpec};
use walvec_model::TableName;

use crate::preflight::errors;
use crate::support::{Db, copy, spec, start_cluster};

/// The role that pastes the statements.
#[derive(Clone, Copy, Debug)]
enum Pasted {
    /// A superuser pastes all of them.
    AsSuperuser,
    /// Each part is pasted by the role that it names.
    AsNamed,
}

/// Runs every line by itself, as psql does.
async fn paste(client: &Client, script: &Script, how: Pasted) {
    for part in &script.parts {
        let role = part.role.as_deref().filter(|_| matches!(how, Pasted::AsNamed));
        client
            .batch_execute(&role.map_or("RESET ROLE".to_owned(), |role| format!("SET ROLE \"{role}\"")))
            .await
            .unwrap();
        for line in &part.statements {
            client.batch_execute(line).await.unwrap_or_else(|error| panic!("{line} as {role:?}: {error:?}\n{script}"));
        }
    }
    client.batch_execute("RESET ROLE").await.unwrap();
}

async fn preflight(source: &Source) -> (Vec<Finding>, Option<Script>) {
    let findings = source.preflight().await.unwrap();
    let script = source.script(&findings);
    (findings, script)
}

/// Creates a database with `setup`, in which `$db` is its name and `$me` the role that reads it. Then pastes the
/// statements of preflight for role `$me`, and copies the tables. Returns the findings and what was pasted.
async fn provide(name: &str, tables: &[&str], setup: &str, how: Pasted) -> (Vec<Finding>, String) {
    let db = Db::new(name, &setup.replace("$db", name).replace("$me", &format!("{name}_me"))).await;
    let config = SourceConfig { url: db.url_as(&format!("{name}_me"), "p").into(), ..db.config(tables) };
    let source = Source::connect(config).await.unwrap();
    let (missing, script) = preflight(&source).await;
    if let Some(script) = &script {
        paste(&db.client, script, how).await;
    }
    let (left, _) = preflight(&source).await;
    assert_eq!(errors(&left), Vec::<&str>::new(), "{name} {how:?}: {left:#?}");
    source.ensure_publication().await.unwrap();
    copy(&source).await;
    source.drop_slot().await.unwrap();
    (missing, script.map(|script| script.to_string()).unwrap_or_default())
}

/// Returns roles, each with the statements that make it and its table, and with what it lacks.
fn roles() -> Vec<(&'static str, String, Vec<&'static str>)> {
    let shop = "CREATE ROLE $db_shop; CREATE SCHEMA store AUTHORIZATION $db_shop;
                CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO $db_shop;";
    vec![
        (
            "r_login",
            "CREATE ROLE $me LOGIN PASSWORD 'p'; CREATE TABLE t (id int PRIMARY KEY)".to_owned(),
            vec!["may not replicate", "may not read public.t", "may not create it"],
        ),
        (
            "r_replication",
            "CREATE ROLE $me LOGIN REPLICATION PASSWORD 'p'; CREATE TABLE t (id int PRIMARY KEY)".to_owned(),
            vec!["may not read public.t", "may not create it"],
        ),
        (
            "r_owner",
            "CREATE ROLE $me LOGIN PASSWORD 'p'; CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO $me"
                .to_owned(),
            vec!["may not replicate", "may not create it"],
        ),
        (
            "r_creator",
            "CREATE ROLE $me LOGIN REPLICATION PASSWORD 'p'; GRANT CREATE ON DATABASE $db TO $me;
             CREATE TABLE t (id int PRIMARY KEY); GRANT SELECT ON t TO $me"
                .to_owned(),
            vec!["may not create it"],
        ),
        (
            "r_superuser",
            "CREATE ROLE $me LOGIN SUPERUSER PASSWORD 'p'; CREATE TABLE t (id int PRIMARY KEY)".to_owned(),
            vec![],
        ),
        (
            "r_shop",
            format!("CREATE ROLE $me LOGIN REPLICATION PASSWORD 'p'; {shop}"),
            vec!["may not read public.t", "may not create it"],
        ),
        (
            "r_shop_creates",
            format!("CREATE ROLE $me LOGIN REPLICATION PASSWORD 'p'; {shop} GRANT CREATE ON DATABASE $db TO $db_shop"),
            vec!["may not read public.t", "may not create it"],
        ),
        (
            "r_dba",
            format!(
                "CREATE ROLE $me LOGIN PASSWORD 'p'; {shop} CREATE ROLE $db_dba; ALTER DATABASE $db OWNER TO $db_dba"
            ),
            vec!["may not replicate", "may not read public.t", "may not create it"],
        ),
        (
            "r_hidden",
            "CREATE ROLE $me LOGIN REPLICATION PASSWORD 'p'; CREATE TABLE t (id int PRIMARY KEY);
             ALTER TABLE t ENABLE ROW LEVEL SECURITY; GRANT SELECT ON t TO $me"
                .to_owned(),
            vec!["row-level security hides rows of public.t", "may not create it"],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_role_is_told_all_that_it_lacks_in_statements_that_succeed() {
    for (name, setup, expected) in roles() {
        for (how, name) in [(Pasted::AsNamed, format!("{name}_named")), (Pasted::AsSuperuser, format!("{name}_super"))]
        {
            let (missing, script) = provide(&name, &["t"], &setup, how).await;
            assert_eq!(errors(&missing), vec!["E_RIGHTS"; expected.len()], "{name}: {missing:#?}");
            for (finding, words) in missing.iter().filter(|finding| finding.code == "E_RIGHTS").zip(&expected) {
                assert!(finding.message.contains(words), "{name}: {} is not about: {words}", finding.message);
            }
            assert_eq!(script.is_empty(), expected.is_empty(), "{script}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_several_owners_in_schemas_of_their_own_can_be_read_and_published() {
    let setup = "
        CREATE ROLE $me LOGIN REPLICATION PASSWORD 'p'; CREATE ROLE $db_a; CREATE ROLE $db_b;
        CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO $db_a;
        CREATE TABLE u (id int PRIMARY KEY); ALTER TABLE u OWNER TO $db_b;
        REVOKE USAGE ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO $db_a, $db_b";
    for (how, name) in [(Pasted::AsNamed, "r_owners_named"), (Pasted::AsSuperuser, "r_owners_super")] {
        let (missing, script) = provide(name, &["t", "u"], setup, how).await;
        assert_eq!(errors(&missing), ["E_RIGHTS", "E_RIGHTS", "E_RIGHTS"], "{missing:#?}");
        assert_eq!(script.matches("GRANT USAGE ON SCHEMA").count(), 1, "{script}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_with_nothing_but_a_login_is_told_everything_by_one_check() {
    let setup = "
        CREATE ROLE $me LOGIN PASSWORD 'p'; CREATE ROLE $db_shop; CREATE ROLE $db_other;
        GRANT CREATE ON DATABASE $db TO $db_shop;
        CREATE SCHEMA sales AUTHORIZATION $db_shop; CREATE SCHEMA parts AUTHORIZATION $db_shop; SET ROLE $db_shop;
        CREATE TABLE sales.t (id int PRIMARY KEY, v text);
        CREATE TABLE sales.p (id int PRIMARY KEY) PARTITION BY LIST (id);
        CREATE TABLE parts.p1 PARTITION OF sales.p FOR VALUES IN (1); CREATE TABLE parts.p2 PARTITION OF sales.p DEFAULT;
        INSERT INTO sales.t VALUES (1, 'a'); INSERT INTO sales.p VALUES (1), (2); RESET ROLE";
    for (how, name) in [(Pasted::AsNamed, "r_least_named"), (Pasted::AsSuperuser, "r_least_super")] {
        let db = Db::new(name, &setup.replace("$db", name).replace("$me", &format!("{name}_me"))).await;
        let tables = [TableName::new("sales", "t"), TableName::new("sales", "p")];
        let tables = tables.map(|name| TableSpec { name, filter: None, columns: Columns::All }).to_vec();
        let url = db.url_as(&format!("{name}_me"), "p").into();
        let source = Source::connect(SourceConfig { url, tables, ..db.config(&[]) }).await.unwrap();
        let (missing, script) = preflight(&source).await;
        assert_eq!(errors(&missing), ["E_RIGHTS"; 4], "{missing:#?}");
        let script = script.unwrap();
        let shown = script.to_string();
        assert_eq!(shown.matches("GRANT USAGE ON SCHEMA \"sales\"").count(), 1, "{shown}");
        // Partitions can be read through their root, with one connection. The remedy that lets several connections read
        // them is reported.
        let slower = missing.iter().find(|finding| finding.message.contains("2 partitions of sales.p")).unwrap();
        let leaves = slower.remedy.to_string();
        paste(&db.client, &script, how).await;
        assert_eq!(errors(&preflight(&source).await.0), Vec::<&str>::new());
        source.ensure_publication().await.unwrap();
        assert_eq!(copy(&source).await.len(), 3);
        source.drop_slot().await.unwrap();
        assert_eq!(leaves.matches("GRANT USAGE ON SCHEMA \"parts\"").count(), 1, "{leaves}");
        db.run(&leaves).await;
        let (left, _) = preflight(&source).await;
        assert!(left.iter().all(|finding| !finding.message.contains("partition")), "{left:#?}");
        assert_eq!(copy(&source).await.len(), 3);
        source.drop_slot().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_without_a_key_is_not_published_by_what_is_pasted() {
    let setup = "CREATE ROLE r_keyless_me LOGIN REPLICATION PASSWORD 'p'; CREATE TABLE t (id int); GRANT SELECT ON t TO r_keyless_me";
    let db = Db::new("r_keyless", setup).await;
    let config = SourceConfig { url: db.url_as("r_keyless_me", "p").into(), ..db.config(&["t"]) };
    let (missing, script) = preflight(&Source::connect(config).await.unwrap()).await;
    assert_eq!(errors(&missing), ["E_NO_KEY", "E_RIGHTS"]);
    assert_eq!(script, None, "its updates would fail");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_not_connect_is_told_the_grant() {
    let db =
        Db::new("r_closed", "CREATE ROLE r_closed_me LOGIN PASSWORD 'p'; CREATE TABLE t (id int PRIMARY KEY)").await;
    db.run("REVOKE CONNECT ON DATABASE r_closed FROM PUBLIC").await;
    let config = SourceConfig { url: db.url_as("r_closed_me", "p").into(), ..db.config(&["t"]) };
    let error = Source::connect(config.clone()).await.err().unwrap();
    assert_eq!(error.code(), "E_RIGHTS");
    let remedy = error.remedy().unwrap();
    let (_, grant) = remedy.split_once(": ").unwrap();
    db.run(grant).await;
    Source::connect(config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_are_in_the_way_are_among_the_statements() {
    let settings = [("wal_level", "replica"), ("max_replication_slots", "1"), ("max_wal_senders", "1")];
    let cluster = start_cluster(&settings).await;
    let url = cluster.create_database("settings").await.unwrap();
    let client = cluster.connect("settings").await.unwrap();
    let setup = "CREATE TABLE t (id int PRIMARY KEY); SELECT pg_create_physical_replication_slot('idle')";
    client.batch_execute(setup).await.unwrap();
    let config = SourceConfig {
        url: url.into(),
        slot: "s".to_owned(),
        publication: "p".to_owned(),
        tables: vec![spec("t")],
        lookups: Vec::new(),
        copy_workers: 1,
    };
    let (missing, script) = preflight(&Source::connect(config.clone()).await.unwrap()).await;
    assert_eq!(errors(&missing), ["E_WAL_LEVEL", "E_LIMIT"], "{missing:#?}");
    let script = script.unwrap();
    assert!(script.to_string().contains("-- SELECT pg_drop_replication_slot('idle');"), "{script}");
    paste(&client, &script, Pasted::AsNamed).await;
    cluster.restart().await.unwrap();
    let source = Source::connect(config).await.unwrap();
    let (left, _) = preflight(&source).await;
    assert_eq!(errors(&left), Vec::<&str>::new(), "{left:#?}");
    source.ensure_publication().await.unwrap();
    copy(&source).await;
    cluster.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_managed_service_its_administrator_can_paste_the_statements() {
    // As on Amazon RDS: the administrator is not a superuser, and membership in a role gives the right to replicate.
    let cluster = start_cluster(&[("wal_level", "replica")]).await;
    let url = cluster.create_database("managed").await.unwrap();
    let client = cluster.connect("managed").await.unwrap();
    let setup = "
        CREATE ROLE rds_replication; CREATE ROLE rds_superuser;
        CREATE ROLE master LOGIN CREATEROLE PASSWORD 'p' IN ROLE rds_superuser; ALTER DATABASE managed OWNER TO master;
        GRANT rds_replication TO master WITH ADMIN OPTION;
        CREATE ROLE shop LOGIN PASSWORD 'p'; CREATE ROLE reader LOGIN PASSWORD 'p';
        CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO shop;";
    client.batch_execute(setup).await.unwrap();
    let (_, place) = url.split_once('@').unwrap();
    let config = SourceConfig {
        url: format!("postgres://reader:p@{place}").into(),
        slot: "s".to_owned(),
        publication: "p".to_owned(),
        tables: vec![spec("t")],
        lookups: Vec::new(),
        copy_workers: 1,
    };
    let source = Source::connect(config).await.unwrap();
    let (missing, script) = preflight(&source).await;
    assert_eq!(errors(&missing), ["E_WAL_LEVEL", "E_RIGHTS", "E_RIGHTS", "E_RIGHTS"], "{missing:#?}");
    let mut script = script.unwrap();
    let shown = script.to_string();
    for words in ["rds.logical_replication = 1", "GRANT rds_replication TO \"reader\";", "as a member of rds_superuser"]
    {
        assert!(shown.contains(words), "{words}\n{shown}");
    }
    assert!(!shown.contains("superuser,") && !shown.contains("ALTER SYSTEM"), "{shown}");
    for part in &mut script.parts {
        part.role.get_or_insert_with(|| "master".to_owned());
    }
    paste(&client, &script, Pasted::AsNamed).await;
    let (left, _) = preflight(&source).await;
    // This server is not Amazon's, so the membership is not sufficient, and its own message is passed on.
    assert_eq!(errors(&left), ["E_WAL_LEVEL", "E_RIGHTS"], "{left:#?}");
    assert!(left.iter().any(|finding| finding.message.contains("walsender") || finding.message.contains("WAL sender")));
    cluster.close().await.unwrap();
}
