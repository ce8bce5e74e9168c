//! Decides what a difference between two looks at a table means, without asking anything.

use std::collections::BTreeMap;

use walvec_capture::{Alteration, Shape};
use walvec_model::{Lsn, TableName};

use crate::shared::{Leaves, Truncates};

/// The logged reason for reading a table that was owed when the session began.
const BEGUN_BEFORE: &str = "that was begun or decided before";

/// A table as a look has found it, with what is known of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableLook<'a> {
    /// The shape that the table had when its rows were read, if that is known.
    pub(super) before: Option<&'a Shape>,
    /// The present shape; `None` if there is no such table.
    pub(super) now: Option<&'a Shape>,
    /// Whether the table is followed. One that is set aside is not.
    pub(super) is_followed: bool,
    /// Whether the table was found altered and has not been read again to the end.
    pub(super) is_owed: bool,
    /// Whether the stream has brought rows of a partition that the table does not have any more.
    pub(super) has_lost_partition: bool,
    /// Whether the table is being read again.
    pub(super) is_being_read: bool,
}

/// The next step for a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableStep {
    /// Nothing: the table is as it was, or is handled elsewhere.
    Skip,
    /// Show that the table is missing.
    Missing,
    /// Note the shape: the table was not known.
    Know,
    /// Read again all rows that look something up in the table.
    ReadOwed,
    /// Find out what the difference means.
    Judge,
}

impl TableLook<'_> {
    /// Returns the next step.
    pub(super) fn step(&self) -> TableStep {
        let Some(now) = self.now else {
            return if self.is_followed { TableStep::Missing } else { TableStep::Skip };
        };
        if !self.is_followed {
            // Other tables look up rows in it, and have to be read again.
            return if self.is_owed { TableStep::ReadOwed } else { TableStep::Skip };
        }
        match self.before {
            None => TableStep::Know,
            Some(before) if before == now && !self.is_owed && !self.has_lost_partition => TableStep::Skip,
            Some(_) if self.is_being_read => TableStep::Skip,
            Some(_) => TableStep::Judge,
        }
    }
}

/// What to do about a table that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Note the new shape: the stream brings everything.
    Completion,
    /// Wait: it cannot be decided yet.
    Wait,
    /// Read rows again: those of these partitions, or all.
    Read { partitions: Option<Vec<u32>>, why: &'static str },
}

impl Verdict {
    const fn whole(why: &'static str) -> Self {
        Self::Read { partitions: None, why }
    }

    /// Returns the verdict about a table that is owed: it has to be read whole, even if it is by now as it was.
    pub(super) fn of_owed(self) -> Self {
        match self {
            Self::Completion => Self::whole(BEGUN_BEFORE),
            Self::Wait => Self::Wait,
            Self::Read { why, .. } => Self::whole(why),
        }
    }
}

/// What the stream has brought so far, and how far the server and the sink are.
#[derive(Clone, Copy)]
pub(super) struct StreamEvidence<'a> {
    pub(super) truncates: &'a Truncates,
    pub(super) leaves: &'a Leaves,
    /// The server's position before the look.
    pub(super) flushed: Lsn,
    /// The position up to which everything is durable in the sink.
    pub(super) applied: Lsn,
}

/// A table whose partitions were added, truncated or rewritten. What that means depends on what the stream still has to
/// bring: a TRUNCATE of the whole table that caused it, or rows of an added partition.
#[derive(Debug)]
struct Suspicion {
    /// The shape that the table was found with.
    shape: Shape,
    /// The position that the stream has to reach: by then it has brought everything that caused the change.
    until: Option<Lsn>,
}

/// The tables that wait until the stream has brought what caused their change.
#[derive(Debug, Default)]
pub(super) struct Suspicions(BTreeMap<TableName, Suspicion>);

impl Suspicions {
    /// Decides about a table that has the columns and the key with which the stream shows it.
    pub(super) fn judge(
        &mut self,
        table: &TableName,
        (before, now): (&Shape, &Shape),
        evidence: StreamEvidence<'_>,
    ) -> Verdict {
        if evidence.leaves.is_any_gone(table, now, evidence.flushed) {
            return Verdict::whole("a partition has come and gone");
        }
        let xids = match now.since(before) {
            None => return Verdict::Completion,
            // The session has ended for this already.
            Some(Alteration::Replaced) => return Verdict::Wait,
            Some(Alteration::Rows { why }) => return Verdict::whole(why),
            Some(Alteration::Partitions(_)) => Vec::new(),
            Some(Alteration::Storage { xids }) => xids,
        };
        let Some(until) = self.brought(table, now, evidence) else { return Verdict::Wait };
        judge_partitions(table, &xids, (before, now), until, evidence)
    }

    /// Returns the position up to which the stream has brought everything that made the table what it is now; `None` if
    /// it has not come so far.
    fn brought(&mut self, table: &TableName, now: &Shape, evidence: StreamEvidence<'_>) -> Option<Lsn> {
        let suspicion = self.0.get_mut(table).filter(|suspicion| suspicion.shape == *now);
        let Some(suspicion) = suspicion else {
            // By the next look, everything committed so far is flushed on the server, and will be streamed.
            self.0.insert(table.clone(), Suspicion { shape: now.clone(), until: None });
            return None;
        };
        let until = *suspicion.until.get_or_insert(evidence.flushed);
        (evidence.applied >= until).then_some(until)
    }
}

/// Decides about partitions that were added, or were given new storage by the transactions `xids`. The stream has
/// brought everything up to `until`, and the shape has not changed since.
fn judge_partitions(
    table: &TableName,
    xids: &[u32],
    (before, now): (&Shape, &Shape),
    until: Lsn,
    StreamEvidence { truncates, leaves, .. }: StreamEvidence<'_>,
) -> Verdict {
    if !truncates.explain(table, xids) {
        return Verdict::whole("a partition was truncated or rewritten");
    }
    if leaves.is_any_emptied(table, now, until) {
        return Verdict::whole("a partition may have been filled and emptied before it was seen");
    }
    match now.added_since(before) {
        added if added.is_empty() => Verdict::Completion,
        added => Verdict::Read { partitions: Some(added), why: "partitions were attached or created" },
    }
}

#[cfg(test)]
mod tests;
