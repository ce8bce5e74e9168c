//! With several hosts, the one that accepts writes is found and used for everything.

use std::os::unix::fs::{MetadataExt, chown};

use walvec_capture::{Source, SourceConfig};
use walvec_throwaway::Cluster;

use crate::support::{changes_to, copy, shown, spec, start_cluster};

/// Starts a server with a role and a table that the other server has too.
async fn member() -> Cluster {
    let cluster = start_cluster(&[]).await;
    cluster.create_database("hosts").await.unwrap();
    let client = cluster.connect("hosts").await.unwrap();
    let setup = "CREATE ROLE member LOGIN REPLICATION SUPERUSER PASSWORD 'member';
                 CREATE TABLE t (id int PRIMARY KEY)";
    client.batch_execute(setup).await.unwrap();
    client.batch_execute(&format!("INSERT INTO t VALUES ({})", cluster.port())).await.unwrap();
    cluster
}

/// Turns the server into a standby: in recovery, and open for reading.
async fn demote(cluster: &Cluster) {
    cluster.stop_fast().await.unwrap();
    let data = cluster.directory().join("data");
    let (signal, owner) = (data.join("standby.signal"), std::fs::metadata(&data).unwrap());
    std::fs::write(&signal, "").unwrap();
    chown(&signal, Some(owner.uid()), Some(owner.gid())).unwrap();
    cluster.start_again().await.unwrap();
}

fn config(ports: &[u16], settings: &str) -> SourceConfig {
    let hosts: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    SourceConfig {
        url: format!("postgres://member:member@{}/hosts{settings}", hosts.join(",")).into(),
        slot: "hosts".to_owned(),
        publication: "hosts".to_owned(),
        tables: vec![spec("t")],
        lookups: Vec::new(),
        copy_workers: 2,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn among_several_hosts_all_sessions_find_the_one_that_takes_writes_also_after_a_failover() {
    let (first, second) = (member().await, member().await);
    demote(&first).await;
    let nothing_listens = 1;
    let ports = [nothing_listens, first.port(), second.port()];
    let source = Source::connect(config(&ports, "")).await.unwrap();
    assert_eq!(source.address(), format!("127.0.0.1:{}/hosts", second.port()));
    source.ensure_publication().await.unwrap();
    assert_eq!(shown(&copy(&source).await), [format!("+ {{id:{}}}", second.port())]);
    let mut stream = source.open_stream().await.unwrap();
    let client = second.connect("hosts").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    let end = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get::<_, String>(0);
    assert_eq!(shown(&changes_to(&mut stream, end.parse().unwrap()).await), ["+ {id:2}"]);
    stream.close().await.unwrap();

    // A host is chosen for what it is, not for its place in the list.
    let standby = Source::connect(config(&ports, "?target_session_attrs=standby")).await.unwrap();
    assert!(standby.server().in_recovery);
    let any = Source::connect(config(&ports, "?target_session_attrs=any")).await.unwrap();
    assert!(any.server().in_recovery, "the first that answers");

    second.stop_fast().await.unwrap();
    let refused = Source::connect(config(&ports, "?target_session_attrs=primary")).await.err().unwrap();
    let told = refused.to_string();
    for part in
        ["127.0.0.1:1/", &format!("127.0.0.1:{}/hosts is passed over: it is a standby", first.port()), "refused"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(told.contains(&format!("127.0.0.1:{}", second.port())) && !told.contains("member"), "{told}");
    assert_eq!(refused.code(), "E_CONNECT");

    first.connect("hosts").await.unwrap().batch_execute("SELECT pg_promote()").await.unwrap();
    let source = Source::connect(config(&ports, "")).await.unwrap();
    assert_eq!(source.address(), format!("127.0.0.1:{}/hosts", first.port()), "the promoted one");
    for cluster in [first, second] {
        cluster.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_read_only_is_passed_over_and_a_role_that_is_read_only_is_not() {
    let (closed, open) = (member().await, member().await);
    let client = closed.connect("hosts").await.unwrap();
    client.batch_execute("ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
    closed.restart().await.unwrap();
    let client = open.connect("hosts").await.unwrap();
    client.batch_execute("ALTER ROLE member SET default_transaction_read_only = on").await.unwrap();
    let source = Source::connect(config(&[closed.port(), open.port()], "")).await.unwrap();
    assert_eq!(source.address(), format!("127.0.0.1:{}/hosts", open.port()));
    source.ensure_publication().await.unwrap();
    for cluster in [closed, open] {
        cluster.close().await.unwrap();
    }
}
