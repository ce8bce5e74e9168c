//! The decision to read the tables again.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use walvec_model::Moment;

/// A snapshot that became necessary while rows were stored already: its reason, and what it may remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    /// When it was decided.
    pub at: Moment,
    /// The code of the gap; `asked` if `walvec resync` asked for it.
    pub code: String,
    /// The reason in words.
    pub why: String,
    /// Whether it may remove more than half of a collection's points.
    #[serde(default)]
    pub may_sweep_most: bool,
}

impl Resync {
    /// Returns the resync that closes a gap with this code and reason.
    pub(crate) fn because_of(code: &str, why: &str) -> Self {
        Self { at: now(), code: code.to_owned(), why: why.to_owned(), may_sweep_most: false }
    }

    /// Returns the resync that stands for the first snapshot of a data directory whose collections have points already.
    pub(crate) fn of_lost_state() -> Self {
        let why = "the collection has points that this data directory knows nothing of: its state was lost, or they are another walvec's";
        Self { at: now(), code: "E_STATE".to_owned(), why: why.to_owned(), may_sweep_most: false }
    }

    /// Returns a resync that an operator asked for.
    #[must_use]
    pub fn asked(may_sweep_most: bool) -> Self {
        Self { at: now(), code: "asked".to_owned(), why: "`walvec resync` asked for it".to_owned(), may_sweep_most }
    }
}

fn now() -> Moment {
    Moment::from(SystemTime::now())
}
