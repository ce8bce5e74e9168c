//! Where points are stored and searched.
//!
//! - [`Sink`] and [`Search`]: the contracts that the pipeline and the surface rely on
//! - [`embedded`]: Qdrant's own engine inside this process; only this module and [`keywords`] name `qdrant_edge`
//! - [`qdrant`]: a Qdrant server or cluster, the only module that names `qdrant_client`
//! - [`Catalog`] (`catalog`): which collection a name stands for, and letting it stand for another one
//! - [`Filter`] (`filter`): conditions on payload fields
//! - [`Keywords`]: the sparse vectors of texts
//! - [`nearest_rows`](nearest_rows()): searches in which a row counts once
//! - [`page_of_hits`] (`paged`): the hits of a search, page by page
//! - [`page_in_order`] (`ordered`): points in the order of a field, page by page
//! - `faithful`: which stored values come back exactly as they were written
//! - `made_with`: why a stored collection does not fit, in words
//! - [`SinkError`] (`error`): what can go wrong, and whether trying again helps
//! - [`Limited`] (`limited`): a request that a server refused because of its limits

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod catalog;
pub mod embedded;
mod error;
mod faithful;
mod filter;
pub mod keywords;
mod limited;
mod made_with;
mod nearest_rows;
mod ordered;
mod paged;
pub mod qdrant;

use std::collections::HashSet;
use std::ops::RangeInclusive;

pub use catalog::Catalog;
pub use error::SinkError;
pub use filter::{Bounds, Condition, Datetime, FieldPath, Filter, NotADatetime, PathStep};
pub use futures::future::BoxFuture;
pub use keywords::Keywords;
pub use limited::{Limited, RateLimit};
pub use nearest_rows::nearest_rows;
pub use ordered::{Order, SortPlace, SortRequest, SortValue, SortedBy, SortedPage, page_in_order};
pub use paged::{HitPage, HitPlace, page_of_hits};
pub use walvec_model::IndexType;
use walvec_model::{
    Fingerprint, Generation, MadeWith, Payload, Point, PointId, Position, Provenance, RawPage, RawPoint, SparseVector,
    StoredPoint, TableName, Vector,
};

/// The properties that a collection must have.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectionSpec {
    /// The collection's name.
    pub name: String,
    /// Dimension of its vectors.
    pub dimension: usize,
    /// The fingerprint of what made the vectors. A stored collection with another fingerprint is refused.
    pub fingerprint: Fingerprint,
    /// The parts that the fingerprint was computed from, to explain a mismatch.
    pub made_with: MadeWith,
    /// Payload fields to index, with their types.
    pub indexes: Vec<(FieldPath, IndexType)>,
    /// The name of its vectors; `None` if they have no name.
    pub vector: Option<String>,
    /// The name of its sparse vectors, for searches by keyword; `None` if there are none.
    pub keywords: Option<String>,
    /// The payload field that is an object of the user's fields; `None` if they are at the top level. Indexes and filters name fields as the
    /// user does, without it.
    pub nesting: Option<String>,
}

/// One write. Writes of one batch never name the same point twice.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Store the whole point, replacing vector and payload.
    Upsert(Point),
    /// Replace the payload and keep the stored vector. The caller knows that the point exists.
    Payload {
        /// The point.
        id: PointId,
        /// The user's fields, all of them.
        payload: Payload,
        /// walvec's own field.
        provenance: Provenance,
    },
    /// Remove the point. It is no error if the point does not exist.
    Delete(PointId),
}

impl Write {
    /// Returns the id of the point that is written.
    #[must_use]
    pub const fn id(&self) -> PointId {
        match self {
            Self::Upsert(point) => point.id,
            Self::Payload { id, .. } | Self::Delete(id) => *id,
        }
    }
}

/// Returns whether no two writes of a batch name the same point, which the order of its requests and of its steps relies on.
pub(crate) fn names_each_point_once(batch: &[Write]) -> bool {
    let mut seen = HashSet::with_capacity(batch.len());
    batch.iter().all(|write| seen.insert(write.id()))
}

/// Distinguishes a collection from another one of the same name, for example one that was made again on a server that had lost its disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionId(pub String);

/// The most hits of a search: more than a person reads, and few enough that a request cannot exhaust the memory of the process that answers
/// it.
pub const MAX_HITS: usize = 10_000;

/// How many points each side of a hybrid search brings in per wanted hit; [`fused_from`] has a minimum. A point that one side ranks low may
/// be high on the other.
const FUSED_PER_HIT: usize = 4;
const FUSED_AT_LEAST: usize = 100;

/// The constant of reciprocal rank fusion. The weights of meaning and words go with it: a point at rank `n`, from 0, of a side counts `1 /
/// ((n + 1) / weight + RRF_K - 1)`. On the questions about the sample catalogue, equal weights are worse than the meaning alone (`make
/// quality`). Servers before 1.17 do not know weights, and weigh both the same.
pub(crate) const RRF_K: u32 = 2;
pub(crate) const RRF_WEIGHTS: [f32; 2] = [1.0, 0.5];

/// Returns how many points each side of a hybrid search brings in for `limit` hits.
pub(crate) fn fused_from(limit: usize) -> usize {
    limit.saturating_mul(FUSED_PER_HIT).clamp(FUSED_AT_LEAST, MAX_HITS)
}

/// Checks a vector that is to be stored or searched for, and says what is wrong with it.
pub(crate) fn check_vector(vector: &[f32], dimension: usize) -> Result<(), String> {
    if vector.len() != dimension {
        return Err(format!("the vector has {} numbers, the collection takes {dimension}", vector.len()));
    }
    if vector.iter().any(|number| !number.is_finite()) {
        return Err("the vector holds a number that is not finite".to_owned());
    }
    if vector.iter().all(|number| *number == 0.0) {
        return Err("the vector is zero, and so has no direction to compare".to_owned());
    }
    Ok(())
}

/// A page of a scroll through a collection, in id order.
#[derive(Clone, Debug, PartialEq)]
pub struct ScrollPage {
    /// The points of this page.
    pub points: Vec<StoredPoint>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<PointId>,
}

/// A range of generations, both ends included.
pub type Generations = RangeInclusive<Generation>;

/// The most points of one read: those of the largest page, and one more that tells whether there is another page.
const MAX_POINTS: usize = MAX_HITS + 1;

/// How many points are read at a time where a whole collection must be read.
const SCROLL_POINTS: usize = 1000;

/// Returns the points of a page that show `table` as it was before a position, of these generations, with their versions. Positions of later
/// generations may be lower, because the database may have been restored to an older state.
fn older_points(page: &ScrollPage, table: &TableName, before: Position, of: &Generations) -> Vec<(PointId, Position)> {
    let tag = Provenance::table_tag(table);
    let version = |point: &StoredPoint| {
        let provenance = point.provenance.as_ref().filter(|provenance| provenance.table == tag)?;
        let is_older = of.contains(&provenance.generation) && provenance.position < before;
        is_older.then_some((point.id, provenance.position))
    };
    page.points.iter().filter_map(version).collect()
}

/// One collection, as the pipeline writes it.
///
/// # Contract
/// - There is one writer. Calls of one writer take effect in the order in which they were made.
/// - A future that resolves to `Ok` means *durable*: a kill or a power cut after it loses nothing of that call. Nothing
///   weaker (accepted, queued, acknowledged) may be reported as `Ok`.
/// - Every write is idempotent: the pipeline repeats batches after a crash.
/// - An error leaves it open whether the batch, or a part of it, was applied. [`SinkError::Limited`] says which points were written:
///   repeating these would use up again what a limit lets through.
pub trait Sink: Send + Sync {
    /// Creates the collection if it does not exist, refuses one whose vectors would not compare, and returns its id. Must be called before
    /// everything else, and again after an error.
    fn prepare(&self) -> BoxFuture<'_, Result<CollectionId, SinkError>>;

    /// Returns whether other processes can reach the collection, and so could write it.
    fn is_shared(&self) -> bool {
        false
    }

    /// Records with the collection which database it is filled from. Does nothing where no other process can reach the collection. `former`:
    /// the database that this one may replace.
    ///
    /// # Errors
    /// [`SinkError::OtherDatabase`] if it is filled from any other database.
    fn record_database<'a>(
        &'a self,
        _database: &'a str,
        _former: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Returns how many points a read may name at present, at least one. A read of more takes several requests on a server with a limit. If
    /// the server refuses one of them, the answers to the others are lost, and count against the limit again.
    fn ids_per_read(&self) -> usize {
        usize::MAX
    }

    /// Applies a batch and makes it durable.
    fn write<'a>(&'a self, batch: &'a [Write]) -> BoxFuture<'a, Result<(), SinkError>>;

    /// Returns the points with these ids that exist, in any order, with walvec's own field and no other. A point whose fields cannot be read
    /// counts as one that another program wrote.
    fn retrieve<'a>(&'a self, ids: &'a [PointId]) -> BoxFuture<'a, Result<Vec<StoredPoint>, SinkError>>;

    /// Returns the points with these ids that exist, in any order, with those of the user's fields that come back exactly as they were
    /// written (see the module `faithful`).
    fn faithful<'a>(&'a self, ids: &'a [PointId]) -> BoxFuture<'a, Result<Vec<StoredPoint>, SinkError>>;

    /// Returns the vectors of the points with these ids that exist and have one, in any order.
    fn vectors<'a>(&'a self, ids: &'a [PointId]) -> BoxFuture<'a, Result<Vec<(PointId, Vector)>, SinkError>>;

    /// Removes every point of `table`, durably. Points of other tables and foreign points stay.
    fn delete_table(&self, table: &TableName) -> BoxFuture<'_, Result<(), SinkError>>;

    /// Returns how many points of `table` have a generation older than `current`: those that [`sweep`](Self::sweep) removes.
    fn count_older(&self, table: &TableName, current: Generation) -> BoxFuture<'_, Result<u64, SinkError>>;

    /// Removes the points of `table` whose generation is older than `current`, durably, and returns how many there were.
    fn sweep(&self, table: &TableName, current: Generation) -> BoxFuture<'_, Result<u64, SinkError>>;

    /// Removes the points of `table`, of the generations `of`, whose version is older than `before`, durably. A point that another process
    /// makes newer at the same time stays.
    ///
    /// Handles a part of the collection, from the id `from` on, and returns where the next part begins; `None` at the end.
    fn delete_older<'a>(
        &'a self,
        table: &'a TableName,
        before: Position,
        of: Generations,
        from: Option<PointId>,
    ) -> BoxFuture<'a, Result<Option<PointId>, SinkError>>;

    /// Returns how many points the collection holds.
    fn count(&self) -> BoxFuture<'_, Result<u64, SinkError>>;

    /// Returns up to `limit` points in id order from `from` (inclusive) on, with walvec's own field and no other.
    fn scroll(&self, from: Option<PointId>, limit: usize) -> BoxFuture<'_, Result<ScrollPage, SinkError>>;

    /// Builds indexes where enough points have none, so that searches stay fast; cheap if there is nothing to do.
    ///
    /// It may take minutes and a part of the machine. Writes and searches go on meanwhile, so call it from a task of its own, for example
    /// now and then during a snapshot and after it. Dropping the future does not stop it.
    fn optimize(&self) -> BoxFuture<'_, Result<(), SinkError>>;

    /// Builds indexes while many points are still to come: waits for more points without an index than [`optimize`](Self::optimize) does
    /// before it builds one.
    fn optimize_while_filling(&self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Returns about how many points an index covers; the others are compared one by one. `None` where the server takes care of that.
    fn indexed(&self) -> BoxFuture<'_, Result<Option<u64>, SinkError>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// A query: what a search looks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Query {
    /// By meaning: a vector of the collection's dimension, normalised. Scores are cosine similarities.
    Dense(Vector),
    /// By words. Scores are BM25's: 0 and more, without an upper limit.
    Keyword(SparseVector),
    /// By both: one ranking each, fused by reciprocal rank. Scores depend only on the ranks.
    Hybrid(Vector, SparseVector),
}

/// A search.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchRequest {
    /// What to look for.
    pub query: Query,
    /// How many hits at most.
    pub limit: usize,
    /// Only points that match all conditions.
    pub filter: Filter,
    /// The least score of a hit, in the terms of the query.
    pub min_score: Option<f32>,
}

impl SearchRequest {
    /// Refuses a request that a collection cannot answer, given its `dimension` and whether it has sparse vectors.
    fn check(&self, dimension: usize, has_keywords: bool) -> Result<(), SinkError> {
        if let Query::Dense(vector) | Query::Hybrid(vector, _) = &self.query {
            check_vector(vector, dimension).map_err(SinkError::BadRequest)?;
        }
        if !has_keywords && !matches!(self.query, Query::Dense(_)) {
            return Err(SinkError::BadRequest("the collection has no vectors for searches by keyword".to_owned()));
        }
        if self.limit > MAX_HITS {
            let limit = self.limit;
            return Err(SinkError::BadRequest(format!("the limit is {limit}, at most {MAX_HITS} is allowed")));
        }
        Ok(())
    }

    /// Returns the bound for the engine, which leaves out points whose sparse vectors score exactly the bound.
    fn engine_bound(&self) -> Option<f32> {
        self.min_score.map(f32::next_down)
    }

    /// Returns whether the result is known to be empty: no hits, or a query without words.
    const fn finds_nothing(&self) -> bool {
        match &self.query {
            Query::Keyword(keywords) => self.limit == 0 || keywords.is_empty(),
            Query::Dense(_) | Query::Hybrid(..) => self.limit == 0,
        }
    }
}

/// A point that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The point's id.
    pub id: PointId,
    /// How well it fits, in the terms of the [`Query`]; higher is better.
    pub score: f32,
    /// The user's fields.
    pub payload: Payload,
    /// walvec's own field; `None` for a point that another program wrote.
    pub provenance: Option<Provenance>,
}

/// Orders the hits of an engine, best first, and drops those below `min_score` that its bound let through. `is_dense`: whether scores are
/// cosine similarities.
fn in_order(mut hits: Vec<Hit>, is_dense: bool, min_score: Option<f32>) -> Vec<Hit> {
    hits.retain(|hit| min_score.is_none_or(|lowest| hit.score >= lowest));
    if is_dense {
        // Rounding can lift the similarity of a vector with itself above 1.
        hits.iter_mut().for_each(|hit| hit.score = hit.score.min(1.0));
    }
    // Engines leave the order of equal scores open. Without a fixed one, results would change places on reload.
    hits.sort_by(|left, right| right.score.total_cmp(&left.score).then(left.id.cmp(&right.id)));
    hits
}

/// One collection, as readers see it. Searches see every write that was reported durable before they began.
pub trait Search: Send + Sync {
    /// Returns the nearest points, best first.
    fn search(&self, request: SearchRequest) -> BoxFuture<'_, Result<Vec<Hit>, SinkError>>;

    /// Returns the nearest points in the order of [`search`](Self::search). They need to have walvec's own field only. Each side of a hybrid
    /// search brings in as many points as for `fused_for` hits, so that a longer ranking begins with a shorter one.
    fn rank(&self, request: SearchRequest, fused_for: usize) -> BoxFuture<'_, Result<Vec<Hit>, SinkError>>;

    /// Returns up to `limit` points in id order from `from` (inclusive) on, exactly as they are stored.
    fn page(
        &self,
        from: Option<PointId>,
        limit: usize,
        with_vectors: bool,
    ) -> BoxFuture<'_, Result<RawPage, SinkError>> {
        self.page_where(Filter::default(), from, limit, with_vectors)
    }

    /// Returns a page, in the order of the ids, of the points that match all conditions, exactly as they are stored, and where the next page
    /// begins.
    fn page_where(
        &self,
        filter: Filter,
        from: Option<PointId>,
        limit: usize,
        with_vectors: bool,
    ) -> BoxFuture<'_, Result<RawPage, SinkError>>;

    /// Returns the first points in the order of a field, with the values that they are sorted by, exactly as they are stored. Points without
    /// a value are left out. The order of equal values is left open; [`page_in_order`] decides it.
    fn sorted(&self, request: SortRequest) -> BoxFuture<'_, Result<Vec<(SortValue, RawPoint)>, SinkError>>;

    /// Returns the points with these ids that exist, in any order, exactly as they are stored.
    fn get(&self, ids: Vec<PointId>, with_vectors: bool) -> BoxFuture<'_, Result<Vec<RawPoint>, SinkError>>;
}
