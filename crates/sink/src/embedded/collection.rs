//! A collection in the engine, which fulfils the contracts of [`Sink`] and [`Search`].

use std::path::Path;
use std::sync::Arc;

use qdrant_edge::EdgeShard;
use walvec_model::{Generation, PointId, Position, Provenance, RawPage, RawPoint, StoredPoint, TableName, Vector};

use super::convert::older_than;
use super::paths::collection_directory;
use super::steps::{self, EngineStep};
use super::store::EngineStore;
use super::writer::{BuildPace, CollectionWriter};
use super::{manifest, read};
use crate::{
    BoxFuture, CollectionId, CollectionSpec, Filter, Generations, Hit, SCROLL_POINTS, ScrollPage, Search,
    SearchRequest, Sink, SinkError, SortRequest, SortValue, Write, older_points,
};

/// One collection in the embedded engine, in `<root>/collections/<name>/`. Clones share it.
///
/// # Durability
/// A write returns when its record in the journal has reached the disk and the engine has applied it.
///
/// # Concurrency
/// Changes are made one after the other, in the order in which their futures were first polled. Reads run concurrently with them, and with an
/// index build ([`Sink::optimize`]), which writes do not wait for either. A search sees all that a write changes or nothing of it. Dropping a
/// future does not take back a write that has begun.
///
/// # Closing
/// [`close`](Self::close) waits for an index build that is running. A program that ends calls [`leave`](Self::leave), or just exits: everything
/// that was reported as written is durable, and the next [`open`](Self::open) repairs what the build left. Dropping the last clone does not wait
/// for an index build either.
#[derive(Clone, Debug)]
pub struct Embedded {
    store: Arc<EngineStore>,
    writer: Arc<CollectionWriter>,
}

impl Embedded {
    /// Returns whether the collection was created before.
    #[must_use]
    pub fn exists(root: &Path, collection: &str) -> bool {
        collection_directory(root, collection).is_ok_and(|directory| manifest::exists(&directory))
    }

    /// Returns whether the collection exists with vectors that fit. Changes nothing, and may be called while another process has the collection
    /// open.
    ///
    /// # Errors
    /// [`SinkError::Fingerprint`] if it holds vectors of another model or dimension, [`SinkError::Corrupt`], [`SinkError::Io`].
    pub fn inspect(root: &Path, spec: &CollectionSpec) -> Result<bool, SinkError> {
        manifest::Manifest::inspect(&collection_directory(root, &spec.name)?, spec)
    }

    /// Opens the collection, or creates it. Blocks while it loads the collection's files.
    ///
    /// # Errors
    /// [`SinkError::Fingerprint`] if it holds vectors of another model or dimension, [`SinkError::Locked`] if it is open
    /// already, here or elsewhere, [`SinkError::Corrupt`] if its files cannot be read, [`SinkError::Io`].
    pub fn open(root: &Path, spec: CollectionSpec) -> Result<Self, SinkError> {
        let store = Arc::new(EngineStore::open(root, spec)?);
        let writer = Arc::new(CollectionWriter::new(Arc::clone(&store)));
        Ok(Self { store, writer })
    }

    /// Finishes the queued changes, then closes the collection for all clones; later calls get [`SinkError::Closed`].
    ///
    /// # Errors
    /// If the engine could not flush its files. Changes that were reported as written are durable all the same.
    pub async fn close(self) -> Result<(), SinkError> {
        self.writer.close().await
    }

    /// Closes the collection when the program is about to exit: finishes the queued changes like [`close`](Self::close), but abandons a running
    /// index build. The build may go on until the process is gone, and the collection cannot be opened again before that.
    ///
    /// # Errors
    /// Those of [`close`](Self::close).
    pub async fn leave(self) -> Result<(), SinkError> {
        self.writer.leave().await
    }

    /// Runs a read on the blocking pool, so that a long one does not hold up other tasks.
    async fn read<T, F>(&self, read: F) -> Result<T, SinkError>
    where
        T: Send + 'static,
        F: FnOnce(&EdgeShard) -> Result<T, SinkError> + Send + 'static,
    {
        let store = Arc::clone(&self.store);
        let task = tokio::task::spawn_blocking(move || store.with_shard(read));
        task.await.unwrap_or(Err(SinkError::Closed))
    }
}

impl Sink for Embedded {
    /// Returns the id: opening has created the collection and checked it.
    fn prepare(&self) -> BoxFuture<'_, Result<CollectionId, SinkError>> {
        Box::pin(std::future::ready(Ok(self.store.id())))
    }

    fn write<'a>(&'a self, batch: &'a [Write]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            let steps = steps::of_batch(batch, self.store.target().dimension)?;
            self.writer.change(steps).await.map(drop)
        })
    }

    fn retrieve<'a>(&'a self, ids: &'a [PointId]) -> BoxFuture<'a, Result<Vec<StoredPoint>, SinkError>> {
        let ids = ids.to_vec();
        Box::pin(self.read(move |shard| read::retrieve(shard, &ids)))
    }

    fn faithful<'a>(&'a self, ids: &'a [PointId]) -> BoxFuture<'a, Result<Vec<StoredPoint>, SinkError>> {
        let (target, ids) = (self.store.target().clone(), ids.to_vec());
        Box::pin(self.read(move |shard| read::faithful(shard, &target, &ids)))
    }

    fn vectors<'a>(&'a self, ids: &'a [PointId]) -> BoxFuture<'a, Result<Vec<(PointId, Vector)>, SinkError>> {
        let found = self.get(ids.to_vec(), true);
        Box::pin(
            async move { Ok(found.await?.into_iter().filter_map(|point| Some((point.id, point.vector?))).collect()) },
        )
    }

    fn delete_table(&self, table: &TableName) -> BoxFuture<'_, Result<(), SinkError>> {
        let step = EngineStep::DeleteTable { table: Provenance::table_tag(table) };
        Box::pin(async move { self.writer.change(vec![step]).await.map(drop) })
    }

    fn count_older(&self, table: &TableName, current: Generation) -> BoxFuture<'_, Result<u64, SinkError>> {
        let tag = Provenance::table_tag(table);
        Box::pin(self.read(move |shard| read::count(shard, Some(older_than(&tag, current)?))))
    }

    fn sweep(&self, table: &TableName, current: Generation) -> BoxFuture<'_, Result<u64, SinkError>> {
        let step = EngineStep::Sweep { table: Provenance::table_tag(table), current };
        Box::pin(self.writer.change(vec![step]))
    }

    /// Removes what a page shows: no other process writes here, so the page that was read is still valid.
    fn delete_older<'a>(
        &'a self,
        table: &'a TableName,
        before: Position,
        of: Generations,
        from: Option<PointId>,
    ) -> BoxFuture<'a, Result<Option<PointId>, SinkError>> {
        Box::pin(async move {
            let page = self.scroll(from, SCROLL_POINTS).await?;
            let older = older_points(&page, table, before, &of);
            let deletions: Vec<Write> = older.into_iter().map(|(id, _)| Write::Delete(id)).collect();
            self.write(&deletions).await?;
            Ok(page.next)
        })
    }

    fn count(&self) -> BoxFuture<'_, Result<u64, SinkError>> {
        Box::pin(self.read(|shard| read::count(shard, None)))
    }

    fn scroll(&self, from: Option<PointId>, limit: usize) -> BoxFuture<'_, Result<ScrollPage, SinkError>> {
        Box::pin(self.read(move |shard| read::scroll(shard, from, limit)))
    }

    fn optimize(&self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(self.writer.optimize(BuildPace::Settled))
    }

    fn optimize_while_filling(&self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(self.writer.optimize(BuildPace::Filling))
    }

    fn indexed(&self) -> BoxFuture<'_, Result<Option<u64>, SinkError>> {
        let store = Arc::clone(&self.store);
        Box::pin(async move {
            let task = tokio::task::spawn_blocking(move || store.indexed().map(|(_, indexed)| Some(indexed)));
            task.await.unwrap_or(Err(SinkError::Closed))
        })
    }
}

impl Search for Embedded {
    fn search(&self, request: SearchRequest) -> BoxFuture<'_, Result<Vec<Hit>, SinkError>> {
        let store = Arc::clone(&self.store);
        Box::pin(async move {
            let search = move || store.search(|shard| read::search(shard, request, store.target()));
            tokio::task::spawn_blocking(search).await.unwrap_or(Err(SinkError::Closed))
        })
    }

    fn rank(&self, request: SearchRequest, fused_for: usize) -> BoxFuture<'_, Result<Vec<Hit>, SinkError>> {
        let store = Arc::clone(&self.store);
        Box::pin(async move {
            let rank = move || store.search(|shard| read::rank(shard, request, store.target(), fused_for));
            tokio::task::spawn_blocking(rank).await.unwrap_or(Err(SinkError::Closed))
        })
    }

    fn page_where(
        &self,
        filter: Filter,
        from: Option<PointId>,
        limit: usize,
        with_vectors: bool,
    ) -> BoxFuture<'_, Result<RawPage, SinkError>> {
        let target = self.store.target().clone();
        Box::pin(self.read(move |shard| read::page(shard, &target, &filter, (from, limit), with_vectors)))
    }

    fn sorted(&self, request: SortRequest) -> BoxFuture<'_, Result<Vec<(SortValue, RawPoint)>, SinkError>> {
        let target = self.store.target().clone();
        Box::pin(self.read(move |shard| read::sorted(shard, &target, &request)))
    }

    fn get(&self, ids: Vec<PointId>, with_vectors: bool) -> BoxFuture<'_, Result<Vec<RawPoint>, SinkError>> {
        let target = self.store.target().clone();
        Box::pin(self.read(move |shard| read::get(shard, &target, &ids, with_vectors)))
    }
}
