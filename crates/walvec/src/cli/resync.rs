//! `walvec resync`

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use walvec_pipeline::error::Resync;
use walvec_pipeline::state::records::{Checkpoint, SnapshotState};
use walvec_pipeline::{PipelineError, Store};

use super::{ConfigArgs, Failure, output, task};
use crate::api::tasks::ResyncRequest;
use crate::assembly;
use crate::client::Client;
use crate::config::{Config, Stage};

/// Read all tables again: now if walvec is running, otherwise at its next start. Unchanged texts are not embedded again.
///
/// Points whose rows are gone are removed at the end. If they are more than half of a collection, they stay until --force: the
/// configuration may name the wrong database. walvec reads the tables again automatically if changes were lost (`source.on_gap`).
#[derive(Args)]
pub(crate) struct ResyncArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Remove points without a row even if they are more than half of a collection. If walvec has found such points and waits for this
    /// permission, nothing is read again.
    #[arg(long)]
    force: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: ResyncArgs) -> Result<ExitCode, Failure> {
    let config = args.config.load_to_ask()?;
    let Some(running) = Client::first(&config, &[Stage::Capture]).await else {
        want(&config, args.force)?;
        let text = "The next `walvec run` reads all tables again.";
        return if args.json { output::json(&json!({"action": "at_next_start"})) } else { output::line(text) };
    };
    let removed = task::perform(&running, "/api/v1/resync", &ResyncRequest { force: args.force }).await?.rows;
    if args.json {
        return output::json(
            &json!({"action": if removed > 0 { "removed" } else { "reads" }, "points_removed": removed}),
        );
    }
    match removed {
        0 => output::line("The tables are being read again; `walvec status` shows how far."),
        removed => output::line(&format!("{removed} points without a row were removed.")),
    }
}

/// Records the request for the next start.
fn want(config: &Config, may_sweep_most: bool) -> Result<(), Failure> {
    let directory = match config.broker {
        Some(_) => config.directory_of(Stage::Capture),
        None => config.sink.directory().to_owned(),
    };
    let _data_dir = assembly::lock(&directory)?;
    let store = Store::open(&directory).map_err(PipelineError::from)?;
    let Some(checkpoint) = store.checkpoint().map_err(PipelineError::from)? else { return Ok(()) };
    // A reset goes further: it also forgets the database.
    if checkpoint.snapshot == SnapshotState::Wanted {
        return Ok(());
    }
    let resync = Some(Resync::asked(may_sweep_most));
    let checkpoint = Checkpoint { snapshot: SnapshotState::Again, resync, ..checkpoint };
    Ok(store.save_checkpoint(&checkpoint).map_err(PipelineError::from)?)
}
