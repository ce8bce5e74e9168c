//! A proxy for a server that can hold a request back, as a network may do: the sender sees its connection break, and the request
//! still arrives later.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

/// The silence after which a sender is assumed to have sent all of its request.
const SILENCE: Duration = Duration::from_millis(300);

/// Passes connections on to a server. They end when it is dropped.
pub struct Detour {
    url: String,
    state: Arc<State>,
    _open: DropGuard,
}

#[derive(Default)]
struct State {
    /// The text of the next request to hold back.
    wanted: Mutex<Option<Vec<u8>>>,
    is_keeping: watch::Sender<bool>,
    let_go: Notify,
}

impl Detour {
    /// Starts a proxy for the server at `url`, e.g. `http://127.0.0.1:6334`.
    ///
    /// # Errors
    /// If there is no port for it.
    pub async fn to(url: &str) -> anyhow::Result<Self> {
        let server = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let state = Arc::new(State::default());
        let (shared, end) = (Arc::clone(&state), CancellationToken::new());
        let open = end.clone().drop_guard();
        let each = end.clone();
        let accept = async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, state) = (server.clone(), Arc::clone(&shared));
                let way = async move {
                    if let Ok(server) = TcpStream::connect(server).await {
                        pass(client, server, &state).await;
                    }
                };
                tokio::spawn(each.clone().run_until_cancelled_owned(way));
            }
        };
        tokio::spawn(end.run_until_cancelled_owned(accept));
        Ok(Self { url, state, _open: open })
    }

    /// Returns the address at which the proxy listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Holds back the next request that contains `text`, and cuts the connection to its sender.
    pub fn keep(&self, text: &str) {
        *self.state.wanted.lock().unwrap() = Some(text.as_bytes().to_owned());
    }

    /// Waits until a request is held back.
    pub async fn is_keeping(&self) {
        self.state.is_keeping.subscribe().wait_for(|is_keeping| *is_keeping).await.unwrap();
    }

    /// Passes the held request on to the server.
    pub fn let_go(&self) {
        self.state.is_keeping.send_replace(false);
        self.state.let_go.notify_one();
    }
}

impl State {
    fn is_wanted(&self, bytes: &[u8]) -> bool {
        let mut wanted = self.wanted.lock().unwrap();
        let is_in = |text: &Vec<u8>| bytes.windows(text.len()).any(|window| window == text);
        wanted.take_if(|text| is_in(text)).is_some()
    }
}

async fn pass(client: TcpStream, server: TcpStream, state: &State) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let answers = tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
    let answers = AbortOnDropHandle::new(answers);
    let mut bytes = vec![0; 1 << 20];
    while let Ok(length @ 1..) = from_client.read(&mut bytes).await {
        let some = &bytes[..length];
        if state.is_wanted(some) {
            let mut kept = some.to_vec();
            // The end of a request is not marked, but after it the sender is silent and waits for the answer.
            while let Ok(Ok(length @ 1..)) = timeout(SILENCE, from_client.read(&mut bytes)).await {
                kept.extend_from_slice(&bytes[..length]);
            }
            drop(from_client);
            drop(answers);
            state.is_keeping.send_replace(true);
            state.let_go.notified().await;
            to_server.write_all(&kept).await.ok();
            // The connection to the server must stay open, or the server would not carry out the request.
            return std::future::pending().await;
        }
        if to_server.write_all(some).await.is_err() {
            return;
        }
    }
}
