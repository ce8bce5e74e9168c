//! Logs go to stderr, so that stdout stays clean for answers. Traces go to a collector, if the environment names one.

use std::io::IsTerminal as _;
use std::str::FromStr as _;

use log::Log;
use tracing_log::{AsLog as _, AsTrace as _};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Layer as _, fmt};

use super::traces::{self, Traces};
use super::{Cli, Command, LogFormat};

/// The levels of libraries when the user gives a level alone. The engine warns about its own matters at every start.
const LIBRARIES: &str = "warn,qdrant_edge=error";

/// Returns the filter of the log. A level alone applies to walvec only: its libraries' lines at that level would bury it.
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

/// Starts logging. By default short commands log warnings only, and `run` logs what it does.
pub(crate) fn start(arguments: &Cli) -> Traces {
    let level = match arguments.command {
        Command::Run(_) => LevelFilter::INFO,
        _ => LevelFilter::WARN,
    };
    let wanted = std::env::var("WALVEC_LOG").ok();
    let (filter, misread) = match directives(wanted.as_deref(), level).parse::<Targets>() {
        Ok(filter) => (filter, None),
        Err(error) => (Targets::from_str(&directives(None, level)).unwrap_or_default(), Some(error)),
    };
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = fmt::layer().with_writer(crate::terminal::log_writer).with_ansi(color).with_target(false);
    let log = match arguments.log_format {
        LogFormat::Text => log.with_filter(filter.clone()).boxed(),
        LogFormat::Json => log.json().with_filter(filter.clone()).boxed(),
    };
    let is_traced = matches!(arguments.command, Command::Run(_)) && traces::are_wanted();
    let (traces, spans) = if is_traced { traces::exporter() } else { (Traces::default(), None) };
    // Fails only if logging was started before, which is fine.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(spans).with(log));
    let _ = log::set_boxed_logger(Box::new(Libraries(filter)));
    log::set_max_level(LevelFilter::current().as_log());
    if let Some(error) = misread {
        tracing::warn!("WALVEC_LOG is not used: {error}; write for example debug, or walvec_capture=trace");
    }
    traces
}

/// Forwards lines that libraries write with the crate `log`, if the filter wants them.
///
/// A layer with a filter of its own loses the next line of a thread after `log_enabled!` asked whether a line is wanted and no such
/// line followed: <https://github.com/tokio-rs/tracing/issues/2519>. So this asks the filter, not the layer.
struct Libraries(Targets);

impl Log for Libraries {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        self.0.would_enable(metadata.target(), &metadata.level().as_trace())
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            // It never fails.
            let _ = tracing_log::format_trace(record);
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

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

    #[test]
    fn no_line_is_lost_after_a_library_asked_whether_one_of_its_own_is_wanted() {
        let lines = Lines::default();
        let filter: Targets = directives(None, LevelFilter::INFO).parse().unwrap();
        let layer = fmt::layer().without_time().with_ansi(false).with_target(false).with_writer(lines.clone());
        let layer = layer.with_filter(filter.clone());
        let libraries = Libraries(filter);
        let metadata = |level| log::Metadata::builder().target("librdkafka").level(level).build();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for number in 0..3 {
                assert!(!libraries.enabled(&metadata(log::Level::Debug)));
                tracing::info!("line {number}");
            }
            assert!(libraries.enabled(&metadata(log::Level::Warn)));
            libraries
                .log(&log::Record::builder().metadata(metadata(log::Level::Warn)).args(format_args!("ill")).build());
            libraries
                .log(&log::Record::builder().metadata(metadata(log::Level::Info)).args(format_args!("well")).build());
        });
        let written = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let found: Vec<&str> = written.lines().map(str::trim).collect();
        assert_eq!(found, ["INFO line 0", "INFO line 1", "INFO line 2", "WARN ill log.target=\"librdkafka\""]);
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> fmt::MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }
}
