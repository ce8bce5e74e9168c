//! What the process shows of its pipelines and jobs.

use tokio::sync::watch;
use walvec_pipeline::Status;
use walvec_pipeline::observe::status::Phase;
use walvec_pipeline::source::reread::Progress;

use crate::failure::Failure;
use crate::tasks::TaskHandle;
use crate::terminal::progress::{Meter, ReportTo};

/// Forwards one pipeline's status as that of the process. A pipeline that takes over from another is shown once it follows
/// the stream or has a problem: until then searches are answered as before.
pub(super) async fn forward_status(mut from: watch::Receiver<Status>, to: watch::Sender<Status>) {
    let takes_over = to.borrow().phase == Phase::Streaming || to.borrow().phase == Phase::Stopping;
    let mut is_shown = !takes_over;
    loop {
        let status = from.borrow_and_update().clone();
        is_shown |= status.phase == Phase::Streaming || status.problem.is_some();
        if is_shown {
            to.send_replace(status);
        }
        if from.changed().await.is_err() {
            return;
        }
    }
}

/// Shows the progress of a job, and what holds it up, until it ends.
pub(super) async fn show_job(
    mut progress: watch::Receiver<Progress>,
    mut status: watch::Receiver<Status>,
    task: TaskHandle,
) {
    const READING: &str = "reading rows again";
    task.step(READING);
    let mut meter = Meter::new(READING, ReportTo::Log);
    loop {
        let now = progress.borrow_and_update().clone();
        let problem = status.borrow_and_update().problem.clone();
        meter.show(now.rows, now.rows_estimated);
        task.report_progress(READING, problem.as_ref(), now.rows, now.rows_estimated);
        if let Some(ended) = now.ended {
            let failure = ended.map_err(|ended| {
                let failure = Failure::definite(&ended.code, ended.message);
                ended.remedy.into_iter().fold(failure, Failure::with_remedy)
            });
            return task.end(failure.as_ref().copied());
        }
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return },
            // If the pipeline ends, the job ends as well.
            Ok(()) = status.changed() => {}
        }
    }
}
