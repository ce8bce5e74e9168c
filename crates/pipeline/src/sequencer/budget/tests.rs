use tokio::time::advance;

use super::*;
use crate::testing::TestEmbedder;
use crate::testing::rows::key;

/// Calls have two texts, and eight of them keep the embedder busy.
fn embedder() -> TestEmbedder {
    TestEmbedder::new(2, 8)
}

fn budget(texts: usize) -> InFlightBudget {
    InFlightBudget { texts, ..InFlightBudget::default() }
}

fn has_room(budget: &InFlightBudget) -> bool {
    let embedder = embedder();
    budget.has_room(|| &embedder)
}

#[test]
fn a_writer_without_anything_in_flight_has_room_and_its_embedder_is_not_even_asked() {
    assert!(budget(0).has_room(|| panic!("very many writers are idle")));
    assert!(budget(0).can_take(&TestEmbedder::new(0, 0)), "a batch larger than any bound begins alone");
}

#[tokio::test]
async fn two_calls_may_be_in_flight_although_nothing_was_written_lately() {
    let rooms: Vec<bool> = (1..=5).map(|texts| has_room(&budget(texts))).collect();
    assert_eq!(rooms, [true, true, true, false, false]);
}

#[tokio::test(start_paused = true)]
async fn as_much_may_be_in_flight_as_was_written_in_the_last_ten_seconds() {
    let mut budget = budget(10);
    budget.written(&[], 4);
    advance(Duration::from_secs(6)).await;
    budget.written(&[], 3);
    budget.texts = 6;
    assert!(has_room(&budget), "seven were written");
    budget.texts = 7;
    assert!(!has_room(&budget));
    advance(Duration::from_secs(5)).await;
    budget.texts = 3;
    assert!(has_room(&budget), "two calls always fit");
    budget.texts = 4;
    assert!(!has_room(&budget), "the four are out of date");
}

#[tokio::test(start_paused = true)]
async fn no_more_texts_are_in_flight_than_the_embedder_works_on_and_half_as_many_again() {
    let mut budget = budget(1000);
    budget.written(&[], 900);
    for (texts, can_take) in [(23, true), (24, false), (25, false)] {
        budget.texts = texts;
        assert_eq!(budget.can_take(&embedder()), can_take, "{texts}");
        assert_eq!(has_room(&budget), can_take, "{texts}, although 900 were written");
    }
}

#[tokio::test(start_paused = true)]
async fn the_memory_of_what_was_written_is_small_however_often_that_is() {
    let mut budget = budget(100_000);
    for _ in 0..3000 {
        budget.written(&[], 1);
        advance(Duration::from_millis(10)).await;
    }
    assert!(budget.written.len() <= 102, "{}", budget.written.len());
    assert!(budget.lately() >= 900, "{}", budget.lately());
}

#[tokio::test]
async fn rows_that_are_durable_are_not_in_flight_any_more_and_the_others_are() {
    let mut budget = budget(3);
    budget.keys.extend([1, 2, 3].map(key));
    budget.written(&[key(1), key(3)], 2);
    assert_eq!((budget.keys, budget.texts), (HashSet::from([key(2)]), 1));
}
