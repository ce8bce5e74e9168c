//! Logs go to stderr, so that stdout stays clean for answers; traces go to a collector, where one is named.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use super::traces::{self, Traces};
use super::{Cli, Command, LogFormat};

/// What libraries may say when a level alone is asked for. The engine warns about matters of its own, at every start.
const LIBRARIES: &str = "warn,qdrant_edge=error";

/// What to log. A level alone is that of walvec: what its libraries say at that level would bury it.
fn directives(wanted: Option<&str>, default: LevelFilter) -> String {
    let own = |level: LevelFilter| match level {
        LevelFilter::OFF => "off".to_owned(),
        level => format!("{LIBRARIES},walvec={level}"),
    };
    let wanted = wanted.map(str::trim).filter(|wanted| !wanted.is_empty());
    let Some(wanted) = wanted else { return own(default) };
    let level = |part: &str| part.trim().parse::<LevelFilter>().map_or_else(|_| part.trim().to_owned(), own);
    wanted.split(',').map(level).collect::<Vec<_>>().join(",")
}

/// Starts logging. Commands that answer and end only warn; `run` tells what it does.
pub(crate) fn start(arguments: &Cli) -> Traces {
    let level = match arguments.command {
        Command::Run(_) => LevelFilter::INFO,
        _ => LevelFilter::WARN,
    };
    let wanted = std::env::var("WALVEC_LOG").ok();
    let (filter, misread) = match EnvFilter::try_new(directives(wanted.as_deref(), level)) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(directives(None, level)), Some(error)),
    };
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
    if let Some(error) = misread {
        tracing::warn!("WALVEC_LOG is not used: {error}; write for example debug, or walvec_capture=trace");
    }
    traces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_alone_is_that_of_walvec_and_what_is_named_comes_on_top() {
        let directives = |wanted| directives(wanted, LevelFilter::INFO);
        assert_eq!(directives(None), "warn,qdrant_edge=error,walvec=info");
        assert_eq!(directives(Some("")), directives(None));
        assert_eq!(directives(Some("DEBUG")), "warn,qdrant_edge=error,walvec=debug");
        assert_eq!(directives(Some("debug, hyper=trace")), "warn,qdrant_edge=error,walvec=debug,hyper=trace");
        assert_eq!(directives(Some("walvec_capture=trace")), "walvec_capture=trace");
        assert_eq!(directives(Some("off")), "off");
    }
}
