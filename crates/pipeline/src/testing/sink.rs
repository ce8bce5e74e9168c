//! A sink in memory that fails, holds and delays calls on command, and remembers what it was asked to write.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use walvec_model::{Generation, Payload, Point, PointId, Position, Provenance, StoredPoint, TableName, Vector};
use walvec_sink::{BoxFuture, CollectionId, Generations, Limited, RateLimit, ScrollPage, Sink, SinkError, Write};

/// How many points one call of [`Sink::delete_older`] handles: few, so that a test of three points needs several calls.
const DELETED_AT_ONCE: usize = 2;

/// A kind of call, as tests count, hold, delay and fail it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SinkCall {
    Prepare,
    Write,
    Retrieve,
    Faithful,
    Vectors,
    DeleteTable,
    CountOlder,
    Sweep,
    DeleteOlder,
    Count,
    Scroll,
    Optimize,
    OptimizeWhileFilling,
}

/// When a call fails.
pub(crate) enum Fault {
    /// Before it has done anything.
    Before(SinkError),
    /// After it has done everything: only the answer is lost.
    After(SinkError),
}

/// A sink in memory; clones share it. It keeps the contract of [`Sink`], and panics where its caller does not.
#[derive(Clone, Default)]
pub(crate) struct TestSink(Arc<TestSinkState>);

#[derive(Default)]
struct TestSinkState {
    points: Mutex<BTreeMap<PointId, HeldPoint>>,
    calls: watch::Sender<Vec<SinkCall>>,
    held: watch::Sender<HashSet<SinkCall>>,
    delays: Mutex<HashMap<SinkCall, Duration>>,
    /// What the next calls meet; `None`: no fault.
    faults: Mutex<VecDeque<(SinkCall, Option<Fault>)>>,
    /// How many writes each of the next batches may make before a limit stops it.
    limits: Mutex<VecDeque<usize>>,
    refused: Mutex<HashSet<PointId>>,
    batches: Mutex<Vec<Vec<Write>>>,
    ids_per_read: AtomicUsize,
    is_shared: AtomicBool,
}

/// A point as it is held; another program's has no provenance.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HeldPoint {
    pub(crate) vector: Vector,
    pub(crate) payload: Payload,
    pub(crate) provenance: Option<Provenance>,
}

impl From<Point> for HeldPoint {
    fn from(Point { vector, payload, provenance, .. }: Point) -> Self {
        Self { vector, payload, provenance: Some(provenance) }
    }
}

/// Returns the error of a server that cannot be reached for the moment.
pub(crate) fn unavailable() -> SinkError {
    SinkError::Unavailable { url: "test".to_owned(), reason: "it is away".to_owned() }
}

/// Returns the error of a server that refuses for good.
pub(crate) fn refused() -> SinkError {
    SinkError::Server { url: "test".to_owned(), reason: "the key is wrong".to_owned() }
}

fn limited(written: Vec<PointId>) -> SinkError {
    SinkError::Limited(Box::new(Limited {
        url: "test".to_owned(),
        collection: "books".to_owned(),
        limit: RateLimit::Writes,
        reason: "too much".to_owned(),
        is_too_large: false,
        retry_after: None,
        written,
    }))
}

impl TestSink {
    /// Lets the next call of this kind fail; several faults are met one after the other.
    pub(crate) fn fail(&self, call: SinkCall, fault: Fault) {
        self.0.faults.lock().unwrap().push_back((call, Some(fault)));
    }

    /// Lets the next call of this kind succeed, before the faults that are added later.
    pub(crate) fn pass(&self, call: SinkCall) {
        self.0.faults.lock().unwrap().push_back((call, None));
    }

    /// Lets a limit stop the next batch after so many writes.
    pub(crate) fn limit(&self, writes: usize) {
        self.0.limits.lock().unwrap().push_back(writes);
    }

    /// Refuses every write of this point that is not a deletion.
    pub(crate) fn refuse(&self, id: PointId) {
        self.0.refused.lock().unwrap().insert(id);
    }

    /// Accepts writes of every point again.
    pub(crate) fn refuse_none(&self) {
        self.0.refused.lock().unwrap().clear();
    }

    /// Lets calls of this kind wait until they are released.
    pub(crate) fn hold(&self, call: SinkCall) {
        self.0.held.send_if_modified(|held| held.insert(call));
    }

    pub(crate) fn release(&self, call: SinkCall) {
        self.0.held.send_if_modified(|held| held.remove(&call));
    }

    /// Lets each call of this kind take so long.
    pub(crate) fn delay(&self, call: SinkCall, by: Duration) {
        self.0.delays.lock().unwrap().insert(call, by);
    }

    /// Lets a read name at most so many points.
    pub(crate) fn set_ids_per_read(&self, ids: usize) {
        self.0.ids_per_read.store(ids, Ordering::Relaxed);
    }

    /// Lets other processes reach the collection.
    pub(crate) fn share(&self) {
        self.0.is_shared.store(true, Ordering::Relaxed);
    }

    /// Waits until so many calls of this kind have begun.
    pub(crate) async fn called(&self, call: SinkCall, times: usize) {
        let mut calls = self.0.calls.subscribe();
        calls.wait_for(|calls| calls.iter().filter(|made| **made == call).count() >= times).await.unwrap();
    }

    /// Returns how many calls of this kind have begun.
    pub(crate) fn count_of(&self, call: SinkCall) -> usize {
        self.0.calls.borrow().iter().filter(|made| **made == call).count()
    }

    /// Takes the batches that were to be written since the last time, including those that failed.
    pub(crate) fn take_batches(&self) -> Vec<Vec<Write>> {
        std::mem::take(&mut self.0.batches.lock().unwrap())
    }

    /// Returns the points as they are held.
    pub(crate) fn points(&self) -> BTreeMap<PointId, HeldPoint> {
        self.locked().clone()
    }

    /// Replaces all points, as restoring an older state of the collection does.
    pub(crate) fn restore(&self, points: BTreeMap<PointId, HeldPoint>) {
        *self.locked() = points;
    }

    /// Removes a point, as another program might.
    pub(crate) fn lose(&self, id: PointId) {
        self.locked().remove(&id);
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<PointId, HeldPoint>> {
        self.0.points.lock().unwrap()
    }

    /// Makes a call: waits while its kind is held, and meets the next fault for it.
    async fn answer<T>(
        &self,
        call: SinkCall,
        effect: impl FnOnce(&mut BTreeMap<PointId, HeldPoint>) -> Result<T, SinkError> + Send,
    ) -> Result<T, SinkError> {
        self.0.calls.send_modify(|calls| calls.push(call));
        self.0.held.subscribe().wait_for(|held| !held.contains(&call)).await.unwrap();
        let delay = self.0.delays.lock().unwrap().get(&call).copied();
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        let fault = {
            let mut faults = self.0.faults.lock().unwrap();
            let at = faults.iter().position(|(of, _)| *of == call);
            at.and_then(|at| faults.remove(at))
        };
        match fault.and_then(|(_, fault)| fault) {
            Some(Fault::Before(error)) => Err(error),
            Some(Fault::After(error)) => effect(&mut self.locked()).and(Err(error)),
            None => effect(&mut self.locked()),
        }
    }

    fn apply(&self, batch: &[Write], points: &mut BTreeMap<PointId, HeldPoint>) -> Result<(), SinkError> {
        let ids: HashSet<PointId> = batch.iter().map(Write::id).collect();
        assert_eq!(ids.len(), batch.len(), "a batch names each point once");
        for write in batch {
            let id = write.id();
            let is_refused = self.0.refused.lock().unwrap().contains(&id) && !matches!(write, Write::Delete(_));
            if is_refused {
                return Err(SinkError::BadPoint { id, reason: "the test refuses it".to_owned() });
            }
            if matches!(write, Write::Payload { .. }) && !points.contains_key(&id) {
                return Err(SinkError::BadPoint { id, reason: "there is no such point".to_owned() });
            }
        }
        let limit = self.0.limits.lock().unwrap().pop_front();
        let allowed = &batch[..limit.unwrap_or(batch.len()).min(batch.len())];
        for write in allowed.iter().cloned() {
            match write {
                Write::Upsert(point) => drop(points.insert(point.id, point.into())),
                Write::Payload { id, payload, provenance } => {
                    let held = points.get_mut(&id).unwrap();
                    (held.payload, held.provenance) = (payload, Some(provenance));
                }
                Write::Delete(id) => drop(points.remove(&id)),
            }
        }
        limit.map_or(Ok(()), |_| Err(limited(allowed.iter().map(Write::id).collect())))
    }
}

/// Returns the points with these ids, with the user's fields or without.
fn stored(points: &BTreeMap<PointId, HeldPoint>, ids: &[PointId], with_payload: bool) -> Vec<StoredPoint> {
    let point = |id: &PointId| {
        let held = points.get(id)?;
        let payload = if with_payload { held.payload.clone() } else { Payload::new() };
        Some(StoredPoint { id: *id, payload, provenance: held.provenance.clone() })
    };
    ids.iter().filter_map(point).collect()
}

fn is_of(point: &HeldPoint, table: &TableName, is_such: impl Fn(&Provenance) -> bool) -> bool {
    let own = point.provenance.as_ref();
    own.is_some_and(|own| own.table == Provenance::table_tag(table) && is_such(own))
}

impl Sink for TestSink {
    fn prepare(&self) -> BoxFuture<'_, Result<CollectionId, SinkError>> {
        Box::pin(self.answer(SinkCall::Prepare, |_| Ok(CollectionId("test".to_owned()))))
    }

    fn is_shared(&self) -> bool {
        self.0.is_shared.load(Ordering::Relaxed)
    }

    fn ids_per_read(&self) -> usize {
        match self.0.ids_per_read.load(Ordering::Relaxed) {
            0 => usize::MAX,
            ids => ids,
        }
    }

    fn write<'a>(&'a self, batch: &'a [Write]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            self.0.batches.lock().unwrap().push(batch.to_vec());
            self.answer(SinkCall::Write, |points| self.apply(batch, points)).await
        })
    }

    fn retrieve<'a>(&'a self, ids: &'a [PointId]) -> BoxFuture<'a, Result<Vec<StoredPoint>, SinkError>> {
        assert!(ids.len() <= self.ids_per_read(), "a read names no more points than are allowed");
        Box::pin(self.answer(SinkCall::Retrieve, move |points| Ok(stored(points, ids, false))))
    }

    fn faithful<'a>(&'a self, ids: &'a [PointId]) -> BoxFuture<'a, Result<Vec<StoredPoint>, SinkError>> {
        Box::pin(self.answer(SinkCall::Faithful, move |points| Ok(stored(points, ids, true))))
    }

    fn vectors<'a>(&'a self, ids: &'a [PointId]) -> BoxFuture<'a, Result<Vec<(PointId, Vector)>, SinkError>> {
        let vectors = move |points: &mut BTreeMap<PointId, HeldPoint>| {
            let vector = |id: &PointId| Some((*id, points.get(id)?.vector.clone()));
            Ok(ids.iter().filter_map(vector).collect())
        };
        Box::pin(self.answer(SinkCall::Vectors, vectors))
    }

    fn delete_table(&self, table: &TableName) -> BoxFuture<'_, Result<(), SinkError>> {
        let table = table.clone();
        Box::pin(self.answer(SinkCall::DeleteTable, move |points| {
            points.retain(|_, point| !is_of(point, &table, |_| true));
            Ok(())
        }))
    }

    fn count_older(&self, table: &TableName, current: Generation) -> BoxFuture<'_, Result<u64, SinkError>> {
        let table = table.clone();
        Box::pin(self.answer(SinkCall::CountOlder, move |points| {
            let is_older = |point: &&HeldPoint| is_of(point, &table, |own| own.generation < current);
            Ok(points.values().filter(is_older).count() as u64)
        }))
    }

    fn sweep(&self, table: &TableName, current: Generation) -> BoxFuture<'_, Result<u64, SinkError>> {
        let table = table.clone();
        Box::pin(self.answer(SinkCall::Sweep, move |points| {
            let before = points.len();
            points.retain(|_, point| !is_of(point, &table, |own| own.generation < current));
            Ok((before - points.len()) as u64)
        }))
    }

    fn delete_older<'a>(
        &'a self,
        table: &'a TableName,
        before: Position,
        of: Generations,
        from: Option<PointId>,
    ) -> BoxFuture<'a, Result<Option<PointId>, SinkError>> {
        Box::pin(self.answer(SinkCall::DeleteOlder, move |points| {
            let mut ids = points.keys().copied().filter(|id| from.is_none_or(|from| *id >= from));
            let some: Vec<PointId> = ids.by_ref().take(DELETED_AT_ONCE).collect();
            let next = ids.next();
            let is_older = |own: &Provenance| of.contains(&own.generation) && own.position < before;
            points.retain(|id, point| !(some.contains(id) && is_of(point, table, is_older)));
            Ok(next)
        }))
    }

    fn count(&self) -> BoxFuture<'_, Result<u64, SinkError>> {
        Box::pin(self.answer(SinkCall::Count, |points| Ok(points.len() as u64)))
    }

    fn scroll(&self, from: Option<PointId>, limit: usize) -> BoxFuture<'_, Result<ScrollPage, SinkError>> {
        Box::pin(self.answer(SinkCall::Scroll, move |points| {
            let mut ids = points.keys().copied().filter(|id| from.is_none_or(|from| *id >= from));
            let page: Vec<PointId> = ids.by_ref().take(limit).collect();
            let next = ids.next();
            Ok(ScrollPage { points: stored(points, &page, false), next })
        }))
    }

    fn optimize(&self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(self.answer(SinkCall::Optimize, |_| Ok(())))
    }

    fn optimize_while_filling(&self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(self.answer(SinkCall::OptimizeWhileFilling, |_| Ok(())))
    }
}
