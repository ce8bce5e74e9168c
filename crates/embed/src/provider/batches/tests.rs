//! Guarantees that hold whatever a provider answers.

use std::sync::{Arc, Mutex};

use super::*;
use crate::provider::clock::{Clock as _, simulated::SimulatedClock};

type Answer = dyn Fn(&[String], usize) -> Result<Answers, RequestFailure> + Send + Sync;

/// A provider with a latency, which records its requests.
struct Provider {
    clock: SimulatedClock,
    latency: Duration,
    /// Makes an answer from the texts of a request and the number of requests before it.
    answer: Box<Answer>,
    asked: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Ask for Provider {
    fn ask<'a>(
        &'a self,
        texts: &'a [String],
        _: Option<usize>,
        _: OfLong,
    ) -> BoxFuture<'a, Result<Answers, RequestFailure>> {
        Box::pin(async move {
            let before = {
                let mut asked = self.asked.lock().unwrap();
                asked.push(texts.to_vec());
                asked.len() - 1
            };
            self.clock.sleep(self.latency).await;
            (self.answer)(texts, before)
        })
    }
}

struct Setup {
    clock: SimulatedClock,
    asked: Arc<Mutex<Vec<Vec<String>>>>,
    batches: Batches,
}

impl Setup {
    fn new(
        items: usize,
        concurrency: usize,
        answer: impl Fn(&[String], usize) -> Result<Answers, RequestFailure> + Send + Sync + 'static,
    ) -> Self {
        Self::on(SimulatedClock::default(), items, concurrency, answer)
    }

    fn on(
        clock: SimulatedClock,
        items: usize,
        concurrency: usize,
        answer: impl Fn(&[String], usize) -> Result<Answers, RequestFailure> + Send + Sync + 'static,
    ) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let latency = Duration::from_millis(50);
        let provider = Provider { clock: clock.clone(), latency, answer: Box::new(answer), asked: Arc::clone(&asked) };
        let limits = ProviderLimits::new(Arc::new(clock.clone()), concurrency, None, None);
        Self { clock, asked, batches: Batches::new(Box::new(provider), limits, items, 1000) }
    }

    fn run(&self, texts: &[String]) -> Result<Vec<Result<Vector, RequestFailure>>, RequestFailure> {
        self.clock.run(self.batches.run(texts, Lane::Documents, OfLong::Beginning))
    }

    fn requests(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

/// Answers with vectors that are made of the number that each text is.
fn vectors(texts: &[String]) -> Result<Answers, RequestFailure> {
    let number = |text: &String| if text == PROBE { 0.0 } else { text.trim().parse().unwrap() };
    Ok(texts.iter().map(|text| Ok(vec![number(text)])).collect())
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn expected(count: usize) -> Vec<Result<Vector, RequestFailure>> {
    (0..count).map(|number| Ok(vec![number as f32])).collect()
}

fn later(after: Option<Duration>) -> Result<Answers, RequestFailure> {
    Err(RequestFailure::Later { reason: "too many requests".to_owned(), after })
}

#[test]
fn texts_are_split_by_number_and_by_tokens_and_come_back_in_order() {
    let setup = Setup::new(10, 3, |texts, _| vectors(texts));
    assert_eq!(setup.run(&texts(25)), Ok(expected(25)));
    assert_eq!(setup.requests(), 3);
    let long = |number: usize| format!("{number:>1500}");
    let setup = Setup::new(10, 3, |texts, _| vectors(texts));
    // 500 tokens each: two of them fill a request, and one that is longer than a request goes alone.
    let texts = [long(0), long(1), long(2), format!("{:>9000}", 3), long(4)];
    assert_eq!(setup.run(&texts), Ok(expected(5)));
    let sizes: Vec<_> = setup.asked.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(sizes, [2, 1, 1, 1]);
    assert_eq!(setup.run(&[]), Ok(Vec::new()));
}

#[test]
fn only_the_text_that_is_refused_fails_and_no_refused_request_is_repeated() {
    let setup = Setup::new(16, 2, |texts, _| match texts.iter().any(|text| text == "11") {
        true => Err(RequestFailure::Request("no".to_owned())),
        false => vectors(texts),
    });
    let mut wanted = expected(16);
    wanted[11] = Err(RequestFailure::Request("no".to_owned()));
    assert_eq!(setup.run(&texts(16)), Ok(wanted));
    let mut asked = setup.asked.lock().unwrap().clone();
    let requests = asked.len();
    asked.sort();
    asked.dedup();
    assert_eq!((requests, asked.len()), (9, 9));
}

#[test]
fn a_text_without_a_vector_fails_alone_after_it_was_asked_for_alone() {
    let setup = Setup::new(8, 2, |texts, _| {
        Ok(texts.iter().map(|text| if text == "3" { Err("zero".to_owned()) } else { Ok(vec![1.0]) }).collect())
    });
    let results = setup.run(&texts(8)).unwrap();
    assert_eq!(results.iter().filter(|result| result.is_err()).count(), 1);
    assert_eq!(results[3], Err(RequestFailure::Request("zero".to_owned())));
    assert_eq!(setup.requests(), 2);
}

#[test]
fn what_fails_in_passing_is_repeated_and_what_lasts_is_handed_back_while_the_rest_succeeds() {
    let setup = Setup::new(1, 4, |texts, before| match texts[0].as_str() {
        "1" if before < 4 => later(None),
        "2" => Err(RequestFailure::Answer("half of it is missing".to_owned())),
        _ => vectors(texts),
    });
    let results = setup.run(&texts(4)).unwrap();
    let failed: Vec<_> = results.iter().map(Result::is_err).collect();
    assert_eq!(failed, [false, false, true, false]);
    assert_eq!(setup.asked.lock().unwrap().iter().filter(|texts| texts[0] == "2").count(), ATTEMPTS);
}

#[test]
fn a_text_that_the_provider_fails_over_each_time_is_found_and_given_up_while_the_others_have_vectors() {
    for failure in [RequestFailure::Failing("500".to_owned()), RequestFailure::Answer("no vectors".to_owned())] {
        let setup = Setup::new(16, 2, {
            let failure = failure.clone();
            move |texts, _| if texts.iter().any(|text| text == "11") { Err(failure.clone()) } else { vectors(texts) }
        });
        let mut wanted = expected(16);
        for round in 1..ROUNDS {
            wanted[11] = Err(failure.clone());
            assert_eq!(setup.run(&texts(16)), Ok(wanted.clone()), "round {round}");
        }
        let before = setup.requests();
        let results = setup.run(&texts(16)).unwrap();
        assert!(matches!(&results[11], Err(RequestFailure::Request(reason)) if reason.contains(&failure.reason())));
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 15);
        // The suspect is asked for alone: two requests for its neighbours, its attempts, and a check that the provider
        // answers.
        assert_eq!(setup.requests() - before, 2 + ATTEMPTS + 1);
    }
}

#[test]
fn a_provider_that_fails_over_every_text_is_waited_for_and_no_text_is_to_blame() {
    let setup = Setup::new(8, 2, |_, _| Err(RequestFailure::Failing("502".to_owned())));
    for _ in 0..2 * ROUNDS {
        let results = setup.run(&texts(8)).unwrap();
        assert!(results.iter().all(|result| *result == Err(RequestFailure::Failing("502".to_owned()))));
    }
}

#[test]
fn a_text_that_has_a_vector_after_all_is_not_suspected_any_more() {
    let setup = Setup::new(1, 1, |texts, before| match (texts[0].as_str(), before % 40) {
        ("0", 0..20) => Err(RequestFailure::Failing("500".to_owned())),
        _ => vectors(texts),
    });
    for _ in 0..60 {
        let results = setup.run(&texts(1)).unwrap();
        assert!(!matches!(&results[0], Err(RequestFailure::Request(_))), "{results:?}");
    }
}

#[test]
fn what_no_attempt_can_change_ends_the_call_at_once() {
    let definite = RequestFailure::Definite { reason: "401".to_owned(), remedy: "key".to_owned() };
    let setup = Setup::new(1, 1, {
        let definite = definite.clone();
        move |_, _| Err(definite.clone())
    });
    assert_eq!(setup.run(&texts(9)), Err(definite));
    assert_eq!(setup.requests(), 1);
}

#[test]
fn a_provider_that_wants_a_long_pause_is_not_asked_again_before_the_caller_knows() {
    let setup = Setup::new(1, 1, |_, _| later(Some(Duration::from_secs(3600))));
    let results = setup.run(&texts(1)).unwrap();
    assert_eq!(results[0], later(Some(Duration::from_secs(3600))).map(|_| Vec::new()));
    assert_eq!((setup.requests(), setup.clock.now()), (1, Duration::from_millis(50)));
}

#[test]
fn whoever_is_told_to_wait_does_not_hold_up_the_others() {
    // The first request has to wait for 20 s; all the others are through long before that, one after the other.
    let setup = Setup::new(1, 1, |texts, before| match before {
        0 => later(Some(Duration::from_secs(20))),
        _ => vectors(texts),
    });
    assert_eq!(setup.run(&texts(40)), Ok(expected(40)));
    assert_eq!(setup.requests(), 41);
    let last = setup.asked.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last, ["0"]);
    assert_eq!(setup.clock.now(), Duration::from_millis(20_100));
}

/// What a provider allows per second; at most a second's worth accumulates.
struct Allowance {
    per_second: f64,
    left: f64,
    at: Duration,
}

impl Allowance {
    fn take(&mut self, now: Duration) -> bool {
        self.left = (self.left + (now - self.at).as_secs_f64() * self.per_second).min(self.per_second);
        self.at = now;
        let is_allowed = self.left >= 1.0;
        if is_allowed {
            self.left -= 1.0;
        }
        is_allowed
    }
}

#[test]
fn a_provider_that_refuses_half_of_the_requests_gives_four_fifths_of_what_its_limit_allows() {
    const PER_SECOND: f64 = 20.0;
    const REQUESTS: usize = 600;
    for after in [Duration::from_secs(1), Duration::from_millis(200)] {
        let clock = SimulatedClock::default();
        let allowance = Mutex::new(Allowance { per_second: PER_SECOND, left: 0.0, at: Duration::ZERO });
        let refused = Arc::new(Mutex::new(0));
        let setup = Setup::on(clock.clone(), 1, 8, {
            let (clock, refused) = (clock.clone(), Arc::clone(&refused));
            move |texts, before| {
                if before % 2 == 1 || !allowance.lock().unwrap().take(clock.now()) {
                    *refused.lock().unwrap() += 1;
                    return later(Some(after));
                }
                vectors(texts)
            }
        });
        let results = setup.run(&texts(REQUESTS)).unwrap();
        let kept = results.iter().filter(|result| result.is_ok()).count();
        let refused = *refused.lock().unwrap();
        assert!(refused * 2 >= setup.requests() - 1, "{refused} of {} were refused", setup.requests());
        assert!(results.iter().all(|result| match result {
            Ok(_) | Err(RequestFailure::Later { .. }) => true,
            Err(_) => false,
        }));
        let allowed = clock.now().as_secs_f64() * PER_SECOND;
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let share = kept as f64 / allowed;
        assert!(share >= 0.8, "{after:?}: {kept} of {allowed} were used, {share:.2}");
    }
}

#[test]
fn the_log_has_one_line_for_many_requests_that_are_asked_again() {
    let repeats = Repeats::default();
    let at = Duration::from_secs;
    let said: Vec<Option<usize>> = [0, 1, 9, 10, 11, 40, 41].map(|second| repeats.note(at(second))).to_vec();
    assert_eq!(said, [Some(0), None, None, Some(2), None, Some(1), None]);
}
