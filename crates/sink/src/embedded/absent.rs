//! The stand-in for [`Embedded`] in a program that was built without the engine: no collection exists, and none can be
//! opened.

use std::convert::Infallible;
use std::path::Path;

use walvec_model::{Generation, PointId, Position, RawPage, RawPoint, StoredPoint, TableName, Vector};

use crate::{
    BoxFuture, CollectionId, CollectionSpec, Filter, Generations, Hit, ScrollPage, Search, SearchRequest, Sink,
    SinkError, SortRequest, SortValue, Write,
};

/// A collection in the embedded engine. This program was built without the engine, so the type has no value.
#[derive(Clone, Debug)]
pub struct Embedded(Infallible);

impl Embedded {
    /// Always returns false. A program with the engine may have created the collection; this one could not read it.
    #[must_use]
    pub const fn exists(_root: &Path, _collection: &str) -> bool {
        false
    }

    /// Finds nothing.
    ///
    /// # Errors
    /// Always [`SinkError::NotBuilt`].
    pub const fn inspect(_root: &Path, _spec: &CollectionSpec) -> Result<bool, SinkError> {
        Err(SinkError::NotBuilt)
    }

    /// Opens nothing.
    ///
    /// # Errors
    /// Always [`SinkError::NotBuilt`].
    pub fn open(_root: &Path, _spec: CollectionSpec) -> Result<Self, SinkError> {
        Err(SinkError::NotBuilt)
    }

    /// Closes nothing.
    ///
    /// # Errors
    /// None.
    pub async fn close(self) -> Result<(), SinkError> {
        match self.0 {}
    }

    /// Leaves nothing.
    ///
    /// # Errors
    /// None.
    pub async fn leave(self) -> Result<(), SinkError> {
        match self.0 {}
    }
}

impl Sink for Embedded {
    fn prepare(&self) -> BoxFuture<'_, Result<CollectionId, SinkError>> {
        match self.0 {}
    }

    fn write<'a>(&'a self, _batch: &'a [Write]) -> BoxFuture<'a, Result<(), SinkError>> {
        match self.0 {}
    }

    fn retrieve<'a>(&'a self, _ids: &'a [PointId]) -> BoxFuture<'a, Result<Vec<StoredPoint>, SinkError>> {
        match self.0 {}
    }

    fn faithful<'a>(&'a self, _ids: &'a [PointId]) -> BoxFuture<'a, Result<Vec<StoredPoint>, SinkError>> {
        match self.0 {}
    }

    fn vectors<'a>(&'a self, _ids: &'a [PointId]) -> BoxFuture<'a, Result<Vec<(PointId, Vector)>, SinkError>> {
        match self.0 {}
    }

    fn delete_table(&self, _table: &TableName) -> BoxFuture<'_, Result<(), SinkError>> {
        match self.0 {}
    }

    fn count_older(&self, _table: &TableName, _current: Generation) -> BoxFuture<'_, Result<u64, SinkError>> {
        match self.0 {}
    }

    fn sweep(&self, _table: &TableName, _current: Generation) -> BoxFuture<'_, Result<u64, SinkError>> {
        match self.0 {}
    }

    fn delete_older<'a>(
        &'a self,
        _table: &'a TableName,
        _before: Position,
        _of: Generations,
        _from: Option<PointId>,
    ) -> BoxFuture<'a, Result<Option<PointId>, SinkError>> {
        match self.0 {}
    }

    fn count(&self) -> BoxFuture<'_, Result<u64, SinkError>> {
        match self.0 {}
    }

    fn scroll(&self, _from: Option<PointId>, _limit: usize) -> BoxFuture<'_, Result<ScrollPage, SinkError>> {
        match self.0 {}
    }

    fn optimize(&self) -> BoxFuture<'_, Result<(), SinkError>> {
        match self.0 {}
    }
}

impl Search for Embedded {
    fn search(&self, _request: SearchRequest) -> BoxFuture<'_, Result<Vec<Hit>, SinkError>> {
        match self.0 {}
    }

    fn rank(&self, _request: SearchRequest, _fused_for: usize) -> BoxFuture<'_, Result<Vec<Hit>, SinkError>> {
        match self.0 {}
    }

    fn page_where(
        &self,
        _filter: Filter,
        _from: Option<PointId>,
        _limit: usize,
        _with_vectors: bool,
    ) -> BoxFuture<'_, Result<RawPage, SinkError>> {
        match self.0 {}
    }

    fn sorted(&self, _request: SortRequest) -> BoxFuture<'_, Result<Vec<(SortValue, RawPoint)>, SinkError>> {
        match self.0 {}
    }

    fn get(&self, _ids: Vec<PointId>, _with_vectors: bool) -> BoxFuture<'_, Result<Vec<RawPoint>, SinkError>> {
        match self.0 {}
    }
}
