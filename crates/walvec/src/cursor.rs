//! Where the next page of a search begins.

use std::fmt;
use std::str::FromStr;

use walvec_sink::Filter;

use crate::mode::Mode;

/// What decides about the order of hits, and about where pages end.
pub(crate) struct Ranking<'a> {
    pub(crate) collection: &'a str,
    pub(crate) text: &'a str,
    pub(crate) mode: Mode,
    pub(crate) filter: &'a Filter,
    pub(crate) min_score: Option<f32>,
    pub(crate) by_row: bool,
    pub(crate) limit: usize,
}

/// A place in a ranking. As text it goes to the caller and comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    offset: usize,
    /// Digest of the ranking: a place in another one would leave hits out, or repeat them.
    ranking: String,
}

/// What is told of a cursor that cannot be read.
pub(crate) const NOT_A_CURSOR: &str =
    "a cursor is what the page before says in \"next\"; leave it out for the first page";

/// What is told of a cursor of another search.
pub(crate) const OF_ANOTHER_SEARCH: &str = "the cursor is of another search: query, collection, mode, limit, group, min_score and filter \
     have to be those of the page before; leave the cursor out for the first page";

impl Cursor {
    /// The place behind the first `offset` hits.
    pub(crate) fn new(ranking: &Ranking<'_>, offset: usize) -> Self {
        Self { offset, ranking: digest(ranking) }
    }

    /// How many hits come before the page; `None` if it is a place in another ranking.
    pub(crate) fn offset_in(&self, ranking: &Ranking<'_>) -> Option<usize> {
        (self.ranking == digest(ranking)).then_some(self.offset)
    }
}

/// Half a digest: it has to tell mistakes, not attacks, from what is right.
fn digest(ranking: &Ranking<'_>) -> String {
    let Ranking { collection, text, mode, filter, min_score, by_row, limit } = ranking;
    let all = format!("{:?}", (collection, text, mode, filter, min_score, by_row, limit));
    blake3::hash(all.as_bytes()).to_hex().chars().take(16).collect()
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.offset, self.ranking)
    }
}

impl FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (offset, ranking) = text.split_once('-').ok_or(NOT_A_CURSOR)?;
        let offset = offset.parse().map_err(|_| NOT_A_CURSOR)?;
        Ok(Self { offset, ranking: ranking.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranking<'a>(text: &'a str, filter: &'a Filter) -> Ranking<'a> {
        Ranking { collection: "books", text, mode: Mode::Dense, filter, min_score: None, by_row: false, limit: 5 }
    }

    #[test]
    fn a_cursor_fits_the_search_that_it_is_of_and_no_other() {
        let filter = Filter::default();
        let cursor: Cursor = Cursor::new(&ranking("sea", &filter), 10).to_string().parse().unwrap();
        assert_eq!(cursor.offset_in(&ranking("sea", &filter)), Some(10));
        assert_eq!(cursor.offset_in(&ranking("space", &filter)), None);
        assert_eq!(cursor.offset_in(&Ranking { limit: 6, ..ranking("sea", &filter) }), None);
        assert_eq!(cursor.offset_in(&Ranking { by_row: true, ..ranking("sea", &filter) }), None);
        for text in ["", "5", "x-1", "-5-1", "1.5-a"] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
