//! The comparisons while walvec runs: a provider may be updated at any time, without notice.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use walvec_embed::Embedder;
use walvec_pipeline::Status;

use super::{CheckOutcome, check};
use crate::failure::Failure;
use crate::search::serving::Serving;

/// How long an answer may take. It includes the time that a server takes to load its model; nothing waits for the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The pause between two comparisons. One text each time costs next to nothing, and the vectors of ten minutes can be made
/// again.
const USUAL_PAUSE: Duration = Duration::from_mins(10);

/// The first pause before a provider that has not answered is asked again.
const FIRST_RETRY: Duration = Duration::from_secs(5);

/// The longest pause before a provider that has not answered is asked again. One that was away for long may come back with
/// another model.
const LONGEST_RETRY: Duration = Duration::from_mins(1);

/// The part of the status that shows a provider's absence.
const EMBEDDER_PART: &str = "embedder";

/// Pauses between comparisons.
#[derive(Clone, Copy, Debug)]
struct Pauses {
    usual: Duration,
    first_retry: Duration,
    longest_retry: Duration,
}

impl Pauses {
    /// Returns the pauses of this process. Tests of the whole program shorten all of them with a failpoint.
    fn of_process() -> Self {
        let usual = usual();
        Self { usual, first_retry: FIRST_RETRY.min(usual), longest_retry: LONGEST_RETRY.min(usual) }
    }

    /// Returns the pause after this many questions without an answer.
    fn after(self, failures: u32) -> Duration {
        match failures.checked_sub(1) {
            None => self.usual,
            Some(doubled) => self.first_retry.saturating_mul(2_u32.saturating_pow(doubled)).min(self.longest_retry),
        }
    }
}

/// Returns the usual pause, or that of `FAILPOINTS=model-check-pause=return(<ms>)` in a program that was built for tests.
fn usual() -> Duration {
    #[cfg(feature = "failpoints")]
    fail::fail_point!("model-check-pause", |millis: Option<String>| {
        millis.and_then(|millis| millis.parse().ok()).map_or(USUAL_PAUSE, Duration::from_millis)
    });
    USUAL_PAUSE
}

/// Watches the model that embeds the texts and queries of this process.
pub(crate) struct ModelWatch {
    /// The file of the stored samples.
    file: PathBuf,
    /// The present model, which a reindex replaces.
    serving: watch::Receiver<Arc<Serving>>,
    /// Shows when a provider is back.
    status: watch::Receiver<Status>,
    pauses: Pauses,
}

impl ModelWatch {
    pub(crate) fn new(file: PathBuf, serving: watch::Receiver<Arc<Serving>>, status: watch::Receiver<Status>) -> Self {
        Self { file, serving, status, pauses: Pauses::of_process() }
    }

    /// Waits until another model is found, for ever if there is none. `is_checked`: whether the present model has just been
    /// compared.
    pub(crate) async fn another_model(mut self, is_checked: bool) -> Failure {
        let mut pause = self.pauses.after(u32::from(!is_checked));
        loop {
            let embedder = Arc::clone(&self.serving.borrow_and_update().embedder);
            let replaced = self.serving.clone();
            tokio::select! {
                failure = self.swapped(embedder.as_ref(), pause) => return failure,
                () = is_replaced(replaced) => pause = Duration::ZERO,
            }
        }
    }

    /// Compares one model after this pause, and then repeatedly, until another one is found.
    async fn swapped(&self, embedder: &dyn Embedder, mut pause: Duration) -> Failure {
        let mut failures = 0;
        loop {
            self.wait(pause).await;
            let unknown = match check(&self.file, embedder, ANSWER_TIMEOUT).await {
                Ok(CheckOutcome::Same) => None,
                Ok(CheckOutcome::NoNeed) => std::future::pending().await,
                Ok(CheckOutcome::NotAnswered(reason)) => Some(reason),
                Err(failure) if failure.passes => Some(failure.to_string()),
                Err(failure) => return failure,
            };
            failures = unknown.as_ref().map_or(0, |_| failures + 1);
            pause = self.pauses.after(failures);
            if let Some(reason) = unknown.filter(|_| failures == 1) {
                tracing::warn!("whether the model is still the same is not known, asking again: {reason}");
            }
        }
    }

    /// Waits for the end of a pause, or until the provider is back: it may have been away for an update.
    async fn wait(&self, pause: Duration) {
        // A provider that is away again and again is not asked each time.
        let is_back = async { tokio::join!(is_back(self.status.clone()), tokio::time::sleep(self.pauses.first_retry)) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = is_back => {}
        }
    }
}

/// Waits until another model is served; for ever if the sender was dropped.
async fn is_replaced(mut serving: watch::Receiver<Arc<Serving>>) {
    if serving.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Waits until the provider was away and is back. The pipeline shows that if it has texts to embed.
async fn is_back(mut status: watch::Receiver<Status>) {
    let is_away = |status: &Status| status.problem.as_ref().is_some_and(|problem| problem.part == EMBEDDER_PART);
    let was_away = status.wait_for(is_away).await.is_ok();
    let is_back = status.wait_for(|status| !is_away(status)).await.is_ok();
    // Otherwise the sender of the status was dropped.
    if !(was_away && is_back) {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests;
