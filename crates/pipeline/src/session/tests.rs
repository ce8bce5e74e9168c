use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;
use walvec_model::TableName;

use super::*;
use crate::observe::status::Phase;
use crate::testing::TestShared;
use crate::testing::sink::{refused, unavailable};

/// Sessions that end one after the other as the test says.
struct ScriptedSessions {
    shared: TestShared,
    outcomes: VecDeque<Result<(), PipelineError>>,
    /// What follows each error; then a back-off.
    next: VecDeque<NextSession>,
    /// When each session began, since the first, and in which phase.
    began: Arc<Mutex<Vec<(Duration, Phase)>>>,
    first: Instant,
    /// Whether a session that begins works at once, so that past errors are forgotten.
    works: bool,
}

impl ScriptedSessions {
    fn new(outcomes: impl IntoIterator<Item = Result<(), PipelineError>>) -> Self {
        let outcomes = outcomes.into_iter().collect();
        let (next, began) = (VecDeque::new(), Arc::default());
        Self { shared: TestShared::of(&[]), outcomes, next, began, first: Instant::now(), works: false }
    }
}

impl Sessions for ScriptedSessions {
    fn shared(&self) -> &Shared {
        &self.shared.shared
    }

    fn session<'a>(&'a mut self, retry: &'a mut Retry) -> BoxFuture<'a, Result<(), PipelineError>> {
        self.began.lock().unwrap().push((self.first.elapsed(), self.shared.status().phase));
        self.shared.shared.telemetry.phase(Phase::Streaming);
        if self.works {
            retry.succeeded();
        }
        let outcome = self.outcomes.pop_front().expect("no session begins after the last");
        Box::pin(std::future::ready(outcome))
    }

    fn next(&mut self, _error: &PipelineError) -> NextSession {
        self.next.pop_front().unwrap_or(NextSession::BackOff)
    }
}

fn away() -> Result<(), PipelineError> {
    Err(PipelineError::Sink { collection: "books".to_owned(), source: unavailable() })
}

fn definite() -> Result<(), PipelineError> {
    Err(PipelineError::Sink { collection: "books".to_owned(), source: refused() })
}

/// Runs sessions. Returns the outcome, and when each of them began and in which phase.
async fn ran(sessions: ScriptedSessions) -> (Result<(), PipelineError>, Vec<(Duration, Phase)>) {
    let began = Arc::clone(&sessions.began);
    let outcome = run(sessions).await;
    let began = began.lock().unwrap().clone();
    (outcome, began)
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_by_itself_is_the_last() {
    let (outcome, began) = ran(ScriptedSessions::new([Ok(())])).await;
    outcome.unwrap();
    assert_eq!(began.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_transient_error_another_session_begins_later_and_later() {
    let (outcome, began) = ran(ScriptedSessions::new([away(), away(), away(), Ok(())])).await;
    outcome.unwrap();
    let pauses: Vec<Duration> = began.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    for (pause, least) in pauses.iter().zip([100, 200, 400]) {
        assert!((least..=2 * least + 2).contains(&pause.as_millis()), "{pauses:?}");
    }
    assert!(began.iter().all(|(_, phase)| *phase == Phase::Starting), "{began:?}");
}

#[tokio::test(start_paused = true)]
async fn sessions_that_work_for_a_while_make_pauses_short_again() {
    let sessions = ScriptedSessions::new((0..9).map(|_| away()).chain([Ok(())]));
    let (outcome, began) = ran(ScriptedSessions { works: true, ..sessions }).await;
    outcome.unwrap();
    let longest = began.windows(2).map(|pair| pair[1].0 - pair[0].0).max();
    assert!(longest <= Some(Duration::from_millis(202)), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_definite_error_ends_the_sessions() {
    let (outcome, began) = ran(ScriptedSessions::new([away(), definite()])).await;
    assert_eq!(outcome.unwrap_err().code(), "E_SINK");
    assert_eq!(began.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_cause_that_was_removed_needs_no_pause_and_no_other_phase() {
    let mut sessions = ScriptedSessions::new([definite(), Ok(())]);
    sessions.next = VecDeque::from([NextSession::AtOnce]);
    let (outcome, began) = ran(sessions).await;
    outcome.unwrap();
    assert_eq!(began[1], (Duration::ZERO, Phase::Streaming));
}

#[tokio::test(start_paused = true)]
async fn a_session_may_choose_when_the_next_begins_even_after_an_error_that_lasts() {
    let mut sessions = ScriptedSessions::new([definite(), Ok(())]);
    sessions.next = VecDeque::from([NextSession::In(Duration::from_secs(7))]);
    let (outcome, began) = ran(sessions).await;
    outcome.unwrap();
    assert_eq!(began[1], (Duration::from_secs(7), Phase::Starting));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_session_and_a_pause_without_an_error() {
    for outcome in [Err(PipelineError::Stopped), away()] {
        let sessions = ScriptedSessions::new([outcome]);
        sessions.shared.shared.stop.cancel();
        let (outcome, began) = ran(sessions).await;
        outcome.unwrap();
        assert_eq!(began.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_stopped_by_something_else_than_a_stop_request_does_not_end_silently() {
    let (outcome, _) = ran(ScriptedSessions::new([Err(PipelineError::Stopped)])).await;
    assert!(matches!(outcome, Err(PipelineError::Stopped)), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn an_altered_table_begins_another_session() {
    let altered = Err(PipelineError::Altered { table: TableName::new("public", "books") });
    let (outcome, began) = ran(ScriptedSessions::new([altered, Ok(())])).await;
    outcome.unwrap();
    assert_eq!(began.len(), 2);
}
