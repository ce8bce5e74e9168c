//! Logs go to stderr, so that stdout stays clean for answers; traces go to a collector, where one is named.

use std::io::IsTerminal as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use super::traces::{self, Traces};
use super::{Cli, Command, LogFormat};

/// The engine warns about matters of its own, at every start.
const QUIET: &str = "qdrant_edge=error";

/// Starts logging. Commands that answer and end only warn; `run` tells what it does.
pub(crate) fn start(arguments: &Cli) -> Traces {
    let level = match arguments.command {
        Command::Run(_) => "info",
        _ => "warn",
    };
    let filter = EnvFilter::builder()
        .with_env_var("WALVEC_LOG")
        .try_from_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("{level},{QUIET}")));
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt::layer()
        .with_writer(crate::cli::output::log_writer)
        .with_ansi(color)
        .with_target(false);
    let log = match arguments.log_format {
        LogFormat::Text => log.with_filter(filter).boxed(),
        LogFormat::Json => log.json().with_filter(filter).boxed(),
    };
    let is_traced = matches!(arguments.command, Command::Run(_)) && traces::are_wanted();
    let (traces, spans) = if is_traced { traces::exporter() } else { (Traces::default(), None) };
    tracing_subscriber::registry().with(spans).with(log).init();
    traces
}
