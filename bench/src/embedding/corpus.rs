//! Texts to embed: the same ones each time.

use anyhow::Context as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Deserialize;

/// The numbers of tokens of the shortest and of the longest text.
const LENGTHS: std::ops::RangeInclusive<usize> = 5..=300;

#[derive(Deserialize)]
struct Book {
    name: String,
    author: String,
    description: String,
}

/// Returns the texts of the demo's books, as the demo embeds them.
pub(crate) fn catalogue() -> anyhow::Result<Vec<String>> {
    let catalogue: Vec<Book> = serde_json::from_str(include_str!("../../../crates/walvec/src/demo/catalogue.json"))?;
    let text = |book: &Book| format!("{} by {}. {}", book.name, book.author, book.description);
    Ok(catalogue.iter().map(text).collect())
}

/// Returns `count` texts as the demo embeds them.
pub(crate) fn texts(count: usize) -> anyhow::Result<Vec<String>> {
    Ok(catalogue()?.into_iter().cycle().take(count).collect())
}

/// Returns `count` texts of words of the catalogue. Their lengths, as `tokens` counts them, are spread evenly over [`LENGTHS`], in
/// random order.
pub(super) fn spread(count: usize, tokens: impl Fn(&str) -> usize) -> anyhow::Result<Vec<String>> {
    let books = catalogue()?.join(" ");
    let words: Vec<(&str, usize)> = books.split_whitespace().map(|word| (word, tokens(word))).collect();
    ensure_words(&words)?;
    let mut random = StdRng::seed_from_u64(5);
    let text = |_| {
        let wanted = random.random_range(LENGTHS);
        let (mut text, mut length) = (String::new(), 0);
        while length < wanted {
            let (word, tokens) = words[random.random_range(0..words.len())];
            text.push_str(word);
            text.push(' ');
            length += tokens;
        }
        text
    };
    Ok((0..count).map(text).collect())
}

/// Checks that the words have tokens: a text of words without tokens would never be long enough.
fn ensure_words(words: &[(&str, usize)]) -> anyhow::Result<()> {
    words.iter().find(|(_, tokens)| *tokens > 0).map(drop).context("the model knows no word of the catalogue")
}
