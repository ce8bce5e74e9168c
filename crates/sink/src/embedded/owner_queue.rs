//! A queue of jobs for one owner. It has no thread of its own: a thread of the blocking pool works while there are jobs.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

/// How many jobs may wait; each may hold a batch in memory.
const PLACES: usize = 16;

type OwnerTask<T> = Box<dyn FnOnce(&mut T) + Send>;

/// A queue of jobs, done one after the other, in the order in which they came.
pub(super) struct OwnerQueue<T> {
    shared: Arc<SharedQueue<T>>,
    places: Arc<Semaphore>,
}

struct SharedQueue<T> {
    queue: Mutex<QueuedTasks<T>>,
    /// Signals that a thread has finished working on the queue.
    gone: Condvar,
}

struct QueuedTasks<T> {
    jobs: VecDeque<OwnerTask<T>>,
    /// Whether a thread takes jobs.
    is_attended: bool,
    /// How many threads hold the owner. The last one may still be finishing when the next one starts.
    holders: usize,
}

impl<T> Default for OwnerQueue<T> {
    fn default() -> Self {
        let queue = Mutex::new(QueuedTasks { jobs: VecDeque::new(), is_attended: false, holders: 0 });
        Self { shared: Arc::new(SharedQueue { queue, gone: Condvar::new() }), places: Arc::new(Semaphore::new(PLACES)) }
    }
}

impl<T> std::fmt::Debug for OwnerQueue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnerQueue").field("jobs", &self.shared.queue().jobs.len()).finish_non_exhaustive()
    }
}

impl<T: Send + 'static> OwnerQueue<T> {
    /// Queues a job for `owner`, once there is room. The job runs even if its caller stops waiting, unless the runtime shuts down
    /// first.
    pub(super) async fn add(&self, owner: &Arc<Mutex<T>>, job: impl FnOnce(&mut T) + Send + 'static) {
        // The semaphore is never closed.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let mut queue = self.shared.queue();
        queue.jobs.push_back(Box::new(move |owner| {
            drop(place);
            job(owner);
        }));
        if !queue.is_attended {
            queue.is_attended = true;
            let hold = Hold::begin(&self.shared, &mut queue);
            let attendant = Attendant { owner: Some(Arc::clone(owner)), hold, has_ended: false };
            tokio::task::spawn_blocking(move || attendant.work());
        }
    }

    /// Returns what threads without a job say before they hold the owner.
    pub(super) fn holders(&self) -> Holders<T> {
        Holders(Arc::clone(&self.shared))
    }

    /// Waits until the queue is empty and no thread holds the owner.
    pub(super) fn wait(&self) {
        let mut queue = self.shared.queue();
        while queue.holders > 0 {
            queue = self.shared.gone.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Counts the threads that hold the owner for something else than a job.
pub(super) struct Holders<T>(Arc<SharedQueue<T>>);

impl<T> Holders<T> {
    /// Lets [`OwnerQueue::wait`] wait until the answer is dropped.
    pub(super) fn hold(&self) -> Hold<T> {
        Hold::begin(&self.0, &mut self.0.queue())
    }
}

impl<T> Clone for Holders<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> std::fmt::Debug for Holders<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Holders").finish_non_exhaustive()
    }
}

/// A thread that holds the owner, with or without jobs.
pub(super) struct Hold<T>(Arc<SharedQueue<T>>);

impl<T> Hold<T> {
    fn begin(shared: &Arc<SharedQueue<T>>, queue: &mut QueuedTasks<T>) -> Self {
        queue.holders += 1;
        Self(Arc::clone(shared))
    }
}

impl<T> Drop for Hold<T> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        debug_assert!(queue.holders > 0, "each holder is counted");
        queue.holders -= 1;
        self.0.gone.notify_all();
    }
}

impl<T> SharedQueue<T> {
    fn queue(&self) -> MutexGuard<'_, QueuedTasks<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A piece of work on the blocking pool that does the queued jobs.
struct Attendant<T> {
    owner: Option<Arc<Mutex<T>>>,
    /// Dropped behind `owner`.
    hold: Hold<T>,
    has_ended: bool,
}

impl<T> Attendant<T> {
    fn work(mut self) {
        let Some(owner) = self.owner.take() else { return };
        loop {
            let mut queue = self.hold.0.queue();
            let Some(job) = queue.jobs.pop_front() else {
                // Still under the lock, so that the next caller of `add` starts a new thread.
                queue.is_attended = false;
                break;
            };
            drop(queue);
            job(&mut owner.lock().unwrap_or_else(PoisonError::into_inner));
        }
        self.has_ended = true;
    }
}

impl<T> Drop for Attendant<T> {
    /// Ends the attendance, even if the runtime shut down before it ran or if its job panicked. Then nothing waits for the hold, which is
    /// dropped last.
    fn drop(&mut self) {
        self.owner = None;
        if !self.has_ended {
            let mut queue = self.hold.0.queue();
            queue.is_attended = false;
            queue.jobs.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_waits_for_a_thread_that_holds_the_owner_without_a_job() {
        let queue: OwnerQueue<()> = OwnerQueue::default();
        let hold = queue.holders().hold();
        let (waits, waited) = std::sync::mpsc::sync_channel(1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                queue.wait();
                waits.send(()).unwrap();
            });
            assert!(waited.try_recv().is_err());
            drop(hold);
            waited.recv().unwrap();
        });
    }
}
