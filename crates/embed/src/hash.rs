//! An embedder without a model: signed feature hashing of words (Weinberger et al., 2009, "Feature Hashing for Large Scale
//! Multitask Learning").
//!
//! It is lexical only: texts are near each other when they share words, and "car" is as far from "automobile" as from
//! anything else. It is meant for tests, and for trying a pipeline before a model is installed.
//!
//! `hash/<dimension>/wait/<ms>` waits that many milliseconds in every call, as if it were a provider on the network: for
//! measurements, and for tests in which something happens while texts are being embedded.

use std::time::Duration;

use walvec_model::Vector;

use crate::{BoxFuture, EmbedError, Embedder, EmbedderInfo};

/// The part of the name before the dimension.
pub const PREFIX: &str = "hash/";

/// The part of the name before the milliseconds.
const WAIT: &str = "/wait/";

/// The longest wait per call: longer than any provider needs.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// The largest dimension that a Qdrant collection accepts.
const MAX_DIMENSION: usize = 65_536;

/// Deterministic bag-of-words vectors; named `hash/<dimension>` or `hash/<dimension>/wait/<ms>`.
#[derive(Debug)]
pub struct HashEmbedder {
    info: EmbedderInfo,
    /// The pause in each call. It does not change the vectors, so it is not part of the model's name.
    wait: Option<Duration>,
}

impl HashEmbedder {
    /// Creates an embedder whose vectors have `dimension` numbers.
    ///
    /// # Errors
    /// [`EmbedError::ModelName`] when the dimension is not in 1 to 65,536.
    pub fn new(dimension: usize) -> Result<Self, EmbedError> {
        Self::from_name(&format!("{PREFIX}{dimension}"))
    }

    /// Creates the embedder called `hash/<dimension>` or `hash/<dimension>/wait/<ms>`.
    ///
    /// # Errors
    /// [`EmbedError::ModelName`] when the dimension is not a number in 1 to 65,536, or the wait not one in 0 to 600,000.
    pub fn from_name(name: &str) -> Result<Self, EmbedError> {
        let refused = |reason| EmbedError::ModelName { name: name.to_owned(), reason };
        let rest = name.strip_prefix(PREFIX).unwrap_or_default();
        let (dimension, wait) = rest.split_once(WAIT).map_or((rest, None), |(before, after)| (before, Some(after)));
        let dimension = dimension.parse().ok().filter(|dimension| (1..=MAX_DIMENSION).contains(dimension));
        let dimension =
            dimension.ok_or_else(|| refused("the dimension after \"hash/\" must be a number from 1 to 65536"))?;
        let millis = |text: &str| text.parse().ok().map(Duration::from_millis).filter(|wait| *wait <= MAX_WAIT);
        let too_long = || refused("after \"/wait/\" there must be milliseconds, at most 600000");
        let wait = wait.map(|text| millis(text).ok_or_else(too_long)).transpose()?;
        Ok(Self {
            info: EmbedderInfo {
                model: format!("{PREFIX}{dimension}"),
                revision: "1".to_owned(),
                dimension,
                max_tokens: usize::MAX,
                pooling: "sum".to_owned(),
            },
            wait,
        })
    }

    fn vector(&self, text: &str) -> Vector {
        let mut vector = vec![0.0_f32; self.info.dimension];
        let lower = text.to_lowercase();
        for word in words(&lower) {
            let (slot, sign) = self.feature(word);
            vector[slot] += sign;
        }
        // The text has no word, or its words cancel out. The contract promises a vector of length 1 for every text.
        if vector.iter().all(|&x| x == 0.0) {
            vector[0] = 1.0;
        }
        crate::normalize(&mut vector);
        vector
    }

    /// Returns the dimension in which `word` counts, and its sign.
    fn feature(&self, word: &str) -> (usize, f32) {
        let hash = blake3::hash(word.as_bytes());
        let bytes = hash.as_bytes();
        let number = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        (number % self.info.dimension, if bytes[4] & 1 == 0 { 1.0 } else { -1.0 })
    }
}

impl Embedder for HashEmbedder {
    fn info(&self) -> &EmbedderInfo {
        &self.info
    }

    /// Counts words: they are the tokens of this embedder.
    fn count_tokens(&self, text: &str) -> usize {
        words(&text.to_lowercase()).count()
    }

    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>> {
        Box::pin(async move {
            if let Some(wait) = self.wait {
                tokio::time::sleep(wait).await;
            }
            Ok(texts.iter().map(|text| Ok(self.vector(text))).collect())
        })
    }

    fn is_local(&self) -> bool {
        true
    }
}

/// Splits a text, already in lower case, into words.
fn words(lower: &str) -> impl Iterator<Item = &str> {
    lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn texts_that_share_words_are_nearer_than_texts_that_do_not() {
        let hash = HashEmbedder::new(64).unwrap();
        let query = hash.vector("A whale, and a captain!");
        let near = cosine(&query, &hash.vector("the captain saw the WHALE"));
        let far = cosine(&query, &hash.vector("linear algebra for engineers"));
        assert!(near > far, "{near} {far}");
    }

    #[test]
    fn every_text_has_a_vector_of_length_one() {
        for dimension in [1, 2, 64] {
            let hash = HashEmbedder::new(dimension).unwrap();
            for text in ["", "!?", "one", "one two three four five", "日本語", "a a a a"] {
                let vector = hash.vector(text);
                assert_eq!(vector.len(), dimension);
                assert!((cosine(&vector, &vector) - 1.0).abs() < 1e-5, "{text}");
            }
        }
    }

    #[test]
    fn a_vector_never_changes_between_versions() {
        // The expected numbers are fixed, so that vectors stored by earlier tests and trials stay comparable.
        let vector = HashEmbedder::new(8).unwrap().vector("Call me Ishmael. Some years ago, never mind how long");
        let signs: Vec<f32> = vector.iter().map(|x| if *x == 0.0 { 0.0 } else { x.signum() }).collect();
        assert_eq!(signs, [0.0, -1.0, 1.0, 0.0, -1.0, 1.0, 0.0, -1.0]);
    }

    #[test]
    fn a_dimension_that_no_collection_accepts_is_refused() {
        for name in ["hash/0", "hash/65537", "hash/", "hash/x", "hash/-1"] {
            assert_eq!(HashEmbedder::from_name(name).unwrap_err().code(), "E_MODEL_NAME", "{name}");
        }
    }

    #[test]
    fn a_wait_changes_nothing_but_the_time() {
        let (at_once, later) = (HashEmbedder::new(8).unwrap(), HashEmbedder::from_name("hash/8/wait/250").unwrap());
        assert_eq!((later.info(), later.wait), (at_once.info(), Some(Duration::from_millis(250))));
        for name in
            ["hash/8/wait/", "hash/8/wait/x", "hash/8/wait/600001", "hash/8/wait", "hash/8/250", "hash/wait/250"]
        {
            assert_eq!(HashEmbedder::from_name(name).unwrap_err().code(), "E_MODEL_NAME", "{name}");
        }
    }
}
