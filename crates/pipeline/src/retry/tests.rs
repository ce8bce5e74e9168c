use std::sync::atomic::{AtomicUsize, Ordering};

use walvec_embed::EmbedError;
use walvec_model::TableName;
use walvec_sink::{Limited, RateLimit, SinkError};

use super::*;
use crate::testing::TestShared;
use crate::testing::sink::{refused, unavailable};

fn away() -> PipelineError {
    PipelineError::Sink { collection: "books".to_owned(), source: unavailable() }
}

fn definite() -> PipelineError {
    PipelineError::Sink { collection: "books".to_owned(), source: refused() }
}

fn altered() -> PipelineError {
    PipelineError::Altered { table: TableName::new("public", "books") }
}

fn limited(seconds: u64) -> PipelineError {
    let limited = Limited {
        url: "test".to_owned(),
        collection: "books".to_owned(),
        limit: RateLimit::Writes,
        reason: "too much".to_owned(),
        is_too_large: false,
        retry_after: Some(Duration::from_secs(seconds)),
        written: Vec::new(),
    };
    PipelineError::Sink { collection: "books".to_owned(), source: SinkError::Limited(Box::new(limited)) }
}

fn retry(shared: &TestShared) -> Retry {
    Retry::new(&shared.shared.telemetry, &shared.shared.stop)
}

/// Returns how long a retry waits after an error.
async fn waited(retry: &mut Retry, error: PipelineError) -> Duration {
    let began = Instant::now();
    retry.after(error).await.unwrap();
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn pauses_double_from_a_tenth_of_a_second_to_ten_seconds_and_never_end() {
    let shared = TestShared::of(&[]);
    let mut retry = retry(&shared);
    let mut least = Duration::from_millis(100);
    for attempt in 1..=50 {
        let pause = waited(&mut retry, away()).await;
        // The jitter at most doubles a pause.
        assert!(least <= pause && pause <= 2 * least + Duration::from_millis(2), "attempt {attempt}: {pause:?}");
        least = (2 * least).min(LONGEST);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_when_to_come_back_is_not_asked_earlier() {
    let shared = TestShared::of(&[]);
    let mut retry = retry(&shared);
    assert!(waited(&mut retry, limited(60)).await >= Duration::from_secs(60));
    assert!(waited(&mut retry, limited(0)).await >= Duration::from_millis(200), "and never before the back-off ends");
}

#[tokio::test(start_paused = true)]
async fn after_a_success_pauses_are_short_again_and_the_problem_is_gone() {
    let shared = TestShared::of(&[]);
    let mut retry = retry(&shared);
    for attempts in 1..=6 {
        waited(&mut retry, away()).await;
        assert_eq!(shared.status().problem.map(|problem| problem.attempts), Some(attempts));
    }
    retry.succeeded();
    assert_eq!(shared.status().problem, None);
    assert!(waited(&mut retry, away()).await <= Duration::from_millis(202));
    assert_eq!(shared.status().problem.map(|problem| problem.attempts), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_pause_at_once() {
    let shared = TestShared::of(&[]);
    let mut retry = retry(&shared);
    let began = Instant::now();
    let (waited, ()) = tokio::join!(retry.soon(away(), Duration::from_secs(600)), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        shared.shared.stop.cancel();
    });
    assert!(matches!(waited, Err(PipelineError::Stopped)));
    assert_eq!(began.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_definite_error_is_returned_without_a_pause_and_shows_no_problem() {
    let shared = TestShared::of(&[]);
    let began = Instant::now();
    assert!(matches!(retry(&shared).after(definite()).await, Err(PipelineError::Sink { .. })));
    assert_eq!((began.elapsed(), shared.status().problem), (Duration::ZERO, None));
}

#[tokio::test(start_paused = true)]
async fn a_job_does_not_wait_until_a_limit_is_raised_and_the_pipeline_does() {
    let full = || {
        PipelineError::Source(walvec_capture::CaptureError::Exhausted {
            resource: walvec_capture::Resource::ReplicationSlots,
            doing: "creating the slot".to_owned(),
            reason: "all are used".to_owned(),
        })
    };
    let shared = TestShared::of(&[]);
    let mut job = Retry::of_job(&shared.shared.telemetry, &shared.shared.stop);
    assert!(matches!(job.after(full()).await, Err(PipelineError::Source(_))));
    retry(&shared).after(full()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_is_dropped_leaves_no_problem_behind() {
    let shared = TestShared::of(&[]);
    let mut retry = retry(&shared);
    waited(&mut retry, away()).await;
    drop(retry);
    assert_eq!(shared.status().problem, None);
}

/// Runs a call that fails with these errors before it succeeds. Returns the outcome and how often it was made.
async fn retried(errors: Vec<PipelineError>) -> (Result<usize, PipelineError>, usize) {
    let shared = TestShared::of(&[]);
    let (made, mut errors) = (AtomicUsize::new(0), errors.into_iter());
    let outcome = retrying(&shared.shared.telemetry, &shared.shared.stop, || {
        let number = made.fetch_add(1, Ordering::Relaxed);
        let answer = errors.next().map_or(Ok(number), Err);
        async move { answer }
    });
    (outcome.await, made.into_inner())
}

#[tokio::test(start_paused = true)]
async fn a_call_is_repeated_while_its_errors_pass() {
    let failed = || EmbedError::Failed("it is ill".to_owned()).into();
    let (outcome, made) = retried(vec![away(), limited(1), failed()]).await;
    assert_eq!((outcome.unwrap(), made), (3, 4));
}

#[tokio::test(start_paused = true)]
async fn a_call_is_not_repeated_if_only_another_session_can_help() {
    let missing = || SinkError::Missing { url: "test".to_owned(), collection: "books".to_owned() };
    let missing = PipelineError::Sink { collection: "books".to_owned(), source: missing() };
    for error in [altered(), missing, PipelineError::Disowned, definite()] {
        let code = error.code();
        let (outcome, made) = retried(vec![away(), error]).await;
        assert_eq!((outcome.unwrap_err().code(), made), (code, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_never_due_is_waited_for_without_end() {
    let began = Instant::now();
    until(Some(began + Duration::from_secs(3))).await;
    assert_eq!(began.elapsed(), Duration::from_secs(3));
    let never = tokio::time::timeout(Duration::from_secs(3600), until(None)).await;
    assert!(never.is_err());
}
