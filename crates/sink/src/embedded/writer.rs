//! The thread that owns every change of a collection: update, flush, and when an index is built.
//!
//! In 0.7.2 the engine's `flush` panics when an update, or the end of an index build, holds one of its locks. Here nothing
//! changes during a flush, and nothing is flushed during a build: the journal makes writes durable meanwhile. A vector
//! that takes the place of another one is recorded before, because the engine can be killed in the middle of it (see `journal`).

use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::{self, JoinHandle};

use tokio::sync::{mpsc, oneshot};

use super::convert::change_error;
use super::journal::{Journal, Kind};
use super::paths::io_error;
use super::steps::{self, Step};
use super::store::Store;
use crate::SinkError;

/// A step at which a test can crash the program; nothing without the feature `failpoints`.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name, |_| std::process::abort());
    };
}

/// Changes that may wait; each holds a batch in memory.
const QUEUE: usize = 16;

/// How an index build ended. Not the thread's own result: the thread may still be telling so, to a full queue, while the
/// owner waits for it.
type Outcome = std_mpsc::Receiver<Result<(), SinkError>>;

type Reply<T> = oneshot::Sender<Result<T, SinkError>>;

/// What the thread is asked for.
#[derive(Debug)]
enum Job {
    Change(Vec<Step>, Reply<u64>),
    Optimize(Reply<()>),
    /// The thread of the index build with this number is about to end.
    BuildEnded(u64),
    Close(Reply<()>),
}

/// The writer's handle.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn spawn(store: Arc<Store>) -> Result<Self, SinkError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let failed = io_error(store.directory());
        let owner = Owner { store, jobs: jobs.downgrade(), suspect: false, last_change: None, builds: 0, build: None };
        let thread = thread::Builder::new().name("walvec-sink".to_owned()).spawn(move || owner.run(queue));
        Ok(Self { jobs: Some(jobs), thread: Some(thread.map_err(failed)?) })
    }

    /// Makes a change, durably; returns how many points a sweep removed.
    pub(super) async fn change(&self, steps: Vec<Step>) -> Result<u64, SinkError> {
        self.ask(|reply| Job::Change(steps, reply)).await
    }

    /// Builds indexes where there are enough new points; returns when they are in use.
    pub(super) async fn optimize(&self) -> Result<(), SinkError> {
        self.ask(Job::Optimize).await
    }

    pub(super) async fn close(&self) -> Result<(), SinkError> {
        self.ask(Job::Close).await
    }

    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, SinkError> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or(SinkError::Closed)?;
        jobs.send(job(reply)).await.map_err(|_| SinkError::Closed)?;
        answer.await.unwrap_or(Err(SinkError::Closed))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the sink's writer thread panicked");
        }
    }
}

/// What the thread owns.
struct Owner {
    store: Arc<Store>,
    jobs: mpsc::WeakSender<Job>,
    /// The engine failed: what it holds in memory may differ from what it will write.
    suspect: bool,
    /// Where the last change of stored vectors is recorded, if there was one.
    last_change: Option<Journal>,
    /// How many index builds were started.
    builds: u64,
    build: Option<Build>,
}

/// An index build that is under way.
struct Build {
    outcome: Outcome,
    journal: Journal,
    waiting: Vec<Reply<()>>,
}

impl Owner {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        // A caller that no longer waits for its answer is no reason to stop: hence the ignored results of `send`.
        while let Some(job) = queue.blocking_recv() {
            match job {
                Job::Change(steps, reply) => drop(reply.send(self.change(steps))),
                Job::Optimize(reply) => self.optimize(reply),
                Job::BuildEnded(number) if number == self.builds => self.end_build(),
                // It was waited for already.
                Job::BuildEnded(_) => {}
                Job::Close(reply) => {
                    self.end_build();
                    drop(reply.send(self.close()));
                    return;
                }
            }
        }
        // Everything that was answered is durable; an index build finishes or is repaired at the next opening.
        if self.build.is_none()
            && let Err(error) = self.close()
        {
            tracing::warn!(%error, "the collection was not closed cleanly; nothing that was reported durable is lost");
        }
    }

    fn close(&mut self) -> Result<(), SinkError> {
        self.store.close()?;
        // Of a change at which the engine failed a part may be in the files.
        if self.suspect { Ok(()) } else { self.forget_last_change() }
    }

    /// Removes the record of the last change, which is durable in the engine.
    fn forget_last_change(&mut self) -> Result<(), SinkError> {
        if let Some(journal) = &self.last_change {
            journal.remove().map_err(io_error(self.store.directory()))?;
            self.last_change = None;
        }
        Ok(())
    }

    fn change(&mut self, steps: Vec<Step>) -> Result<u64, SinkError> {
        if self.build.as_ref().is_some_and(|build| build.journal.is_long()) {
            // The engine goes on building while enough new points arrive. With the writes held back, it comes to an end.
            self.end_build();
        }
        self.restore()?;
        self.store.check_room(steps::size_in_bytes(&steps))?;
        if steps.iter().any(|step| matches!(step, Step::Upsert(_))) {
            self.store.will_hold_points()?;
        }
        let outcome = self.recorded_change(steps);
        // After a failure the engine refuses changes, or has forgotten what it could not write. Loading it again is sound.
        self.suspect |= matches!(outcome, Err(SinkError::Engine(_)));
        outcome
    }

    /// Makes a change durable: during an index build by its record in the journal, otherwise by the engine's flush.
    fn recorded_change(&mut self, steps: Vec<Step>) -> Result<u64, SinkError> {
        self.store.with_shard(|shard| steps::check_overwritten_exist(shard, &steps))?;
        self.record(&steps)?;
        crash_point!("change-recorded");
        let outcome = self.store.with_shard(|shard| {
            let swept = self.store.apply(shard, steps)?;
            crash_point!("change-made");
            if self.build.is_none() {
                shard.flush();
            }
            Ok(swept)
        });
        // What the engine refuses changes nothing; of what it failed at the record makes a whole.
        if matches!(&outcome, Err(error) if !matches!(error, SinkError::Engine(_))) {
            let journal = self.build.as_mut().map(|build| &mut build.journal).or(self.last_change.as_mut());
            journal.map_or(Ok(()), Journal::take_back).map_err(io_error(self.store.directory()))?;
        }
        outcome
    }

    /// Records what must be made again if it is cut short: during a build any change, otherwise vectors that take the place of stored
    /// ones.
    fn record(&mut self, steps: &[Step]) -> Result<(), SinkError> {
        let failed = io_error(self.store.directory());
        if let Some(Build { journal, .. }) = &mut self.build {
            return journal.append(steps).map_err(failed);
        }
        let steps = self.store.with_shard(|shard| steps::writing_over_vectors(shard, steps))?;
        if steps.is_empty() {
            // What follows may remove what the last change wrote, or write over it.
            let stale = self.last_change.as_mut().filter(|journal| journal.has_any());
            return stale.map_or(Ok(()), Journal::clear).map_err(failed);
        }
        let journal = match &mut self.last_change {
            Some(journal) => journal,
            none => none.insert(Journal::create(self.store.directory(), Kind::LastChange).map_err(&failed)?),
        };
        journal.replace(&steps).map_err(failed)
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
        if self.suspect || self.store.log_is_long() {
            self.suspect = true;
            self.store.reopen()?;
            self.suspect = false;
            // Its file went when the engine was loaded.
            self.last_change = None;
        }
        Ok(())
    }

    fn optimize(&mut self, reply: Reply<()>) {
        if let Some(build) = &mut self.build {
            build.waiting.push(reply);
            return;
        }
        match self.start_build() {
            Ok((outcome, journal)) => self.build = Some(Build { outcome, journal, waiting: vec![reply] }),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn start_build(&mut self) -> Result<(Outcome, Journal), SinkError> {
        self.restore()?;
        self.store.check_room(0)?;
        // From here on every change is recorded in the build's journal.
        self.forget_last_change()?;
        let failed = io_error(self.store.directory());
        let journal = Journal::create(self.store.directory(), Kind::Build).map_err(&failed)?;
        self.builds += 1;
        let number = self.builds;
        let store = Arc::clone(&self.store);
        let jobs = self.jobs.clone();
        let (tell, outcome) = std_mpsc::sync_channel(1);
        let build = move || {
            let built = store.with_shard(|shard| shard.optimize().map(drop).map_err(change_error));
            drop(store);
            // Nobody listens any more: then the next opening repairs what is left to do.
            tell.send(built).ok();
            if let Some(jobs) = jobs.upgrade() {
                jobs.blocking_send(Job::BuildEnded(number)).ok();
            }
        };
        match thread::Builder::new().name("walvec-index".to_owned()).spawn(build) {
            Ok(_) => Ok((outcome, journal)),
            Err(error) => {
                journal.remove().map_err(&failed)?;
                Err(failed(error))
            }
        }
    }

    /// Waits for the index build, if there is one, and makes its result and the journal's changes durable.
    fn end_build(&mut self) {
        let Some(Build { outcome, journal, waiting }) = self.build.take() else { return };
        let died = || Err(SinkError::Engine("the index build's thread died".to_owned()));
        let built = outcome.recv().unwrap_or_else(|_| died());
        // A change at which the engine failed may be half made: nothing of that is to be flushed, and the journal has it.
        let is_sound = || match self.suspect {
            true => Err(SinkError::Engine("a change failed during the index build".to_owned())),
            false => Ok(()),
        };
        let outcome = built.and_then(|()| is_sound()).and_then(|()| {
            self.store.with_shard(|shard| {
                shard.flush();
                Ok(())
            })
        });
        let outcome = outcome.and_then(|()| journal.remove().map_err(io_error(self.store.directory())));
        if let Err(error) = &outcome {
            // The engine takes a failed build back, and with it the deletions made meanwhile. The journal has them.
            tracing::warn!(%error, "an index build failed; the collection is loaded again");
            self.suspect = true;
            if let Err(error) = self.restore() {
                tracing::warn!(%error, "the collection cannot be loaded; the next write tries again");
            }
        }
        let message = outcome.err().map(|error| error.to_string());
        for reply in waiting {
            let answer = message.clone().map_or(Ok(()), |message| Err(SinkError::Engine(message)));
            drop(reply.send(answer));
        }
    }
}
