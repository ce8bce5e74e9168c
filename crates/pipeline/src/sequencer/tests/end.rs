use walvec_embed::EmbedError;

use super::*;
use crate::testing::rows::table;
use crate::testing::sink::refused;
use crate::testing::{Fault, SinkCall};

fn altered() -> PipelineError {
    PipelineError::Altered { table: table().name.clone() }
}

#[tokio::test]
async fn at_a_stop_the_oldest_batch_is_waited_for_and_the_others_come_again() {
    let mut fixture = Fixture::warm().await;
    fixture.begin(&[(1, "oldest")]).await.unwrap();
    fixture.sequencer.note("first");
    fixture.begin(&[(2, "never")]).await.unwrap();
    fixture.sequencer.note("second");
    fixture.begin(&[(3, "soon")]).await.unwrap();
    fixture.shared.shared.stop.cancel();
    {
        let embedder = Arc::clone(&fixture.embedder);
        let mut closed = Box::pin(fixture.sequencer.close(&mut fixture.writers, Ok(())));
        assert!(poll!(&mut closed).is_pending());
        embedder.release(&["soon", "oldest"]);
        closed.await.unwrap();
    }
    assert_eq!(fixture.sequencer.durable(), ["first"]);
    assert_eq!(fixture.shown().get(&1), Some(&json!("oldest")));
    assert_eq!(fixture.shown().get(&2), None);
}

#[tokio::test]
async fn after_an_error_the_first_answers_of_the_oldest_batch_are_kept_and_nothing_is_asked_for_again() {
    let mut fixture = Fixture::warm().await;
    fixture.embedder.fail_calls_with("down", EmbedError::Failed("the provider is down".to_owned()));
    fixture.begin(&[(1, "down"), (2, "with it"), (3, "paid for")]).await.unwrap();
    fixture.embedder.asked_for("paid for", 1).await;
    fixture.embedder.release(&["down", "with it", "paid for"]);
    let outcome = fixture.sequencer.close(&mut fixture.writers, Err(altered())).await;
    assert!(matches!(outcome, Err(PipelineError::Altered { .. })));
    assert_eq!(fixture.shown(), shown([(3, "paid for")]));
    assert_eq!(fixture.embedder.times_asked_for("down"), 1);
}

#[tokio::test]
async fn an_error_of_the_oldest_batch_at_a_stop_is_the_outcome_and_confirms_nothing() {
    let mut fixture = Fixture::warm().await;
    fixture.begin(&[(1, "oldest")]).await.unwrap();
    fixture.sequencer.note("first");
    fixture.sinks[0].fail(SinkCall::Write, Fault::Before(refused()));
    fixture.embedder.release_all();
    let outcome = fixture.sequencer.close(&mut fixture.writers, Err(PipelineError::Stopped)).await;
    assert!(matches!(outcome, Err(PipelineError::Sink { .. })), "{outcome:?}");
    assert!(fixture.sequencer.durable().is_empty());
}

#[tokio::test]
async fn a_part_that_fails_for_good_at_a_stop_ends_the_wait_for_the_rest_of_its_batch() {
    let mut fixture = Fixture::warm().await;
    let (at, reason, remedy) = ("test".to_owned(), "the key is wrong".to_owned(), String::new());
    fixture.embedder.fail_calls_with("refused", EmbedError::ProviderRefused { at, reason, remedy });
    fixture.embedder.fail_calls_with("down", EmbedError::Failed("the provider is down".to_owned()));
    fixture.begin(&[(1, "refused"), (2, "with it"), (3, "down")]).await.unwrap();
    fixture.embedder.release_all();
    let outcome = fixture.sequencer.close(&mut fixture.writers, Ok(())).await;
    assert!(matches!(outcome, Err(PipelineError::Embed(EmbedError::ProviderRefused { .. }))), "{outcome:?}");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_what_has_not_begun() {
    let mut fixture = Fixture::warm().await;
    fixture.begin(&[(1, "late")]).await.unwrap();
    let stop = fixture.shared.shared.stop.clone();
    let rows = [(1, "newer")];
    let mut newer = Box::pin(fixture.begin(&rows));
    assert!(poll!(&mut newer).is_pending());
    stop.cancel();
    assert!(matches!(newer.await, Err(PipelineError::Stopped)));
}

#[tokio::test]
async fn a_worker_that_may_not_write_any_more_does_not_wait_for_vectors() {
    let mut fixture = Fixture::warm().await;
    fixture.begin(&[(1, "late")]).await.unwrap();
    let fenced = walvec_broker::BrokerError::Fenced { reason: "it was silent".to_owned() };
    let outcome = fixture.sequencer.close(&mut fixture.writers, Err(fenced.into())).await;
    assert!(outcome.is_err_and(|error| error.ends_membership()));
    assert_eq!(fixture.shown(), shown([]));
}

#[tokio::test]
async fn a_stop_ends_a_drain_and_not_a_finish() {
    let mut fixture = Fixture::warm().await;
    fixture.begin(&[(1, "one")]).await.unwrap();
    fixture.shared.shared.stop.cancel();
    let drained = fixture.sequencer.drain(&mut fixture.writers).await;
    assert!(matches!(drained, Err(PipelineError::Stopped)));
    assert_eq!(fixture.shown(), shown([]));
    fixture.embedder.release_all();
    fixture.sequencer.finish(&mut fixture.writers).await.unwrap();
    assert_eq!(fixture.shown(), shown([(1, "one")]));
}

#[tokio::test]
async fn a_panic_while_a_text_is_embedded_is_not_taken_for_an_answer() {
    let panicked: Result<EmbeddedPart, JoinError> = tokio::spawn(async { panic!("on purpose") }).await;
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| whole(panicked))).is_err());
}
