//! Traces across processes: a change is followed from its commit into the sink, through the broker.
//!
//! Records carry the [W3C trace context](https://www.w3.org/TR/trace-context/) in a header. Nothing of this happens unless
//! somebody collects traces.

#[cfg(feature = "otel")]
mod context;
/// Without the feature `otel` spans have no context outside this process, and none is ever collected.
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

/// The target of all spans: an exporter takes these, the log does not.
pub const TARGET: &str = "walvec_trace";

/// The name of the header.
pub(crate) const HEADER: &str = "traceparent";

static COLLECTED: AtomicBool = AtomicBool::new(false);

/// Says that somebody collects traces. Call once, after the exporter is installed.
pub fn enable() {
    COLLECTED.store(true, Ordering::Relaxed);
}

fn is_collected() -> bool {
    COLLECTED.load(Ordering::Relaxed)
}

/// A transaction on its way into topics.
pub(crate) fn publishing(xid: u32) -> Span {
    if !is_collected() {
        return Span::none();
    }
    tracing::trace_span!(target: TARGET, "publish", xid)
}

/// A batch on its way into the sink; it goes on with the traces that its records carry.
pub(crate) fn writing<'a>(rows: usize, parents: impl IntoIterator<Item = &'a str>) -> Span {
    if !is_collected() {
        return Span::none();
    }
    let span = tracing::trace_span!(target: TARGET, "write", rows);
    context::adopt(&span, parents);
    span
}

/// What a record carries of a span.
pub(crate) fn traceparent(span: &Span) -> Option<String> {
    if is_collected() { context::of(span) } else { None }
}
