//! The report, and the progress before it.

use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use walvec_model::RowKey;
use walvec_verify::{ComparisonStage, Difference, Mismatch, MismatchKind, RepairState, Report, VectorSample};

use super::VerifyOutcome;
use crate::cli::output;
use crate::config::CollectionConfig;
use crate::terminal;
use crate::terminal::progress::{Pace, REPORT_INTERVAL};

/// The longest value in an example, in characters.
const MAX_VALUE: usize = 60;

/// Shows the progress of a comparison: a line that changes on a terminal, a new line now and then
/// elsewhere.
pub(super) struct ComparisonProgress {
    collection: String,
    bar: Option<ProgressBar>,
    state: Mutex<DisplayState>,
}

/// The state of a progress display.
struct DisplayState {
    shown_at: Instant,
    /// How many rows the table has by the server's statistics.
    rows: Option<u64>,
    /// Whether every row is one point, so that the number of points follows from that of the rows.
    is_point_a_row: bool,
    /// The rate at which rows are read, and later compared.
    reading: Pace,
    comparing: Option<Pace>,
}

impl ComparisonProgress {
    /// Starts to show progress. `rows`: how many rows the table has, if that is known.
    pub(super) fn new(collection: &CollectionConfig, rows: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = terminal::bars().add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg}  {elapsed}") {
                bar.set_style(style);
            }
            bar
        });
        let now = Instant::now();
        let is_point_a_row = collection.chunk.is_none();
        let state = DisplayState { shown_at: now, rows, is_point_a_row, reading: Pace::begin(now), comparing: None };
        Self { collection: collection.name.clone(), bar, state: Mutex::new(state) }
    }

    pub(super) fn show(&self, stage: &ComparisonStage) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let text = format!("{}: {}", self.collection, state.describe(stage));
        if let Some(bar) = &self.bar {
            bar.set_message(text);
            bar.tick();
        } else if state.shown_at.elapsed() >= REPORT_INTERVAL {
            state.shown_at = Instant::now();
            output::note(&text);
        }
    }
}

impl Drop for ComparisonProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl DisplayState {
    /// Describes what is going on, with the rate and the remaining time while rows are read and
    /// compared.
    fn describe(&mut self, stage: &ComparisonStage) -> String {
        let now = Instant::now();
        match stage {
            ComparisonStage::Waiting { until, now: at, problem } => {
                let problem =
                    problem.as_ref().map(|problem| format!("; it has a problem: {problem}")).unwrap_or_default();
                format!("waiting until the running walvec, at {at}, has applied {until}{problem}")
            }
            ComparisonStage::HeldBack(points) => {
                format!(
                    "waiting for {points} points that the server holds back until they are indexed (prevent_unoptimized)"
                )
            }
            ComparisonStage::Reading(rows) => format!("reading: {}", self.reading.record(now, *rows, self.rows)),
            ComparisonStage::Comparing { points, rows } => {
                let of = self.is_point_a_row.then_some(*rows);
                let reached = self.comparing.get_or_insert_with(|| Pace::begin(now)).record(now, *points, of);
                format!("{points} points compared with {rows} rows{}", reached.pace("points"))
            }
            ComparisonStage::Rechecking(suspects) => format!("{suspects} differences are looked at again"),
            ComparisonStage::Embedding(texts) => format!("{texts} texts embedded again"),
            ComparisonStage::Repairing { sent, of, state } => {
                let state = match state {
                    None => String::new(),
                    Some(RepairState::Queued) => "; waiting for another task to end".to_owned(),
                    Some(RepairState::Running(rows)) => format!("; {rows} rows read again"),
                };
                format!("{sent} of {of} findings sent to be repaired{state}")
            }
        }
    }
}

/// Returns the report as JSON.
pub(super) fn json(outcomes: &[VerifyOutcome], sample: VectorSample, seed: u64) -> Value {
    let mut all = Map::new();
    let collections: Vec<Value> = outcomes.iter().map(collection_as_json).collect();
    for outcome in outcomes {
        for (name, count) in counts(outcome) {
            let sum = all.get(&name).and_then(Value::as_u64).unwrap_or(0) + count.as_u64().unwrap_or(0);
            all.insert(name, sum.into());
        }
    }
    all.insert("seed".to_owned(), seed.into());
    let sample = match sample {
        VectorSample::All => json!("all"),
        VectorSample::Points(points) => json!(points),
    };
    all.insert("sample".to_owned(), sample);
    all.insert("collections".to_owned(), collections.into());
    Value::Object(all)
}

/// Returns the counts, which can be added up.
fn counts(outcome: &VerifyOutcome) -> Map<String, Value> {
    let mut counts = outcome.report.counts_as_json();
    if let Some(mended) = &outcome.mended {
        counts.insert("mended".to_owned(), mended.mended.into());
        counts.insert("parked_by_repair".to_owned(), mended.parked.into());
    }
    counts.insert("left".to_owned(), outcome.left().into());
    counts
}

fn collection_as_json(outcome: &VerifyOutcome) -> Value {
    let VerifyOutcome { report, mended } = outcome;
    let parked = report.parked_examples.iter();
    let parked = parked.map(|row| json!({"key": row.key, "code": row.code, "reason": row.reason}));
    let mut object = Map::from_iter([
        ("collection".to_owned(), report.collection.clone().into()),
        ("table".to_owned(), report.table.to_string().into()),
    ]);
    object.extend(counts(outcome));
    object.insert("examples".to_owned(), report.examples.iter().map(Mismatch::to_json).collect());
    if let Some(mended) = mended {
        object.insert("left_examples".to_owned(), mended.examples.iter().map(Mismatch::to_json).collect());
    }
    object.insert("dead_letter_examples".to_owned(), parked.collect());
    Value::Object(object)
}

/// Returns the report as text.
pub(super) fn text(outcomes: &[VerifyOutcome], sample: VectorSample, seed: u64) -> String {
    let mut table = output::table(&[
        "collection",
        "table",
        "rows",
        "points",
        "missing",
        "extra",
        "stale",
        "chunks",
        "bad vectors",
        "parked",
        "unsettled",
    ]);
    for VerifyOutcome { report, .. } in outcomes {
        let mut row = vec![report.collection.clone(), report.table.to_string()];
        row.extend([report.rows, report.points].map(|count| count.to_string()));
        row.extend(MismatchKind::ALL.map(|sort| report.count(sort).to_string()));
        row.extend([report.parked, report.unsettled].map(|count| count.to_string()));
        table.add_row(row);
    }
    let mut lines = vec![table.to_string()];
    lines.extend(outcomes.iter().flat_map(|outcome| details(&outcome.report)));
    for VerifyOutcome { report, mended } in outcomes {
        let Some(mended) = mended else { continue };
        lines.push(format!(
            "{}: {} mismatches found, {} repaired, {} parked, {} left, {} unsettled.",
            report.collection,
            report.mismatches(),
            mended.mended,
            mended.parked,
            mended.left,
            mended.unsettled
        ));
        lines.extend(mended.examples.iter().map(|mismatch| format!("  left: {}", example(mismatch))));
    }
    lines.push(conclusion(outcomes, sample, seed));
    lines.join("\n")
}

fn details(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    let collection = &report.collection;
    lines.extend(report.examples.iter().map(|mismatch| format!("{collection}: {}", example(mismatch))));
    for sort in MismatchKind::ALL {
        let shown = report.examples.iter().filter(|mismatch| mismatch.kind == sort).count() as u64;
        if report.count(sort) > shown {
            lines.push(format!("{collection}: {}: {} more", sort_in_words(sort), report.count(sort) - shown));
        }
    }
    for parked in &report.parked_examples {
        let key = RowKey::new(parked.key.clone());
        lines.push(format!("{collection}: parked: row {key}, {}: {}", parked.code, parked.reason));
    }
    if report.parked > report.parked_examples.len() as u64 {
        let more = report.parked - report.parked_examples.len() as u64;
        lines.push(format!("{collection}: parked: {more} more"));
    }
    lines
}

const fn sort_in_words(sort: MismatchKind) -> &'static str {
    match sort {
        MismatchKind::Missing => "missing",
        MismatchKind::Extra => "extra",
        MismatchKind::Stale => "stale",
        MismatchKind::Chunks => "chunks",
        MismatchKind::BadVector => "bad vector",
    }
}

fn example(mismatch: &Mismatch) -> String {
    let Mismatch { kind: sort, id, key, version, differences } = mismatch;
    let what = match (key, version) {
        (Some(key), _) => format!("row {}, point {id}", RowKey::new(key.clone())),
        (None, Some(version)) => format!("point {id}, version {version}"),
        (None, None) => format!("point {id}, which walvec did not write"),
    };
    let differences: Vec<String> = differences.iter().map(difference).collect();
    let separator = if differences.is_empty() { "" } else { ": " };
    format!("{}: {what}{separator}{}", sort_in_words(*sort), differences.join("; "))
}

fn difference(difference: &Difference) -> String {
    let Difference { field, expected, stored } = difference;
    match (expected, stored) {
        (Some(expected), Some(stored)) => format!("{field} is {} instead of {}", value(stored), value(expected)),
        (Some(expected), None) => format!("{field}: {} is not there", value(expected)),
        (None, Some(stored)) => format!("{field}: {} should not be there", value(stored)),
        (None, None) => field.clone(),
    }
}

fn value(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= MAX_VALUE {
        return text;
    }
    text.chars().take(MAX_VALUE - 1).chain(['…']).collect()
}

fn conclusion(outcomes: &[VerifyOutcome], sample: VectorSample, seed: u64) -> String {
    let sum = |count: fn(&VerifyOutcome) -> u64| outcomes.iter().map(count).sum::<u64>();
    let (points, sampled) = (sum(|outcome| outcome.report.points), sum(|outcome| outcome.report.sampled));
    let (left, unsettled) = (sum(VerifyOutcome::left), sum(|outcome| outcome.report.unsettled));
    let hint = if sample == VectorSample::All { "" } else { "; --sample all checks every one" };
    let vectors = format!("Vectors: {sampled} of {points} points compared with their texts (seed {seed}{hint}).");
    let moving = match unsettled {
        0 => String::new(),
        rows => format!(" {rows} rows changed whenever they were looked at; nothing is known about those."),
    };
    let parked = match sum(VerifyOutcome::parked) {
        0 => String::new(),
        rows => format!(" {rows} rows could not be processed and are parked: walvec dead-letters list"),
    };
    let verdict = match (left, outcomes.iter().any(|outcome| outcome.mended.is_some())) {
        (0, _) if parked.is_empty() => "Every point matches its row.".to_owned(),
        (0, _) => "Every other point is what its row says.".to_owned(),
        (left, true) => format!("{left} mismatches are left."),
        (left, false) => format!("{left} mismatches. To repair them: walvec verify --repair"),
    };
    format!("{vectors}\n{verdict}{parked}{moving}")
}
