//! Logs go to stderr, so that stdout stays clean for answers; traces go to a collector, where one is named.

use std::io::IsTerminal as _;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};
use walvec_pipeline::trace;

use super::{Cli, Command, LogFormat};

/// The engine warns about matters of its own, at every start.
const QUIET: &str = "qdrant_edge=error";

/// Where traces go, in the variables that every OpenTelemetry exporter reads. Any of them turns traces on.
const COLLECTOR: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// Sends what is left of the traces when it is dropped.
pub(crate) struct Traces(Option<SdkTracerProvider>);

impl Drop for Traces {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.as_ref().map(SdkTracerProvider::shutdown) {
            tracing::warn!("the last traces were not sent: {error}");
        }
    }
}

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
    let traces = matches!(arguments.command, Command::Run(_)).then(exporter).flatten();
    let spans = traces.as_ref().map(|provider| {
        let wanted = Targets::new().with_target(trace::TARGET, tracing::Level::TRACE);
        tracing_opentelemetry::layer().with_tracer(provider.tracer("walvec")).with_filter(wanted)
    });
    let is_traced = spans.is_some();
    tracing_subscriber::registry().with(log).with(spans).init();
    if is_traced {
        trace::enable();
    }
    Traces(traces)
}

/// An exporter to the collector that the environment names, over HTTP.
fn exporter() -> Option<SdkTracerProvider> {
    COLLECTOR.iter().find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))?;
    let exporter = match opentelemetry_otlp::SpanExporter::builder().with_http().build() {
        Ok(exporter) => exporter,
        Err(error) => {
            crate::cli::output::note(&format!("traces are not sent: {error}"));
            return None;
        }
    };
    let resource = Resource::builder().with_service_name("walvec").build();
    Some(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}
