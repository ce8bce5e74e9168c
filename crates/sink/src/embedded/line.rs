//! Work that queues for one owner, without a thread of its own: one of the blocking pool does it as long as there is some.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

/// Jobs that may wait; each may hold a batch in memory.
const PLACES: usize = 16;

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// A queue of jobs, done one after the other, in the order in which they came.
pub(super) struct Line<T> {
    shared: Arc<Shared<T>>,
    places: Arc<Semaphore>,
}

struct Shared<T> {
    queue: Mutex<Queue<T>>,
    /// An attendant has gone.
    gone: Condvar,
}

struct Queue<T> {
    jobs: VecDeque<Job<T>>,
    /// Somebody takes jobs.
    is_attended: bool,
    /// How many attendants hold the owner. One may still be going when the next one comes.
    attendants: usize,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        let queue = Mutex::new(Queue { jobs: VecDeque::new(), is_attended: false, attendants: 0 });
        Self { shared: Arc::new(Shared { queue, gone: Condvar::new() }), places: Arc::new(Semaphore::new(PLACES)) }
    }
}

impl<T> std::fmt::Debug for Line<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("jobs", &self.shared.queue().jobs.len()).finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Line<T> {
    /// Queues a job for `owner`, once there is a place. It is done whether anybody waits for it or not, unless the runtime ends before.
    pub(super) async fn queue(&self, owner: &Arc<Mutex<T>>, job: impl FnOnce(&mut T) + Send + 'static) {
        // The semaphore is never closed.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let mut queue = self.shared.queue();
        queue.jobs.push_back(Box::new(move |owner| {
            drop(place);
            job(owner);
        }));
        if !queue.is_attended {
            queue.is_attended = true;
            queue.attendants += 1;
            let attendant =
                Attendant { owner: Some(Arc::clone(owner)), shared: Arc::clone(&self.shared), has_ended: false };
            tokio::task::spawn_blocking(move || attendant.work());
        }
    }

    /// Waits until nothing is queued and nobody else holds the owner for a job.
    pub(super) fn wait(&self) {
        let mut queue = self.shared.queue();
        while queue.attendants > 0 {
            queue = self.shared.gone.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Shared<T> {
    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does the jobs, on a thread of the blocking pool.
struct Attendant<T> {
    owner: Option<Arc<Mutex<T>>>,
    shared: Arc<Shared<T>>,
    has_ended: bool,
}

impl<T> Attendant<T> {
    fn work(mut self) {
        let Some(owner) = self.owner.take() else { return };
        loop {
            let mut queue = self.shared.queue();
            let Some(job) = queue.jobs.pop_front() else {
                // Under the lock: whoever queues next finds nobody.
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
    /// Also of one that a runtime which ends never lets work, or whose job panics: nobody is to wait for that.
    fn drop(&mut self) {
        self.owner = None;
        let mut queue = self.shared.queue();
        if !self.has_ended {
            queue.is_attended = false;
            queue.jobs.clear();
        }
        queue.attendants -= 1;
        self.shared.gone.notify_all();
    }
}
