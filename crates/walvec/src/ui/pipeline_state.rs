//! The state of the pipeline: the live line, snapshot progress, problems.

use maud::{Markup, html};
use walvec_model::Lsn;
use walvec_pipeline::observe::status::{CollectionStatus, Phase, Status};

use super::format;

/// The least lag that people notice. Below it the line says that everything is there.
const NOTICEABLE_LAG_MS: u64 = 1_000;

/// Renders the live line and the notices.
pub(super) fn render(status: &Status) -> Markup {
    html! { (line(status)) (notices(status)) }
}

/// Returns the lag, if it is known and noticeable.
pub(super) fn noticeable_lag(status: &Status) -> Option<u64> {
    status.lag_ms.filter(|lag| *lag >= NOTICEABLE_LAG_MS)
}

/// Says up to which position rows can be found, once there are any.
fn applied(status: &Status) -> Option<String> {
    (status.applied_lsn != Lsn::ZERO).then(|| format!("Applied up to {}", status.applied_lsn))
}

/// Renders the line: phase, points, lag.
pub(super) fn line(status: &Status) -> Markup {
    let points: Option<u64> = status.collections.iter().map(|collection| collection.points).sum();
    let (class, phase) = match (status.phase, &status.problem) {
        (Phase::Stopping, _) => ("waiting", "Stopping"),
        (_, Some(_)) => ("troubled", "Retrying"),
        (Phase::Starting, None) => ("waiting", "Starting"),
        (Phase::Snapshot, None) => ("working", "Snapshot"),
        (Phase::Streaming, None) if noticeable_lag(status).is_some() => ("working", "Catching up"),
        (Phase::Streaming, None) => ("live", "Live"),
    };
    html! {
        p #pulse title=[applied(status)] {
            span.dot.(class) aria-hidden="true" {}
            span.phase { (phase) }
            @if let Some(points) = points { span { (format::counted(points, "point")) } }
            @if let (None, Some(since)) = (status.lag_ms, status.server_asked) {
                span.lag { "as of " (since) }
            } @else if status.phase == Phase::Streaming && status.lag_ms.is_some() {
                span.lag {
                    @match noticeable_lag(status) {
                        None => { "up to date" },
                        Some(lag) => { (format::milliseconds(lag)) " behind" },
                    }
                }
            }
        }
    }
}

/// Renders what a person should know before trusting the results.
pub(super) fn notices(status: &Status) -> Markup {
    html! {
        div #notices role="status" {
            @if let Some(problem) = &status.problem {
                div.notice.troubled {
                    p { strong { "Trouble with the " (problem.part) "; trying again" } " (attempt " (format::count(problem.attempts)) ")" }
                    p.detail { (problem.message) }
                }
            }
            @if status.phase == Phase::Snapshot {
                @for collection in &status.collections { (progress(collection)) }
            }
            @for collection in &status.collections {
                @if let Some(aside) = &collection.set_aside {
                    div.notice.troubled {
                        p { strong { (collection.table) " is not followed" } ": its points stay as they were." }
                        p.detail { (aside.message) }
                    }
                }
            }
            @for collection in status.collections.iter().filter(|collection| collection.dead_letters > 0) {
                div.notice {
                    p {
                        strong { (format::counted(collection.dead_letters, "parked row")) " of " (collection.table) }
                        ": could not be processed, and cannot be found as they are now. "
                        code { "walvec dead-letters list" } " says why."
                    }
                }
            }
        }
    }
}

fn progress(collection: &CollectionStatus) -> Markup {
    let (copied, estimated) = (collection.snapshot_rows_copied, collection.snapshot_rows_estimated);
    let label = format!("Snapshot of {}", collection.table);
    html! {
        div.notice.snapshot {
            p {
                strong { (label) }
                span.rows {
                    (format::count(copied))
                    @if estimated > 0 { " of about " (format::count(estimated)) }
                    " rows"
                }
            }
            // Without an estimate, or beyond it, the bar only shows that work goes on.
            @if estimated > copied {
                progress value=(copied) max=(estimated) aria-label=(label) {}
            } @else {
                progress aria-label=(label) {}
            }
        }
    }
}
