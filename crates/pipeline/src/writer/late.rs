//! Tracks writes of which a copy may still arrive late.
//!
//! A request that fails is sent again, and the network may delay the first copy for a long time. If that copy arrives
//! after a newer write of the same point, the point has its earlier state again, or is back after it was removed. So
//! the points of such requests are checked repeatedly, for as long as a connection can survive that has lost its peer.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use walvec_model::{Generation, Point, PointId, Position, RowKey, StoredPoint};
use walvec_sink::Write;

use crate::error::PipelineError;
use crate::state::witness::Witness;
use crate::writer::{SCROLL_POINTS, Writer};

/// How long a copy may be delayed: Linux gives up a connection that has lost its peer after 15 to 17 minutes
/// (`tcp_retries2`).
const LONGEST_WAY: Duration = Duration::from_secs(20 * 60);

/// The most points that are remembered, so that a network that loses every second request does not exhaust the memory.
const MOST: usize = 100_000;

/// A point whose earlier state may still arrive.
#[derive(Debug)]
struct Late {
    key: RowKey,
    /// The last write of the point.
    last: Witness,
    until: Instant,
}

/// The points of requests that were sent more than once.
#[derive(Debug, Default)]
pub(super) struct LateWrites {
    points: Mutex<HashMap<PointId, Late>>,
    is_watched: AtomicBool,
}

/// Points that are not as they were written last, and their rows.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Overtaken {
    /// Rows whose points are older than they were, or gone.
    pub(crate) rows: HashSet<RowKey>,
    /// Points that are back after they were removed, with their stored versions.
    pub(crate) points: Vec<(PointId, Option<Position>)>,
}

impl Overtaken {
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.points.is_empty()
    }
}

impl LateWrites {
    /// Begins to remember points, which will be checked.
    pub(super) fn watch(&self) {
        self.is_watched.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// Notes writes that are durable as far as is known, and whether a copy of them may still be in flight.
    pub(super) fn written(&self, writes: impl Iterator<Item = (Write, RowKey)>, was_sent_before: bool) {
        let mut points = self.locked();
        for (write, key) in writes {
            let id = write.id();
            let last = Witness { id, version: version_of(&write) };
            if was_sent_before && (points.len() < MOST || points.contains_key(&id)) {
                points.insert(id, Late { key, last, until: Instant::now() + LONGEST_WAY });
            } else if let Some(late) = points.get_mut(&id) {
                late.last = last;
            }
        }
    }

    /// Notes that points were removed; `None`: all of them.
    pub(super) fn removed(&self, ids: Option<&[PointId]>) {
        let is_gone = |late: &Late| ids.is_none_or(|ids| ids.contains(&late.last.id));
        self.forget_versions(is_gone);
    }

    /// Notes that points of older generations were removed.
    pub(super) fn swept(&self, current: Generation) {
        self.forget_versions(|late| late.last.version.is_some_and(|(generation, _)| generation < current));
    }

    /// Notes that points of older versions were removed.
    pub(super) fn swept_before(&self, before: Position) {
        self.forget_versions(|late| late.last.version.is_some_and(|(_, position)| position < before));
    }

    fn forget_versions(&self, are_gone: impl Fn(&Late) -> bool) {
        self.locked().values_mut().filter(|late| are_gone(late)).for_each(|late| late.last.version = None);
    }

    /// Returns the points to check.
    pub(super) fn ids(&self) -> Vec<PointId> {
        self.locked().keys().copied().collect()
    }

    /// Returns the points of these rows that are to be checked. Their stored state may be an earlier one.
    pub(super) fn of_rows<'k>(&self, keys: impl Iterator<Item = &'k RowKey>) -> HashMap<RowKey, HashSet<PointId>> {
        let (points, mut found) = (self.locked(), HashMap::new());
        if points.is_empty() {
            return found;
        }
        let keys: HashSet<&RowKey> = keys.collect();
        for (id, late) in points.iter().filter(|(_, late)| keys.contains(&late.key)) {
            found.entry(late.key.clone()).or_insert_with(HashSet::new).insert(*id);
        }
        found
    }

    /// Returns which of these points are to be checked.
    pub(super) fn among(&self, ids: impl Iterator<Item = PointId>) -> HashSet<PointId> {
        let points = self.locked();
        if points.is_empty() { HashSet::new() } else { ids.filter(|id| points.contains_key(id)).collect() }
    }

    /// Compares the stored points with their last writes. Forgets a correct one that no copy can reach any more.
    pub(super) fn compare(&self, ids: &[PointId], stored: &[StoredPoint]) -> Overtaken {
        self.compare_at(Instant::now(), ids, stored)
    }

    fn compare_at(&self, now: Instant, ids: &[PointId], stored: &[StoredPoint]) -> Overtaken {
        let stored: HashMap<PointId, &StoredPoint> = stored.iter().map(|point| (point.id, point)).collect();
        let (mut points, mut overtaken) = (self.locked(), Overtaken::default());
        for id in ids {
            let Some(Late { key, last, until }) = points.get(id) else { continue };
            let point = stored.get(id).copied();
            if last.holds(point) {
                if *until <= now {
                    points.remove(id);
                }
            } else if last.version.is_some() {
                overtaken.rows.insert(key.clone());
            } else {
                let provenance = point.and_then(|point| point.provenance.as_ref());
                overtaken.points.push((*id, provenance.map(|own| own.position)));
            }
        }
        overtaken
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<PointId, Late>> {
        self.points.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn version_of(write: &Write) -> Option<(Generation, Position)> {
    match write {
        Write::Upsert(Point { provenance, .. }) | Write::Payload { provenance, .. } => {
            Some((provenance.generation, provenance.position))
        }
        Write::Delete(_) => None,
    }
}

impl Writer {
    /// Returns whether a late write may have set back the point, so that its stored state proves nothing.
    pub(super) fn is_late(&self, id: PointId) -> bool {
        !self.late.among(std::iter::once(id)).is_empty()
    }

    /// Begins to remember writes that were sent more than once, for [`overtaken`](Self::overtaken).
    pub(crate) fn watch_late_writes(&self) {
        // The engine inside the program never applies a write late.
        if self.collection.sink.is_shared() {
            self.late.watch();
        }
    }

    /// Returns the points that are not as they were written last, because a delayed request arrived after newer ones.
    /// Nothing may be in flight.
    pub(crate) async fn overtaken(&self) -> Result<Overtaken, PipelineError> {
        let mut overtaken = Overtaken::default();
        for ids in self.late.ids().chunks(SCROLL_POINTS) {
            let stored = self.retrieve(ids).await?;
            let Overtaken { rows, points } = self.late.compare(ids, &stored);
            overtaken.rows.extend(rows);
            overtaken.points.extend(points);
        }
        Ok(overtaken)
    }
}

#[cfg(test)]
mod tests;
