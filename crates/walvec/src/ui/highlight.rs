//! Query words inside texts.
//!
//! The search is by meaning, so a hit may share no word with the query. Where it does, marking the words helps the eye.

use std::collections::HashSet;

use maud::{Markup, html};

/// Shorter words are mostly grammar, in most languages.
const MIN_WORD_CHARS: usize = 3;
/// English words that are long enough and still say nothing.
const UNMARKED: [&str; 24] = [
    "about", "and", "are", "book", "can", "did", "does", "for", "from", "has", "have", "how", "into", "not", "that",
    "the", "their", "this", "was", "what", "when", "who", "why", "with",
];

/// The words of a query that are worth marking.
pub(super) struct Words(HashSet<String>);

impl Words {
    pub(super) fn of(query: &str) -> Self {
        let words = query.split(|character: char| !character.is_alphanumeric()).map(str::to_lowercase);
        Self(words.filter(|word| is_telling(word)).collect())
    }

    /// The text as escaped markup, with the words of the query in `<mark>`.
    pub(super) fn mark(&self, text: &str) -> Markup {
        html! {
            @for (run, is_word) in runs(text) {
                @if is_word && self.matches(run) { mark { (run) } } @else { (run) }
            }
        }
    }

    /// Whether the word is one of the query's, give or take a plural or another short ending.
    fn matches(&self, word: &str) -> bool {
        let word = word.to_lowercase();
        self.0.iter().any(|wanted| {
            let ending = word.strip_prefix(wanted.as_str()).or_else(|| wanted.strip_prefix(word.as_str()));
            word.chars().count() >= MIN_WORD_CHARS && ending.is_some_and(|ending| ending.chars().count() <= 2)
        })
    }
}

fn is_telling(word: &str) -> bool {
    word.chars().count() >= MIN_WORD_CHARS && !UNMARKED.contains(&word)
}

/// The text in runs, alternately of word characters and of others.
fn runs(text: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let is_word = rest.chars().next()?.is_alphanumeric();
        let end = rest.find(|character: char| character.is_alphanumeric() != is_word).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        rest = after;
        Some((run, is_word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(query: &str, text: &str) -> String {
        Words::of(query).mark(text).into_string()
    }

    #[test]
    fn words_of_the_query_are_marked_in_any_case_and_number() {
        assert_eq!(
            marked("the whales", "The Whale, a WHALES' tale"),
            "The <mark>Whale</mark>, a <mark>WHALES</mark>' tale"
        );
        assert_eq!(marked("été", "ÉTÉ"), "<mark>ÉTÉ</mark>");
        assert_eq!(marked("sea", "season and seas"), "season and <mark>seas</mark>");
    }

    #[test]
    fn marking_never_lets_markup_through() {
        let text = "<img src=x onerror=alert(1)> & \"img\"";
        let expected = "&lt;<mark>img</mark> src=x onerror=alert(1)&gt; &amp; &quot;<mark>img</mark>&quot;";
        assert_eq!(marked("img <script>", text), expected);
    }

    #[test]
    fn words_without_meaning_of_their_own_stay_plain() {
        assert_eq!(marked("what is in the of", "what is in the of"), "what is in the of");
    }
}
