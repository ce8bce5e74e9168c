//! Gaps: changes that the stream can no longer prove to bring, and what is done about them.
//!
//! A gap means that the stream cannot prove any more that it brings every change since the last one that was applied.
//! Only reading the tables again closes it. By default walvec does so by itself, visibly.

use std::collections::BTreeSet;

use futures::FutureExt as _;
use walvec_capture::CaptureError;
use walvec_model::{Lsn, TableName};

use crate::error::{PipelineError, Refusal, Resync};
use crate::observe::metrics::RESYNCS;
use crate::observe::problems::ProblemGuard;
use crate::observe::status::Problem;
use crate::observe::telemetry::Telemetry;
use crate::rounds::answers;
use crate::state::records::TablesByCollection;
use crate::writer::Writer;

/// What to do about a gap: the setting `source.on_gap`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnGap {
    /// Read the tables again.
    #[default]
    Resync,
    /// Stop, and leave the decision to an operator.
    Stop,
}

/// Why the stream cannot be continued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Gap {
    /// The code, as on the last line of stderr.
    pub code: &'static str,
    /// What was found and what it endangers.
    pub what: String,
    /// How to prevent it next time, if that is possible.
    advice: Option<&'static str>,
}

impl Gap {
    const fn new(code: &'static str, what: String) -> Self {
        Self { code, what, advice: None }
    }

    /// Returns the resync that closes the gap.
    pub(crate) fn resync(&self) -> Resync {
        Resync::because_of(self.code, &self.what)
    }

    /// Returns the error of a pipeline that leaves gaps to an operator.
    pub(crate) fn refusal(self) -> Refusal {
        let remedy = "`walvec resync`, then `walvec run`: the tables are read again, unchanged texts are not embedded again; or \
                      `source.on_gap: resync`, which does that by itself";
        let remedy = self.advice.map_or_else(|| remedy.to_owned(), |advice| format!("{remedy}; {advice}"));
        Refusal { code: self.code, what: self.what, remedy }
    }
}

/// Points that wait until an operator says that they may be removed. The status shows them while this value lives.
pub(crate) struct HeldPoints {
    _problem: ProblemGuard,
}

impl HeldPoints {
    /// Shows that points wait.
    fn shown(message: String, telemetry: &Telemetry) -> Self {
        let remedy = "see that `source.url` names the right database; `walvec resync --force` removes them".to_owned();
        tracing::warn!(remedy, "{message}");
        let mut problem = ProblemGuard::new(telemetry);
        problem.show(Problem { part: "sink".to_owned(), message, remedy: Some(remedy), attempts: 1 });
        Self { _problem: problem }
    }
}

/// Checks whether the end of the present snapshot would remove more than half of a collection. That suggests that the
/// rows are somewhere else, rather than gone.
pub(crate) async fn most_would_go(
    writers: &[&mut Writer],
    tables: &TablesByCollection,
) -> Result<Option<HeldPoints>, PipelineError> {
    held(writers, tables, is_most).await
}

/// Returns the points that still wait, even if so many rows were added that they are no longer most of a collection.
pub(crate) async fn still_held(
    writers: &[&mut Writer],
    tables: &TablesByCollection,
) -> Result<Option<HeldPoints>, PipelineError> {
    held(writers, tables, |old, _| old > 0).await
}

async fn held(
    writers: &[&mut Writer],
    tables: &TablesByCollection,
    is_held: fn(u64, u64) -> bool,
) -> Result<Option<HeldPoints>, PipelineError> {
    let none = &BTreeSet::new();
    let counted = writers.iter().map(|writer| {
        let tables = tables.get(&writer.collection.name).unwrap_or(none);
        writer.count_swept(tables).boxed()
    });
    let counted = answers(counted.collect()).await?;
    let counted = writers.iter().map(|writer| writer.collection.name.as_str()).zip(counted);
    let message = held_words(counted, is_held);
    let Some((first, message)) = writers.first().zip(message) else { return Ok(None) };
    Ok(Some(HeldPoints::shown(message, first.telemetry())))
}

/// Returns whether `old` points are more than half of `all`.
const fn is_most(old: u64, all: u64) -> bool {
    old > all / 2
}

/// Describes the points that wait, given for each collection how many would be removed and how many there are; `None`
/// if none wait.
fn held_words<'c>(
    counted: impl Iterator<Item = (&'c str, (u64, u64))>,
    is_held: fn(u64, u64) -> bool,
) -> Option<String> {
    let held = counted.filter(|(_, (old, all))| is_held(*old, *all));
    let words: Vec<String> =
        held.map(|(collection, (old, all))| format!("{old} of {all} points of collection \"{collection}\"")).collect();
    (!words.is_empty()).then(|| {
        format!(
            "{} have no row any more after the tables were read again; as that was more than half of a collection, they stay until a \
             person decides",
            words.join(", ")
        )
    })
}

/// Shows in the status, the metrics and the log that walvec reads the tables again by itself, and why.
pub(crate) fn announce(resync: Option<&Resync>, telemetry: &Telemetry) {
    telemetry.resync(resync);
    if let Some(Resync { code, why, .. }) = resync {
        metrics::counter!(RESYNCS, "code" => code.clone()).increment(1);
        tracing::warn!(code, "the tables are read again, unchanged texts are not embedded again: {why}");
    }
}

pub(crate) fn missing_slot(slot: &str, applied: Lsn) -> Gap {
    Gap::new("E_SLOT_MISSING", format!("slot \"{slot}\" does not exist any more; changes since {applied} are gone"))
}

pub(crate) fn lost_slot(slot: &str, applied: Lsn, reason: &str) -> Gap {
    let what = format!("slot \"{slot}\" is invalid ({reason}); changes since {applied} are gone");
    let advice = Some("`max_slot_wal_keep_size` decides how far behind a slot may fall");
    Gap { code: "E_SLOT_LOST", what, advice }
}

pub(crate) fn slot_ahead(slot: &str, confirmed: Lsn, applied: Lsn) -> Gap {
    let what = format!(
        "slot \"{slot}\" is at {confirmed}, but this data directory holds only what was committed up to {applied}: another program \
         has read the slot, or the data directory is an old copy; the changes in between are gone"
    );
    Gap::new("E_POSITION", what)
}

pub(crate) fn server_behind(server: Lsn, applied: Lsn) -> Gap {
    let what = format!(
        "this data directory holds what was committed up to {applied}, but the server has only come to {server}: the server was \
         restored from a backup, or the state file was altered; what is stored may never have happened"
    );
    Gap::new("E_POSITION", what)
}

pub(crate) fn history_changed(expected: Lsn, found: Lsn) -> Gap {
    let what = format!(
        "a transaction that ended at {expected} was applied, and the server, which is at {found}, does not have it: the server was \
         restored from a backup; what is stored may never have happened"
    );
    Gap::new("E_POSITION", what)
}

pub(crate) fn timeline_left(before: u32, now: u32, left_at: Option<Lsn>, written_to: Option<Lsn>) -> Gap {
    let found = match (left_at, written_to) {
        (Some(left_at), Some(written_to)) => format!(
            "the server was promoted to timeline {now} at {left_at}, and what was applied from timeline {before} goes up to \
             {written_to}: transactions in between were lost with the former server"
        ),
        (Some(left_at), None) => format!(
            "the server was promoted to timeline {now} at {left_at}, and walvec ended in the middle of its work before: what it applied \
             last from timeline {before} may have been lost with the former server"
        ),
        (None, _) => format!(
            "the server is on timeline {now}, which does not descend from timeline {before} that this data directory was filled \
             from: it was restored from a backup, and what is stored may never have happened"
        ),
    };
    Gap::new("E_TIMELINE", found)
}

/// Returns the gap of a table that was not published all the time and lacks the rows of most points. Reading everything
/// as a new generation keeps those points until an operator decides about them.
pub(crate) fn most_has_gone(collection: &str, table: &TableName, older: u64, all: u64) -> Gap {
    let what = format!(
        "{table} was read again, and does not have the rows of {older} of the {all} points of collection \"{collection}\"; as that is more \
         than half of a collection, a person decides about them"
    );
    Gap::new("E_SWEEP", what)
}

fn collection_behind(collection: &str) -> Gap {
    let what = format!(
        "collection \"{collection}\" does not have what was written into it last: it was restored to an older state, or points were \
         changed by another program; changes may be missing"
    );
    Gap::new("E_SINK_BEHIND", what)
}

/// Returns the gap of a publication that was dropped, recreated or renamed. It did not publish in between, and the slot
/// cannot tell. `called`: its present name, if it was only renamed.
pub(crate) fn publication_changed(called: Option<&str>) -> Gap {
    let what = match called {
        Some(called) => format!(
            "the publication is called \"{called}\" now; the server does not find it under its former name, and sends nothing"
        ),
        None => "the publication was dropped, made anew or altered since the snapshot; changes may be missing from the stream"
            .to_owned(),
    };
    let advice = called.map(|_| "to keep it, name it in `source.publication`");
    Gap { code: "E_PUBLICATION", what, advice }
}

/// Returns the error that a gap is in a running pipeline: one that begins again, or one that ends it.
pub(crate) fn found(gap: Gap, on_gap: OnGap) -> PipelineError {
    match on_gap {
        OnGap::Resync => PipelineError::Resync(gap.resync()),
        OnGap::Stop => gap.refusal().into(),
    }
}

/// Converts an error of a session into that of a gap, if it is one. If the stream reported it, the next session
/// examines the server and reports details.
pub(crate) fn found_in(error: PipelineError, on_gap: OnGap) -> PipelineError {
    if let PipelineError::Behind { collection } = &error {
        return found(collection_behind(collection), on_gap);
    }
    let is_gap = matches!(
        error,
        PipelineError::Source(
            CaptureError::SlotMissing { .. }
                | CaptureError::SlotLost { .. }
                | CaptureError::Publication { .. }
                // The slot cannot get past the change.
                | CaptureError::Unsendable { .. }
        )
    );
    match on_gap {
        OnGap::Resync if is_gap => found(Gap::new(error.code(), error.to_string()), on_gap),
        OnGap::Resync | OnGap::Stop => error,
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod held_tests;
