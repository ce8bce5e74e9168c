//! Connection poolers between walvec and the server: walvec uses none, and leaves nothing in the sessions that they share.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use walvec_capture::{Source, SourceConfig, open_session};
use walvec_throwaway::Cluster;

use crate::support::{spec, start_cluster};

const DATABASE: &str = "pooled";

async fn own_server() -> (Cluster, SourceConfig) {
    let cluster = start_cluster(&[]).await;
    cluster.create_database(DATABASE).await.unwrap();
    let client = cluster.connect(DATABASE).await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let config = SourceConfig {
        url: String::new().into(),
        slot: DATABASE.to_owned(),
        publication: DATABASE.to_owned(),
        tables: vec![spec("t")],
        lookups: Vec::new(),
        copy_workers: 1,
    };
    (cluster, config)
}

/// How a pooler treats the first message of a connection.
#[derive(Clone, Copy)]
enum Manner {
    /// Refuses a connection whose first message contains this word, as PgBouncer does.
    Refuses(&'static str),
    /// Drops `options`, as PgBouncer does with `ignore_startup_parameters = options`.
    DropsOptions,
}

/// A pooler that gives each client a session of its own, and records what clients send after the login.
struct Pooler {
    port: u16,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Pooler {
    async fn before(cluster: &Cluster, manner: Manner) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let pooler = Self { port: listener.local_addr().unwrap().port(), said: Arc::default() };
        let (said, server) = (Arc::clone(&pooler.said), cluster.port());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, server, manner, Arc::clone(&said)));
            }
        });
        pooler
    }

    fn url(&self, cluster: &Cluster) -> String {
        let url = cluster.url(DATABASE);
        let (login, _) = url.rsplit_once('@').unwrap();
        format!("{login}@127.0.0.1:{}/{DATABASE}?sslmode=disable", self.port)
    }

    fn was_told(&self, words: &str) -> bool {
        self.said.lock().unwrap().windows(words.len()).any(|part| part == words.as_bytes())
    }
}

async fn serve(mut client: TcpStream, port: u16, manner: Manner, said: Arc<Mutex<Vec<u8>>>) {
    let length = client.read_u32().await.unwrap();
    let mut startup = vec![0; length as usize - 4];
    client.read_exact(&mut startup).await.unwrap();
    match manner {
        Manner::Refuses(word) if startup.windows(word.len()).any(|part| part == word.as_bytes()) => {
            let _ = client.write_all(&refusal(word)).await;
            return;
        }
        Manner::Refuses(_) => {}
        Manner::DropsOptions => startup = without_options(&startup),
    }
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    server.write_u32(u32::try_from(startup.len()).unwrap() + 4).await.unwrap();
    server.write_all(&startup).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
        said.lock().unwrap().extend(&buffer[..count]);
        to_server.write_all(&buffer[..count]).await.unwrap();
    }
}

/// Returns an ErrorResponse with PgBouncer's message.
fn refusal(parameter: &str) -> Vec<u8> {
    let fields = format!("SFATAL\0C08P01\0Munsupported startup parameter: {parameter}\0\0");
    let length = u32::try_from(fields.len()).unwrap() + 4;
    [b"E", length.to_be_bytes().as_slice(), fields.as_bytes()].concat()
}

/// Returns the first message without its `options`. It consists of a version and of names and values, each ended by a
/// zero byte, and one more zero byte.
fn without_options(startup: &[u8]) -> Vec<u8> {
    let (version, parameters) = startup.split_at(4);
    let words: Vec<&[u8]> = parameters.split(|byte| *byte == 0).collect();
    let kept = words.chunks(2).filter(|pair| pair.len() == 2 && !pair[0].is_empty() && pair[0] != b"options");
    let mut message = version.to_vec();
    for pair in kept {
        message.extend([pair[0], b"\0", pair[1], b"\0"].concat());
    }
    message.push(0);
    message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_in_between_is_named_before_anything_is_made() {
    let (cluster, config) = own_server().await;
    let pooler = Pooler::before(&cluster, Manner::Refuses("replication")).await;
    let source = Source::connect(SourceConfig { url: pooler.url(&cluster).into(), ..config }).await.unwrap();
    let findings = source.preflight().await.unwrap();
    let found = findings.iter().find(|finding| finding.code == "E_POOLER").expect("a finding");
    assert!(found.message.contains("unsupported startup parameter"), "{}", found.message);
    assert!(found.remedy.to_string().contains("direct address"), "{}", found.remedy);
    source.ensure_publication().await.unwrap();
    assert_eq!(source.begin_snapshot().await.err().unwrap().code(), "E_POOLER");
    cluster.close().await.unwrap();
}

/// walvec's settings would stay in a shared session, and the application's statements would run with them: an empty
/// `search_path`, for example.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_set_in_a_session_that_a_pooler_shares_out() {
    let (cluster, config) = own_server().await;
    for manner in [Manner::Refuses("options"), Manner::DropsOptions] {
        let pooler = Pooler::before(&cluster, manner).await;
        let url = pooler.url(&cluster);
        let refused = Source::connect(SourceConfig { url: url.clone().into(), ..config.clone() }).await.err().unwrap();
        assert_eq!(refused.code(), "E_POOLER", "{refused}");
        assert!(refused.remedy().is_some_and(|remedy| remedy.contains("direct address")));
        assert_eq!(open_session(&url.into()).await.err().unwrap().code(), "E_POOLER");
        assert!(!pooler.was_told("SET "));
    }
    // A client whose settings come from a role or the URL still has a session of walvec's own.
    let url = format!("{}?options=-c%20statement_timeout%3D1", cluster.url(DATABASE));
    let session = open_session(&url.into()).await.unwrap();
    let row = session.query_one("SELECT current_setting('statement_timeout')", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "0");
    cluster.close().await.unwrap();
}
