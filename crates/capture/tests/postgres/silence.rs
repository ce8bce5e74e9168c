//! Silent connections: a server that is at work is waited for, and a dead one is noticed.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::Client;
use walvec_capture::{Source, SourceConfig};
use walvec_model::RowKey;
use walvec_throwaway::Cluster;

use crate::support::{PATIENCE, changes_to, copy, shown, spec, start_cluster};

/// Starts a cluster with a database `silence`, and returns the settings for its tables.
async fn own_server(settings: &[(&str, &str)], setup: &str, tables: &[&str]) -> (Cluster, Client, SourceConfig) {
    let cluster = start_cluster(settings).await;
    let url = cluster.create_database("silence").await.unwrap();
    let client = cluster.connect("silence").await.unwrap();
    client.batch_execute(setup).await.unwrap();
    let config = SourceConfig {
        url: url.into(),
        slot: "silence".to_owned(),
        publication: "silence".to_owned(),
        tables: tables.iter().map(|table| spec(table)).collect(),
        lookups: Vec::new(),
        copy_workers: 1,
    };
    (cluster, client, config)
}

async fn walsender(client: &Client) -> i32 {
    let query = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'silence'";
    client.query_one(query, &[]).await.unwrap().get(0)
}

async fn end_of_wal(client: &Client) -> walvec_model::Lsn {
    let row = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap();
    row.get::<_, String>(0).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_silent_because_it_is_at_work_keeps_its_stream() {
    let settings = [("wal_sender_timeout", "3s")];
    let (cluster, client, config) =
        own_server(&settings, "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)", &["t", "u"])
            .await;
    let source = Source::connect(config).await.unwrap();
    source.ensure_publication().await.unwrap();
    let _ = copy(&source).await;
    let mut stream = source.open_stream().await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(shown(&changes_to(&mut stream, end_of_wal(&client).await).await), ["+ {id:1}"]);
    let pid = walsender(&client).await;

    // The server reads which publications the table is in before it sends the table's first row.
    let locker = cluster.connect("silence").await.unwrap();
    locker.batch_execute("BEGIN; LOCK TABLE pg_publication_rel IN ACCESS EXCLUSIVE MODE").await.unwrap();
    client.batch_execute("INSERT INTO u VALUES (2)").await.unwrap();
    // The time matters here: three times as long as the server may be silent.
    tokio::time::sleep(Duration::from_secs(9)).await;
    let waits = "SELECT coalesce(wait_event_type, '') FROM pg_stat_activity WHERE pid = $1";
    assert_eq!(client.query_one(waits, &[&pid]).await.unwrap().get::<_, String>(0), "Lock", "it is at work");
    locker.batch_execute("COMMIT").await.unwrap();
    assert_eq!(shown(&changes_to(&mut stream, end_of_wal(&client).await).await), ["+ {id:2}"]);
    assert_eq!(walsender(&client).await, pid, "by the same session");
    stream.close().await.unwrap();
    cluster.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_cannot_be_read_again_because_of_a_lock_do_not_hold_up_the_stream_or_its_feedback() {
    let settings = [("wal_sender_timeout", "3s")];
    let setup = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY); INSERT INTO t VALUES (1)";
    let (cluster, client, config) = own_server(&settings, setup, &["t", "u"]).await;
    let source = Arc::new(Source::connect(config).await.unwrap());
    source.ensure_publication().await.unwrap();
    let rows = copy(&source).await;
    let mut stream = source.open_stream().await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(shown(&changes_to(&mut stream, end_of_wal(&client).await).await), ["+ {id:2}"]);
    let pid = walsender(&client).await;

    let locker = cluster.connect("silence").await.unwrap();
    locker.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let (reader, table) = (Arc::clone(&source), Arc::clone(&rows[0].table));
    let reading = tokio::spawn(async move { reader.fetch_rows(&table, &[RowKey::new(vec![1.into()])]).await });
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'COPY%'";
    let deadline = Instant::now() + PATIENCE;
    while client.query_one(blocked, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(Instant::now() < deadline, "the read never met the lock");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A table that the stream has not described yet, so the catalogue is asked about it.
    client.batch_execute("INSERT INTO u VALUES (3)").await.unwrap();
    assert_eq!(shown(&changes_to(&mut stream, end_of_wal(&client).await).await), ["+ {id:3}"]);
    // The time matters here: the server would have given up on a silent client three times.
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(walsender(&client).await, pid, "by the same session");
    assert!(!reading.is_finished());
    locker.batch_execute("COMMIT").await.unwrap();
    assert_eq!(reading.await.unwrap().unwrap().len(), 1);
    stream.close().await.unwrap();
    cluster.close().await.unwrap();
}

/// Forwards connections to a server until it is frozen. Existing connections then stay open and silent.
struct Proxy {
    port: u16,
    is_frozen: Arc<AtomicBool>,
}

impl Proxy {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let proxy = Self { port: listener.local_addr().unwrap().port(), is_frozen: Arc::default() };
        let is_frozen = Arc::clone(&proxy.is_frozen);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
                tokio::spawn(Self::forward(client, server, Arc::clone(&is_frozen)));
            }
        });
        proxy
    }

    async fn forward(client: TcpStream, server: TcpStream, is_frozen: Arc<AtomicBool>) {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        let froze_before = is_frozen.load(Ordering::Relaxed);
        let is_frozen = || !froze_before && is_frozen.load(Ordering::Relaxed);
        loop {
            let sent = tokio::select! {
                read = from_client.read(&mut up) => match read {
                    Ok(count) if count > 0 => to_server.write_all(&up[..count]).await,
                    _ => return,
                },
                read = from_server.read(&mut down) => match read {
                    Ok(count) if count > 0 && !is_frozen() => to_client.write_all(&down[..count]).await,
                    Ok(count) if count > 0 => std::future::pending().await,
                    _ => return,
                },
            };
            if sent.is_err() {
                return;
            }
        }
    }

    fn url(&self, cluster: &Cluster, settings: &str) -> String {
        let (login, _) = cluster.url("silence").rsplit_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        format!("{login}@127.0.0.1:{}/silence?{settings}", self.port)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_connection_is_dead_goes_on_over_another_one_although_both_ends_believe_in_it() {
    let setup = "CREATE TABLE t (id int PRIMARY KEY, body text);
                 INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 60000) g";
    let (cluster, _, config) = own_server(&[], setup, &["t"]).await;
    let proxy = Proxy::to(cluster.port()).await;
    let url = proxy.url(&cluster, "sslmode=disable&tcp_user_timeout=1500&connect_timeout=3");
    let source = Source::connect(SourceConfig { url: url.into(), ..config }).await.unwrap();
    source.ensure_publication().await.unwrap();
    let mut snapshot = source.begin_snapshot().await.unwrap();
    // The first piece is in flight.
    proxy.is_frozen.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let mut rows = 0;
    while let Some(chunk) = tokio::time::timeout(PATIENCE, snapshot.next()).await.expect("rows in time").unwrap() {
        rows += chunk.len();
    }
    assert_eq!(rows, 60_000);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    cluster.close().await.unwrap();
}
