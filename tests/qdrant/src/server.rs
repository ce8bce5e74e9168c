//! The server: how it starts, stops and restarts.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::stream;
use qdrant_client::Payload;
use qdrant_client::qdrant::collections_server::CollectionsServer;
use qdrant_client::qdrant::points_server::PointsServer;
use qdrant_client::qdrant::qdrant_server::QdrantServer;
use qdrant_client::qdrant::{PointId, PointStruct, UpsertPoints};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::transport::Server;

use crate::calls::{Calls, Ledger};
use crate::faults::Faults;
use crate::limits::RateLimits;
use crate::registry::Registry;
use crate::service::Service;
use crate::updates::{apply, edge_operation, upsert};
use crate::wire::Wire;

/// How long the port may take to become free, or a connection that was cut to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A Qdrant server on a port of this machine, with data of its own. Dropping it stops it and removes the data.
#[derive(Debug)]
pub struct TestServer {
    address: SocketAddr,
    registry: Arc<Registry>,
    faults: Faults,
    ledger: Ledger,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    cut: CancellationToken,
    task: JoinHandle<()>,
    /// Receives nothing, and ends when the listener and all connections are gone.
    open: mpsc::Receiver<()>,
}

impl TestServer {
    /// Starts a server without collections, in the Tokio runtime that this is called from.
    ///
    /// # Errors
    /// If there is no room for the data or no port.
    pub fn start() -> anyhow::Result<Self> {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let server = Self {
            address: listener.local_addr()?,
            registry: Arc::new(Registry::new()?),
            faults: Faults::default(),
            ledger: Ledger::default(),
            running: Mutex::new(None),
        };
        server.run(listener);
        Ok(server)
    }

    /// Returns the server's address, which it keeps while it is stopped.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the faults of this server.
    #[must_use]
    pub const fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Returns the calls so far.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.ledger.calls()
    }

    /// Begins to count calls from zero.
    pub fn reset_calls(&self) {
        self.ledger.reset();
    }

    /// Cuts all connections and accepts no new ones. The collections stay.
    pub async fn stop(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { cut, task, mut open }) = running else { return };
        cut.cancel();
        task.abort();
        // The error only says that the task was aborted.
        task.await.ok();
        // No message is ever sent: the call returns when the last connection is gone.
        tokio::time::timeout(PATIENCE, open.recv()).await.ok();
    }

    /// Listens again, on the same port, after [`stop`](Self::stop).
    ///
    /// # Errors
    /// If something else has taken the port.
    pub async fn resume(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        let listener = loop {
            match listen(self.address) {
                Ok(listener) => break listener,
                // An outgoing connection of this machine may have been given the port for a moment.
                Err(_) if start.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => return Err(error).with_context(|| format!("listen on {} again", self.address)),
            }
        };
        self.run(listener);
        Ok(())
    }

    /// Stops the server, and starts it again on the same port with its data.
    ///
    /// # Errors
    /// If the data cannot be loaded or the port is taken.
    pub async fn restart(&self) -> anyhow::Result<()> {
        self.stop().await;
        let registry = Arc::clone(&self.registry);
        tokio::task::spawn_blocking(move || registry.reload()).await??;
        self.resume().await
    }

    /// Stops the server, and starts it again on the same port without collections.
    ///
    /// # Errors
    /// If the port is taken.
    pub async fn restart_empty(&self) -> anyhow::Result<()> {
        self.stop().await;
        self.registry.clear();
        self.resume().await
    }

    /// Stores points as they are, each `{"id": …, "vector": […], "payload": {…}}`, without faults and without counting. Tests
    /// use it to check that the change is noticed.
    ///
    /// # Errors
    /// If the collection does not accept them.
    pub async fn put(&self, collection: &str, points: Vec<Value>) -> anyhow::Result<()> {
        let collection = self.registry.find(collection)?;
        let points = points.into_iter().map(point_struct).collect::<anyhow::Result<_>>()?;
        let request = UpsertPoints { points, ..UpsertPoints::default() };
        let operation = edge_operation(upsert(request), &collection.vector)?;
        Ok(collection.run(|shard| apply(shard, vec![operation])).await?)
    }

    /// Sets the rate limits of a collection, as its strict mode would; the time may be other than a minute.
    ///
    /// # Errors
    /// If there is no such collection or alias.
    pub fn limit_rates(&self, collection: &str, limits: RateLimits) -> anyhow::Result<()> {
        self.registry.find(collection)?.limiters.set(limits);
        Ok(())
    }

    fn run(&self, listener: TcpListener) {
        let service = Service::new(Arc::clone(&self.registry), self.faults.clone(), self.ledger.clone());
        let cut = CancellationToken::new();
        let (sender, open) = mpsc::channel(1);
        let connections = stream::unfold((listener, cut.clone(), sender), |(listener, cut, sender)| async move {
            let accepted = listener.accept().await;
            let wire = accepted.map(|(stream, _)| {
                // The real server sets this too: answers to many requests on one connection do not wait for each other's
                // acknowledgement.
                stream.set_nodelay(true).ok();
                Wire::new(stream, cut.child_token(), sender.clone())
            });
            Some((wire, (listener, cut, sender)))
        });
        // The real server has no limit of its own for a message, and supports gzip.
        let points = PointsServer::new(service.clone()).max_decoding_message_size(usize::MAX);
        let collections = CollectionsServer::new(service.clone()).max_decoding_message_size(usize::MAX);
        let router = Server::builder()
            .add_service(QdrantServer::new(service).accept_compressed(Gzip).send_compressed(Gzip))
            .add_service(collections.accept_compressed(Gzip).send_compressed(Gzip))
            .add_service(points.accept_compressed(Gzip).send_compressed(Gzip));
        let task = tokio::spawn(async move {
            router.serve_with_incoming(connections).await.expect("a server that serves until it is stopped");
        });
        let running = Running { cut, task, open };
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(running) = self.running.lock().unwrap_or_else(PoisonError::into_inner).take() {
            running.cut.cancel();
            running.task.abort();
        }
    }
}

fn point_struct(mut point: Value) -> anyhow::Result<PointStruct> {
    let id: PointId = match &point["id"] {
        Value::Number(number) => number.as_u64().context("a number as id")?.into(),
        id => id.as_str().context("a UUID as id")?.into(),
    };
    let vector: Vec<f32> = serde_json::from_value(point["vector"].take())?;
    Ok(PointStruct::new(id, vector, Payload::try_from(point["payload"].take())?))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    // On Unix the standard library sets SO_REUSEADDR, so that connections of the last run do not block the port.
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
