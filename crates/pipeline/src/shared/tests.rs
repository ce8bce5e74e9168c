use super::*;
use crate::testing::TestShared;

fn disowned() -> Result<(), PipelineError> {
    Err(PipelineError::Disowned)
}

fn stopped() -> Result<(), PipelineError> {
    Err(PipelineError::Stopped)
}

fn fenced() -> Result<(), PipelineError> {
    Err(PipelineError::Broker(walvec_broker::BrokerError::Closed))
}

#[test]
fn the_first_error_counts_unless_it_only_says_that_something_stopped() {
    for (first, other, expected) in [
        (Ok(()), Ok(()), None),
        (Ok(()), disowned(), Some("E_OWNED")),
        (disowned(), Ok(()), Some("E_OWNED")),
        (disowned(), fenced(), Some("E_OWNED")),
        (stopped(), disowned(), Some("E_OWNED")),
        (disowned(), stopped(), Some("E_OWNED")),
        (stopped(), Ok(()), Some("E_STOPPED")),
        (stopped(), stopped(), Some("E_STOPPED")),
    ] {
        let case = format!("{first:?}, {other:?}");
        assert_eq!(first_error(first, other).err().map(|error| error.code()), expected, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_an_answer_and_comes_before_one() {
    let shared = TestShared::of(&[]).shared;
    assert_eq!(shared.or_stop(async { Ok(7) }).await.unwrap(), 7);
    let stop = shared.stop.clone();
    let (answer, ()) = tokio::join!(shared.or_stop(std::future::pending::<Result<(), _>>()), async {
        tokio::task::yield_now().await;
        stop.cancel();
    });
    assert!(matches!(answer, Err(PipelineError::Stopped)));
    assert!(matches!(shared.or_stop(async { Ok(7) }).await, Err(PipelineError::Stopped)), "nothing begins after it");
}
