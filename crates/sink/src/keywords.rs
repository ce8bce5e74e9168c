//! Sparse vectors for searches by keyword, made as the engine makes them.
//!
//! BM25: a document's vector says how often each token occurs, a query's which tokens it has. The engine knows how rare a
//! token is, and multiplies that in (`modifier: idf`). Tokens are words, in lower case and reduced to their stems. Their
//! numbers are the same in the embedded engine and in a server's model `qdrant/bm25`.

use std::fmt;

use walvec_model::SparseVector;

#[cfg(feature = "embedded")]
use self::engine::Bm25;
/// Has no value: the engine makes the vectors, so without it there are none.
#[cfg(not(feature = "embedded"))]
type Bm25 = std::convert::Infallible;

/// The default language. The language decides about stems, and which words are ignored.
pub const DEFAULT_LANGUAGE: &str = "english";

/// Makes sparse vectors of texts in one language.
pub struct Keywords {
    bm25: Bm25,
    language: String,
}

/// The error for a language that the engine has no rules for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownLanguage(pub String);

#[cfg(feature = "embedded")]
impl Keywords {
    /// Creates one for texts in `language`, by its English name in lower case.
    ///
    /// # Errors
    /// If the engine does not know the language.
    pub fn new(language: &str) -> Result<Self, UnknownLanguage> {
        let bm25 = engine::bm25(language).ok_or_else(|| UnknownLanguage(language.to_owned()))?;
        Ok(Self { bm25, language: language.to_owned() })
    }

    /// Returns the vector of a text that is stored; empty if the text has only ignored words.
    #[must_use]
    pub fn document(&self, text: &str) -> SparseVector {
        engine::sorted(self.bm25.embed_document(text))
    }

    /// Returns the vector of a text that is searched for; empty if the text has only ignored words.
    #[must_use]
    pub fn query(&self, text: &str) -> SparseVector {
        engine::sorted(self.bm25.embed_query(text))
    }
}

#[cfg(not(feature = "embedded"))]
impl Keywords {
    /// Always fails: the engine that makes the vectors was left out of this program.
    ///
    /// # Errors
    /// Always.
    pub fn new(language: &str) -> Result<Self, UnknownLanguage> {
        Err(UnknownLanguage(language.to_owned()))
    }

    /// Returns the vector of a text that is stored.
    #[must_use]
    pub const fn document(&self, _text: &str) -> SparseVector {
        match self.bm25 {}
    }

    /// Returns the vector of a text that is searched for.
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

/// Describes what makes the sparse vectors of texts in `language` comparable, for the fingerprint.
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

    /// Returns the engine's rules for `language`, if it has some.
    pub(super) fn bm25(language: &str) -> Option<Bm25> {
        // The engine also accepts other spellings, and two spellings would make two fingerprints.
        let parsed: Language = language.parse().ok()?;
        let spelling = serde_json::to_value(parsed).ok()?;
        let config = EdgeBm25Config { language: Some(language.to_owned()), ..EdgeBm25Config::default() };
        (spelling.as_str() == Some(language)).then(|| Bm25::new(config).ok()).flatten()
    }

    /// Sorts a vector as it comes back from storage.
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

    /// Stored vectors outlive a version of the engine. If this fails, the text that [`describe`] returns must change too.
    #[test]
    fn the_numbers_of_tokens_stay_what_they_were() {
        let document = Keywords::new(DEFAULT_LANGUAGE).unwrap().document("Martians land in Surrey");
        assert_eq!(document.indices, [142_582_585, 2_056_014_618, 2_127_510_752]);
    }
}
