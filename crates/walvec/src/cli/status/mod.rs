//! `walvec status`
//!
//! - [`stopped`]: the status of a walvec that does not run, from its data directory
//! - [`json`]: the status in one form for programs
//! - [`text`]: the status for people

mod json;
mod stopped;
mod text;

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use self::stopped::Stopped;
use super::{ConfigArgs, Failure, output};
use crate::client::{self, Client};
use crate::config::{Config, Stage};

/// The stages that a configuration can have on this machine.
pub(super) const STAGES: [Stage; 4] = [Stage::Capture, Stage::Index, Stage::Embed, Stage::Sink];

/// The code of the error for a data directory that another process uses.
const E_LOCKED: &str = "E_LOCKED";

/// Show the phase, the lag, points and parked rows; after a stop, also the reason.
///
/// With --json the fields are the same whether walvec runs or not; unknown values are null. With a broker the JSON is an object with
/// one status for each process on this machine.
#[derive(Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A process of the configuration.
enum Process {
    /// It runs, and answered with this status.
    Running(Value),
    /// It has started, and does not answer yet.
    Starting,
    /// It does not run.
    Stopped(Box<Stopped>),
}

pub(crate) async fn execute(args: StatusArgs) -> Result<ExitCode, Failure> {
    let config = args.config.load_to_ask()?;
    let processes = processes(&config).await?;
    if args.json {
        output::json(&json::of_all(&config, &processes))
    } else {
        output::line(&text::of_all(&config, &processes)?)
    }
}

/// Finds the processes of this machine: one without a broker; with a broker, all that run or have run.
async fn processes(config: &Config) -> Result<Vec<(String, Process)>, Failure> {
    let mut running = Vec::new();
    for (name, process) in Client::all(config, &STAGES).await {
        running.push((name, process.get("/api/v1/status", &[]).await?));
    }
    let mut processes = Vec::new();
    for (name, directory) in client::directories(config, &STAGES) {
        let found = running.iter().position(|(other, _)| *other == name);
        let process = match found {
            Some(at) => Process::Running(running.swap_remove(at).1),
            None => match Stopped::read(config, directory) {
                Ok(stopped) if config.broker.is_some() && !stopped.has_run() => continue,
                Ok(stopped) => Process::Stopped(Box::new(stopped)),
                Err(failure) if failure.code() == E_LOCKED => Process::Starting,
                Err(failure) => return Err(failure),
            },
        };
        processes.push((name, process));
    }
    Ok(processes)
}
