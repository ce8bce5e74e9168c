//! Traces for a collector, over OTLP, if the environment names one.

use tracing_subscriber::{Layer, Registry};

/// The variables with the address for traces, which every OpenTelemetry exporter reads. Any of them turns
/// traces on.
const COLLECTOR: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// The layer that passes spans to the exporter.
pub(super) type Spans = Box<dyn Layer<Registry> + Send + Sync>;

/// Returns whether the environment names a collector.
pub(super) fn are_wanted() -> bool {
    COLLECTOR.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

#[cfg(feature = "otel")]
pub(crate) use exporting::Traces;
#[cfg(feature = "otel")]
pub(super) use exporting::exporter;

/// The stand-in in a program without OpenTelemetry: it holds no traces.
#[cfg(not(feature = "otel"))]
#[derive(Default)]
pub(crate) struct Traces(());

/// Returns no exporter, and says why no traces are sent.
#[cfg(not(feature = "otel"))]
pub(super) fn exporter() -> (Traces, Option<Spans>) {
    super::output::note("traces are not sent: this walvec was built without the feature \"otel\"");
    (Traces::default(), None)
}

#[cfg(feature = "otel")]
mod exporting {
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::Layer as _;
    use tracing_subscriber::filter::Targets;
    use walvec_pipeline::observe::trace;

    use super::Spans;

    /// Sends the remaining traces when it is dropped.
    #[derive(Default)]
    pub(crate) struct Traces(Option<SdkTracerProvider>);

    impl Drop for Traces {
        fn drop(&mut self) {
            if let Some(Err(error)) = self.0.as_ref().map(SdkTracerProvider::shutdown) {
                tracing::warn!("the last traces were not sent: {error}");
            }
        }
    }

    /// Makes an exporter to the collector that the environment names, over HTTP.
    pub(in crate::cli) fn exporter() -> (Traces, Option<Spans>) {
        let exporter = match opentelemetry_otlp::SpanExporter::builder().with_http().build() {
            Ok(exporter) => exporter,
            Err(error) => {
                crate::cli::output::note(&format!("traces are not sent: {error}"));
                return (Traces::default(), None);
            }
        };
        let resource = Resource::builder().with_service_name("walvec").build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        let wanted = Targets::new().with_target(trace::TARGET, tracing::Level::TRACE);
        let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("walvec")).with_filter(wanted).boxed();
        trace::enable();
        (Traces(Some(provider)), Some(spans))
    }
}
