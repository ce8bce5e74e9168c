//! The status for people.

use std::time::{Duration, SystemTime};

use walvec_model::{Lsn, Moment, RowKey};
use walvec_pipeline::Status;
use walvec_pipeline::observe::status::{
    BrokerStatus, CollectionStatus, LATEST_DEAD_LETTERS, Phase, ReadAgain, SetAside,
};
use walvec_pipeline::state::dead_letters::DeadLetter;
use walvec_pipeline::state::records::SnapshotState;

use super::Process;
use super::stopped::Stopped;
use crate::cli::{Failure, output};
use crate::config::Config;
use crate::daemon::last_run::{LastRun, RunEnd};

/// The number of points without an index that are left so: comparing fewer takes about a
/// millisecond.
const UNINDEXED_POINTS: u64 = 10_000;

pub(super) fn of_all(config: &Config, processes: &[(String, Process)]) -> Result<String, Failure> {
    if processes.is_empty() {
        return Ok(nothing_yet(&config.sink.directory().display().to_string()));
    }
    let mut texts = Vec::with_capacity(processes.len());
    for (name, process) in processes {
        let text = match process {
            Process::Running(answer) => {
                let status: Status =
                    serde_json::from_value(answer.clone()).map_err(|error| Failure::definite("E_SERVER", error))?;
                of_running(&status)
            }
            Process::Starting => "Starting; it does not answer yet.".to_owned(),
            Process::Stopped(stopped) => of_stopped(stopped),
        };
        let title = if config.broker.is_some() { format!("{name}: ") } else { String::new() };
        texts.push(format!("{title}{text}"));
    }
    Ok(texts.join("\n\n"))
}

fn of_running(status: &Status) -> String {
    let phase = match status.phase {
        Phase::Starting => "starting",
        Phase::Snapshot => "taking the snapshot",
        Phase::Streaming => "following the stream",
        Phase::Stopping => "stopping",
    };
    let mut lines = vec![format!("Running, {phase} (generation {}).", status.generation.0), positions(status)];
    lines
        .extend(status.resync.as_ref().map(|resync| format!("Tables read again since {}: {}.", resync.at, resync.why)));
    lines.extend(status.broker.as_ref().map(through_broker));
    if let Some(problem) = &status.problem {
        lines.push(format!("Problem: {} ({} attempts): {}", problem.part, problem.attempts, problem.message));
        lines.extend(problem.remedy.as_ref().map(|remedy| format!("   help: {remedy}")));
    }
    lines.extend(status.collections.iter().filter_map(set_aside));
    lines.extend(status.collections.iter().filter_map(read_again));
    lines.push(counts(status));
    lines.extend(old_counts(status));
    lines.extend(status.collections.iter().filter_map(cut));
    lines.extend(status.collections.iter().filter_map(indexing));
    lines.extend(status.collections.iter().flat_map(|collection| &collection.latest_dead_letters).map(parked));
    lines.join("\n")
}

/// Says how many rows of a table have been read again.
fn read_again(collection: &CollectionStatus) -> Option<String> {
    let ReadAgain { rows, rows_estimated } = collection.read_again.as_ref()?;
    let (name, table) = (&collection.collection, &collection.table);
    Some(match rows_estimated {
        Some(estimated) => format!("{name}: {table} is read again, {rows} of about {estimated} rows so far."),
        None => format!("{name}: {table} is read again, {rows} rows so far."),
    })
}

/// Shows the applied position and the server's. An old position is shown with its time.
fn positions(status: &Status) -> String {
    let position = |lsn: Lsn| if lsn == Lsn::ZERO { "nothing yet".to_owned() } else { lsn.to_string() };
    let asked = match (status.server_asked, status.lag_bytes) {
        (None, _) => " (not asked)".to_owned(),
        (Some(at), None) => format!(" at {at}"),
        (Some(_), Some(_)) => String::new(),
    };
    let lag = match (status.lag_ms, status.lag_bytes, status.lag_unknown_since) {
        (Some(ms), Some(behind), _) => format!("{} behind, {ms} ms", bytes(behind)),
        (Some(ms), None, _) => format!("{ms} ms behind"),
        (None, _, Some(since)) if status.phase != Phase::Snapshot => format!("lag unknown since {since}"),
        (None, _, _) => "lag unknown until the tables are copied".to_owned(),
    };
    let kept = status.retained_wal_bytes.map_or_else(|| "unknown".to_owned(), bytes);
    format!(
        "Applied {}, confirmed {}, server {}{asked}: {lag}. WAL kept for the slot: {kept}.",
        position(status.applied_lsn),
        position(status.confirmed_lsn),
        position(status.server_lsn),
    )
}

/// Says why a table is not followed, and what to do.
fn set_aside(collection: &CollectionStatus) -> Option<String> {
    let SetAside { message, remedy, .. } = collection.set_aside.as_ref()?;
    let table = &collection.table;
    Some(format!("Not followed: {table}; its points stay as they were: {message}\n   help: {remedy}"))
}

/// Marks counts that are older than a minute: the sink may not have answered since.
fn old_counts(status: &Status) -> Option<String> {
    let minute_ago = Moment::from(SystemTime::now() - Duration::from_secs(60));
    let oldest = status.collections.iter().filter_map(|collection| collection.points_counted).min()?;
    (oldest < minute_ago).then(|| format!("Points were last counted at {oldest}."))
}

/// Says how many texts were cut, so that searches do not find their ends.
fn cut(collection: &CollectionStatus) -> Option<String> {
    let CollectionStatus { collection, texts_cut, .. } = collection;
    let texts = format!("Cut in {collection}: {texts_cut} of the texts embedded were longer than the model reads");
    (*texts_cut > 0).then(|| {
        format!("{texts}; their ends are not found.\n   help: use `chunk`; walvec check says how many rows there are")
    })
}

/// Says how many points have no index yet, if there are enough of them to slow searches down.
fn indexing(collection: &CollectionStatus) -> Option<String> {
    let (points, indexed) = (collection.points?, collection.points_indexed?);
    let is_due = points.saturating_sub(indexed) >= UNINDEXED_POINTS;
    is_due.then(|| {
        format!("Index of {}: {indexed} of {points} points, the others are compared one by one.", collection.collection)
    })
}

/// Shows the counts of each collection, and since when they are counted.
fn counts(status: &Status) -> String {
    let mut table = output::table(&["collection", "table", "points", "snapshot", "embedded", "reused", "parked"]);
    for collection in &status.collections {
        table.add_row([
            collection.collection.clone(),
            collection.table.clone(),
            collection.points.map_or_else(|| "-".to_owned(), |points| points.to_string()),
            snapshot(status.phase, collection),
            collection.embeddings_computed.to_string(),
            collection.embeddings_reused.to_string(),
            collection.dead_letters.to_string(),
        ]);
    }
    let since = status.counted_since.map(|since| format!("\nSnapshot, embedded and reused are counted since {since}."));
    format!("{table}{}", since.unwrap_or_default())
}

/// Shows the progress of the snapshot since the start of counting; `-` if there was none.
fn snapshot(phase: Phase, collection: &CollectionStatus) -> String {
    match (collection.snapshot_rows_copied, collection.snapshot_rows_estimated) {
        (0, 0) if phase != Phase::Snapshot => "-".to_owned(),
        (copied, estimated) if copied >= estimated => copied.to_string(),
        (copied, estimated) => format!("{copied} of about {estimated}"),
    }
}

/// Describes what goes through the broker, on one line.
fn through_broker(broker: &BrokerStatus) -> String {
    match &broker.group {
        None => format!("{} records written.", broker.produced),
        Some(group) => {
            let lag: u64 = broker.partitions.iter().map(|partition| partition.lag).sum();
            format!(
                "Group {group}: {} partitions here, {lag} records wait, {} read, {} rebalances.",
                broker.partitions.len(),
                broker.consumed,
                broker.rebalances
            )
        }
    }
}

fn of_stopped(stopped: &Stopped) -> String {
    if !stopped.has_run() {
        return nothing_yet(&stopped.directory.display().to_string());
    }
    let mut lines = vec![ending(stopped.last_run.as_ref())];
    lines.push(match &stopped.checkpoint {
        None => "No snapshot has been taken yet.".to_owned(),
        Some(checkpoint) => match checkpoint.snapshot {
            SnapshotState::Done => format!("Applied {}, generation {}.", checkpoint.applied, checkpoint.generation.0),
            SnapshotState::Copying => "The snapshot is not complete; the next run takes a new one.".to_owned(),
            SnapshotState::Again | SnapshotState::Wanted => "The next run reads every table again.".to_owned(),
        },
    });
    let all: Vec<&DeadLetter> = stopped.parked.iter().flatten().flat_map(|(_, parked)| parked).collect();
    if !all.is_empty() {
        lines.push(format!("Parked rows: {}.", all.len()));
        lines.extend(all.iter().take(LATEST_DEAD_LETTERS).map(|letter| parked(letter)));
    }
    if all.len() > LATEST_DEAD_LETTERS {
        lines.push(format!("{} more: walvec dead-letters list", all.len() - LATEST_DEAD_LETTERS));
    }
    lines.join("\n")
}

/// Says when and why it stopped.
fn ending(last_run: Option<&LastRun>) -> String {
    match last_run {
        None => "Not running.".to_owned(),
        Some(LastRun { began, ended: None }) => {
            format!("Not running. The run of {began} ended without a word: it was killed, or it crashed.")
        }
        Some(LastRun { ended: Some(RunEnd { at, error: None }), .. }) => {
            format!("Not running since {at}: it was asked to stop.")
        }
        Some(LastRun { ended: Some(RunEnd { at, error: Some(error) }), .. }) => {
            let remedy = error.remedy.as_ref().map(|remedy| format!("\n   help: {remedy}")).unwrap_or_default();
            format!("Not running since {at}: it stopped with {}.\n  error: {}{remedy}", error.code, error.message)
        }
    }
}

fn nothing_yet(directory: &str) -> String {
    format!("Not running; nothing has been synced to {directory} yet.")
}

/// Describes a parked row on one line.
fn parked(letter: &DeadLetter) -> String {
    let DeadLetter { collection, code, reason, .. } = letter;
    format!("Parked in {collection}: row {}, {code}: {reason}", RowKey::new(letter.key.clone()))
}

fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::{Value, json};

    use super::*;
    use crate::testkit::streaming;

    fn stopped(ended: Value) -> Stopped {
        let run = serde_json::from_value(json!({"began": "2026-11-20T20:49:03Z", "ended": ended})).unwrap();
        Stopped { directory: PathBuf::from("data"), last_run: Some(run), checkpoint: None, parked: Some(Vec::new()) }
    }

    #[test]
    fn a_walvec_that_stopped_says_when_and_why() {
        let at = "2026-11-20T21:00:00Z";
        let error = json!({"code": "E_SLOT_LOST", "message": "the slot is lost", "remedy": "walvec reset"});
        let shown = of_stopped(&stopped(json!({"at": at, "error": error})));
        let expected = "Not running since 2026-11-20 21:00:00 UTC: it stopped with E_SLOT_LOST.\n  \
                        error: the slot is lost\n   help: walvec reset\nNo snapshot has been taken yet.";
        assert_eq!(shown, expected);
        assert!(of_stopped(&stopped(json!({"at": at, "error": null}))).contains("it was asked to stop"));
        assert!(of_stopped(&stopped(Value::Null)).contains("The run of 2026-11-20 20:49:03 UTC ended without a word"));
        let nothing = Stopped { last_run: None, ..stopped(Value::Null) };
        assert_eq!(of_stopped(&nothing), "Not running; nothing has been synced to data yet.");
    }

    #[test]
    fn a_position_is_shown_only_if_the_next_run_goes_on_from_it() {
        let of = |snapshot: &str| {
            let checkpoint = json!({
                "source": {"system_id": "7", "timeline": 1, "database_oid": 5, "slot": "walvec"},
                "generation": 3, "snapshot": snapshot, "applied": "0/1D5C408", "publication": "p", "config_digest": "c",
            });
            let checkpoint = serde_json::from_value(checkpoint).unwrap();
            of_stopped(&Stopped { checkpoint: Some(checkpoint), ..stopped(Value::Null) })
        };
        assert!(of("done").contains("Applied 0/1D5C408, generation 3."));
        for snapshot in ["wanted", "copying"] {
            assert!(!of(snapshot).contains("0/1D5C408"), "{snapshot}");
        }
    }

    #[test]
    fn a_lag_that_is_not_known_says_since_when() {
        let at = Some("2026-11-20T20:49:03Z".parse().unwrap());
        let known = Status { server_lsn: Lsn(0x20), server_asked: at, lag_bytes: Some(7), ..streaming() };
        assert!(positions(&known).contains("7 B behind, 12 ms."), "{}", positions(&known));
        let away = Status { lag_ms: None, lag_bytes: None, lag_unknown_since: at, phase: Phase::Starting, ..known };
        let shown = positions(&away);
        assert!(
            shown.contains("server 0/20 at 2026-11-20 20:49:03 UTC: lag unknown since 2026-11-20 20:49:03 UTC"),
            "{shown}"
        );
        assert!(shown.contains("WAL kept for the slot: unknown"), "{shown}");
        let first = Status { phase: Phase::Snapshot, applied_lsn: Lsn::ZERO, ..away };
        assert!(positions(&first).starts_with("Applied nothing yet"), "{}", positions(&first));
        assert!(positions(&first).contains("lag unknown until the tables are copied"), "{}", positions(&first));
        let mut old = streaming();
        assert_eq!(old_counts(&old), None);
        old.collections[0].points_counted = at;
        assert_eq!(old_counts(&old).unwrap(), "Points were last counted at 2026-11-20 20:49:03 UTC.");
    }

    #[test]
    fn counters_say_since_when_they_count() {
        let mut status = Status { counted_since: Some("2026-11-20T20:49:03Z".parse().unwrap()), ..streaming() };
        assert!(of_running(&status).contains("are counted since 2026-11-20 20:49:03 UTC."));
        let collection = &mut status.collections[0];
        assert_eq!(snapshot(Phase::Streaming, collection), "3");
        (collection.snapshot_rows_copied, collection.snapshot_rows_estimated) = (0, 0);
        assert_eq!(snapshot(Phase::Streaming, collection), "-");
        assert_eq!(snapshot(Phase::Snapshot, collection), "0");
        assert_eq!(cut(collection), None);
        collection.texts_cut = 4;
        assert!(cut(collection).unwrap().starts_with("Cut in books: 4 of the texts embedded were longer"));
        collection.snapshot_rows_estimated = 2000;
        assert_eq!(snapshot(Phase::Snapshot, collection), "0 of about 2000");
    }
}
