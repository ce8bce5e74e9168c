//! Fills other collections while the present ones are served, and lets them take over the names.
//!
//! ```text
//! slot walvec ──▶ pipeline ──▶ books__1 ◀── searches        (1) both follow the stream
//! slot walvec_reindex ──▶ second pipeline ──▶ books__2
//!
//!                 (stopped)    books__1 ◀── searches        (2) the second catches up with where the first has stopped
//!                 (stopped)    books__1   books__2 ◀── searches   (3) the names are switched, in one step
//! slot walvec ──▶ pipeline ──────────────▶ books__2         (4) the first slot goes on
//! ```
//!
//! The first slot has confirmed at most what the second collection holds by then, so the changes that it repeats are known
//! already. A crash before (3) leaves everything as it was, and the next start continues the reindex. After (3) the new
//! collections are the served ones, even if something was not cleaned up.
//!
//! - [`candidate`]: the new collections and the pipeline that fills them, until they take over
//! - [`names`]: which collections are served, kept or new, and switching the names
//! - [`refused`]: what a reindex must not change
//! - [`slot`](mod@slot): the slot that the second pipeline reads
//! - [`cleanup`]: removes what was needed until the end
//! - [`state`]: what a later start has to know
//! - [`resume`]: the reindex that a start continues

pub(crate) mod candidate;
pub(crate) mod cleanup;
mod names;
mod refused;
pub(crate) mod resume;
mod slot;
pub(crate) mod state;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub(crate) use self::slot::slot;

/// The pause before a step that failed, and may succeed next time, is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

async fn pause(stop: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(RETRY_PAUSE) => {}
        () = stop.cancelled() => {}
    }
}
