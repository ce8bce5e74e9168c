//! Proof that the server still has the history that was applied.
//!
//! A server that was restored to an older state has the same identity, and its slot looks as if feedback had been late:
//! it repeats what was committed since. It does not repeat a transaction that happened only before it was restored. So
//! a replay has to contain the end of the last transaction that was applied.

use walvec_model::{Lsn, StreamEvent};

use crate::source::gap::{self, Gap};

/// The end of the transaction that a stream has to bring before the server's history is known to be the one that was
/// applied.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    expected: Option<Lsn>,
}

impl Replay {
    /// Creates the proof for a stream from `confirmed` on, where the last applied transaction ended at `last_commit`.
    pub(crate) fn new(confirmed: Lsn, last_commit: Lsn) -> Self {
        Self { expected: Some(last_commit).filter(|last| confirmed < *last) }
    }

    /// Checks the next event of the stream.
    pub(crate) fn check(&mut self, event: &StreamEvent) -> Result<(), Gap> {
        let Some(expected) = self.expected else { return Ok(()) };
        let reached = match event {
            StreamEvent::Commit { end_lsn, .. } if *end_lsn == expected => {
                self.expected = None;
                return Ok(());
            }
            StreamEvent::Commit { end_lsn, .. } => *end_lsn,
            StreamEvent::Idle { wal_end } => *wal_end,
            StreamEvent::Begin { .. }
            | StreamEvent::Partition { .. }
            | StreamEvent::Change(_)
            | StreamEvent::LookedUp(_) => return Ok(()),
        };
        if reached > expected { Err(gap::history_changed(expected, reached)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    const fn commit(end_lsn: u64) -> StreamEvent {
        StreamEvent::Commit { end_lsn: Lsn(end_lsn), at: SystemTime::UNIX_EPOCH }
    }

    #[test]
    fn a_server_that_repeats_the_last_transaction_is_the_same() {
        let mut replay = Replay::new(Lsn(10), Lsn(20));
        for event in [commit(15), commit(20), commit(30), StreamEvent::Idle { wal_end: Lsn(40) }] {
            assert!(replay.check(&event).is_ok(), "{event:?}");
        }
    }

    #[test]
    fn a_server_that_passes_the_last_transaction_without_having_it_was_put_back() {
        for event in [commit(21), StreamEvent::Idle { wal_end: Lsn(21) }] {
            let mut replay = Replay::new(Lsn(10), Lsn(20));
            assert!(replay.check(&commit(15)).is_ok());
            assert_eq!(replay.check(&event).unwrap_err().code, "E_POSITION");
        }
    }

    #[test]
    fn a_stream_that_begins_behind_the_last_transaction_has_nothing_to_prove() {
        let mut replay = Replay::new(Lsn(20), Lsn(20));
        assert!(replay.check(&commit(30)).is_ok());
    }
}
