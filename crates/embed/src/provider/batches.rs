//! Texts to requests: split, sent side by side, repeated, bisected.
//!
//! A request that fails is repeated a few times here, while the others go on; what still fails then is for the caller to try
//! again, who shows it to people. A request that is refused is never sent again as it is: it is halved, until the text that is
//! to blame is alone. One over which the provider fails each time, while it answers another one, is halved in the same way; a text that
//! it fails over several times is refused in the end.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::stream::{FuturesUnordered, StreamExt as _};
use walvec_model::{InputHash, Vector};

use super::PROBE;
use super::failure::Failure;
use super::limits::{Lane, Limits};
use crate::BoxFuture;

/// What one request asks for: a vector for each text, or what is wrong with it.
pub(super) type Answers = Vec<Result<Vector, String>>;

/// What is wanted of a text that is longer than the model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OfLong {
    /// The vector of its beginning, where the protocol can say so.
    Beginning,
    /// To be told.
    Refusal,
}

/// Sends one request.
pub(super) trait Ask: Send + Sync {
    /// The vectors of `texts`, in their order. `dimension` is checked if it is known.
    fn ask<'a>(
        &'a self,
        texts: &'a [String],
        dimension: Option<usize>,
        of_long: OfLong,
    ) -> BoxFuture<'a, Result<Answers, Failure>>;
}

/// Attempts at a request when the provider does not say when to come again: with three pauses, one to four seconds.
const ATTEMPTS: usize = 4;

/// Attempts when it says so: it is alive, and it is a matter of luck who comes first.
const ATTEMPTS_AS_TOLD: usize = 12;

/// How often all attempts at a text have to fail, each time while the provider answers another one, before the text is to blame.
const ROUNDS: u32 = 5;

/// Texts that are suspected at most; those beyond are asked for again and again.
const SUSPECTS: usize = 10_000;

/// Longer pauses, one or all of a request together, are for the caller, who shows why nothing happens.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long the log is silent about requests that are asked again, after it has said so.
const SAID_ONCE: Duration = Duration::from_secs(10);

/// How many requests wait for their next attempt, for each that is under way: where half of them are refused for a second, as many
/// have to wait as are answered in that time.
const WAITING: usize = 8;

/// Sends texts to a provider.
pub(super) struct Batches {
    ask: Box<dyn Ask>,
    limits: Limits,
    /// Texts of a request at most.
    items: usize,
    /// Estimated tokens of a request at most.
    tokens: u64,
    dimension: OnceLock<usize>,
    repeats: Repeats,
    suspects: Suspects,
}

/// Texts over which the provider has failed, and how often, while it answered others.
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

    /// Counts a failure. Whether there were enough.
    fn note(&self, text: &str) -> bool {
        let (mut suspects, text) = (self.lock(), InputHash::of(text));
        if suspects.len() >= SUSPECTS && !suspects.contains_key(&text) {
            return false;
        }
        let failures = suspects.entry(text).or_default();
        *failures += 1;
        *failures >= ROUNDS
    }

    /// These have vectors, or were given up.
    fn clear(&self, texts: &[String]) {
        let mut suspects = self.lock();
        if !suspects.is_empty() {
            for text in texts {
                suspects.remove(&InputHash::of(text));
            }
        }
    }
}

/// Requests that are asked again, which a limit makes happen all the time: the log has one line for many.
#[derive(Default)]
struct Repeats(Mutex<Option<(Duration, usize)>>);

impl Repeats {
    /// Counts one. From time to time it answers how many there were since it did so last.
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
    pub(super) fn new(ask: Box<dyn Ask>, limits: Limits, items: usize, tokens: u64) -> Self {
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

    /// From now on vectors have to have this dimension.
    pub(super) fn expect(&self, dimension: usize) {
        self.dimension.get_or_init(|| dimension);
    }

    /// Texts of a request at most.
    pub(super) const fn items(&self) -> usize {
        self.items
    }

    /// How many requests there should be, so that the provider is busy also while some of them are told to wait.
    pub(super) const fn requests_at_once(&self) -> usize {
        self.limits.concurrency().saturating_mul(WAITING)
    }

    /// The vector of a text that every model can embed.
    pub(super) async fn vector(&self, text: &str) -> Result<Vector, Failure> {
        let answers = self.ask(&[text.to_owned()], Lane::Query, OfLong::Beginning).await?;
        match answers.into_iter().next() {
            Some(Ok(vector)) => Ok(vector),
            Some(Err(reason)) => Err(Failure::Answer(reason)),
            None => Err(Failure::Answer("nothing came back".to_owned())),
        }
    }

    /// One result per text, in their order. The outer error is definite: nothing else will be answered either.
    pub(super) async fn run(
        &self,
        texts: &[String],
        lane: Lane,
        of_long: OfLong,
    ) -> Result<Vec<Result<Vector, Failure>>, Failure> {
        let mut results: Vec<Option<Result<Vector, Failure>>> = vec![None; texts.len()];
        let request = |range: Range<usize>| async move {
            let outcome = self.ask(&texts[range.clone()], lane, of_long).await;
            (range.clone(), self.judged(&texts[range], outcome, lane).await)
        };
        let mut under_way: FuturesUnordered<_> = self.split(texts).into_iter().map(request).collect();
        while let Some((range, outcome)) = under_way.next().await {
            match outcome {
                Ok(answers) => {
                    for (at, answer) in range.clone().zip(answers) {
                        match answer {
                            // Whether it is the text that has no vector shows when it is asked for alone.
                            Err(_) if range.len() > 1 => under_way.push(request(at..at + 1)),
                            answer => results[at] = Some(answer.map_err(Failure::Request)),
                        }
                    }
                }
                Err(Failure::Request(_)) if range.len() > 1 => {
                    let middle = range.start + range.len() / 2;
                    under_way.push(request(range.start..middle));
                    under_way.push(request(middle..range.end));
                }
                Err(failure @ (Failure::Definite { .. } | Failure::Dimension { .. })) => return Err(failure),
                Err(failure) => range.for_each(|at| results[at] = Some(Err(failure.clone()))),
            }
        }
        let missing = || Err(Failure::Answer("no vector came back".to_owned()));
        Ok(results.into_iter().map(|result| result.unwrap_or_else(missing)).collect())
    }

    /// Neighbours that go together.
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

    /// Who is to blame for a request that failed. If the provider answers another one, it is a text of this one: of several they are
    /// asked for in halves, one alone is refused after some time.
    async fn judged(
        &self,
        texts: &[String],
        outcome: Result<Answers, Failure>,
        lane: Lane,
    ) -> Result<Answers, Failure> {
        match outcome {
            Err(failure) if failure.may_be_a_texts() && self.is_well(lane).await => match texts {
                [text] if !self.suspects.note(text) => Err(failure),
                [_] => {
                    self.suspects.clear(texts);
                    Err(Failure::Request(format!("{}, each time, while other texts have vectors", failure.reason())))
                }
                _ => Err(Failure::Request(failure.reason())),
            },
            Ok(answers) => {
                self.suspects.clear(texts);
                Ok(answers)
            }
            failed @ Err(_) => failed,
        }
    }

    /// Whether the provider answers, asked once for a text that every model can embed.
    async fn is_well(&self, lane: Lane) -> bool {
        let _turn = self.limits.turn(lane, estimated_tokens(PROBE)).await;
        let answer = self.ask.ask(&[PROBE.to_owned()], self.dimension.get().copied(), OfLong::Beginning).await;
        answer.is_ok_and(|answers| answers.iter().all(Result::is_ok))
    }

    /// Sends a request until it is answered, refused, or has failed often enough. Whoever waits does not keep others from
    /// asking.
    async fn ask(&self, texts: &[String], lane: Lane, of_long: OfLong) -> Result<Answers, Failure> {
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
                Failure::Later { after, .. } => *after,
                _ => None,
            };
            // It knows best: nothing is added to what it says.
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

/// A third of the bytes, rounded up; see the module of providers.
pub(super) fn estimated_tokens(text: &str) -> u64 {
    (text.len() as u64).div_ceil(3).max(1)
}

#[cfg(test)]
mod tests;
