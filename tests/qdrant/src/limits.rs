//! The rate limits of a collection: `read_rate_limit` and `write_rate_limit` of strict mode.
//!
//! They work as in the real server (`lib/common/common/src/rate_limiting.rs`, `lib/shard/src/operation_rate_cost.rs`), except that the
//! shards of a collection are counted together.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use qdrant_client::qdrant::condition::ConditionOneOf;
use qdrant_client::qdrant::{Condition, Filter, StrictModeConfig};
use qdrant_edge::{CountRequest, EdgeShard, PayloadOps, PointInsertOperations, PointOperations, UpdateOperation};
use tonic::Status;

use crate::convert::status;
use crate::updates::apply;

/// The rate limits of a collection. `None`: no limit.
#[derive(Clone, Copy, Debug)]
pub struct RateLimits {
    /// How many points may be requested, searches and their conditions included.
    pub reads: Option<u32>,
    /// How many points may be changed.
    pub writes: Option<u32>,
    /// The time for which the limits hold; a minute in strict mode.
    pub per: Duration,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self { reads: None, writes: None, per: Duration::from_secs(60) }
    }
}

impl From<&StrictModeConfig> for RateLimits {
    fn from(config: &StrictModeConfig) -> Self {
        match config.enabled {
            Some(true) => Self { reads: config.read_rate_limit, writes: config.write_rate_limit, ..Self::default() },
            _ => Self::default(),
        }
    }
}

/// The rest of a collection's limits that is not used up.
#[derive(Debug, Default)]
pub(crate) struct Limiters(Mutex<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    reads: Option<Bucket>,
    writes: Option<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    capacity: f64,
    per_second: f64,
    tokens: f64,
    filled: Instant,
}

impl Limiters {
    /// Sets new limits, and begins to count from zero.
    pub(crate) fn set(&self, RateLimits { reads, writes, per }: RateLimits) {
        let bucket = |limit: u32| Bucket::full(f64::from(limit), per);
        *self.lock() = Buckets { reads: reads.map(bucket), writes: writes.map(bucket) };
    }

    /// Lets a request for points, or for the answers to searches, through.
    pub(crate) fn read(&self, cost: usize) -> Result<(), Status> {
        self.lock().reads.as_mut().map_or(Ok(()), |bucket| bucket.take(cost, "Read"))
    }

    /// Lets an operation on points through.
    pub(crate) fn write(&self, cost: usize) -> Result<(), Status> {
        self.lock().writes.as_mut().map_or(Ok(()), |bucket| bucket.take(cost, "Write"))
    }

    /// Applies operations in order, until one is not let through.
    pub(crate) fn apply(&self, shard: &EdgeShard, operations: Vec<UpdateOperation>) -> Result<(), Status> {
        operations.into_iter().try_for_each(|operation| {
            self.write(changed(shard, &operation)?)?;
            apply(shard, vec![operation])
        })
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    fn full(capacity: f64, per: Duration) -> Self {
        Self { capacity, per_second: capacity / per.as_secs_f64(), tokens: capacity, filled: Instant::now() }
    }

    fn take(&mut self, cost: usize, kind: &str) -> Result<(), Status> {
        let wanted = f64::from(u32::try_from(cost).unwrap_or(u32::MAX));
        let begin = format!("Rate limiting exceeded: {kind} rate limit exceeded");
        if wanted > self.capacity {
            let message = "request larger than rate limiter capacity, please try to split your request";
            return Err(Status::resource_exhausted(format!("{begin}, {message}")));
        }
        let elapsed = self.filled.elapsed();
        self.filled += elapsed;
        self.tokens = self.capacity.min(self.tokens + self.per_second * elapsed.as_secs_f64());
        if self.tokens >= wanted {
            self.tokens -= wanted;
            return Ok(());
        }
        let (tokens, seconds) = (self.tokens, ((wanted - self.tokens) / self.per_second).ceil());
        let mut refusal = Status::resource_exhausted(format!(
            "{begin}: Operation requires {cost} tokens but only {tokens:.1} were available. Retry after {seconds}s"
        ));
        refusal.metadata_mut().insert("retry-after", seconds.to_string().parse().expect("a number"));
        Err(refusal)
    }
}

/// Returns the cost of a scroll, a count or a search.
pub(crate) fn asked(filter: Option<&Filter>) -> usize {
    1 + filter.map_or(0, conditions)
}

fn conditions(filter: &Filter) -> usize {
    let all = filter.must.iter().chain(&filter.should).chain(&filter.must_not);
    all.map(sub_conditions).sum()
}

fn sub_conditions(condition: &Condition) -> usize {
    match &condition.condition_one_of {
        Some(ConditionOneOf::Filter(filter)) => conditions(filter),
        _ => 1,
    }
}

/// Returns how many points an operation changes, at least one.
fn changed(shard: &EdgeShard, operation: &UpdateOperation) -> Result<usize, Status> {
    let (named, filter) = match operation {
        UpdateOperation::PointOperation(PointOperations::UpsertPoints(PointInsertOperations::PointsList(points))) => {
            (points.len(), None)
        }
        UpdateOperation::PointOperation(PointOperations::DeletePoints { ids }) => (ids.len(), None),
        UpdateOperation::PointOperation(PointOperations::DeletePointsByFilter(filter)) => (0, Some(filter)),
        UpdateOperation::PayloadOperation(PayloadOps::SetPayload(set) | PayloadOps::OverwritePayload(set)) => {
            (set.points.as_ref().map_or(0, Vec::len), set.filter.as_ref())
        }
        _ => (0, None),
    };
    let count = |filter: &qdrant_edge::Filter| CountRequest { filter: Some(filter.clone()), exact: true };
    let found = filter.map(|filter| shard.count(count(filter))).transpose().map_err(status)?;
    Ok(found.unwrap_or(named).max(1))
}
