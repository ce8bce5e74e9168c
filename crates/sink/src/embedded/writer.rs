//! The owner of every change of a collection: record, update, flush, and when an index is built.
//!
//! In 0.7.2 the engine's `flush` panics when an update, or the end of an index build, holds one of its locks. Here no change is made during a
//! flush. A flush during a build makes added points durable, but not overwrites and deletions: the segments that are being rebuilt remember
//! deletions in memory only. So from the first overwrite or deletion during a build, records are kept until the build ends.
//!
//! The engine moves a point whose payload is overwritten during a build. A build takes several rounds if many points were moved: the next round
//! leaves them out of the files, while their new place is in memory only. So a record made during a build carries the stored vectors.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::owner_queue::{Holders, OwnerQueue};
use super::paths::io_error;
use super::steps::{self, EngineStep};
use super::store::{EngineStore, SEGMENT_POINTS, UNINDEXED_POINTS};
use crate::SinkError;

/// Bytes in the journal and in the engine's notes at which the engine is flushed: making the changes again takes less than a second.
const FLUSH_AT: u64 = 16 << 20;

/// Bytes in the journal and in the engine's notes at which changes wait for the end of an index build: making them again takes some seconds.
const RECORDS_LIMIT: u64 = 64 << 20;

/// How many points without an index start a build while a collection is being filled: a quarter of its points, within these bounds. Fewer would
/// leave many small segments to merge afterwards; with more, searches would compare too many points one by one.
const FILLING: (u64, u64) = (25_000, 100_000);

/// How often a wait for an index build checks whether the program is exiting.
const LOOK: Duration = Duration::from_millis(50);

/// How an index build ended. Not the thread's join handle: the thread may wait for the owner while the owner waits for the build.
type BuildOutcome = mpsc::Receiver<Result<(), SinkError>>;

type Reply<T> = oneshot::Sender<Result<T, SinkError>>;

/// How eagerly indexes are built.
#[derive(Clone, Copy, Debug)]
pub(super) enum BuildPace {
    /// Many points are still to come: few, large builds.
    Filling,
    /// Few points are still to come.
    Settled,
}

/// A handle to the owner.
#[derive(Debug)]
pub(super) struct CollectionWriter {
    owner: Arc<Mutex<CollectionOwner>>,
    queue: OwnerQueue<CollectionOwner>,
    /// Set when the program exits: then the owner does not wait for an index build.
    leaving: Arc<AtomicBool>,
}

impl CollectionWriter {
    pub(super) fn new(store: Arc<EngineStore>) -> Self {
        // If the number is not known, the first `optimize` builds.
        let unindexed = store.indexed().map_or(u64::MAX, |(points, indexed)| points - indexed);
        let leaving = Arc::new(AtomicBool::new(false));
        let queue = OwnerQueue::default();
        let holders = queue.holders();
        let owner = Arc::new_cyclic(|this: &Weak<Mutex<CollectionOwner>>| {
            let relieved = this.clone();
            let relief = move || relieved.upgrade().iter().for_each(|owner| locked(owner).relieve());
            store.journal().relieved_by(Arc::new(relief));
            let (this, leaving) = (this.clone(), Arc::clone(&leaving));
            let (suspect, is_closed, is_log_unknown) = (false, false, false);
            Mutex::new(CollectionOwner {
                store,
                this,
                holders,
                leaving,
                suspect,
                is_closed,
                is_log_unknown,
                unindexed,
                builds: 0,
                build: None,
            })
        });
        Self { owner, queue, leaving }
    }

    /// Makes a change, durably, and returns how many points a sweep removed.
    pub(super) async fn change(&self, steps: Vec<EngineStep>) -> Result<u64, SinkError> {
        self.ask(|owner, reply| drop(reply.send(owner.change(steps)))).await
    }

    /// Builds indexes where there are enough new points; returns when they are in use.
    pub(super) async fn optimize(&self, pace: BuildPace) -> Result<(), SinkError> {
        self.ask(move |owner, reply| owner.optimize(pace, reply)).await
    }

    pub(super) async fn close(&self) -> Result<(), SinkError> {
        self.ask(|owner, reply| {
            owner.end_build();
            drop(reply.send(owner.close()));
        })
        .await
    }

    /// Closes without waiting for an index build.
    pub(super) async fn leave(&self) -> Result<(), SinkError> {
        self.leaving.store(true, Ordering::Relaxed);
        self.ask(|owner, reply| drop(reply.send(owner.leave()))).await
    }

    /// Queues work. It is done even if its caller stops waiting, so the results of `send` are ignored.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut CollectionOwner, Reply<T>) + Send + 'static,
    ) -> Result<T, SinkError> {
        let (reply, answer) = oneshot::channel();
        self.queue.add(&self.owner, move |owner| work(owner, reply)).await;
        answer.await.unwrap_or(Err(SinkError::Closed))
    }
}

impl Drop for CollectionWriter {
    fn drop(&mut self) {
        if !self.leaving.load(Ordering::Relaxed) {
            self.queue.wait();
        }
    }
}

fn locked(owner: &Mutex<CollectionOwner>) -> MutexGuard<'_, CollectionOwner> {
    owner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The owner: makes the changes of one collection.
#[derive(Debug)]
struct CollectionOwner {
    store: Arc<EngineStore>,
    this: Weak<Mutex<CollectionOwner>>,
    holders: Holders<CollectionOwner>,
    leaving: Arc<AtomicBool>,
    /// Whether the engine failed, so that what it holds in memory may differ from what it will write.
    suspect: bool,
    is_closed: bool,
    /// Whether the engine's log may have grown long since the last check.
    is_log_unknown: bool,
    /// At most about this many points have no index.
    unindexed: u64,
    /// How many index builds were started.
    builds: u64,
    build: Option<Build>,
}

/// An index build that is running.
#[derive(Debug)]
struct Build {
    outcome: BuildOutcome,
    waiting: Vec<Reply<()>>,
    /// Whether every change since it began only added points.
    only_adds: bool,
    /// How many points the changes since its start have written; they all lie in the next segment.
    written: u64,
}

impl Build {
    /// Returns whether the next segment is as large as a segment may be.
    const fn is_outrun(&self) -> bool {
        self.written >= SEGMENT_POINTS
    }
}

impl CollectionOwner {
    fn change(&mut self, steps: Vec<EngineStep>) -> Result<u64, SinkError> {
        if self.is_closed {
            return Err(SinkError::Closed);
        }
        let is_much_recorded = self.store.journal().bytes() > RECORDS_LIMIT;
        if self.build.as_ref().is_some_and(|build| is_much_recorded || build.is_outrun()) {
            tracing::info!("writes wait for the index of what was written before");
            // The engine goes on building while enough new points arrive. With the writes held back, the build ends.
            self.end_build();
            if self.build.is_some() {
                return Err(SinkError::Closed);
            }
        }
        self.restore()?;
        self.store.check_room(steps::size_in_bytes(&steps))?;
        if steps.iter().any(|step| matches!(step, EngineStep::Upsert(_))) {
            self.store.will_hold_points()?;
        }
        // The points that a change of a whole table concerns are not known in advance.
        let (named, concerns_table) = (steps::points_named(&steps), steps::concern_table(&steps));
        let written = steps::points_written(&steps);
        let outcome = self.recorded_change(steps);
        // After a failure the engine refuses changes, or has forgotten what it could not write. Loading it again is safe.
        self.suspect |= matches!(outcome, Err(SinkError::Engine(_)));
        if let Ok(removed) = outcome {
            let touched = if concerns_table { u64::MAX } else { named };
            self.unindexed = self.unindexed.saturating_add(touched);
            if let Some(build) = &mut self.build {
                build.written += written;
            }
            self.store.journal().changed(named.saturating_add(removed));
            self.flush_if_due(FLUSH_AT);
        }
        outcome
    }

    /// Makes a change durable, by its record in the journal, and then visible.
    fn recorded_change(&mut self, mut steps: Vec<EngineStep>) -> Result<u64, SinkError> {
        let failed = io_error(self.store.directory());
        steps = self.store.with_shard(|shard| match self.build {
            Some(_) => steps::carrying_vectors(shard, &self.store.target().vectors, steps),
            None => steps::check_overwritten_exist(shard, &steps).map(|()| steps),
        })?;
        if let Some(build) = self.build.as_mut().filter(|build| build.only_adds) {
            build.only_adds = self.store.with_shard(|shard| steps::only_adds(shard, &steps))?;
        }
        self.store.journal().record(&mut steps).map_err(&failed)?;
        crash_point!("change-recorded");
        let outcome = self.store.with_shard(|shard| self.store.apply(shard, steps));
        crash_point!("change-made");
        // A change that the engine refuses has changed nothing, so its record is withdrawn. One at which the engine failed may be half made; its
        // record makes it whole later.
        if matches!(&outcome, Err(error) if !matches!(error, SinkError::Engine(_))) {
            self.store.journal().withdraw().map_err(failed)?;
        }
        outcome
    }

    /// Flushes the engine if the records take at least `bytes` and a flush makes them superfluous.
    fn flush_if_due(&mut self, bytes: u64) {
        let is_useful = self.build.as_ref().is_none_or(|build| build.only_adds) && !self.suspect;
        if !is_useful || self.store.journal().bytes() < bytes {
            return;
        }
        self.is_log_unknown = true;
        if let Err(error) = self.store.flush() {
            tracing::warn!(%error, "the collection could not be flushed; what was written is in the journal");
            // During a build, the failure may only mean that the build's end holds the lock. Otherwise the engine's memory may never reach its
            // files.
            self.suspect |= self.build.is_none();
        }
    }

    /// Flushes, so that the journal can remove its oldest file.
    fn relieve(&mut self) {
        if !self.is_closed {
            self.flush_if_due(0);
        }
    }

    /// Loads the engine again if it failed, or if its log has grown long.
    fn restore(&mut self) -> Result<(), SinkError> {
        if self.build.is_some() {
            if self.suspect {
                let reason = "it failed during an index build and is loaded again when that ends";
                return Err(SinkError::Engine(reason.to_owned()));
            }
            return Ok(());
        }
        // The log grows with the journal, so it is checked after a flush only: a check reads a directory.
        if std::mem::take(&mut self.is_log_unknown) && self.store.log_is_long() {
            self.flush_if_due(0);
            self.suspect = true;
        }
        if self.suspect {
            self.store.reopen()?;
            self.suspect = false;
        }
        Ok(())
    }

    fn optimize(&mut self, pace: BuildPace, reply: Reply<()>) {
        if self.is_closed {
            drop(reply.send(Err(SinkError::Closed)));
            return;
        }
        if let Some(build) = &mut self.build {
            build.waiting.push(reply);
            return;
        }
        match self.start_build(pace) {
            // Whether the caller still waits does not matter, so the results of `send` are ignored.
            Ok(None) => drop(reply.send(Ok(()))),
            Ok(Some(outcome)) => {
                self.build = Some(Build { outcome, waiting: vec![reply], only_adds: true, written: 0 })
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Starts an index build, if there are enough points for one.
    fn start_build(&mut self, pace: BuildPace) -> Result<Option<BuildOutcome>, SinkError> {
        let enough = match pace {
            BuildPace::Settled => UNINDEXED_POINTS,
            BuildPace::Filling => (self.store.indexed()?.0 / 4).clamp(FILLING.0, FILLING.1),
        };
        if self.unindexed < enough {
            return Ok(None);
        }
        self.restore()?;
        self.store.check_room(0)?;
        // Everything before a build must be durable, because the segments that it replaces are removed at its end.
        self.store.flush()?;
        self.store.begin_build()?;
        let (tell, outcome) = mpsc::sync_channel(1);
        let (store, this, number) = (Arc::clone(&self.store), self.this.clone(), self.builds + 1);
        let holders = self.holders.clone();
        let build = move || {
            let built = store.build_indexes(enough);
            drop(store);
            // `close` learns of the outcome at once, while this thread may still hold the owner, and with it the lock.
            let _hold = holders.hold();
            // If the receiver is gone, the next opening repairs what is left to do.
            tell.send(built).ok();
            if let Some(owner) = this.upgrade() {
                let mut owner = locked(&owner);
                // The owner may have ended this build already.
                if owner.builds == number && !owner.is_closed {
                    owner.end_build();
                }
            }
        };
        let spawned = thread::Builder::new().name("walvec-index".to_owned()).spawn(build);
        spawned.map_err(io_error(self.store.directory()))?;
        self.builds = number;
        self.unindexed = 0;
        Ok(Some(outcome))
    }

    /// Waits for the index build, if there is one, and makes its result and the changes since its start durable. When the program exits, it stops
    /// waiting and leaves the build as it is.
    fn end_build(&mut self) {
        let Some(build) = self.build.take() else { return };
        let built = loop {
            match build.outcome.recv_timeout(LOOK) {
                Ok(built) => break built,
                Err(RecvTimeoutError::Disconnected) => {
                    break Err(SinkError::Engine("the index build's thread died".to_owned()));
                }
                Err(RecvTimeoutError::Timeout) if self.leaving.load(Ordering::Relaxed) => {
                    self.build = Some(build);
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        };
        // A change at which the engine failed may be half made. It must not be flushed; the journal has it whole.
        let is_sound = match self.suspect {
            true => Err(SinkError::Engine("a change failed during the index build".to_owned())),
            false => Ok(()),
        };
        let outcome = built.and(is_sound).and_then(|()| self.store.flush()).and_then(|()| self.store.end_build());
        if let Err(error) = &outcome {
            // The engine rolls a failed build back, together with the deletions made meanwhile. The journal has them.
            tracing::warn!(%error, "an index build failed; the collection is loaded again");
            self.unindexed = u64::MAX;
            self.suspect = true;
            if let Err(error) = self.restore() {
                tracing::warn!(%error, "the collection cannot be loaded; the next write tries again");
            }
        }
        let message = outcome.err().map(|error| error.to_string());
        for reply in build.waiting {
            let answer = message.clone().map_or(Ok(()), |message| Err(SinkError::Engine(message)));
            drop(reply.send(answer));
        }
    }

    fn close(&mut self) -> Result<(), SinkError> {
        if std::mem::replace(&mut self.is_closed, true) {
            return Ok(());
        }
        // A change at which the engine failed may be half in its memory. The journal has it whole.
        let flushed = if self.suspect { Ok(()) } else { self.store.flush() };
        self.store.close().and(flushed)
    }

    /// Closes the collection, unless an index is being built. The engine has no public way to stop a build, so the process exits in the middle of
    /// it: changes that were reported as written are in the journal, and the next opening removes the duplicates that the build has left.
    fn leave(&mut self) -> Result<(), SinkError> {
        if self.build.is_none() {
            return self.close();
        }
        self.is_closed = true;
        self.build = None;
        Ok(())
    }
}

impl Drop for CollectionOwner {
    /// Closes the collection. A running index build is left alone: it finishes by itself, or is repaired at the next opening.
    fn drop(&mut self) {
        if self.build.is_none()
            && !self.is_closed
            && let Err(error) = self.close()
        {
            tracing::warn!(%error, "the collection was not closed cleanly; nothing that was reported durable is lost");
        }
    }
}
