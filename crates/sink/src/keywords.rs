//! Sparse vectors for searches by keyword, as the engine makes them itself.
//!
//! BM25: a document's vector says how often each token occurs, a query's which ones it has; how rare a token is, the engine
//! knows and multiplies in (`modifier: idf`). Tokens are words, in lower case and reduced to their stems, and their numbers
//! are the same in the embedded engine and in a server's model `qdrant/bm25`.

use std::fmt;

use walvec_model::SparseVector;

#[cfg(feature = "embedded")]
use self::engine::Bm25;
/// The engine makes the vectors; without it there is no language that could be chosen.
#[cfg(not(feature = "embedded"))]
type Bm25 = std::convert::Infallible;

/// The language unless another one is chosen; it decides about stems, and which words say nothing.
pub const DEFAULT_LANGUAGE: &str = "english";

/// Makes sparse vectors of texts in one language.
pub struct Keywords {
    bm25: Bm25,
    language: String,
}

/// The engine has no rules for a language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownLanguage(pub String);

#[cfg(feature = "embedded")]
impl Keywords {
    /// For texts in `language`, by its English name in lower case.
    ///
    /// # Errors
    /// If the engine does not know the language.
    pub fn new(language: &str) -> Result<Self, UnknownLanguage> {
        let bm25 = engine::bm25(language).ok_or_else(|| UnknownLanguage(language.to_owned()))?;
        Ok(Self { bm25, language: language.to_owned() })
    }

    /// The vector of a text that is stored; empty if no word of it says anything.
    #[must_use]
    pub fn document(&self, text: &str) -> SparseVector {
        engine::sorted(self.bm25.embed_document(text))
    }

    /// The vector of a text that is searched for; empty if no word of it says anything.
    #[must_use]
    pub fn query(&self, text: &str) -> SparseVector {
        engine::sorted(self.bm25.embed_query(text))
    }
}

#[cfg(not(feature = "embedded"))]
impl Keywords {
    /// For no text at all: the engine that makes the vectors was left out of this program.
    ///
    /// # Errors
    /// Always.
    pub fn new(language: &str) -> Result<Self, UnknownLanguage> {
        Err(UnknownLanguage(language.to_owned()))
    }

    /// The vector of a text that is stored.
    #[must_use]
    pub const fn document(&self, _text: &str) -> SparseVector {
        match self.bm25 {}
    }

    /// The vector of a text that is searched for.
    #[must_use]
    pub const fn query(&self, _text: &str) -> SparseVector {
        match self.bm25 {}
    }
}

impl fmt::Debug for Keywords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keywords({})", describe(&self.language))
    }
}

/// What makes the sparse vectors of texts in `language` comparable.
#[must_use]
pub fn describe(language: &str) -> String {
    format!("bm25 {language}")
}

#[cfg(feature = "embedded")]
mod engine {
    use qdrant_edge::Language;
    use qdrant_edge::bm25_embed::EdgeBm25Config;
    use walvec_model::SparseVector;

    pub(super) use qdrant_edge::bm25_embed::EdgeBm25 as Bm25;

    /// The engine's rules for `language`, if it has some.
    pub(super) fn bm25(language: &str) -> Option<Bm25> {
        // It reads other spellings too, and two of them would be two fingerprints.
        let parsed: Language = language.parse().ok()?;
        let spelling = serde_json::to_value(parsed).ok()?;
        let config = EdgeBm25Config { language: Some(language.to_owned()), ..EdgeBm25Config::default() };
        (spelling.as_str() == Some(language)).then(|| Bm25::new(config).ok()).flatten()
    }

    /// In the order in which vectors come back from where they are stored.
    pub(super) fn sorted(vector: qdrant_edge::SparseVector) -> SparseVector {
        let mut entries: Vec<(u32, f32)> = vector.indices.into_iter().zip(vector.values).collect();
        entries.sort_unstable_by_key(|(index, _)| *index);
        let (indices, values) = entries.into_iter().unzip();
        SparseVector { indices, values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_word_share_a_token_and_words_that_say_nothing_have_none() {
        let keywords = Keywords::new(DEFAULT_LANGUAGE).unwrap();
        let document = keywords.document("The Martians invaded; a Martian invades.");
        assert_eq!(document.indices.len(), 2, "{document:?}");
        assert_eq!(keywords.query("martian INVADING").indices, document.indices);
        assert!(document.indices.is_sorted());
        assert!(keywords.query("the, and of a").is_empty());
    }

    #[test]
    fn a_language_has_its_own_stems_and_an_unknown_one_is_refused() {
        let german = Keywords::new("german").unwrap();
        assert_eq!(german.query("Häuser").indices, german.query("Häusern").indices);
        assert!(german.query("und der").is_empty());
        for language in ["klingon", "", "German", "de", "\"english"] {
            assert_eq!(Keywords::new(language).unwrap_err(), UnknownLanguage(language.to_owned()));
        }
    }

    /// Stored vectors outlive the engine's version. If this fails, what [`describe`] says has to change with it.
    #[test]
    fn the_numbers_of_tokens_stay_what_they_were() {
        let document = Keywords::new(DEFAULT_LANGUAGE).unwrap().document("Martians land in Surrey");
        assert_eq!(document.indices, [142_582_585, 2_056_014_618, 2_127_510_752]);
    }
}
