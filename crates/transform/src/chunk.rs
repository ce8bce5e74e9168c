//! Long texts in pieces.
//!
//! A chunk is made of the largest parts that fit: sections and paragraphs before sentences, sentences before words. With an
//! overlap, a chunk begins with the last parts of the one before. Where the pieces end depends on nothing but the text, the
//! settings and the tokenizer, so the same row always gives the same chunks.

use std::fmt;
use std::sync::Arc;

use text_splitter::{ChunkConfig, ChunkSizer, MarkdownSplitter, TextSplitter};
use unicode_segmentation::UnicodeSegmentation as _;

/// How many chunks a row may have. More is a mistake, and would keep the other rows waiting.
pub const MAX_CHUNKS: usize = 10_000;

/// Counts the tokens of a text as the model reads it, without the special ones around it.
pub type CountTokens = Arc<dyn Fn(&str) -> usize + Send + Sync>;

/// What the length of a chunk is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Tokens of the embedding model.
    Tokens,
    /// Sentences, as Unicode tells them apart (UAX #29).
    Sentences,
}

/// How texts are cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkSpec {
    /// The unit of the two lengths.
    pub unit: Unit,
    /// The longest chunk.
    pub length: usize,
    /// How much of a chunk's end the next one begins with; less than `length`.
    pub overlap: usize,
    /// Whether the texts are Markdown: headings, lists, tables and blocks of code are kept together where they fit.
    pub markdown: bool,
    /// The payload field for the text of the chunk, in layouts that have no place of their own for it.
    pub field: String,
}

impl ChunkSpec {
    /// What decides the pieces, for digests.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self { unit, length, overlap, markdown, field: _ } = self;
        let unit = match unit {
            Unit::Tokens => "tokens",
            Unit::Sentences => "sentences",
        };
        format!("{length} {unit}, overlap {overlap}, markdown {markdown}")
    }
}

/// Cuts texts as a [`ChunkSpec`] says.
pub struct Chunker {
    pub(crate) spec: ChunkSpec,
    splitter: Splitter,
}

enum Splitter {
    Text(TextSplitter<Sizer>),
    Markdown(MarkdownSplitter<Sizer>),
}

struct Sizer {
    unit: Unit,
    tokens: CountTokens,
}

impl ChunkSizer for Sizer {
    fn size(&self, chunk: &str) -> usize {
        match self.unit {
            Unit::Tokens => (self.tokens)(chunk),
            Unit::Sentences => chunk.unicode_sentences().count(),
        }
    }
}

impl Chunker {
    /// A chunker that counts tokens with `tokens`. An overlap that leaves no room for anything new counts as the largest that
    /// does.
    #[must_use]
    pub fn new(spec: ChunkSpec, tokens: CountTokens) -> Self {
        let length = spec.length.max(1);
        let sizer = Sizer { unit: spec.unit, tokens };
        let config = ChunkConfig::new(length).with_sizer(sizer);
        let config = match config.with_overlap(spec.overlap.min(length - 1)) {
            Ok(config) => config,
            Err(_) => unreachable!("the overlap is less than the length"),
        };
        let splitter = if spec.markdown {
            Splitter::Markdown(MarkdownSplitter::new(config))
        } else {
            Splitter::Text(TextSplitter::new(config))
        };
        Self { spec, splitter }
    }

    /// The pieces of a text, at least one. A text without any content is one piece, as it is.
    ///
    /// # Errors
    /// [`TooMany`], if there are more than [`MAX_CHUNKS`].
    pub fn split<'a>(&'a self, text: &'a str) -> Result<Vec<&'a str>, TooMany> {
        let most = MAX_CHUNKS + 1;
        let chunks: Vec<&str> = match &self.splitter {
            Splitter::Text(splitter) => splitter.chunks(text).take(most).collect(),
            Splitter::Markdown(splitter) => splitter.chunks(text).take(most).collect(),
        };
        match chunks.len() {
            0 => Ok(vec![text]),
            count if count < most => Ok(chunks),
            _ => Err(TooMany),
        }
    }
}

impl fmt::Debug for Chunker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Chunker").field(&self.spec).finish()
    }
}

/// A text has more than [`MAX_CHUNKS`] pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the text has more than {MAX_CHUNKS} chunks; longer chunks, or a shorter text, are needed")
    }
}

impl std::error::Error for TooMany {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words() -> CountTokens {
        Arc::new(|text| text.split_whitespace().count())
    }

    fn chunker(unit: Unit, length: usize, overlap: usize, markdown: bool) -> Chunker {
        Chunker::new(ChunkSpec { unit, length, overlap, markdown, field: "chunk".to_owned() }, words())
    }

    fn split(chunker: &Chunker, text: &str) -> Vec<String> {
        chunker.split(text).unwrap().into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn a_short_text_is_one_chunk_and_a_text_without_content_too() {
        let chunker = chunker(Unit::Tokens, 10, 2, false);
        for text in ["A whale.", "", "  "] {
            assert_eq!(split(&chunker, text).len(), 1, "{text:?}");
        }
    }

    #[test]
    fn sentences_stay_whole_where_they_fit() {
        let text = "The sea is calm today. A whale comes up for air. Nobody on the shore sees it.";
        let chunks = split(&chunker(Unit::Tokens, 11, 0, false), text);
        assert_eq!(chunks, ["The sea is calm today. A whale comes up for air.", "Nobody on the shore sees it."]);
    }

    #[test]
    fn an_overlap_repeats_the_end_of_the_chunk_before() {
        let chunks = split(&chunker(Unit::Tokens, 4, 2, false), "one two three four five six");
        assert_eq!(chunks, ["one two three four", "three four five six"]);
    }

    #[test]
    fn chunks_can_be_counted_in_sentences() {
        let text = "One. Two, and more. Three! Four? Five.";
        assert_eq!(
            split(&chunker(Unit::Sentences, 2, 0, false), text),
            ["One. Two, and more.", "Three! Four?", "Five."]
        );
        assert_eq!(split(&chunker(Unit::Sentences, 2, 1, false), "A b. C d. E f."), ["A b. C d.", "C d. E f."]);
    }

    #[test]
    fn markdown_is_cut_at_its_headings() {
        let text = "# Whales\n\nThey are large.\n\n# Ships\n\nThey are larger.\n";
        let chunks = split(&chunker(Unit::Tokens, 6, 0, true), text);
        assert_eq!(chunks, ["# Whales\n\nThey are large.", "# Ships\n\nThey are larger."]);
    }

    #[test]
    fn too_many_chunks_are_an_error_of_the_row() {
        let text = "word ".repeat(MAX_CHUNKS + 1);
        assert_eq!(chunker(Unit::Tokens, 1, 0, false).split(&text), Err(TooMany));
        assert_eq!(chunker(Unit::Tokens, 1, 0, false).split(&text[5..]).unwrap().len(), MAX_CHUNKS);
    }

    proptest! {
        #[test]
        fn every_word_is_in_a_chunk_and_no_chunk_is_too_long(
            words in prop::collection::vec("[a-zäß.]{1,8}", 0..60), length in 1_usize..12, overlap in 0_usize..6,
        ) {
            let text = words.join(" ");
            let chunker = chunker(Unit::Tokens, length, overlap.min(length - 1), false);
            let chunks = chunker.split(&text).unwrap();
            let mut rest = text.as_str();
            for chunk in &chunks {
                prop_assert!(chunk.split_whitespace().count() <= length, "{chunk:?}");
                // With an overlap a chunk begins before the end of the one before, never behind a gap with words in it.
                let start = chunk.as_ptr() as usize - text.as_ptr() as usize;
                let covered = text.len() - rest.len();
                prop_assert!(start <= covered || text[covered..start].trim().is_empty());
                rest = &text[(start + chunk.len()).max(covered)..];
            }
            prop_assert!(rest.trim().is_empty());
        }
    }
}
