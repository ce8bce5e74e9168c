//! A Qdrant server or cluster, over gRPC; the only module that names `qdrant_client`.
//!
//! - [`Remote`]: the collection, as the pipeline writes it and as readers see it
//! - [`Aliases`] (`aliases`): which collection a name stands for
//! - `collection`: creating it, and checking one that exists
//! - `filled_from`: which database it is filled from
//! - `channel`: requests that are sent once
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
mod filled_from;
mod pace;
mod read;
mod requests;
mod tenants;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qdrant_client::Qdrant;
use qdrant_client::qdrant::{
    CountPoints, DeletePoints, Filter as ClientFilter, PointsSelector, WriteOrdering, WriteOrderingType,
};
use secrecy::{ExposeSecret as _, SecretString};
use walvec_model::{Generation, PointId, Position, Provenance, RawPage, RawPoint, StoredPoint, TableName, Vector};

pub use aliases::Aliases;
use answer::Place;
pub use channel::Connections;
use pace::Pace;
use tenants::Tenants;

use crate::catalog::{self, Catalog as _};
use crate::{
    BoxFuture, CollectionId, CollectionSpec, Filter, Generations, Hit, SCROLL_POINTS, ScrollPage, Search,
    SearchRequest, Sink, SinkError, SortRequest, SortValue, Write, older_points,
};

/// The address of a server, and how collections are made there.
#[derive(Clone, Debug)]
pub struct Server {
    /// `http://` or `https://`, host and the port of gRPC, usually 6334.
    pub url: String,
    /// The API key, if the server requires one.
    pub api_key: Option<SecretString>,
    /// How new collections are made; existing ones are never changed.
    pub layout: Layout,
    /// The shared connections to the server.
    pub connections: Connections,
}

impl Server {
    /// Describes the server at this URL, without a key and with the server's defaults for new collections.
    #[must_use]
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), api_key: None, layout: Layout::default(), connections: Connections::default() }
    }
}

/// How a new collection is laid out over the server's memory, disks and nodes. `None`: the server's own default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Whether vectors lie on disk, read through the page cache.
    pub on_disk: Option<bool>,
    /// Whether there are compressed vectors, which are searched first.
    pub quantization: Option<Quantization>,
    /// How many shards.
    pub shards: Option<u32>,
    /// How many copies of each shard.
    pub replicas: Option<u32>,
    /// How many copies must confirm a write.
    pub write_consistency: Option<u32>,
    /// The field, under the user's name, whose value decides which shard a point is in: for tenants. `None`: the point's id decides.
    pub shard_key: Option<String>,
}

/// How vectors are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// One byte per dimension.
    Scalar,
    /// One bit per dimension.
    Binary,
}

/// How long an answer may take. A write waits for the server to apply it, which an index build can hold up.
const TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The default address of a server on this machine.
pub const LOCAL: &str = "http://localhost:6334";

/// Returns the version of the Qdrant server at [`LOCAL`], if one answers at once.
pub async fn local_version() -> Option<String> {
    let client = Qdrant::from_url(LOCAL).skip_compatibility_check().build().ok()?;
    let reply = tokio::time::timeout(Duration::from_millis(300), client.health_check()).await;
    Some(reply.ok()?.ok()?.version)
}

/// One collection of a server.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

struct Inner {
    client: Qdrant,
    spec: CollectionSpec,
    place: Place,
    /// Whether `spec.name` is an alias, to be looked up, or the collection's own name.
    is_alias: bool,
    /// The shards, where a field decides about them.
    tenants: Option<Tenants>,
    /// Whether no other process writes the collection at the same time.
    is_alone: bool,
    /// Whether a crash of the server may bring back points that were removed by a filter.
    brings_back: AtomicBool,
    server: Server,
    pace: Pace,
}

impl Inner {
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
        let place = Place::new(&server.url, &spec.name);
        let client = connect(&server, &place)?;
        let tenants = server.layout.shard_key.clone().map(Tenants::new);
        let inner = Inner {
            client,
            spec,
            place,
            is_alias,
            tenants,
            is_alone: false,
            brings_back: AtomicBool::new(true),
            server,
            pace: Pace::default(),
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
        let Inner { client, place, .. } = &*self.0;
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

    /// Removes the points that match `filter`.
    ///
    /// Removes them by their ids if a crash of the server may bring back points that were removed by a filter. Not if another process
    /// may write one meanwhile, nor if another shard may have another point of the same id.
    async fn delete(&self, filter: ClientFilter) -> Result<(), SinkError> {
        let brings_back = self.0.brings_back.load(Ordering::Relaxed);
        if brings_back && self.0.is_alone && self.0.tenants.is_none() {
            let by_ids = |ids: &[PointId]| PointsSelector::from(convert::client_ids(ids));
            return self.delete_found(&filter, by_ids).await;
        }
        match self.delete_points(PointsSelector::from(filter.clone())).await {
            Err(SinkError::Limited(limited)) if limited.is_too_large => {
                let as_found = |ids: &[PointId]| PointsSelector::from(convert::among(&filter, ids));
                self.delete_found(&filter, as_found).await
            }
            deleted => deleted,
        }
    }

    /// Finds the points that match `filter`, and removes some of them at a time by what `selector` makes of them.
    async fn delete_found(
        &self,
        filter: &ClientFilter,
        selector: impl Fn(&[PointId]) -> PointsSelector,
    ) -> Result<(), SinkError> {
        let mut from = None;
        loop {
            let (ids, next) = read::ids(&self.0, from, filter.clone()).await?;
            self.delete_each(&ids, &selector).await?;
            if next.is_none() {
                return Ok(());
            }
            from = next;
        }
    }

    /// Removes points, as many at a time as the server takes.
    async fn delete_each<T>(&self, points: &[T], selector: impl Fn(&[T]) -> PointsSelector) -> Result<(), SinkError> {
        let (size, mut rest) = (&self.0.pace.writes, points);
        while !rest.is_empty() {
            let (some, later) = rest.split_at(size.of(rest.len()));
            match self.delete_points(selector(some)).await {
                Ok(()) => rest = later,
                Err(SinkError::Limited(limited)) if size.refused(&limited, some.len()) => {}
                Err(error) => return Err(error),
            }
        }
        size.passed(points.len());
        Ok(())
    }

    /// Removes points as long as they have these versions. Where no other process writes, they always have. Elsewhere the server must
    /// compare the versions, which a server in strict mode refuses until there is an index.
    async fn delete_versions(&self, points: &[(PointId, Position)]) -> Result<(), SinkError> {
        if self.0.is_alone && self.0.tenants.is_none() {
            let ids: Vec<PointId> = points.iter().map(|(id, _)| *id).collect();
            return self.delete_each(&ids, |ids| PointsSelector::from(convert::client_ids(ids))).await;
        }
        let as_seen = |points: &[(PointId, Position)]| PointsSelector::from(convert::with_versions(points));
        match self.delete_each(points, as_seen).await {
            Err(SinkError::BadRequest(_)) => {
                collection::index_versions(&self.0, &self.0.name()).await?;
                self.delete_each(points, as_seen).await
            }
            deleted => deleted,
        }
    }

    async fn delete_points(&self, points: PointsSelector) -> Result<(), SinkError> {
        let place = &self.0.place;
        let request = DeletePoints {
            collection_name: self.0.name(),
            wait: Some(true),
            points: Some(points),
            ordering: Some(ORDERING),
            shard_key_selector: tenants::everywhere(&self.0).await?,
            ..DeletePoints::default()
        };
        let mut writes = self.0.server.connections.writes().get(&self.0.server, place)?;
        let response = writes.delete(request).await.map_err(|status| self.0.write_failed(&status))?;
        place.completed(response.get_ref().result.as_ref())
    }

    async fn count_where(&self, filter: Option<ClientFilter>) -> Result<u64, SinkError> {
        let Inner { client, place, .. } = &*self.0;
        let request =
            CountPoints { collection_name: self.0.name(), filter, exact: Some(true), ..CountPoints::default() };
        let response = client.count(request).await.map_err(|error| place.error(error))?;
        Ok(response.result.map_or(0, |result| result.count))
    }
}

/// The order of writes: those of one key go through one copy, one after the other, whichever node receives them.
const ORDERING: WriteOrdering = WriteOrdering { r#type: WriteOrderingType::Medium as i32 };

/// Makes the client for everything but writes; all collections of a server share it.
fn connect(server: &Server, place: &Place) -> Result<Qdrant, SinkError> {
    server.connections.client(|| new_client(server, place))
}

fn new_client(server: &Server, place: &Place) -> Result<Qdrant, SinkError> {
    let key = server.api_key.as_ref().map(|key| key.expose_secret());
    if key.is_some_and(|key| key.is_empty() || !key.chars().all(|character| character.is_ascii_graphic())) {
        // The client's own error would repeat the key.
        let reason = "the API key is empty or holds something else than visible ASCII, perhaps a line break at its end";
        return Err(SinkError::Server { url: place.url.clone(), reason: reason.to_owned() });
    }
    Qdrant::from_url(&server.url)
        .api_key(key.map(str::to_owned))
        .timeout(TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        // The client would send the check, and print to stderr, at an unexpected time; `prepare` checks the version.
        .skip_compatibility_check()
        .build()
        .map_err(|error| place.error(error))
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

    fn write(&self, batch: Vec<Write>) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(requests::send(&self.0, batch))
    }

    fn retrieve(&self, ids: Vec<PointId>) -> BoxFuture<'_, Result<Vec<StoredPoint>, SinkError>> {
        Box::pin(read::retrieve(&self.0, ids))
    }

    fn faithful(&self, ids: Vec<PointId>) -> BoxFuture<'_, Result<Vec<StoredPoint>, SinkError>> {
        Box::pin(read::faithful(&self.0, ids))
    }

    fn vectors(&self, ids: Vec<PointId>) -> BoxFuture<'_, Result<Vec<(PointId, Vector)>, SinkError>> {
        let found = self.get(ids, true);
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
        Box::pin(read::get(&self.0, ids, with_vectors))
    }
}
