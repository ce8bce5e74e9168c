//! The words of a query inside texts, for the page and the command line.
//!
//! A search is by meaning, so a hit may share no word with the query. Where it does, marking the words helps the eye.

use std::collections::HashSet;

/// The shortest word that is marked: shorter ones are mostly grammar, in most languages.
const MIN_WORD_CHARS: usize = 3;
/// English words that are long enough, but not worth marking.
const UNMARKED: [&str; 24] = [
    "about", "and", "are", "book", "can", "did", "does", "for", "from", "has", "have", "how", "into", "not", "that",
    "the", "their", "this", "was", "what", "when", "who", "why", "with",
];
/// A text with more words is prose: names and labels are shorter, sentences are longer.
const LABEL_WORDS: usize = 8;
/// A text with more characters is prose too, whatever its words. About one line.
const LABEL_CHARS: usize = 80;

/// The words of a query that are worth marking.
pub(crate) struct QueryWords(HashSet<String>);

impl QueryWords {
    pub(crate) fn of(query: &str) -> Self {
        let words = query.split(|character: char| !character.is_alphanumeric()).map(str::to_lowercase);
        Self(words.filter(|word| is_telling(word)).collect())
    }

    /// Returns whether the word is one of the query's, ignoring a plural or another short ending.
    pub(crate) fn matches(&self, word: &str) -> bool {
        let word = word.to_lowercase();
        self.0.iter().any(|wanted| {
            let ending = word.strip_prefix(wanted.as_str()).or_else(|| wanted.strip_prefix(word.as_str()));
            word.chars().count() >= MIN_WORD_CHARS && ending.is_some_and(|ending| ending.chars().count() <= 2)
        })
    }

    /// Splits the text into runs, each with whether it is a word of the query.
    pub(crate) fn runs<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (&'a str, bool)> {
        runs(text).map(|(run, is_word)| (run, is_word && self.matches(run)))
    }
}

/// Returns whether a text is sentences to be read, rather than a name or a label.
pub(crate) fn is_prose(text: &str) -> bool {
    text.contains('\n') || text.split_whitespace().nth(LABEL_WORDS).is_some() || text.chars().nth(LABEL_CHARS).is_some()
}

fn is_telling(word: &str) -> bool {
    word.chars().count() >= MIN_WORD_CHARS && !UNMARKED.contains(&word)
}

/// Splits the text into runs, alternately of word characters and of others.
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
