//! Which texts run together.

use std::ops::Range;

/// The most tokens of one run, padding included. Measured on two cores with MiniLM: a run of a few hundred tokens is
/// a quarter faster per token than a single short text. Larger runs are no faster, but need more memory.
const RUN_TOKENS: usize = 512;

/// How much a text may be longer than the shortest of its run: a quarter and this many tokens. That keeps padding
/// cheaper than the fixed cost of one more run.
const SPREAD: usize = 8;

/// Divides texts of the given `lengths` (ascending, in tokens) into runs. With `alone`, each runs by itself.
pub(super) fn runs(lengths: &[usize], alone: bool) -> Vec<Range<usize>> {
    debug_assert!(lengths.is_sorted(), "the shortest text of a run is its first");
    let mut runs = Vec::new();
    let mut start = 0;
    for (at, &length) in lengths.iter().enumerate() {
        let shortest = lengths[start];
        let fits = (at + 1 - start) * length <= RUN_TOKENS && length <= shortest + shortest / 4 + SPREAD;
        if at > start && (alone || !fits) {
            runs.push(start..at);
            start = at;
        }
    }
    if start < lengths.len() {
        runs.push(start..lengths.len());
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_in_exactly_one_run_and_no_run_wastes_much() {
        let lengths: Vec<usize> = (0..300).map(|i| 2 + i * i / 300).collect();
        let runs = runs(&lengths, false);
        assert_eq!(runs.iter().cloned().flatten().collect::<Vec<_>>(), (0..300).collect::<Vec<_>>());
        for run in &runs {
            let padded = run.len() * lengths[run.end - 1];
            let real: usize = lengths[run.clone()].iter().sum();
            assert!(padded <= RUN_TOKENS && padded <= real * 3 / 2 + run.len() * SPREAD, "{run:?}");
        }
    }

    #[test]
    fn a_text_longer_than_a_run_runs_by_itself() {
        assert_eq!(runs(&[RUN_TOKENS * 2, RUN_TOKENS * 2], false), [0..1, 1..2]);
        assert!(runs(&[], false).is_empty());
    }

    #[test]
    fn texts_that_would_influence_each_other_run_alone() {
        assert_eq!(runs(&[3, 3, 3], true), [0..1, 1..2, 2..3]);
    }
}
