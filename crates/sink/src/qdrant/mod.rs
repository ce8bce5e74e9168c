//! A Qdrant server or cluster, over gRPC; the only module that names `qdrant_client`.
//!
//! - [`Remote`]: the collection, as the pipeline writes it and as readers see it
//! - [`Aliases`] (`aliases`): which collection a name stands for
//! - `collection`: creating it, and checking one that exists
//! - `filled_from`: which database it is filled from
//! - `channel`: requests that are sent once
//! - [`Server`] (`server`): its address, and how collections are made there
//! - `delete`: removing points by ids, filters or versions
//! - `requests`: cutting a batch into requests, several of them in flight
//! - `tenants`: shards by the value of a field
//! - `read`: retrieve, count, scroll, search
//! - `convert`: ids, payloads and filters in the client's types
//! - `answer`: interpretation of the server's answers
//! - `pace`: how large requests may be where the server limits them
//!
//! Every write waits until the server has applied it, and only the status `completed` counts: `acknowledged` and a timeout mean that
//! the write is queued.

mod aliases;
mod answer;
mod channel;
mod collection;
mod convert;
mod delete;
mod filled_from;
mod pace;
mod read;
mod requests;
mod server;
mod tenants;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use qdrant_client::Qdrant;
use qdrant_client::qdrant::{CountPoints, Filter as ClientFilter, WriteOrdering, WriteOrderingType};
use walvec_model::{Generation, PointId, Position, Provenance, RawPage, RawPoint, StoredPoint, TableName, Vector};

pub use aliases::Aliases;
use answer::CollectionPlace;
pub use channel::Connections;
use pace::RequestSizes;
use server::connect;
pub use server::{CollectionLayout, LOCAL, Quantization, Server, local_version};
use tenants::Tenants;

use crate::catalog::{self, Catalog as _};
use crate::{
    BoxFuture, CollectionId, CollectionSpec, Filter, Generations, Hit, SCROLL_POINTS, ScrollPage, Search,
    SearchRequest, Sink, SinkError, SortRequest, SortValue, Write, older_points,
};

/// The order of writes: those of one key go through one copy, one after the other, whichever node receives them.
const ORDERING: WriteOrdering = WriteOrdering { r#type: WriteOrderingType::Medium as i32 };

/// One collection of a server.
#[derive(Clone)]
pub struct Remote(Arc<RemoteCollection>);

struct RemoteCollection {
    client: Qdrant,
    spec: CollectionSpec,
    place: CollectionPlace,
    /// Whether `spec.name` is an alias, to be looked up, or the collection's own name.
    is_alias: bool,
    /// The shards, where a field decides about them.
    tenants: Option<Tenants>,
    /// Whether no other process writes the collection at the same time.
    is_alone: bool,
    /// Whether a crash of the server may bring back points that were removed by a filter.
    brings_back: AtomicBool,
    server: Server,
    pace: RequestSizes,
}

impl RemoteCollection {
    fn name(&self) -> String {
        self.place.name()
    }

    /// Makes the error of a write that failed.
    fn write_failed(&self, status: &tonic::Status) -> SinkError {
        self.server.connections.writes().failed(status);
        self.place.status(status)
    }
}

impl Remote {
    /// Describes the collection that `spec.name` stands for, without sending a request. [`Sink::prepare`] finds out which one that is,
    /// and creates the first one where there is none.
    ///
    /// # Errors
    /// If the URL cannot be used.
    pub fn new(server: Server, spec: CollectionSpec) -> Result<Self, SinkError> {
        Self::open(server, spec, true)
    }

    /// Describes the collection whose own name is `spec.name`, whether an alias leads to it or not, without sending a request.
    ///
    /// # Errors
    /// If the URL cannot be used.
    pub fn own(server: Server, spec: CollectionSpec) -> Result<Self, SinkError> {
        Self::open(server, spec, false)
    }

    /// Describes this collection under the alias that now leads to it, without sending a request.
    ///
    /// # Errors
    /// If the URL cannot be used.
    pub fn served_as(&self, server: Server, alias: &str) -> Result<Self, SinkError> {
        let served = Self::new(server, CollectionSpec { name: alias.to_owned(), ..self.0.spec.clone() })?;
        let served = served.alone(self.0.is_alone);
        served.0.place.set_name(&self.0.spec.name);
        Ok(served)
    }

    fn open(server: Server, spec: CollectionSpec, is_alias: bool) -> Result<Self, SinkError> {
        let place = CollectionPlace::new(&server.url, &spec.name);
        let client = connect(&server, &place)?;
        let tenants = server.layout.shard_key.clone().map(Tenants::new);
        let inner = RemoteCollection {
            client,
            spec,
            place,
            is_alias,
            tenants,
            is_alone: false,
            brings_back: AtomicBool::new(true),
            server,
            pace: RequestSizes::default(),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Promises that no other process writes the collection. Must be called before it is cloned.
    #[must_use]
    pub fn alone(mut self, is_alone: bool) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.is_alone = is_alone;
        }
        self
    }

    /// Returns whether the collection exists with vectors that fit. Changes nothing.
    ///
    /// # Errors
    /// If it does not fit, or the server cannot be asked.
    pub async fn inspect(&self) -> Result<bool, SinkError> {
        collection::exists(&self.0).await
    }

    /// Returns how many points the server stores but does not show yet: with the option `prevent_unoptimized`, new points are left out
    /// of every answer, scrolls included, until they are indexed. Servers before 1.17.1 never do that.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub async fn held_back(&self) -> Result<u64, SinkError> {
        let RemoteCollection { client, place, .. } = &*self.0;
        let response = client.collection_info(self.0.name()).await.map_err(|error| place.error(error))?;
        let queue = response.result.and_then(|info| info.update_queue);
        Ok(queue.and_then(|queue| queue.deferred_points).unwrap_or(0))
    }

    /// Removes every collection of that name that walvec made or took over. It is no error if there is none. Returns false if the name
    /// also leads to a collection of another program, which stays.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn purge(server: Server, name: &str) -> Result<bool, SinkError> {
        let aliases = Aliases::new(server);
        let served = aliases.serving(name).await?;
        for number in aliases.numbers(name).await? {
            aliases.remove(&catalog::numbered(name, number)).await?;
        }
        match served {
            Some(served) if aliases.is_foreign(&served).await? => return Ok(false),
            Some(served) => aliases.remove(&served).await?,
            None => {}
        }
        Ok(true)
    }

    async fn count_where(&self, filter: Option<ClientFilter>) -> Result<u64, SinkError> {
        let RemoteCollection { client, place, .. } = &*self.0;
        let request =
            CountPoints { collection_name: self.0.name(), filter, exact: Some(true), ..CountPoints::default() };
        let response = client.count(request).await.map_err(|error| place.error(error))?;
        Ok(response.result.map_or(0, |result| result.count))
    }
}

impl Sink for Remote {
    fn prepare(&self) -> BoxFuture<'_, Result<CollectionId, SinkError>> {
        Box::pin(collection::prepare(&self.0))
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn record_database<'a>(
        &'a self,
        database: &'a str,
        former: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(filled_from::record(&self.0, database, former))
    }

    fn ids_per_read(&self) -> usize {
        self.0.pace.reads.of(read::RETRIEVE_POINTS)
    }

    fn write<'a>(&'a self, batch: &'a [Write]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(requests::send(&self.0, batch))
    }

    fn retrieve<'a>(&'a self, ids: &'a [PointId]) -> BoxFuture<'a, Result<Vec<StoredPoint>, SinkError>> {
        Box::pin(read::retrieve(&self.0, ids))
    }

    fn faithful<'a>(&'a self, ids: &'a [PointId]) -> BoxFuture<'a, Result<Vec<StoredPoint>, SinkError>> {
        Box::pin(read::faithful(&self.0, ids))
    }

    fn vectors<'a>(&'a self, ids: &'a [PointId]) -> BoxFuture<'a, Result<Vec<(PointId, Vector)>, SinkError>> {
        let found = read::get(&self.0, ids, true);
        Box::pin(
            async move { Ok(found.await?.into_iter().filter_map(|point| Some((point.id, point.vector?))).collect()) },
        )
    }

    fn delete_table(&self, table: &TableName) -> BoxFuture<'_, Result<(), SinkError>> {
        let filter = convert::of_table(&Provenance::table_tag(table));
        Box::pin(self.delete(filter))
    }

    fn count_older(&self, table: &TableName, current: Generation) -> BoxFuture<'_, Result<u64, SinkError>> {
        let filter = convert::older_than(&Provenance::table_tag(table), current);
        Box::pin(async move { self.count_where(Some(filter)).await })
    }

    fn sweep(&self, table: &TableName, current: Generation) -> BoxFuture<'_, Result<u64, SinkError>> {
        let filter = convert::older_than(&Provenance::table_tag(table), current);
        Box::pin(async move {
            let count = self.count_where(Some(filter.clone())).await?;
            if count > 0 {
                self.delete(filter).await?;
            }
            Ok(count)
        })
    }

    fn delete_older<'a>(
        &'a self,
        table: &'a TableName,
        before: Position,
        of: Generations,
        from: Option<PointId>,
    ) -> BoxFuture<'a, Result<Option<PointId>, SinkError>> {
        Box::pin(async move {
            let page = self.scroll(from, SCROLL_POINTS).await?;
            self.delete_versions(&older_points(&page, table, before, &of)).await?;
            Ok(page.next)
        })
    }

    fn count(&self) -> BoxFuture<'_, Result<u64, SinkError>> {
        Box::pin(self.count_where(None))
    }

    fn scroll(&self, from: Option<PointId>, limit: usize) -> BoxFuture<'_, Result<ScrollPage, SinkError>> {
        Box::pin(read::scroll(&self.0, from, limit))
    }

    /// Does nothing: the server builds its indexes by itself.
    fn optimize(&self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Remote {
    /// Refuses to search a collection whose vectors may be of another model.
    fn check_is_known(&self) -> Result<(), SinkError> {
        if self.0.is_alias && !self.0.place.is_known() {
            return Err(self.0.place.unavailable("walvec has not looked at the collection yet"));
        }
        Ok(())
    }
}

impl Search for Remote {
    fn search(&self, request: SearchRequest) -> BoxFuture<'_, Result<Vec<Hit>, SinkError>> {
        Box::pin(async move {
            self.check_is_known()?;
            read::search(&self.0, request).await
        })
    }

    fn rank(&self, request: SearchRequest, fused_for: usize) -> BoxFuture<'_, Result<Vec<Hit>, SinkError>> {
        Box::pin(async move {
            self.check_is_known()?;
            read::rank(&self.0, request, fused_for).await
        })
    }

    fn page_where(
        &self,
        filter: Filter,
        from: Option<PointId>,
        limit: usize,
        with_vectors: bool,
    ) -> BoxFuture<'_, Result<RawPage, SinkError>> {
        Box::pin(read::page(&self.0, filter, from, limit, with_vectors))
    }

    fn sorted(&self, request: SortRequest) -> BoxFuture<'_, Result<Vec<(SortValue, RawPoint)>, SinkError>> {
        Box::pin(read::sorted(&self.0, request))
    }

    fn get(&self, ids: Vec<PointId>, with_vectors: bool) -> BoxFuture<'_, Result<Vec<RawPoint>, SinkError>> {
        Box::pin(async move { read::get(&self.0, &ids, with_vectors).await })
    }
}
