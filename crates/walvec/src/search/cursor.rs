//! The cursor: where the next page of a search begins.

use std::fmt;
use std::str::FromStr;

use walvec_sink::HitPlace;

use super::ranking::Ranking;

/// A place in a ranking. It goes to the caller as text, and comes back in the next request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    place: HitPlace,
    /// Digest of the ranking: in another ranking the place would leave hits out, or repeat them.
    ranking: String,
}

/// The message for a cursor that cannot be parsed.
pub(crate) const NOT_A_CURSOR: &str =
    "a cursor is what the page before says in \"next\"; leave it out for the first page";

impl Cursor {
    /// Makes the cursor for a place in a ranking.
    pub(crate) fn new(ranking: &Ranking<'_>, place: HitPlace) -> Self {
        Self { place, ranking: digest(ranking) }
    }

    /// Returns where the page begins; `None` if the cursor is a place in another ranking.
    pub(crate) fn place_in(&self, ranking: &Ranking<'_>) -> Option<HitPlace> {
        (self.ranking == digest(ranking)).then_some(self.place)
    }
}

fn digest(ranking: &Ranking<'_>) -> String {
    let Ranking { collection, text, mode, filter, min_score, by_row, limit } = ranking;
    half_digest(format_args!("{:?}", (collection, text, mode, filter, min_score, by_row, limit)))
}

/// Returns half a digest of what a cursor belongs to. It has to detect mistakes, not attacks.
pub(crate) fn half_digest(of: fmt::Arguments<'_>) -> String {
    blake3::hash(of.to_string().as_bytes()).to_hex().chars().take(16).collect()
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.place.offset, self.place.fused_for, self.ranking)
    }
}

impl FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, '-');
        let mut number = || parts.next().and_then(|part| part.parse().ok()).ok_or(NOT_A_CURSOR);
        let place = HitPlace { offset: number()?, fused_for: number()? };
        let ranking = parts.next().ok_or(NOT_A_CURSOR)?.to_owned();
        Ok(Self { place, ranking })
    }
}

#[cfg(test)]
mod tests {
    use walvec_sink::Filter;

    use super::*;
    use crate::search::mode::Mode;

    fn ranking<'a>(text: &'a str, filter: &'a Filter) -> Ranking<'a> {
        Ranking { collection: "books", text, mode: Mode::Dense, filter, min_score: None, by_row: false, limit: 5 }
    }

    #[test]
    fn a_cursor_fits_the_search_that_it_is_of_and_no_other() {
        let filter = Filter::default();
        let place = HitPlace { offset: 10, fused_for: 6 };
        let cursor: Cursor = Cursor::new(&ranking("sea", &filter), place).to_string().parse().unwrap();
        assert_eq!(cursor.place_in(&ranking("sea", &filter)), Some(place));
        assert_eq!(cursor.place_in(&ranking("space", &filter)), None);
        assert_eq!(cursor.place_in(&Ranking { limit: 6, ..ranking("sea", &filter) }), None);
        assert_eq!(cursor.place_in(&Ranking { by_row: true, ..ranking("sea", &filter) }), None);
        for text in ["", "5", "x-1-a", "-5-1-a", "1.5-1-a", "5-a", "5-1"] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
