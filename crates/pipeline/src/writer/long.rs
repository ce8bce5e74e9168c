//! Texts that are longer than the model reads. Their ends cannot be found, so none is cut silently.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use walvec_embed::{EmbedError, Reads};
use walvec_model::Vector;

use super::embed::Texts;
use crate::error::PipelineError;
use crate::observe::metrics::count_cut;

/// How long the log stays silent about cut texts after a message.
const SAID_ONCE: Duration = Duration::from_secs(60);

/// What to do with a row that has a text longer than the model reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLong {
    /// The model reads the beginning. Such texts are counted and logged.
    #[default]
    Cut,
    /// The row is parked.
    Park,
}

/// How much of a text must be embedded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// All of it, or the text fails.
    Whole,
    /// As much as the model reads.
    Beginning,
}

/// Counts texts that were cut. There may be many, so the log has only one line for them per [`SAID_ONCE`].
#[derive(Debug, Default)]
pub(super) struct CutLog(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    at: Option<Instant>,
    /// Texts that were cut since then.
    texts: usize,
}

impl CutLog {
    /// Counts `texts`. If a message is due, returns how many there were since the last one.
    fn note(&self, texts: usize, now: Instant) -> Option<usize> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.texts += texts;
        if said.at.is_some_and(|at| now.saturating_duration_since(at) < SAID_ONCE) {
            return None;
        }
        said.at = Some(now);
        Some(std::mem::take(&mut said.texts))
    }
}

impl Texts {
    /// Returns a vector for each text, or why it will never have one. A text that is longer than the model reads gets
    /// the vector of its beginning, unless such rows are to be parked.
    pub(super) async fn vectors(&self, texts: &[String]) -> Result<Vec<Result<Vector, EmbedError>>, PipelineError> {
        let mut answers = self.embed(texts, Length::Whole).await?;
        let is_too_long = |answer: &Result<Vector, EmbedError>| matches!(answer, Err(EmbedError::TooLong { .. }));
        let long: Vec<usize> = (0..answers.len()).filter(|at| is_too_long(&answers[*at])).collect();
        if long.is_empty() || self.on_long == OnLong::Park {
            return Ok(answers);
        }
        let beginnings: Vec<String> = long.iter().map(|at| texts[*at].clone()).collect();
        let beginnings = self.embed(&beginnings, Length::Beginning).await?;
        let cut = beginnings.iter().filter(|answer| answer.is_ok()).count();
        for (at, answer) in long.into_iter().zip(beginnings) {
            answers[at] = answer;
        }
        if cut > 0 {
            self.note_cut(cut);
        }
        Ok(answers)
    }

    fn note_cut(&self, texts: usize) {
        count_cut(&self.table, texts);
        self.telemetry.collection(self.index, |status| status.texts_cut += texts as u64);
        if let Some(texts) = self.cut_log.note(texts, Instant::now()) {
            let reads = self.embedder.reads().as_ref().map_or_else(|| "what".to_owned(), described);
            tracing::warn!(
                collection = self.collection,
                texts,
                "texts are longer than {reads} the model reads, and their ends are not found: use `chunk`; `walvec check` says how many \
                 rows there are"
            );
        }
    }
}

fn described(reads: &Reads) -> String {
    format!("the {reads} that")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_of_texts_that_were_cut_at_once_and_then_once_a_minute() {
        let (log, now) = (CutLog::default(), Instant::now());
        assert_eq!(log.note(3, now), Some(3));
        assert_eq!(log.note(2, now + SAID_ONCE / 2), None);
        assert_eq!(log.note(1, now + SAID_ONCE), Some(3));
        assert_eq!(log.note(1, now + SAID_ONCE), None);
    }
}
