//! Updates what people and programs see: the status and the metrics, in one place.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use metrics::{counter, gauge, histogram};
use tokio::sync::watch;
use walvec_model::{Generation, Lsn, Moment};

use crate::error::Resync;
use crate::observe::metrics::{
    COMMIT_TO_PUBLISHED, COMMIT_TO_SEARCHABLE, LAG_BYTES, RETAINED_BYTES, UNKNOWN, as_gauge,
};
use crate::observe::problems::BROKERS_PART;
use crate::observe::status::{
    BrokerStatus, CollectionStatus, PartitionStatus, Phase, Problem, ReadAgain, SetAside, Status,
};

/// Where a pipeline reads changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadsFrom {
    /// From PostgreSQL, which reports its position.
    Source,
    /// From topics, whose lag is counted in records.
    Topics,
}

/// A handle on the status; clones share it.
#[derive(Clone)]
pub(crate) struct Telemetry(Arc<Inner>);

struct Inner {
    /// Whether this pipeline sets gauges and latencies. One that fills collections concurrently with another pipeline
    /// does not: its points cannot be found yet.
    reports: bool,
    status: watch::Sender<Status>,
    /// Where changes are read, which decides how the lag is known.
    reads: ReadsFrom,
    /// Whether PostgreSQL has answered the last question for its position.
    is_answered: AtomicBool,
    /// The commit time of the oldest transaction that has been read but cannot be found yet.
    waiting_since: Mutex<Option<SystemTime>>,
    /// A server position that has not been applied yet, and when it was seen. It shows the lag while a transaction is
    /// being decoded or held back, and none of it has been read.
    ahead: Mutex<Option<(Lsn, SystemTime)>>,
    /// The problems, oldest first, each with its owner's number: see [`Telemetry::problems`].
    problems: Mutex<Vec<(u64, Problem)>>,
    last_owner: AtomicU64,
}

impl Telemetry {
    /// Creates the telemetry of a pipeline that reads from PostgreSQL.
    pub(crate) fn new(collections: Vec<CollectionStatus>, reports: bool) -> Self {
        Self::that_reads(ReadsFrom::Source, collections, reports)
    }

    pub(crate) fn that_reads(reads: ReadsFrom, collections: Vec<CollectionStatus>, reports: bool) -> Self {
        let counted_since = Some(Moment::from(SystemTime::now()));
        let status = watch::Sender::new(Status { collections, counted_since, ..Status::default() });
        let (waiting_since, ahead, problems, last_owner) = Default::default();
        let is_answered = AtomicBool::new(false);
        let telemetry =
            Self(Arc::new(Inner { reports, status, reads, is_answered, waiting_since, ahead, problems, last_owner }));
        telemetry.modify(|status| telemetry.show_lag(status));
        for part in ["source", "embedder", "sink"] {
            telemetry.up(part, true);
        }
        telemetry
    }

    fn up(&self, part: &str, is_up: bool) {
        if self.0.reports {
            gauge!("walvec_up", "part" => part.to_owned()).set(if is_up { 1.0 } else { 0.0 });
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Status> {
        self.0.status.subscribe()
    }

    fn modify(&self, change: impl FnOnce(&mut Status)) {
        self.0.status.send_modify(change);
    }

    pub(crate) fn phase(&self, phase: Phase) {
        self.modify(|status| {
            status.phase = phase;
            if phase == Phase::Starting {
                self.0.is_answered.store(false, Ordering::Relaxed);
            }
            self.show_lag(status);
        });
    }

    /// Sets the gap or request that made the present generation's snapshot necessary.
    pub(crate) fn resync(&self, resync: Option<&Resync>) {
        self.modify(|status| status.resync = resync.cloned());
    }

    pub(crate) fn generation(&self, generation: Generation) {
        self.modify(|status| status.generation = generation);
    }

    /// Returns a number that no other owner of a problem has.
    pub(crate) fn new_owner(&self) -> u64 {
        self.0.last_owner.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Removes all problems from the status.
    pub(crate) fn all_well(&self) {
        self.problems(Vec::clear);
    }

    /// Returns the first problem that meets a condition on its owner and itself.
    pub(crate) fn problem_where(&self, is_such: impl Fn(u64, &Problem) -> bool) -> Option<Problem> {
        let problems = self.0.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.iter().find(|(owner, problem)| is_such(*owner, problem)).map(|(_, problem)| problem.clone())
    }

    /// Changes the list of problems, each with its owner's number. The status shows the last one.
    pub(crate) fn problems(&self, change: impl FnOnce(&mut Vec<(u64, Problem)>)) {
        self.modify(|status| {
            let mut problems = self.0.problems.lock().unwrap_or_else(PoisonError::into_inner);
            let mut parts: BTreeSet<String> = problems.iter().map(|(_, problem)| problem.part.clone()).collect();
            change(&mut problems);
            parts.extend(problems.iter().map(|(_, problem)| problem.part.clone()));
            for part in parts {
                self.up(&part, problems.iter().all(|(_, problem)| problem.part != part));
            }
            status.problem = problems.last().map(|(_, problem)| problem.clone());
            drop(problems);
            self.show_lag(status);
        });
    }

    /// Sets why each table, given as `schema.table`, is not followed; `None` if it is.
    pub(crate) fn set_aside(&self, why: impl Fn(&str) -> Option<SetAside>) {
        let collections = self.0.status.borrow().collections.len();
        for index in 0..collections {
            self.collection(index, |collection| {
                collection.set_aside = why(&collection.table);
                if self.0.reports {
                    let is_followed = if collection.set_aside.is_none() { 1.0 } else { 0.0 };
                    gauge!("walvec_followed", "table" => collection.table.clone()).set(is_followed);
                }
            });
        }
    }

    /// Sets how far each table, given as `schema.table`, has been read again; `None` if it is not being read.
    pub(crate) fn read_again(&self, how_far: impl Fn(&str) -> Option<ReadAgain>) {
        self.modify(|status| {
            for collection in &mut status.collections {
                collection.read_again = how_far(&collection.table);
            }
        });
    }

    pub(crate) fn collection(&self, index: usize, change: impl FnOnce(&mut CollectionStatus)) {
        self.modify(|status| {
            if let Some(collection) = status.collections.get_mut(index) {
                change(collection);
                if self.0.reports {
                    report_collection(collection);
                }
            }
        });
    }

    /// Continues the counters of another pipeline that wrote the same collections.
    pub(crate) fn count_on(&self, from: &Status) {
        self.modify(|status| {
            status.counted_since = from.counted_since;
            for collection in &mut status.collections {
                let same = from.collections.iter().find(|counted| counted.collection == collection.collection);
                if let Some(counted) = same {
                    // Parked rows are read from the dead letters, not counted.
                    let CollectionStatus { dead_letters, latest_dead_letters, .. } = std::mem::take(collection);
                    *collection = CollectionStatus { dead_letters, latest_dead_letters, ..counted.clone() };
                }
            }
        });
    }

    /// Returns the name of a collection, by its place in the status.
    pub(crate) fn name_of(&self, index: usize) -> String {
        self.0.status.borrow().collections.get(index).map(|status| status.collection.clone()).unwrap_or_default()
    }

    pub(crate) fn applied(&self, lsn: Lsn) {
        self.modify(|status| {
            status.applied_lsn = lsn;
            self.show_lag(status);
        });
    }

    pub(crate) fn confirmed(&self, lsn: Lsn) {
        debug_assert!(lsn <= self.0.status.borrow().applied_lsn, "what is confirmed is durable in the sink");
        self.modify(|status| status.confirmed_lsn = lsn);
    }

    /// Notes the position and the kept WAL that the server has just reported.
    pub(crate) fn observed(&self, server: Lsn, retained_wal_bytes: u64) {
        self.0.is_answered.store(true, Ordering::Relaxed);
        self.modify(|status| {
            status.server_lsn = server;
            status.server_asked = Some(Moment::from(SystemTime::now()));
            status.retained_wal_bytes = Some(retained_wal_bytes);
            self.show_lag(status);
        });
    }

    /// Notes that the server does not answer.
    pub(crate) fn unobserved(&self) {
        self.0.is_answered.store(false, Ordering::Relaxed);
        self.age();
    }

    /// Notes the commit time of the oldest transaction that has been read but cannot be found yet.
    pub(crate) fn waiting_since(&self, oldest: Option<SystemTime>) {
        *self.0.waiting_since.lock().unwrap_or_else(PoisonError::into_inner) = oldest;
        self.age();
    }

    /// Recomputes the lag, which grows with the clock.
    pub(crate) fn age(&self) {
        self.modify(|status| self.show_lag(status));
    }

    /// Notes that the `rows` of a transaction committed at `at` can be found now.
    pub(crate) fn searchable(&self, at: SystemTime, rows: usize) {
        if self.0.reports {
            histogram!(COMMIT_TO_SEARCHABLE).record_many(since(at).as_secs_f64(), rows);
        }
    }

    /// Notes that the `rows` of a transaction committed at `at` are in their topics.
    pub(crate) fn published(&self, at: SystemTime, rows: usize) {
        if self.0.reports {
            histogram!(COMMIT_TO_PUBLISHED).record_many(since(at).as_secs_f64(), rows);
        }
    }

    /// Sets the broker's part of the status.
    pub(crate) fn broker(&self, broker: BrokerStatus) {
        self.modify(|status| status.broker = Some(broker));
    }

    /// Sets how many records the broker has acknowledged since the start.
    pub(crate) fn produced(&self, records: u64) {
        counter!("walvec_records_produced_total").absolute(records);
        self.modify(|status| status.broker.get_or_insert_default().produced = records);
    }

    /// Sets which partitions this worker reads, and how far it has come.
    pub(crate) fn reading(&self, partitions: Vec<PartitionStatus>, rebalances: u64, consumed: u64) {
        counter!("walvec_rebalances_total").absolute(rebalances);
        self.modify(|status| {
            let broker = status.broker.get_or_insert_default();
            let gone = broker.partitions.iter().filter(|before| {
                !partitions.iter().any(|now| (&now.topic, now.partition) == (&before.topic, before.partition))
            });
            // Set the gauge of a revoked partition to zero. Otherwise it would keep its last value for ever.
            let at = |partition: &PartitionStatus, lag: f64| {
                let number = partition.partition.to_string();
                gauge!("walvec_consumer_lag_records", "topic" => partition.topic.clone(), "partition" => number)
                    .set(lag);
            };
            gone.for_each(|partition| at(partition, 0.0));
            partitions.iter().for_each(|partition| at(partition, as_gauge(partition.lag)));
            broker.partitions = partitions;
            broker.rebalances = rebalances;
            broker.consumed = consumed;
        });
    }

    /// Notes that everything of this worker up to `lsn` can be found. More may already have been noted.
    pub(crate) fn applied_at_least(&self, lsn: Lsn) {
        let before = self.0.status.borrow().applied_lsn;
        self.applied(lsn.max(before));
    }

    /// Returns whether what is known of the lag is up to date.
    fn knows_lag(&self, status: &Status) -> bool {
        let is_read = match self.0.reads {
            ReadsFrom::Source => self.0.is_answered.load(Ordering::Relaxed),
            ReadsFrom::Topics => self.problem_where(|_, problem| problem.part == BROKERS_PART).is_none(),
        };
        is_read && matches!(status.phase, Phase::Streaming | Phase::Stopping)
    }

    /// Returns since when the server has been known to be ahead of what has been applied.
    fn ahead_since(&self, status: &Status) -> Option<SystemTime> {
        let mut ahead = self.0.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        if ahead.is_none_or(|(at, _)| status.applied_lsn >= at) {
            let is_ahead = status.server_lsn > status.applied_lsn;
            *ahead = is_ahead.then(|| (status.server_lsn, SystemTime::now()));
        }
        ahead.map(|(_, since)| since)
    }

    fn show_lag(&self, status: &mut Status) {
        let is_answered = self.0.is_answered.load(Ordering::Relaxed);
        let knows_lag = self.knows_lag(status);
        let oldest = *self.0.waiting_since.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = oldest.into_iter().chain(self.ahead_since(status).filter(|_| is_answered)).min();
        let age = oldest.map_or(0, |at| u64::try_from(since(at).as_millis()).unwrap_or(u64::MAX));
        status.lag_ms = knows_lag.then_some(age);
        status.lag_bytes = (knows_lag && is_answered).then(|| status.server_lsn.bytes_since(status.applied_lsn));
        if !is_answered {
            status.retained_wal_bytes = None;
        }
        status.lag_unknown_since = match status.lag_unknown_since {
            _ if knows_lag => None,
            // The lag was known until the last answer.
            None => status.server_asked.or_else(|| Some(Moment::from(SystemTime::now()))),
            since => since,
        };
        if self.0.reports && self.0.reads == ReadsFrom::Source {
            gauge!(LAG_BYTES).set(status.lag_bytes.map_or(UNKNOWN, as_gauge));
            gauge!(RETAINED_BYTES).set(status.retained_wal_bytes.map_or(UNKNOWN, as_gauge));
        }
    }
}

fn report_collection(status: &CollectionStatus) {
    let table = || status.table.clone();
    gauge!("walvec_dead_letters", "table" => table()).set(as_gauge(status.dead_letters));
    let rows = |state, value| gauge!("walvec_snapshot_rows", "table" => table(), "state" => state).set(as_gauge(value));
    rows("estimated", status.snapshot_rows_estimated);
    rows("copied", status.snapshot_rows_copied);
}

/// Returns the time since `at` by this machine's clock; zero if the server's clock is ahead.
fn since(at: SystemTime) -> Duration {
    SystemTime::now().duration_since(at).unwrap_or_default()
}

#[cfg(test)]
mod tests;
