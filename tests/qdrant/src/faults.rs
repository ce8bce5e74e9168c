//! Faults of the server, on command.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qdrant_client::qdrant::UpdateStatus;
use tonic::{Code, Status};

use crate::Call;

/// A fault of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call is answered with an error and has no effect.
    Status(Code, String),
    /// The write is answered with this status instead of `completed`.
    Update {
        /// The answer.
        status: UpdateStatus,
        /// Whether the write takes effect nevertheless.
        applied: bool,
    },
    /// The call takes this much longer. Combine it with another fault by asking for both, the delay first.
    Delay(Duration),
    /// The connection breaks before the call has an effect; every other call on it is lost too.
    DropConnection,
    /// The call takes effect, and the connection breaks before the answer.
    LoseAnswer,
}

/// The faults that a server shows. Clones control the same server.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Script>>);

type Refusal = Arc<dyn Fn(&str) -> bool + Send + Sync>;

struct Script {
    version: String,
    queue: VecDeque<(Matching, Fault)>,
    refused: Option<Refusal>,
    message_bytes: Option<usize>,
    api_key: Option<String>,
    refuses_unindexed: bool,
}

#[derive(Clone, Copy, Debug)]
enum Matching {
    Writes,
    Kind(Call),
    Any,
}

impl Faults {
    /// Gives the fault to the next call that changes points. Several faults happen in the order in which they were
    /// requested, one per call; only a delay leaves room for another fault on the same call.
    pub fn next(&self, fault: Fault) {
        self.lock().queue.push_back((Matching::Writes, fault));
    }

    /// Gives the fault to the next call of this kind.
    pub fn next_on(&self, call: Call, fault: Fault) {
        self.lock().queue.push_back((Matching::Kind(call), fault));
    }

    /// Gives the fault to the next call of any kind.
    pub fn next_any(&self, fault: Fault) {
        self.lock().queue.push_back((Matching::Any, fault));
    }

    /// Returns how many faults have not happened yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.lock().queue.len()
    }

    /// Refuses as invalid, from now on, every request that names one of these points. Without ids, all points are
    /// accepted again.
    pub fn refuse_points<I: ToString>(&self, ids: impl IntoIterator<Item = I>) {
        let ids: HashSet<String> = ids.into_iter().map(|id| id.to_string()).collect();
        self.refuse_points_where(move |id| ids.contains(id));
    }

    /// Refuses as invalid, from now on, every request that names a point for which `refused` returns true. `refused`
    /// gets the id as text: a number, or a UUID with hyphens.
    pub fn refuse_points_where(&self, refused: impl Fn(&str) -> bool + Send + Sync + 'static) {
        self.lock().refused = Some(Arc::new(refused));
    }

    /// Limits the bytes of a message, uncompressed. `None`: no limit.
    pub fn limit_message_bytes(&self, limit: impl Into<Option<usize>>) {
        self.lock().message_bytes = limit.into();
    }

    /// Requires this key in every call. `None`: no key.
    pub fn require_api_key<'a>(&self, key: impl Into<Option<&'a str>>) {
        self.lock().api_key = key.into().map(str::to_owned);
    }

    /// Sets whether filters by fields without an index are refused in every collection, as by strict mode on Qdrant Cloud.
    pub fn refuse_unindexed_filters(&self, refuses: bool) {
        self.lock().refuses_unindexed = refuses;
    }

    pub(crate) fn refuses_unindexed_filters(&self) -> bool {
        self.lock().refuses_unindexed
    }

    /// Sets the version that the server reports; 1.18.0 at first.
    pub fn set_version(&self, version: &str) {
        version.clone_into(&mut self.lock().version);
    }

    /// Removes all faults.
    pub fn clear(&self) {
        *self.lock() = Script::default();
    }

    pub(crate) fn version(&self) -> String {
        self.lock().version.clone()
    }

    pub(crate) fn check_key(&self, sent: Option<&str>) -> Result<(), Status> {
        match self.lock().api_key.as_deref() {
            Some(key) if sent != Some(key) => {
                Err(Status::unauthenticated("Must provide an API key or an Authorization bearer token"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn check_size(&self, bytes: usize) -> Result<(), Status> {
        match self.lock().message_bytes {
            // The words are those of tonic, which the real server uses.
            Some(limit) if bytes > limit => Err(Status::out_of_range(format!(
                "Error, decoded message length too large: found {bytes} bytes, the limit is: {limit} bytes"
            ))),
            _ => Ok(()),
        }
    }

    pub(crate) fn check_points(&self, ids: &[String]) -> Result<(), Status> {
        // The lock is released first: the predicate is the test's, and may itself use these faults.
        let refused = self.lock().refused.clone();
        match refused.and_then(|refused| ids.iter().find(|id| refused(id))) {
            Some(id) => Err(Status::invalid_argument(format!("Wrong input: point {id} is not accepted"))),
            None => Ok(()),
        }
    }

    /// Takes the faults for this call: how long it is delayed, and one more fault.
    pub(crate) fn take(&self, call: Call) -> (Duration, Option<Fault>) {
        let mut script = self.lock();
        let mut delay = Duration::ZERO;
        while let Some(place) = script.queue.iter().position(|(matching, _)| matching.matches(call)) {
            match script.queue.remove(place) {
                Some((_, Fault::Delay(more))) => delay += more,
                Some((_, fault)) => return (delay, Some(fault)),
                None => break,
            }
            // A second delay is for another call.
            let next = script.queue.iter().find(|(matching, _)| matching.matches(call));
            if matches!(next, Some((_, Fault::Delay(_)))) {
                break;
            }
        }
        (delay, None)
    }

    fn lock(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Matching {
    fn matches(self, call: Call) -> bool {
        match self {
            Self::Writes => call.is_write(),
            Self::Kind(kind) => kind == call,
            Self::Any => true,
        }
    }
}

impl Default for Script {
    fn default() -> Self {
        let version = "1.18.0".to_owned();
        Self {
            version,
            queue: VecDeque::new(),
            refused: None,
            message_bytes: None,
            api_key: None,
            refuses_unindexed: false,
        }
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Script")
            .field("queue", &self.queue)
            .field("message_bytes", &self.message_bytes)
            .finish_non_exhaustive()
    }
}
