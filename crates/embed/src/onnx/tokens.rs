//! Text to token ids, cut at the model's limit, at a cost bounded by that limit rather than by the length of the text.

use std::path::Path;

use tokenizers::{Encoding, PostProcessor, Tokenizer, TruncationDirection};

use crate::EmbedError;

/// How much of a text is tokenized first, per token of the limit. Languages need 2 to 6 bytes per token, so the first
/// attempt nearly always suffices.
const BYTES_PER_TOKEN: usize = 16;

/// How many bytes of a text are read at most. It makes a difference only for a text that has fewer words in this many bytes
/// than the model's limit has tokens: one endless word, or blank space. Such a text is embedded by its beginning; tokenizing
/// a gigabyte of it would take fifty times as much memory.
const MOST_BYTES: usize = 1 << 20;

/// One text as the network wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tokens {
    pub(super) ids: Vec<u32>,
    pub(super) type_ids: Vec<u32>,
    /// Whether the text goes on after these tokens.
    pub(super) is_cut: bool,
}

/// A model's tokenizer with its limit.
pub(super) struct TextTokenizer {
    tokenizer: Tokenizer,
    /// How many tokens of the text fit, apart from the special ones.
    room: usize,
    lowercase: bool,
}

impl TextTokenizer {
    /// Loads `file` (`tokenizer.json`). Its settings for truncation and padding are ignored: they are defaults of other
    /// tools, not the model's limits.
    pub(super) fn load(file: &Path, max_tokens: usize, lowercase: bool) -> Result<Self, EmbedError> {
        let bad = |reason: String| EmbedError::Model { path: file.to_owned(), reason };
        let mut tokenizer = Tokenizer::from_file(file).map_err(|error| bad(error.to_string()))?;
        tokenizer.with_padding(None).with_truncation(None).map_err(|error| bad(error.to_string()))?;
        let special = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        let room = max_tokens.checked_sub(special).filter(|&room| room > 0).ok_or_else(|| {
            bad(format!("its {special} special tokens leave no room for text in {max_tokens} tokens"))
        })?;
        Ok(Self { tokenizer, room, lowercase })
    }

    /// Returns the id that fills up the shorter texts of a batch. Attention ignores it, so any valid id serves.
    pub(super) fn padding_id(&self) -> u32 {
        ["[PAD]", "<pad>"].iter().find_map(|token| self.tokenizer.token_to_id(token)).unwrap_or(0)
    }

    /// Returns the tokens of `text`, special tokens included, cut at the model's limit.
    pub(super) fn tokens(&self, text: &str) -> Result<Tokens, EmbedError> {
        let failed =
            |error: tokenizers::Error| EmbedError::Text { bytes: text.len(), reason: format!("tokenizer: {error}") };
        let (mut content, is_rest_unread) = self.beginning(text).map_err(failed)?;
        let is_cut = is_rest_unread || content.len() > self.room;
        content.truncate(self.room, 0, TruncationDirection::Right);
        // `truncate` keeps the tokens that it cuts off, and later steps would process them too.
        content.set_overflowing(Vec::new());
        let encoding = self.tokenizer.post_process(content, None, true).map_err(failed)?;
        Ok(Tokens { ids: encoding.get_ids().to_vec(), type_ids: encoding.get_type_ids().to_vec(), is_cut })
    }

    /// Returns how many tokens `text` has, without special ones and without the model's limit. A text that cannot be
    /// tokenized is parked when it is embedded; until then its bytes count as tokens.
    pub(super) fn count(&self, text: &str) -> usize {
        self.encode(text).map_or(text.len(), |encoding| encoding.len())
    }

    /// Returns an encoding whose first `room` tokens are those of the whole text, and whether it leaves out a part of the
    /// text.
    ///
    /// A tokenizer cuts a text into words and then each word into tokens, so tokens of words that end well before the cut do
    /// not depend on what follows. The last two words of a piece are not trusted: the cut may have split the last one, and
    /// some tokenizers look one character ahead. A tokenizer that does not split words makes one word of everything, and is
    /// given the whole text.
    fn beginning(&self, text: &str) -> Result<(Encoding, bool), tokenizers::Error> {
        let longest = text.len().min(MOST_BYTES);
        let mut bytes = self.room.saturating_mul(BYTES_PER_TOKEN);
        loop {
            let piece = &text[..text.floor_char_boundary(bytes.min(longest))];
            let encoding = self.encode(piece)?;
            if bytes >= longest || finished(&encoding) >= self.room {
                return Ok((encoding, piece.len() < text.len()));
            }
            bytes = bytes.saturating_mul(4);
        }
    }

    /// Does not use `encode_fast`, which leaves out the word that a token belongs to.
    fn encode(&self, piece: &str) -> Result<Encoding, tokenizers::Error> {
        if self.lowercase {
            self.tokenizer.encode(piece.to_lowercase(), false)
        } else {
            self.tokenizer.encode(piece, false)
        }
    }
}

/// Returns how many tokens come before the last two words.
fn finished(encoding: &Encoding) -> usize {
    let words = encoding.get_word_ids();
    let Some(last) = words.iter().rev().find_map(|word| *word) else { return 0 };
    words.iter().position(|word| word.is_some_and(|word| word + 1 >= last)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use tokenizers::{
        models::wordpiece::WordPiece, normalizers::BertNormalizer, pre_tokenizers::bert::BertPreTokenizer,
        processors::template::TemplateProcessing,
    };

    use super::*;

    const ROOM: usize = 6;

    /// Makes a BERT tokenizer that knows a few words; with `words`, it cuts a text into words first.
    fn tokenizer(words: bool) -> TextTokenizer {
        let vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "whale", "##s", "the", "sea", ",", "whales"];
        let mut ids = 0..;
        let vocabulary = vocabulary.map(|word| (word.to_owned(), ids.next().unwrap()));
        let model = WordPiece::builder().vocab(vocabulary).unk_token("[UNK]".into()).build().unwrap();
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_normalizer(Some(BertNormalizer::default())).unwrap();
        if words {
            tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
        }
        let template = TemplateProcessing::builder()
            .try_single("[CLS] $A [SEP]")
            .unwrap()
            .special_tokens(vec![("[CLS]", 2), ("[SEP]", 3)])
            .build()
            .unwrap();
        tokenizer.with_post_processor(Some(template));
        TextTokenizer { tokenizer, room: ROOM, lowercase: false }
    }

    /// Returns the ids of the whole text, cut at the limit afterwards.
    fn ids_of_all(tokenizer: &TextTokenizer, text: &str) -> Vec<u32> {
        let all = tokenizer.tokenizer.encode(text, false).unwrap();
        let content = &all.get_ids()[..all.len().min(ROOM)];
        [&[2], content, &[3]].concat()
    }

    #[test]
    fn reading_the_beginning_only_gives_the_tokens_of_the_whole_text() {
        let tokenizer = tokenizer(true);
        let piece = ROOM * BYTES_PER_TOKEN;
        let mut texts = vec![
            String::new(),
            "whale".to_owned(),
            "the whale , the sea ".repeat(1_000),
            format!("{}whales the sea", " ".repeat(10 * piece)),
            "the,".repeat(1_000),
            format!("{} sea", "x".repeat(20 * piece)),
            "é the日本".repeat(500),
        ];
        // Every way in which the end of the first piece can meet a word.
        texts.extend((piece - 8..piece + 8).map(|pad| format!("{}whales the sea the whales sea", " ".repeat(pad))));
        for text in texts {
            let tokens = tokenizer.tokens(&text).unwrap();
            assert_eq!(tokens.ids, ids_of_all(&tokenizer, &text), "{text:.60}");
            assert_eq!(tokens.is_cut, tokenizer.count(&text) > ROOM, "{text:.60}");
        }
    }

    #[test]
    fn a_long_text_is_not_read_to_its_end() {
        let tokenizer = tokenizer(true);
        let text = "the whale ".repeat(1_000_000);
        assert!(tokenizer.beginning(&text).unwrap().0.len() < 100);
        let endless = "x".repeat(3 * MOST_BYTES);
        assert_eq!(tokenizer.tokens(&endless).unwrap().ids, [2, 1, 3]);
    }

    #[test]
    fn a_tokenizer_without_words_is_given_the_whole_text() {
        let tokenizer = tokenizer(false);
        let text = "whale".to_owned() + &"s".repeat(94);
        assert!(text.len() > ROOM * BYTES_PER_TOKEN);
        assert_eq!(tokenizer.tokens(&text).unwrap().ids, ids_of_all(&tokenizer, &text));
        assert_eq!(tokenizer.beginning(&text).unwrap().0.len(), 94);
    }
}
