use super::*;
use crate::testing::embedder::bad_text;
use crate::testing::sink::refused;
use crate::testing::{Fault, SinkCall};

#[tokio::test]
async fn vectors_that_are_late_hold_no_other_rows_up_but_nothing_is_durable_before_them() {
    let mut fixture = Fixture::warm().await;
    fixture.begin(&[(1, "late")]).await.unwrap();
    fixture.sequencer.note("first");
    fixture.begin(&[(2, "soon")]).await.unwrap();
    fixture.sequencer.note("second");
    fixture.sequencer.note("second");
    fixture.embedder.release(&["soon"]);
    fixture.write_next().await;
    assert_eq!(fixture.shown(), shown([(2, "soon")]));
    assert_eq!(fixture.sequencer.durable(), [""; 0], "a reader that goes on behind the second would miss the first");
    assert_eq!(fixture.sequencer.notes().copied().collect::<Vec<_>>(), ["first", "second"]);
    fixture.embedder.release(&["late"]);
    fixture.write_next().await;
    assert_eq!(fixture.shown(), shown([(1, "late"), (2, "soon")]));
    assert_eq!(fixture.sequencer.durable(), ["first", "second"]);
    assert!(fixture.sequencer.is_empty());
    fixture.sequencer.note("third");
    assert_eq!(fixture.sequencer.durable(), ["third"], "nothing is in flight that it would have to wait for");
}

#[tokio::test]
async fn a_batch_is_durable_once_its_last_part_is() {
    let mut fixture = Fixture::warm().await;
    fixture.begin(&[(1, "a"), (2, "b"), (3, "c")]).await.unwrap();
    fixture.sequencer.note("behind both parts");
    fixture.embedder.release(&["c"]);
    fixture.write_next().await;
    assert_eq!(fixture.shown(), shown([(3, "c")]));
    assert!(fixture.sequencer.durable().is_empty() && !fixture.sequencer.is_empty());
    fixture.embedder.release(&["a", "b"]);
    fixture.write_next().await;
    assert_eq!(fixture.sequencer.durable(), ["behind both parts"]);
}

#[tokio::test]
async fn a_batch_for_several_collections_is_durable_once_all_of_them_have_it() {
    let mut fixture = Fixture::of(&["books", "films"]);
    let batches = vec![fixture.rows(0, &[(1, "book")]), fixture.rows(1, &[(1, "film")])];
    fixture.begin_batches(batches).await.unwrap();
    fixture.sequencer.note("both");
    fixture.embedder.release(&["film"]);
    fixture.write_next().await;
    assert!(fixture.sequencer.durable().is_empty());
    fixture.embedder.release(&["book"]);
    fixture.write_next().await;
    assert_eq!(fixture.sequencer.durable(), ["both"]);
    assert!(fixture.sinks.iter().all(|sink| sink.points().len() == 1));
}

#[tokio::test]
async fn a_row_that_changes_again_waits_until_its_last_change_is_written() {
    let mut fixture = Fixture::warm().await;
    fixture.begin(&[(1, "old"), (2, "two")]).await.unwrap();
    {
        let embedder = Arc::clone(&fixture.embedder);
        let rows = [(3, "three"), (1, "new")];
        let mut again = Box::pin(fixture.begin(&rows));
        assert!(poll!(&mut again).is_pending());
        settle().await;
        assert_eq!(embedder.times_asked_for("new"), 0, "it was not even rendered");
        embedder.release(&["old", "new"]);
        again.await.unwrap();
    }
    assert_eq!(fixture.shown(), shown([(1, "old"), (2, "two")]));
    fixture.sequencer.finish(&mut fixture.writers).await.unwrap();
    assert_eq!(fixture.shown(), shown([(1, "new"), (2, "two"), (3, "three")]));
}

#[tokio::test]
async fn a_row_that_is_deleted_while_it_is_embedded_does_not_come_back() {
    let mut fixture = Fixture::warm().await;
    fixture.begin(&[(1, "old")]).await.unwrap();
    let embedder = Arc::clone(&fixture.embedder);
    {
        let mut deleted = Box::pin(fixture.begin_delete(1));
        assert!(poll!(&mut deleted).is_pending());
        embedder.release(&["old"]);
        deleted.await.unwrap();
    }
    fixture.sequencer.finish(&mut fixture.writers).await.unwrap();
    assert_eq!(fixture.shown(), shown([]));
}

#[tokio::test]
async fn a_row_of_another_collection_with_an_equal_key_waits_for_nothing() {
    let mut fixture = Fixture::of(&["books", "films"]);
    fixture.begin(&[(1, "book")]).await.unwrap();
    let (same, other) = (fixture.rows(0, &[(1, "again")]), fixture.rows(1, &[(1, "film")]));
    assert!(!fixture.sequencer.may_begin(&fixture.writers, &[same]));
    assert!(fixture.sequencer.may_begin(&fixture.writers, &[other]));
}

#[tokio::test]
async fn a_row_that_could_not_be_read_is_in_flight_until_it_is_parked() {
    let mut fixture = Fixture::warm().await;
    fixture.embedder.refuse("bad", bad_text());
    fixture.begin(&[(1, "bad"), (2, "good")]).await.unwrap();
    fixture.sequencer.note("behind both");
    let again = fixture.rows(0, &[(1, "again")]);
    assert!(!fixture.sequencer.may_begin(&fixture.writers, std::slice::from_ref(&again)));
    fixture.embedder.release(&["bad", "good"]);
    fixture.write_next().await;
    assert_eq!(fixture.sequencer.durable(), ["behind both"], "a parked row holds nothing back");
    assert_eq!(fixture.shared.letters.codes("books").len(), 1);
    assert!(fixture.sequencer.may_begin(&fixture.writers, &[again]));
}

#[tokio::test]
async fn parts_that_have_their_vectors_are_written_to_several_collections_at_once() {
    let mut fixture = Fixture::of(&["books", "films"]);
    let batches = vec![fixture.rows(0, &[(1, "book")]), fixture.rows(1, &[(1, "film")])];
    fixture.begin_batches(batches).await.unwrap();
    fixture.embedder.release(&["book", "film"]);
    settle().await;
    fixture.sinks.iter().for_each(|sink| sink.hold(SinkCall::Write));
    let sinks = fixture.sinks.clone();
    tokio::join!(fixture.write_next(), async {
        sinks[0].called(SinkCall::Write, 1).await;
        sinks[1].called(SinkCall::Write, 1).await;
        sinks.iter().for_each(|sink| sink.release(SinkCall::Write));
    });
    assert!(fixture.sequencer.is_empty());
}

#[tokio::test]
async fn a_write_that_fails_in_one_collection_is_finished_in_the_others_and_confirms_nothing() {
    let mut fixture = Fixture::of(&["books", "films"]);
    let batches = vec![fixture.rows(0, &[(1, "book")]), fixture.rows(1, &[(1, "film")])];
    fixture.begin_batches(batches).await.unwrap();
    fixture.sequencer.note("both");
    fixture.sinks[0].fail(SinkCall::Write, Fault::Before(refused()));
    fixture.embedder.release_all();
    settle().await;
    let outcome = fixture.sequencer.finish(&mut fixture.writers).await;
    assert!(matches!(outcome, Err(PipelineError::Sink { .. })), "{outcome:?}");
    assert_eq!(fixture.sinks[1].points().len(), 1);
    assert!(fixture.sequencer.durable().is_empty());
}

#[tokio::test]
async fn a_reader_that_stops_waiting_for_a_part_loses_nothing() {
    let mut fixture = Fixture::warm().await;
    fixture.begin(&[(1, "late")]).await.unwrap();
    for _ in 0..3 {
        let mut next = Box::pin(fixture.sequencer.next());
        assert!(poll!(&mut next).is_pending());
    }
    fixture.embedder.release(&["late"]);
    fixture.write_next().await;
    assert_eq!(fixture.shown(), shown([(1, "late")]));
    assert!(fixture.sequencer.next().await.is_none(), "nothing is being embedded");
}
