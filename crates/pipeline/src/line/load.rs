//! What one writer has under way, and how fast it goes.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use walvec_embed::Embedder;
use walvec_model::RowKey;

/// As many texts may be under way as were written in this time, or those of two calls, when that is less than the embedder could
/// make use of. With two there is room beside one that is late.
const LATELY: Duration = Duration::from_secs(10);

/// What is written in such a time is counted together.
const MOMENT: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Default)]
pub(super) struct Load {
    /// Rows that are not durable.
    pub(super) keys: HashSet<RowKey>,
    /// Texts that their vectors are asked for.
    pub(super) texts: usize,
    /// When how many texts were written, the oldest first.
    written: VecDeque<(Instant, usize)>,
}

impl Load {
    /// Whether another batch may begin. This is asked about all writers after each step, of which few are busy.
    pub(super) fn has_room<'e>(&self, embedder: impl FnOnce() -> &'e dyn Embedder) -> bool {
        if self.texts == 0 {
            return true;
        }
        let embedder = embedder();
        self.texts < self.lately().max(embedder.texts_per_call().saturating_mul(2)) && self.can_take(embedder)
    }

    /// Whether the embedder can make use of more texts; half as many again as it works on, so that it never runs dry.
    pub(super) fn can_take(&self, embedder: &dyn Embedder) -> bool {
        let at_once = embedder.texts_per_call().saturating_mul(embedder.calls_at_once());
        self.texts == 0 || self.texts < at_once.saturating_add(at_once / 2)
    }

    fn lately(&self) -> usize {
        let now = Instant::now();
        self.written.iter().filter(|(at, _)| now - *at <= LATELY).map(|(_, texts)| texts).sum()
    }

    /// So many texts of these rows are durable.
    pub(super) fn written(&mut self, keys: &[RowKey], texts: usize) {
        for key in keys {
            self.keys.remove(key);
        }
        self.texts -= texts;
        let now = Instant::now();
        match self.written.back_mut() {
            Some((at, sum)) if now - *at < MOMENT => *sum += texts,
            _ => self.written.push_back((now, texts)),
        }
        while self.written.pop_front_if(|(at, _)| now - *at > LATELY).is_some() {}
    }
}
