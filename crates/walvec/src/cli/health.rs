//! `walvec health`

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::status::STAGES;
use super::{ConfigArgs, Failure, output};
use crate::client::{Client, ReportedHealth};
use crate::config::{Config, DEFAULT_FILE, DEFAULT_LISTEN, Stage};

/// Ask a running walvec whether it is ready, for probes and scripts.
///
/// Ready means that the slot is held, the sink is open and the model is loaded. A lag, or a problem that is being retried, does not count.
/// Exit code 0: ready. 1: not ready, not running, or no answer in time.
///
/// The command finds the process by the data directory in the configuration, and needs no token. With a broker all processes on this
/// machine have to be ready; WALVEC_STAGE and WALVEC_INSTANCE select one. Without a configuration file it asks the address in
/// WALVEC_LISTEN, or 127.0.0.1:8082.
#[derive(Args)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Ask only whether the process answers over HTTP. Use this to decide about a restart.
    #[arg(long)]
    live: bool,
    /// Ask the process at this address, without a configuration.
    #[arg(long, value_name = "ADDR", conflicts_with = "config")]
    at: Option<SocketAddr>,
    /// How many seconds to wait for the answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The answer of one process.
struct ProbedProcess {
    /// The name of its directory: `all`, or its stage and instance.
    name: String,
    address: SocketAddr,
    answered: ReportedHealth,
}

/// The processes that were found, and the message if there are none.
struct ProbeResult {
    processes: Vec<ProbedProcess>,
    if_none: String,
}

pub(crate) async fn execute(args: HealthArgs) -> Result<ExitCode, Failure> {
    let path = if args.live { "/livez" } else { "/readyz" };
    let limit = Duration::from_secs(args.timeout);
    let target = target(&args)?;
    let found = tokio::time::timeout(limit, probe(&target, path)).await.unwrap_or_else(|_| ProbeResult {
        processes: Vec::new(),
        if_none: format!("{target} does not answer within {} s", args.timeout),
    });
    let is_ok = !found.processes.is_empty() && found.processes.iter().all(|process| process.answered.is_ok);
    if args.json {
        output::json(&to_json(&found, is_ok))?
    } else {
        output::line(&to_text(&found))?
    };
    Ok(if is_ok { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The processes to ask.
enum ProbeTarget {
    At(SocketAddr),
    Of(Box<Config>),
}

impl std::fmt::Display for ProbeTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::At(address) => write!(f, "the walvec at {address}"),
            Self::Of(config) => write!(f, "the walvec on {}", config.sink.directory().display()),
        }
    }
}

fn target(args: &HealthArgs) -> Result<ProbeTarget, Failure> {
    if let Some(address) = args.at {
        return Ok(ProbeTarget::At(address));
    }
    match args.config.load_to_ask() {
        Ok(config) => Ok(ProbeTarget::Of(Box::new(config))),
        // In a container the configuration may lie anywhere.
        Err(_) if args.config.config.is_none() && !Path::new(DEFAULT_FILE).exists() => {
            let listen = std::env::var("WALVEC_LISTEN").ok().and_then(|listen| listen.parse().ok());
            Ok(ProbeTarget::At(listen.unwrap_or(DEFAULT_LISTEN)))
        }
        Err(failure) => Err(failure),
    }
}

async fn probe(target: &ProbeTarget, path: &str) -> ProbeResult {
    let (running, if_none) = match target {
        ProbeTarget::At(address) => {
            let running = Client::at(*address, None, None).await;
            let named = running.map(|running| (Stage::All.name().to_owned(), running));
            (named.into_iter().collect(), format!("no walvec answers at {address}"))
        }
        ProbeTarget::Of(config) => {
            let directory = match config.stage {
                Stage::All => config.sink.directory().to_owned(),
                _ => config.directory(),
            };
            let running = match config.stage {
                Stage::All => Client::all(config, &STAGES).await,
                stage => {
                    let running = Client::of(config, &directory).await;
                    running.map(|running| (stage.name().to_owned(), running)).into_iter().collect()
                }
            };
            (running, format!("no walvec runs on {}", directory.display()))
        }
    };
    let mut processes = Vec::new();
    for (name, running) in running {
        processes.push(ProbedProcess { name, address: running.address(), answered: running.probe(path).await });
    }
    ProbeResult { processes, if_none }
}

fn to_text(found: &ProbeResult) -> String {
    let line = |ProbedProcess { name, answered, .. }: &ProbedProcess| {
        let name = if found.processes.len() > 1 { format!("{name}: ") } else { String::new() };
        let retried =
            answered.problem.as_ref().map(|part| format!(", but the {part} does not work, and is tried again"));
        format!("{name}{}{}", answered.said, retried.unwrap_or_default())
    };
    match found.processes.as_slice() {
        [] => found.if_none.clone(),
        processes => processes.iter().map(line).collect::<Vec<_>>().join("\n"),
    }
}

fn to_json(found: &ProbeResult, is_ok: bool) -> Value {
    let reason = found.processes.is_empty().then_some(&found.if_none);
    json!({"ok": is_ok, "reason": reason, "processes": found.processes.iter().map(process).collect::<Vec<_>>()})
}

fn process(ProbedProcess { name, address, answered }: &ProbedProcess) -> Value {
    let ReportedHealth { is_ok, said, problem } = answered;
    json!({"name": name, "address": address, "ok": is_ok, "said": said, "problem": problem})
}
