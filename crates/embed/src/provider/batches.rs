//! From texts to requests: split, sent concurrently, repeated, bisected.
//!
//! A request that fails is repeated a few times here, while others go on. If it still fails, the caller repeats the call and shows the
//! problem in the status. A request that is refused is never sent again as it is: it is halved until the text that is to blame is
//! alone. A request over which the provider fails each time, while it answers another one, is halved too; a text over which it fails
//! several times is refused in the end.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::stream::{FuturesUnordered, StreamExt as _};
use walvec_model::{InputHash, Vector};

use super::PROBE;
use super::failure::RequestFailure;
use super::limits::{Lane, ProviderLimits};
use crate::BoxFuture;

/// The answer to one request: a vector for each text, or what is wrong with it.
pub(super) type Answers = Vec<Result<Vector, String>>;

/// What to do about a text that is longer than the model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OfLong {
    /// Embed its beginning, where the protocol can say so.
    Beginning,
    /// Refuse it.
    Refusal,
}

/// Sends one request.
pub(super) trait Ask: Send + Sync {
    /// Asks for the vectors of `texts`, in their order. `dimension` is checked if it is known.
    fn ask<'a>(
        &'a self,
        texts: &'a [String],
        dimension: Option<usize>,
        of_long: OfLong,
    ) -> BoxFuture<'a, Result<Answers, RequestFailure>>;
}

/// Attempts at a request when the provider does not say when to try again: with three pauses, one to four seconds in all.
const ATTEMPTS: usize = 4;

/// Attempts when the provider says when to try again: it is alive, and which of the waiting requests it takes first is luck.
const ATTEMPTS_AS_TOLD: usize = 12;

/// How often all attempts at a text must fail, each time while the provider answers another text, before the text is to blame.
const ROUNDS: u32 = 5;

/// How many suspected texts are remembered. Further ones are not counted, so they are retried without end.
const SUSPECTS: usize = 10_000;

/// The longest pause, and the longest sum of the pauses of a request. Longer waits are left to the caller, which shows the problem in
/// the status.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long the log is silent about repeated requests after a line about them.
const SAID_ONCE: Duration = Duration::from_secs(10);

/// How many requests may wait for their next attempt, per request in flight. Where half of the requests are refused for a second, as
/// many wait as are answered in that time.
const WAITING: usize = 8;

/// Sends texts to a provider.
pub(super) struct Batches {
    ask: Box<dyn Ask>,
    limits: ProviderLimits,
    /// The most texts in a request.
    items: usize,
    /// The most tokens in a request, as estimated.
    tokens: u64,
    dimension: OnceLock<usize>,
    repeats: Repeats,
    suspects: Suspects,
}

/// Texts over which the provider has failed while it answered others, and how often.
#[derive(Default)]
struct Suspects(Mutex<HashMap<InputHash, u32>>);

impl Suspects {
    fn lock(&self) -> MutexGuard<'_, HashMap<InputHash, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, text: &str) -> bool {
        let suspects = self.lock();
        !suspects.is_empty() && suspects.contains_key(&InputHash::of(text))
    }

    /// Counts a failure, and returns whether the text has had enough of them to be refused.
    fn note(&self, text: &str) -> bool {
        let (mut suspects, text) = (self.lock(), InputHash::of(text));
        if suspects.len() >= SUSPECTS && !suspects.contains_key(&text) {
            return false;
        }
        let failures = suspects.entry(text).or_default();
        *failures += 1;
        *failures >= ROUNDS
    }

    /// Forgets texts that have vectors or were given up.
    fn clear(&self, texts: &[String]) {
        let mut suspects = self.lock();
        if !suspects.is_empty() {
            for text in texts {
                suspects.remove(&InputHash::of(text));
            }
        }
    }
}

/// Counts repeated requests, so that the log has one line for many: a rate limit causes them all the time.
#[derive(Default)]
struct Repeats(Mutex<Option<(Duration, usize)>>);

impl Repeats {
    /// Counts one. Returns `None` while the log shall be silent, else how many were counted since the last line.
    fn note(&self, now: Duration) -> Option<usize> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match last.as_mut() {
            Some((said, others)) if now.saturating_sub(*said) < SAID_ONCE => {
                *others += 1;
                None
            }
            _ => Some(last.replace((now, 0)).map_or(0, |(_, others)| others)),
        }
    }
}

impl Batches {
    pub(super) fn new(ask: Box<dyn Ask>, limits: ProviderLimits, items: usize, tokens: u64) -> Self {
        Self {
            ask,
            limits,
            items: items.max(1),
            tokens,
            dimension: OnceLock::new(),
            repeats: Repeats::default(),
            suspects: Suspects::default(),
        }
    }

    /// Requires this dimension of all further vectors.
    pub(super) fn expect(&self, dimension: usize) {
        self.dimension.get_or_init(|| dimension);
    }

    /// Returns the most texts in a request.
    pub(super) const fn items(&self) -> usize {
        self.items
    }

    /// Returns how many requests keep the provider busy even while some of them wait for their next attempt.
    pub(super) const fn requests_at_once(&self) -> usize {
        self.limits.concurrency().saturating_mul(WAITING)
    }

    /// Returns the vector of a text that every model can embed.
    pub(super) async fn vector(&self, text: &str) -> Result<Vector, RequestFailure> {
        let answers = self.ask(&[text.to_owned()], Lane::Query, OfLong::Beginning).await?;
        match answers.into_iter().next() {
            Some(Ok(vector)) => Ok(vector),
            Some(Err(reason)) => Err(RequestFailure::Answer(reason)),
            None => Err(RequestFailure::Answer("nothing came back".to_owned())),
        }
    }

    /// Returns one result per text, in order. The outer error is definite: the provider would not answer the other texts either.
    pub(super) async fn run(
        &self,
        texts: &[String],
        lane: Lane,
        of_long: OfLong,
    ) -> Result<Vec<Result<Vector, RequestFailure>>, RequestFailure> {
        let mut results: Vec<Option<Result<Vector, RequestFailure>>> = vec![None; texts.len()];
        let request = |range: Range<usize>| async move {
            let outcome = self.ask(&texts[range.clone()], lane, of_long).await;
            (range.clone(), self.judged(&texts[range], outcome, lane).await)
        };
        let mut in_flight: FuturesUnordered<_> = self.split(texts).into_iter().map(request).collect();
        while let Some((range, outcome)) = in_flight.next().await {
            match outcome {
                Ok(answers) => {
                    debug_assert_eq!(answers.len(), range.len(), "each text of a request has an answer");
                    for (at, answer) in range.clone().zip(answers) {
                        match answer {
                            // Ask for the text alone, to see whether the text itself is the cause.
                            Err(_) if range.len() > 1 => in_flight.push(request(at..at + 1)),
                            answer => results[at] = Some(answer.map_err(RequestFailure::Request)),
                        }
                    }
                }
                Err(RequestFailure::Request(_)) if range.len() > 1 => {
                    let middle = range.start + range.len() / 2;
                    in_flight.push(request(range.start..middle));
                    in_flight.push(request(middle..range.end));
                }
                Err(failure @ (RequestFailure::Definite { .. } | RequestFailure::Dimension { .. })) => {
                    return Err(failure);
                }
                Err(failure) => range.for_each(|at| results[at] = Some(Err(failure.clone()))),
            }
        }
        let missing = || Err(RequestFailure::Answer("no vector came back".to_owned()));
        Ok(results.into_iter().map(|result| result.unwrap_or_else(missing)).collect())
    }

    /// Divides the texts into requests of neighbours.
    fn split(&self, texts: &[String]) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        let (mut start, mut tokens) = (0, 0);
        let mut was_alone = false;
        for (at, text) in texts.iter().enumerate() {
            let (more, is_alone) = (estimated_tokens(text), self.suspects.has(text));
            let is_full = at - start == self.items || tokens + more > self.tokens;
            if at > start && (is_full || is_alone || was_alone) {
                ranges.push(start..at);
                (start, tokens) = (at, 0);
            }
            tokens += more;
            was_alone = is_alone;
        }
        if start < texts.len() {
            ranges.push(start..texts.len());
        }
        ranges
    }

    /// Decides whether the texts of a failed request are to blame. They are if the provider answers another request: several texts are
    /// then asked for in halves, and a single one is refused after [`ROUNDS`] failures.
    async fn judged(
        &self,
        texts: &[String],
        outcome: Result<Answers, RequestFailure>,
        lane: Lane,
    ) -> Result<Answers, RequestFailure> {
        match outcome {
            Err(failure) if failure.may_be_a_texts() && self.is_well(lane).await => match texts {
                [text] if !self.suspects.note(text) => Err(failure),
                [_] => {
                    self.suspects.clear(texts);
                    Err(RequestFailure::Request(format!(
                        "{}, each time, while other texts have vectors",
                        failure.reason()
                    )))
                }
                _ => Err(RequestFailure::Request(failure.reason())),
            },
            Ok(answers) => {
                self.suspects.clear(texts);
                Ok(answers)
            }
            failed @ Err(_) => failed,
        }
    }

    /// Asks once for a text that every model can embed, and returns whether the provider answers.
    async fn is_well(&self, lane: Lane) -> bool {
        let _turn = self.limits.turn(lane, estimated_tokens(PROBE)).await;
        let answer = self.ask.ask(&[PROBE.to_owned()], self.dimension.get().copied(), OfLong::Beginning).await;
        answer.is_ok_and(|answers| answers.iter().all(Result::is_ok))
    }

    /// Sends a request until it is answered, refused, or has failed often enough. A request that pauses gives its turn to others.
    async fn ask(&self, texts: &[String], lane: Lane, of_long: OfLong) -> Result<Answers, RequestFailure> {
        let tokens = texts.iter().map(|text| estimated_tokens(text)).sum();
        let mut backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(250))
            .with_max_delay(LONGEST_PAUSE)
            .with_jitter()
            .without_max_times()
            .build();
        let (mut attempt, mut paused) = (0, Duration::ZERO);
        loop {
            attempt += 1;
            let turn = self.limits.turn(lane, tokens).await;
            let outcome = self.ask.ask(texts, self.dimension.get().copied(), of_long).await;
            drop(turn);
            let failure = match outcome {
                Err(failure) if failure.is_worth_repeating() => failure,
                outcome => return outcome,
            };
            let told = match &failure {
                RequestFailure::Later { after, .. } => *after,
                _ => None,
            };
            // A pause that the provider names is used as it is, without jitter.
            let pause = told.or_else(|| backoff.next()).unwrap_or(LONGEST_PAUSE);
            let attempts = if told.is_some() { ATTEMPTS_AS_TOLD } else { ATTEMPTS };
            paused = paused.saturating_add(pause);
            if attempt >= attempts || paused > LONGEST_PAUSE {
                return Err(failure);
            }
            if let Some(others) = self.repeats.note(self.limits.clock().now()) {
                tracing::warn!(attempt, pause_ms = pause.as_millis(), others, "{}; asking again", failure.reason());
            }
            self.limits.clock().sleep(pause).await;
        }
    }
}

/// Estimates tokens as a third of the bytes, rounded up; the module `provider` says why.
pub(super) fn estimated_tokens(text: &str) -> u64 {
    (text.len() as u64).div_ceil(3).max(1)
}

#[cfg(test)]
mod tests;
