//! Logs go to stderr, so that stdout stays clean for answers.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use super::{Cli, Command, LogFormat};

/// The engine warns about matters of its own, at every start.
const QUIET: &str = "qdrant_edge=error";

/// Starts logging. Commands that answer and end only warn; `run` tells what it does.
pub(crate) fn start(arguments: &Cli) {
    let level = match arguments.command {
        Command::Run(_) => "info",
        _ => "warn",
    };
    let filter = EnvFilter::builder()
        .with_env_var("WALVEC_LOG")
        .try_from_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("{level},{QUIET}")));
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(crate::cli::output::log_writer)
        .with_ansi(color)
        .with_target(false);
    match arguments.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
