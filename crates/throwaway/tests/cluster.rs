//! Guarantees to users of a temporary cluster, tested with the first PostgreSQL server of this machine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use walvec_throwaway::{Access, Cluster, ClusterDir, ClusterOptions, Durability, Installation, SearchPlaces};

fn options() -> ClusterOptions {
    let installation = Installation::find(&SearchPlaces::from_env()).unwrap();
    ClusterOptions { durability: Durability::Volatile, ..ClusterOptions::new(installation) }
}

/// A directory that the server's account may enter; the cluster creates the last component.
struct Place {
    _parent: tempfile::TempDir,
    directory: PathBuf,
}

fn place() -> Place {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    std::fs::set_permissions(parent.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let directory = parent.path().join("cluster");
    Place { _parent: parent, directory }
}

async fn one_value(cluster: &Cluster, database: &str, query: &str) -> String {
    let client = cluster.connect(database).await.unwrap();
    client.query_one(query, &[]).await.unwrap().get(0)
}

async fn execute(cluster: &Cluster, statements: &str) {
    cluster.connect("postgres").await.unwrap().batch_execute(statements).await.unwrap();
}

async fn is_gone(port: u16) -> bool {
    tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err()
}

#[tokio::test]
async fn a_cluster_can_be_replicated_from_and_leaves_nothing_behind() {
    let cluster = Cluster::start(options()).await.unwrap();
    assert_eq!(one_value(&cluster, "postgres", "SHOW wal_level").await, "logical");
    assert_eq!(one_value(&cluster, "postgres", "SHOW listen_addresses").await, "127.0.0.1");
    assert_eq!(one_value(&cluster, "postgres", "SHOW server_encoding").await, "UTF8");
    assert!(one_value(&cluster, "postgres", "SHOW server_version").await.starts_with(&cluster.version().to_string()));
    execute(&cluster, "CREATE TABLE t (n int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t").await;
    execute(&cluster, "SELECT pg_create_logical_replication_slot('s', 'pgoutput')").await;
    execute(&cluster, "INSERT INTO t VALUES (1), (2)").await;
    let messages = "SELECT count(*)::text FROM pg_logical_slot_peek_binary_changes(
                        's', NULL, NULL, 'proto_version', '1', 'publication_names', 'p')
                    WHERE get_byte(data, 0) = ascii('I')";
    assert_eq!(one_value(&cluster, "postgres", messages).await, "2");

    let (directory, port) = (cluster.directory().to_owned(), cluster.port());
    assert!(directory.exists());
    cluster.close().await.unwrap();
    assert!(!directory.exists());
    assert!(is_gone(port).await);
}

#[tokio::test]
async fn settings_reach_the_server_and_win_over_the_usual_ones() {
    let mut options = options();
    options.settings = vec![
        ("max_slot_wal_keep_size".to_owned(), "7MB".to_owned()),
        ("max_replication_slots".to_owned(), "3".to_owned()),
        ("cluster_name".to_owned(), r"it's a \test".to_owned()),
    ];
    let cluster = Cluster::start(options).await.unwrap();
    assert_eq!(one_value(&cluster, "postgres", "SHOW max_slot_wal_keep_size").await, "7MB");
    assert_eq!(one_value(&cluster, "postgres", "SHOW max_replication_slots").await, "3");
    assert_eq!(one_value(&cluster, "postgres", "SHOW cluster_name").await, r"it's a \test");
    assert_eq!(one_value(&cluster, "postgres", "SHOW fsync").await, "off");
}

#[tokio::test]
async fn a_cluster_opens_to_its_password_only() {
    let cluster = Cluster::start(options()).await.unwrap();
    let url = cluster.url("postgres");
    tokio_postgres::connect(&url, tokio_postgres::NoTls).await.map(drop).unwrap();

    let without = format!("postgres://postgres@127.0.0.1:{}/postgres", cluster.port());
    let error = tokio_postgres::connect(&without, tokio_postgres::NoTls).await.map(drop).unwrap_err();
    assert!(format!("{error:?}").contains("password"), "{error:?}");
    assert!(cluster.psql_command("postgres").contains(&url));
}

#[tokio::test]
async fn a_trusting_cluster_opens_without_a_password() {
    let cluster = Cluster::start(ClusterOptions { access: Access::Trust, ..options() }).await.unwrap();
    assert_eq!(cluster.url("postgres"), format!("postgres://postgres@127.0.0.1:{}/postgres", cluster.port()));
    assert_eq!(one_value(&cluster, "postgres", "SELECT current_user::text").await, "postgres");
}

#[tokio::test]
async fn a_committed_row_survives_a_restart_a_crash_and_a_kill() {
    let cluster = Cluster::start(options()).await.unwrap();
    execute(&cluster, "CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await;
    let port = cluster.port();

    cluster.restart().await.unwrap();
    execute(&cluster, "INSERT INTO t VALUES (2)").await;

    cluster.stop_immediate().await.unwrap();
    assert!(is_gone(port).await);
    cluster.start_again().await.unwrap();
    execute(&cluster, "INSERT INTO t VALUES (3)").await;

    cluster.kill().await.unwrap();
    assert!(is_gone(port).await);
    cluster.start_again().await.unwrap();
    let rows = "SELECT string_agg(n::text, ',' ORDER BY n) FROM t";
    assert_eq!(one_value(&cluster, "postgres", rows).await, "1,2,3");
    assert_eq!(cluster.port(), port);
}

#[tokio::test]
async fn stopping_a_stopped_server_is_no_error() {
    let cluster = Cluster::start(options()).await.unwrap();
    cluster.stop_fast().await.unwrap();
    assert!(is_gone(cluster.port()).await);
    cluster.stop_fast().await.unwrap();
}

#[tokio::test]
async fn a_database_goes_with_its_slots_and_sessions() {
    let cluster = Cluster::start(options()).await.unwrap();
    // A name that must be quoted in SQL and encoded in a URL.
    let name = r#"Tests & "more" ü"#;
    let url = cluster.create_database(name).await.unwrap();
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let slot = "SELECT pg_create_logical_replication_slot('held', 'pgoutput')";
    client.batch_execute(slot).await.unwrap();

    cluster.drop_database(name).await.unwrap();
    assert!(connection.await.unwrap().is_err(), "the session should have been ended");
    assert_eq!(one_value(&cluster, "postgres", "SELECT count(*)::text FROM pg_replication_slots").await, "0");
    cluster.drop_database(name).await.unwrap();
}

#[tokio::test]
async fn a_kept_cluster_is_started_again_with_its_rows_and_its_password() {
    let place = place();
    let kept = || ClusterOptions { data_dir: ClusterDir::Kept(place.directory.clone()), ..options() };
    let cluster = Cluster::start(kept()).await.unwrap();
    let password_of = |cluster: &Cluster| cluster.url("").split('@').next().unwrap().to_owned();
    let first = password_of(&cluster);
    execute(&cluster, "CREATE TABLE t (n int); INSERT INTO t VALUES (42)").await;

    let error = Cluster::start(kept()).await.unwrap_err().to_string();
    assert!(error.contains("is already running"), "{error}");
    let port = cluster.port();
    assert!(!is_gone(port).await, "a second demo must not stop the first one's server");

    cluster.close().await.unwrap();
    assert!(is_gone(port).await);
    let cluster = Cluster::start(kept()).await.unwrap();
    assert_eq!(one_value(&cluster, "postgres", "SELECT n::text FROM t").await, "42");
    assert_eq!(password_of(&cluster), first);
    assert!(place.directory.exists());
}

#[tokio::test]
async fn a_directory_with_other_things_in_it_is_left_alone() {
    let place = place();
    std::fs::create_dir(&place.directory).unwrap();
    std::fs::write(place.directory.join("thesis.txt"), "all my work").unwrap();
    let options = ClusterOptions { data_dir: ClusterDir::Kept(place.directory.clone()), ..options() };
    let error = Cluster::start(options).await.unwrap_err().to_string();
    assert!(error.contains("is not empty and holds no cluster made by walvec"), "{error}");
    let entries: Vec<_> =
        std::fs::read_dir(&place.directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(entries, ["thesis.txt"]);
}

#[tokio::test]
async fn a_cluster_of_another_major_version_is_refused_by_name() {
    let place = place();
    std::fs::create_dir_all(place.directory.join("data")).unwrap();
    std::fs::write(place.directory.join("data/PG_VERSION"), "9\n").unwrap();
    let options = ClusterOptions { data_dir: ClusterDir::Kept(place.directory.clone()), ..options() };
    let error = Cluster::start(options).await.unwrap_err().to_string();
    assert!(error.contains("was made by PostgreSQL 9, the server here is"), "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_start_shows_the_end_of_its_log() {
    let mut options = options();
    options.settings = vec![("shared_buffers".to_owned(), "plenty".to_owned())];
    let error = Cluster::start(options).await.unwrap_err().to_string();
    assert!(error.contains("did not start"), "{error}");
    assert!(error.contains(r#"invalid value for parameter "shared_buffers": "plenty""#), "{error}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_with_the_servers_words() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = Cluster::start(ClusterOptions { port, ..options() }).await.unwrap_err().to_string();
    assert!(error.contains("Address already in use"), "{error}");
}

/// The program that the next test kills; not a test of its own. It prints the cluster's directory and port.
#[tokio::test]
#[allow(clippy::print_stdout)]
async fn program_with_a_cluster() {
    if std::env::var_os("WALVEC_THROWAWAY_TEST_PROGRAM").is_none() {
        return;
    }
    let cluster = Cluster::start(options()).await.unwrap();
    println!("\ncluster {} {}", cluster.port(), cluster.directory().display());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn the_server_ends_and_its_files_go_when_the_program_is_killed() {
    let mut program = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "program_with_a_cluster", "--nocapture"])
        .env("WALVEC_THROWAWAY_TEST_PROGRAM", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|line| line.starts_with("cluster ")).unwrap();
    let mut words = line.split(' ').skip(1);
    let port = words.next().unwrap().parse().unwrap();
    let directory = Path::new(words.next().unwrap());
    assert!(directory.exists());
    assert!(!is_gone(port).await);

    program.kill().unwrap();
    program.wait().unwrap();
    // The guard has lost its parent, so the test waits for the directory, which is removed last.
    while directory.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(is_gone(port).await);
}
