//! The mode of a search: by the meaning of its text, by its words, or by both.

use std::fmt;

use clap::ValueEnum;
use utoipa::ToSchema;
use walvec_sink::Keywords;

/// What a search compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Meaning and words, two rankings fused.
    Hybrid,
    /// The meaning.
    Dense,
    /// The words.
    Keyword,
}

/// Why a collection cannot be searched in the wanted mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SearchRefusal(pub(crate) String);

impl Mode {
    /// Parses the name that requests use.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::from_str(name, false).ok()
    }

    /// Returns the mode in which a collection is searched: the wanted one, or else the best that it has. `keywords` makes the
    /// sparse vectors of queries, if the collection has sparse vectors.
    pub(crate) fn of<'a>(
        wanted: Option<Self>,
        keywords: Option<&'a Keywords>,
    ) -> Result<ResolvedMode<'a>, SearchRefusal> {
        match (wanted, keywords) {
            (Some(Self::Dense), _) | (None, None) => Ok(ResolvedMode::Dense),
            (Some(Self::Keyword), Some(keywords)) => Ok(ResolvedMode::Keyword(keywords)),
            (Some(Self::Hybrid) | None, Some(keywords)) => Ok(ResolvedMode::Hybrid(keywords)),
            (Some(mode @ (Self::Hybrid | Self::Keyword)), None) => {
                let reason = format!(
                    "the collection has no sparse vectors, which a {mode} search needs; write `hybrid: true` in its configuration \
                     and let `walvec reindex` make them"
                );
                Err(SearchRefusal(reason))
            }
        }
    }
}

/// The message for a search by words in which no word counts.
pub(crate) const NO_WORD_COUNTS: &str = "no word of the query counts: words that say nothing in the collection's language are left out, and so is \
    writing without spaces; search by meaning instead (mode dense)";

/// Writes the name that requests use.
impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hybrid => "hybrid",
            Self::Dense => "dense",
            Self::Keyword => "keyword",
        })
    }
}

/// A mode, with what it needs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ResolvedMode<'a> {
    Hybrid(&'a Keywords),
    Dense,
    Keyword(&'a Keywords),
}

impl ResolvedMode<'_> {
    /// Returns the mode alone.
    pub(crate) const fn mode(self) -> Mode {
        match self {
            ResolvedMode::Hybrid(_) => Mode::Hybrid,
            ResolvedMode::Dense => Mode::Dense,
            ResolvedMode::Keyword(_) => Mode::Keyword,
        }
    }

    /// Refuses a lowest score that cannot be compared with scores of this mode.
    pub(crate) fn check_score(self, lowest: Option<f32>) -> Result<(), SearchRefusal> {
        let Some(score) = lowest else { return Ok(()) };
        match self {
            ResolvedMode::Dense if !(-1.0..=1.0).contains(&score) => {
                Err(SearchRefusal(format!("min_score is {score}; a cosine similarity, from -1 to 1, is expected")))
            }
            ResolvedMode::Keyword(_) if !(score >= 0.0 && score.is_finite()) => {
                Err(SearchRefusal(format!("min_score is {score}; a BM25 score, 0 or more, is expected")))
            }
            ResolvedMode::Hybrid(_) => {
                let reason = "scores of a hybrid search say something about places in two rankings, not how near a hit is; use \
                              min_score with the mode dense or keyword";
                Err(SearchRefusal(reason.to_owned()))
            }
            ResolvedMode::Dense | ResolvedMode::Keyword(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_is_searched_in_the_best_way_that_it_has() {
        let keywords = Keywords::new("english").unwrap();
        assert!(matches!(Mode::of(None, None), Ok(ResolvedMode::Dense)));
        assert!(matches!(Mode::of(None, Some(&keywords)), Ok(ResolvedMode::Hybrid(_))));
        assert!(matches!(Mode::of(Some(Mode::Dense), Some(&keywords)), Ok(ResolvedMode::Dense)));
        assert!(matches!(Mode::of(Some(Mode::Keyword), Some(&keywords)), Ok(ResolvedMode::Keyword(_))));
        for mode in [Mode::Hybrid, Mode::Keyword] {
            assert!(Mode::of(Some(mode), None).unwrap_err().0.contains("walvec reindex"));
        }
    }

    #[test]
    fn a_lowest_score_has_to_fit_the_kind_of_score() {
        let keywords = Keywords::new("english").unwrap();
        for (by, score, fits) in [
            (ResolvedMode::Dense, 0.5, true),
            (ResolvedMode::Dense, 1.5, false),
            (ResolvedMode::Dense, f32::NAN, false),
            (ResolvedMode::Keyword(&keywords), 12.0, true),
            (ResolvedMode::Keyword(&keywords), -0.5, false),
            (ResolvedMode::Keyword(&keywords), f32::NAN, false),
            (ResolvedMode::Hybrid(&keywords), 0.5, false),
        ] {
            assert_eq!(by.check_score(Some(score)).is_ok(), fits, "{by:?} {score}");
            assert_eq!(by.check_score(None), Ok(()));
        }
    }

    #[test]
    fn modes_are_named_as_they_are_read() {
        for mode in [Mode::Hybrid, Mode::Dense, Mode::Keyword] {
            assert_eq!(Mode::from_name(&mode.to_string()), Some(mode));
        }
        assert_eq!(Mode::from_name("sparse"), None);
    }
}
