//! `walvec status`

use std::process::ExitCode;

use serde_json::json;
use walvec_model::RowKey;
use walvec_pipeline::status::Phase;
use walvec_pipeline::store::DeadLetter;
use walvec_pipeline::{PipelineError, Status, Store};

use super::running::Running;
use super::{ConfigArgs, Failure, output};
use crate::app;
use crate::config::Config;

pub(crate) async fn execute(args: ConfigArgs, as_json: bool) -> Result<ExitCode, Failure> {
    let config = args.load()?;
    match Running::find(config.sink.directory(), config.server.token.clone()).await {
        Some(running) => {
            let answer = running.get("/api/v1/status", &[]).await?;
            if as_json {
                return output::json(&answer);
            }
            let status = serde_json::from_value(answer).map_err(|error| Failure::definite("E_SERVER", error))?;
            output::line(&describe(&status))
        }
        None => stopped(&config, as_json),
    }
}

/// What the data directory says while nothing runs.
fn stopped(config: &Config, as_json: bool) -> Result<ExitCode, Failure> {
    let directory = config.sink.directory();
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

/// A dead letter on one line.
fn parked(letter: &DeadLetter) -> String {
    let DeadLetter { collection, code, reason, .. } = letter;
    format!("Parked in {collection}: row {}, {code}: {reason}", RowKey::new(letter.key.clone()))
}

fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}
