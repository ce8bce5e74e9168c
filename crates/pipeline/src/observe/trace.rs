//! Traces across processes: follows a change from its commit into the sink, through the broker.
//!
//! Records carry the [W3C trace context](https://www.w3.org/TR/trace-context/) in a header. None of this happens unless
//! traces are collected.
//!
//! - `context`: the context of a span as text, and back

#[cfg(feature = "otel")]
mod context;
/// Replaces the trace context without the feature `otel`: spans have no context outside this process and are never
/// collected.
#[cfg(not(feature = "otel"))]
mod context {
    use tracing::Span;

    pub(super) fn adopt<'a>(_span: &Span, _parents: impl IntoIterator<Item = &'a str>) {}

    pub(super) const fn of(_span: &Span) -> Option<String> {
        None
    }
}

use std::sync::atomic::{AtomicBool, Ordering};

use tracing::Span;

/// The target of all spans: the exporter takes spans with this target, the log does not.
pub const TARGET: &str = "walvec_trace";

/// The name of the header.
pub(crate) const HEADER: &str = "traceparent";

static COLLECTED: AtomicBool = AtomicBool::new(false);

/// Turns traces on. Call once, after the exporter is installed.
pub fn enable() {
    COLLECTED.store(true, Ordering::Relaxed);
}

fn is_collected() -> bool {
    COLLECTED.load(Ordering::Relaxed)
}

/// Returns a span for a transaction that is being written to topics.
pub(crate) fn publishing(xid: u32) -> Span {
    if !is_collected() {
        return Span::none();
    }
    tracing::trace_span!(target: TARGET, "publish", xid)
}

/// Returns a span for a batch that is being written into the sink. It continues the traces in `parents`, which its
/// records carry.
pub(crate) fn writing<'a>(rows: usize, parents: impl IntoIterator<Item = &'a str>) -> Span {
    if !is_collected() {
        return Span::none();
    }
    let span = tracing::trace_span!(target: TARGET, "write", rows);
    context::adopt(&span, parents);
    span
}

/// Returns the header value that carries `span` in a record.
pub(crate) fn traceparent(span: &Span) -> Option<String> {
    if is_collected() { context::of(span) } else { None }
}
