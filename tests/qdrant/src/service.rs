//! The steps that every call goes through.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use qdrant_client::qdrant::qdrant_server::Qdrant;
use qdrant_client::qdrant::{Filter, HealthCheckReply, HealthCheckRequest, UpdateStatus};
use tonic::{Request, Response, Status};

use crate::calls::{Call, InFlight, Ledger};
use crate::faults::{Fault, Faults};
use crate::registry::{Collection, Registry};
use crate::strict;
use crate::wire::Cut;

/// The calls of all services. Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) registry: Arc<Registry>,
    faults: Faults,
    ledger: Ledger,
}

/// A call that passed the checks.
#[derive(Debug)]
pub(crate) struct Started {
    cut: Option<Cut>,
    delay: Duration,
    fault: Option<Fault>,
    _in_flight: Option<InFlight>,
}

impl Service {
    pub(crate) const fn new(registry: Arc<Registry>, faults: Faults, ledger: Ledger) -> Self {
        Self { registry, faults, ledger }
    }

    /// Begins a call that does not change points.
    pub(crate) async fn begin<T: Message>(&self, call: Call, request: &Request<T>) -> Result<Started, Status> {
        self.check(call, request, "", Vec::new())?.wait().await
    }

    /// Begins a call that changes these points of a collection.
    pub(crate) async fn begin_write<T: Message>(
        &self,
        call: Call,
        request: &Request<T>,
        collection: &str,
        points: Vec<String>,
    ) -> Result<Started, Status> {
        self.check(call, request, collection, points)?.wait().await
    }

    /// Refuses filters by fields without an index, if the server is set to do so.
    pub(crate) async fn check_filters<'f>(
        &self,
        collection: &Arc<Collection>,
        filters: impl IntoIterator<Item = &'f Filter>,
    ) -> Result<(), Status> {
        match self.faults.refuses_unindexed_filters() {
            true => strict::check(collection, filters).await,
            false => Ok(()),
        }
    }

    fn check<T: Message>(
        &self,
        call: Call,
        request: &Request<T>,
        collection: &str,
        points: Vec<String>,
    ) -> Result<Started, Status> {
        self.ledger.enter(call);
        self.faults.check_key(request.metadata().get("api-key").and_then(|key| key.to_str().ok()))?;
        self.faults.check_size(request.get_ref().encoded_len())?;
        self.faults.check_points(&points)?;
        let (delay, fault) = self.faults.take(call);
        let points = points.into_iter().map(|point| format!("{collection}/{point}")).collect();
        let in_flight = call.is_write().then(|| self.ledger.begin_write(points));
        Ok(Started { cut: request.extensions().get().cloned(), delay, fault, _in_flight: in_flight })
    }
}

impl Started {
    async fn wait(self) -> Result<Self, Status> {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        // The connection was cut, perhaps because the server was stopped, so the call must have no effect any more.
        if self.cut.as_ref().is_some_and(Cut::is_cut) {
            return Err(broken());
        }
        match &self.fault {
            Some(Fault::Status(code, message)) => Err(Status::new(*code, message.clone())),
            Some(Fault::DropConnection) => {
                self.break_connection();
                Err(broken())
            }
            _ => Ok(self),
        }
    }

    /// Returns whether the call is to take effect.
    pub(crate) const fn applies(&self) -> bool {
        !matches!(self.fault, Some(Fault::Update { applied: false, .. }))
    }

    /// Returns the status with which a write is answered.
    pub(crate) const fn status(&self, waited: bool) -> UpdateStatus {
        match self.fault {
            Some(Fault::Update { status, .. }) => status,
            // As in the real server, a client that does not wait only learns that the write has arrived.
            _ if waited => UpdateStatus::Completed,
            _ => UpdateStatus::Acknowledged,
        }
    }

    /// Ends a call, and returns its answer.
    pub(crate) fn answer<T>(&self, response: T) -> Result<Response<T>, Status> {
        if matches!(self.fault, Some(Fault::LoseAnswer)) {
            self.break_connection();
            return Err(broken());
        }
        Ok(Response::new(response))
    }

    fn break_connection(&self) {
        if let Some(cut) = &self.cut {
            cut.cut();
        }
    }
}

/// Returns the error of a call whose connection was cut; the client never receives it.
fn broken() -> Status {
    Status::unavailable("the connection was cut")
}

#[tonic::async_trait]
impl Qdrant for Service {
    async fn health_check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckReply>, Status> {
        let call = self.begin(Call::HealthCheck, &request).await?;
        let title = "qdrant - vector search engine".to_owned();
        call.answer(HealthCheckReply { title, version: self.faults.version(), commit: None })
    }
}

/// The calls that the test server does not support. They are written in the form that `async_trait` generates, because it
/// does not expand macros.
macro_rules! not_implemented {
    ($($name:ident($request:ty) -> $response:ty;)*) => {$(
        fn $name<'life0, 'async_trait>(
            &'life0 self,
            _: tonic::Request<$request>,
        ) -> futures::future::BoxFuture<'async_trait, Result<tonic::Response<$response>, tonic::Status>>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            let message = concat!("the test server does not know ", stringify!($name));
            Box::pin(std::future::ready(Err(tonic::Status::unimplemented(message))))
        }
    )*};
}
pub(crate) use not_implemented;
