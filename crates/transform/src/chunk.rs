//! Cuts long texts into chunks.
//!
//! A chunk is made of the largest parts that fit: sections and paragraphs before sentences, sentences before words.
//! With an overlap, a chunk begins with the last parts of the chunk before it. Where chunks end depends on nothing but
//! the text, the settings and the tokenizer, so the same row always gives the same chunks.
//!
//! For each piece, the splitter looks at all of the remaining text, so its time grows with the square of the text's
//! length. A long text is therefore cut window by window. Only the last piece of a window depends on where the window
//! ends, and the next window begins with that piece.

use std::fmt;
use std::sync::Arc;

use text_splitter::{ChunkConfig, ChunkSizer, MarkdownSplitter, TextSplitter};
use unicode_segmentation::UnicodeSegmentation as _;

/// The maximum number of chunks of a row. More are taken for a mistake, which would keep the other rows waiting.
pub const MAX_CHUNKS: usize = 10_000;

/// The name of this way of cutting, for digests of what is stored: chunks that were cut in another way are made again.
pub const CUT: &str = "cut in windows of 32 kB";

/// How many bytes of a text are cut at a time.
const WINDOW: usize = 32 << 10;

/// The minimum number of pieces in a window; a window with fewer is doubled. With few pieces, the last one is a large
/// part of the window, and would be cut twice.
const LEAST_PIECES: usize = 8;

/// Counts the tokens of a text as the model reads it, without the special tokens around it.
pub type CountTokens = Arc<dyn Fn(&str) -> usize + Send + Sync>;

/// What the length of a chunk is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Tokens of the embedding model.
    Tokens,
    /// Sentences, as defined by Unicode (UAX #29).
    Sentences,
}

/// How texts are cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkSpec {
    /// The unit of the two lengths.
    pub unit: Unit,
    /// The maximum length of a chunk.
    pub length: usize,
    /// How much of the end of a chunk is repeated at the beginning of the next one. Less than `length`.
    pub overlap: usize,
    /// Whether the texts are Markdown. If so, headings, lists, tables and blocks of code are kept together where they fit.
    pub markdown: bool,
    /// The payload field for the chunk's text, in layouts that have no place of their own for it.
    pub field: String,
}

impl ChunkSpec {
    /// Returns everything that decides where texts are cut, for digests.
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

/// Cuts texts as a [`ChunkSpec`] specifies.
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
    /// Creates a chunker that counts tokens with `tokens`. An overlap that is too large to leave room for new text is
    /// reduced to the largest one that does.
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

    /// Cuts a text into at least one piece. A text without any content is returned whole, as the only piece.
    ///
    /// # Errors
    /// Returns [`TooMany`] if there are more than [`MAX_CHUNKS`].
    pub fn split<'a>(&'a self, text: &'a str) -> Result<Vec<&'a str>, TooMany> {
        let mut chunks: Vec<&str> = Vec::new();
        let (mut start, mut covered, mut width) = (0, 0, WINDOW);
        loop {
            let end = text.floor_char_boundary(start + width);
            let window = &text[start..end];
            let mut pieces = self.pieces(window);
            let next = if end == text.len() {
                None
            } else if pieces.len() < LEAST_PIECES {
                width *= 2;
                continue;
            } else {
                let kept = self.kept(window, &pieces);
                let next = start + pieces[kept].0;
                debug_assert!(next > start, "each window begins behind the one before");
                pieces.truncate(kept);
                Some(next)
            };
            for (offset, piece) in pieces {
                let piece_end = start + offset + piece.len();
                // With an overlap, the first piece of a window may lie within the last piece of the window before.
                if piece_end > covered {
                    chunks.push(piece);
                    covered = piece_end;
                }
            }
            if chunks.len() > MAX_CHUNKS {
                return Err(TooMany);
            }
            match next {
                Some(next) => start = next,
                None if chunks.is_empty() => return Ok(vec![text]),
                None => return Ok(chunks),
            }
        }
    }

    /// Returns the pieces of a window with their offsets, but no more than are needed to detect that there are too many.
    fn pieces<'a>(&'a self, window: &'a str) -> Vec<(usize, &'a str)> {
        let most = MAX_CHUNKS + 2;
        match &self.splitter {
            Splitter::Text(splitter) => splitter.chunk_indices(window).take(most).collect(),
            Splitter::Markdown(splitter) => splitter.chunk_indices(window).take(most).collect(),
        }
    }

    /// Returns how many pieces of a window are kept; the next window begins with the first piece that is not. A window that
    /// begins inside a block of Markdown code takes the end of the block for the beginning of one, so it should begin outside.
    fn kept(&self, window: &str, pieces: &[(usize, &str)]) -> usize {
        let last = pieces.len() - 1;
        if matches!(self.splitter, Splitter::Text(_)) {
            return last;
        }
        let is_outside = |&piece: &usize| fences(&window[..pieces[piece].0]).is_multiple_of(2);
        (pieces.len() / 2..=last).rev().find(is_outside).unwrap_or(last)
    }
}

/// Returns how many lines begin or end a block of Markdown code.
fn fences(text: &str) -> usize {
    let is_fence = |line: &&str| line.trim_start().starts_with("```") || line.trim_start().starts_with("~~~");
    text.lines().filter(is_fence).count()
}

impl fmt::Debug for Chunker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Chunker").field(&self.spec).finish()
    }
}

/// The error for a text that has more than [`MAX_CHUNKS`] pieces.
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

    /// Returns the pieces of a text that is cut as one window.
    fn at_once<'a>(chunker: &'a Chunker, text: &'a str) -> Vec<&'a str> {
        chunker.pieces(text).into_iter().map(|(_, piece)| piece).collect()
    }

    #[test]
    fn a_long_text_without_any_sentence_is_cut_in_seconds() {
        // Cut as a whole, a tenth of this text takes minutes.
        let text = "lorem ipsum ".repeat(1_000_000);
        let began = std::time::Instant::now();
        let chunks = chunker(Unit::Tokens, 256, 0, false).split(&text).unwrap().len();
        assert_eq!(chunks, 2_000_000_usize.div_ceil(256));
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "{:?}", began.elapsed());
    }

    #[test]
    fn windows_cut_a_long_text_where_it_would_be_cut_as_a_whole() {
        let sentence =
            |number: usize| format!("Sentence number {number} has some words, é.{}", [" ", "\n\n"][number % 7 / 6]);
        let text: String = (0..3_000).map(sentence).collect();
        assert!(text.len() > 3 * WINDOW);
        for (unit, length, overlap) in [(Unit::Tokens, 64, 0), (Unit::Tokens, 64, 16), (Unit::Sentences, 5, 2)] {
            for markdown in [false, true] {
                let chunker = chunker(unit, length, overlap, markdown);
                assert_eq!(chunker.split(&text).unwrap(), at_once(&chunker, &text), "{:?}", chunker.spec);
            }
        }
    }

    #[test]
    fn chunks_may_be_longer_than_a_window() {
        let text = "word ".repeat(8 * WINDOW);
        let chunker = chunker(Unit::Tokens, WINDOW, 0, false);
        assert_eq!(chunker.split(&text).unwrap().len(), 8);
        assert_eq!(split(&chunker, &" ".repeat(3 * WINDOW)).len(), 1);
    }

    #[test]
    fn a_window_does_not_begin_inside_a_block_of_markdown_code() {
        let block = "# Heading\n\nSome words.\n\n```\n# no heading\n\n# nor this\n```\n\n";
        let text = block.repeat(2_000);
        let chunker = chunker(Unit::Tokens, 16, 0, true);
        assert_eq!(chunker.split(&text).unwrap(), at_once(&chunker, &text));
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
                // With an overlap, a chunk begins before the end of the previous one. No words may lie between two chunks.
                let start = chunk.as_ptr() as usize - text.as_ptr() as usize;
                let covered = text.len() - rest.len();
                prop_assert!(start <= covered || text[covered..start].trim().is_empty());
                rest = &text[(start + chunk.len()).max(covered)..];
            }
            prop_assert!(rest.trim().is_empty());
        }
    }
}
