//! `walvec status`

use std::process::ExitCode;

use serde_json::{Value, json};
use walvec_model::RowKey;
use walvec_pipeline::status::{BrokerStatus, Phase};
use walvec_pipeline::store::DeadLetter;
use walvec_pipeline::{PipelineError, Status, Store};

use super::running::Running;
use super::{ConfigArgs, Failure, output};
use crate::app;
use crate::config::{Config, Stage};

/// The stages that a configuration can have on this machine.
const STAGES: [Stage; 4] = [Stage::Capture, Stage::Index, Stage::Embed, Stage::Sink];

pub(crate) async fn execute(args: ConfigArgs, as_json: bool) -> Result<ExitCode, Failure> {
    let config = args.load()?;
    let mut answers: Vec<(String, Value)> = Vec::new();
    for (name, running) in Running::all(&config, &STAGES).await {
        answers.push((name, running.get("/api/v1/status", &[]).await?));
    }
    match answers.as_slice() {
        [] => stopped(&config, as_json),
        [(_, only)] if as_json => output::json(only),
        several if as_json => output::json(&Value::Object(several.iter().cloned().collect())),
        all => {
            let mut texts = Vec::with_capacity(all.len());
            for (name, answer) in all {
                let status: Status =
                    serde_json::from_value(answer.clone()).map_err(|error| Failure::definite("E_SERVER", error))?;
                let title = if config.broker.is_some() { format!("{name}: ") } else { String::new() };
                texts.push(format!("{title}{}", describe(&status)));
            }
            output::line(&texts.join("\n\n"))
        }
    }
}

/// What the data directory says while nothing runs.
fn stopped(config: &Config, as_json: bool) -> Result<ExitCode, Failure> {
    let directory = match config.broker {
        Some(_) => &config.directory_of(Stage::Capture),
        None => config.sink.directory(),
    };
    if !directory.join("state.redb").exists() {
        let nothing = format!("Not running; nothing has been synced to {} yet.", directory.display());
        return if as_json { output::json(&json!({"phase": "stopped"})) } else { output::line(&nothing) };
    }
    let _data_dir = app::lock(directory)?;
    let store = Store::open(directory).map_err(PipelineError::from)?;
    let checkpoint = store.checkpoint().map_err(PipelineError::from)?;
    let mut letters = Vec::new();
    for collection in &config.collections {
        letters.extend(store.dead_letters(&collection.name).map_err(PipelineError::from)?);
    }
    if as_json {
        return output::json(&json!({"phase": "stopped", "checkpoint": checkpoint, "dead_letters": letters}));
    }
    let position = checkpoint.map_or_else(
        || "no snapshot yet".to_owned(),
        |checkpoint| format!("applied {}, generation {}", checkpoint.applied, checkpoint.generation.0),
    );
    output::line(&format!("Not running. {position}. Dead letters: {}.", letters.len()))?;
    for letter in letters {
        output::line(&parked(&letter))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(status: &Status) -> String {
    let phase = match status.phase {
        Phase::Starting => "starting",
        Phase::Snapshot => "taking the snapshot",
        Phase::Streaming => "following the stream",
        Phase::Stopping => "stopping",
    };
    let mut lines = vec![
        format!("Running, {phase} (generation {}).", status.generation.0),
        format!(
            "Applied {}, confirmed {}, server {}: {} behind, {} ms. WAL kept for the slot: {}.",
            status.applied_lsn,
            status.confirmed_lsn,
            status.server_lsn,
            bytes(status.lag_bytes),
            status.lag_ms,
            bytes(status.retained_wal_bytes)
        ),
    ];
    lines.extend(status.broker.as_ref().map(through_broker));
    if let Some(problem) = &status.problem {
        lines.push(format!("Problem: {} ({} attempts): {}", problem.part, problem.attempts, problem.message));
    }
    let mut table = output::table(&["collection", "table", "points", "snapshot", "embedded", "reused", "parked"]);
    for collection in &status.collections {
        table.add_row([
            collection.collection.clone(),
            collection.table.clone(),
            collection.points.to_string(),
            format!("{} of about {}", collection.snapshot_rows_copied, collection.snapshot_rows_estimated),
            collection.embeddings_computed.to_string(),
            collection.embeddings_reused.to_string(),
            collection.dead_letters.to_string(),
        ]);
    }
    lines.push(table.to_string());
    lines.extend(status.collections.iter().flat_map(|collection| &collection.latest_dead_letters).map(parked));
    lines.join("\n")
}

/// What goes through the broker, on one line.
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

/// A dead letter on one line.
fn parked(letter: &DeadLetter) -> String {
    let DeadLetter { collection, code, reason, .. } = letter;
    format!("Parked in {collection}: row {}, {code}: {reason}", RowKey::new(letter.key.clone()))
}

fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}
