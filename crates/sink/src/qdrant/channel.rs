//! Requests that are sent once.
//!
//! qdrant-client silently repeats a request after an error that may pass. The network may have kept the first copy of a write and deliver
//! it after newer ones, so the caller must know that it was repeated. Writes therefore use a connection that repeats nothing.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use qdrant_client::Qdrant;
use qdrant_client::qdrant::collections_client::CollectionsClient;
use qdrant_client::qdrant::points_client::PointsClient;
use secrecy::ExposeSecret as _;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use super::answer::CollectionPlace;
use super::server::{CONNECT_TIMEOUT, Server, TIMEOUT};
use crate::SinkError;

/// A connection that sends the API key with each request.
type AuthorizedChannel = InterceptedService<Channel, ApiKey>;

type PointsApi = PointsClient<AuthorizedChannel>;
pub(super) type CollectionsApi = CollectionsClient<AuthorizedChannel>;

/// An interceptor that adds the API key.
#[derive(Clone)]
pub(super) struct ApiKey(Option<AsciiMetadataValue>);

impl Interceptor for ApiKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("api-key", key.clone());
        }
        Ok(request)
    }
}

/// The connections to a server, made when they are needed. Clones share them, so that a thousand collections need no more than one.
#[derive(Clone, Default)]
pub struct Connections(Arc<SharedClients>);

#[derive(Default)]
struct SharedClients {
    client: Mutex<Option<Qdrant>>,
    writes: Writes,
}

impl Connections {
    /// Returns the client for everything but writes. It notices by itself when its connection is dead.
    pub(super) fn client(&self, new: impl FnOnce() -> Result<Qdrant, SinkError>) -> Result<Qdrant, SinkError> {
        let mut client = self.0.client.lock().unwrap_or_else(PoisonError::into_inner);
        match &*client {
            Some(client) => Ok(client.clone()),
            None => Ok(client.insert(new()?).clone()),
        }
    }

    /// Returns the connection for writes.
    pub(super) fn writes(&self) -> &Writes {
        &self.0.writes
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Connections")
    }
}

/// The connection for writes. It is made when it is needed, and again after a failure that the connection may have caused.
#[derive(Default)]
pub(super) struct Writes(Mutex<Option<PointsApi>>);

impl Writes {
    /// Returns the connection, and makes it if there is none. Must be called inside a runtime.
    pub(super) fn get(&self, server: &Server, place: &CollectionPlace) -> Result<PointsApi, SinkError> {
        let mut points = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*points {
            Some(points) => Ok(points.clone()),
            None => Ok(points.insert(self::points(server, place)?).clone()),
        }
    }

    /// Drops the connection if it may be dead: nothing else would notice that for a quarter of an hour.
    pub(super) fn failed(&self, status: &Status) {
        if matches!(
            status.code(),
            Code::Internal | Code::Unavailable | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded
        ) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

/// Connects for calls about points. Must be called inside a runtime.
fn points(server: &Server, place: &CollectionPlace) -> Result<PointsApi, SinkError> {
    let (channel, key) = connection(server, place)?;
    Ok(PointsClient::with_interceptor(channel, key).max_decoding_message_size(usize::MAX))
}

/// Connects for calls about collections. Must be called inside a runtime.
pub(super) fn collections(server: &Server, place: &CollectionPlace) -> Result<CollectionsApi, SinkError> {
    let (channel, key) = connection(server, place)?;
    Ok(CollectionsClient::with_interceptor(channel, key))
}

fn connection(server: &Server, place: &CollectionPlace) -> Result<(Channel, ApiKey), SinkError> {
    let unusable = |reason: &dyn ToString| SinkError::Server { url: place.url.clone(), reason: reason.to_string() };
    let key = server.api_key.as_ref().map(|key| AsciiMetadataValue::try_from(key.expose_secret()));
    let key = key.transpose().map_err(|error| unusable(&error))?;
    let mut endpoint = Endpoint::from_shared(place.url.clone()).map_err(|error| unusable(&error))?;
    if place.url.to_ascii_lowercase().starts_with("https://") {
        let tls = ClientTlsConfig::new().with_native_roots();
        endpoint = endpoint.tls_config(tls).map_err(|error| unusable(&error))?;
    }
    Ok((endpoint.timeout(TIMEOUT).connect_timeout(CONNECT_TIMEOUT).connect_lazy(), ApiKey(key)))
}
