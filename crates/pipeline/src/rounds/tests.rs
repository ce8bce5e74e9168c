use std::sync::Mutex;

use super::*;

#[test]
fn few_collections_have_a_turn_in_every_look() {
    let mut rounds = Rounds::default();
    assert_eq!((rounds.turn(3), rounds.turn(3), rounds.turn(0)), (0..3, 0..3, 0..0));
    assert_eq!(Rounds::pause(3, Duration::from_secs(10)), Duration::from_secs(10));
}

#[test]
fn each_of_many_has_its_turn() {
    let mut rounds = Rounds::default();
    let turns: Vec<_> = (0..4).map(|_| rounds.turn(70)).collect();
    assert_eq!(turns, [0..32, 32..64, 64..70, 0..32]);
    assert_eq!(Rounds::pause(64, Duration::from_secs(10)), Duration::from_secs(5));
    assert_eq!(Rounds::pause(10_000, Duration::from_secs(10)), Duration::from_secs(1));
}

#[test]
fn collections_that_are_removed_meanwhile_let_the_turns_begin_again() {
    let mut rounds = Rounds::default();
    rounds.turn(70);
    rounds.turn(70);
    assert_eq!(rounds.turn(40), 0..32);
}

/// Returns a future that notes its number when it begins, and ends after so many milliseconds.
fn noted<'a>(
    began: &'a Mutex<Vec<u64>>,
    number: u64,
    millis: u64,
    answer: Result<u64, u64>,
) -> BoxFuture<'a, Result<u64, u64>> {
    Box::pin(async move {
        began.lock().unwrap().push(number);
        tokio::time::sleep(Duration::from_millis(millis)).await;
        answer
    })
}

#[tokio::test(start_paused = true)]
async fn answers_come_in_the_order_of_the_collections_whichever_is_first() {
    let began = Mutex::default();
    let asked = (0..40).map(|number| noted(&began, number, 100 - number, Ok(number))).collect();
    assert_eq!(answers(asked).await, Ok((0..40).collect()));
}

#[tokio::test(start_paused = true)]
async fn a_few_collections_are_asked_at_a_time_and_none_after_an_error() {
    let began = Mutex::default();
    let asked =
        (0..100).map(|number| noted(&began, number, 10, if number == 3 { Err(3) } else { Ok(number) })).collect();
    assert_eq!(answers(asked).await, Err(3));
    let began = began.lock().unwrap().len();
    assert!((CONCURRENT..2 * CONCURRENT).contains(&began), "{began}");
}

#[tokio::test(start_paused = true)]
async fn changes_run_to_their_ends_although_one_fails() {
    let began = Mutex::default();
    let changes = (0..100).map(|number| noted(&began, number, 10, Err(number))).collect();
    assert_eq!(outcomes(changes).await, (0..100).map(Err).collect::<Vec<_>>());
}
