//! Formats the context of a span as a W3C trace context, and parses it back.

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Makes `span` the child of the first of `parents`, and links it to the others.
pub(super) fn adopt<'a>(span: &Span, parents: impl IntoIterator<Item = &'a str>) {
    let mut contexts = parents.into_iter().filter_map(parse);
    if let Some(first) = contexts.next() {
        // `set_parent` fails for a span that has already begun. This one has not.
        let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(first));
    }
    for other in contexts {
        span.add_link(other);
    }
}

/// Returns the context of `span` as text, if it has one.
pub(super) fn of(span: &Span) -> Option<String> {
    let context = span.context();
    let context = context.span().span_context().clone();
    let flags = context.trace_flags().to_u8();
    context.is_valid().then(|| format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id()))
}

fn parse(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let (_version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    Some(SpanContext::new(trace, span, flags, true, TraceState::NONE)).filter(SpanContext::is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_trace_context_is_left_alone() {
        let context = parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(context.is_remote() && context.is_sampled());
        for text in ["", "00", "00-0-0-01", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "x-y-z-w"] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
