//! How much of a text a model reads.
//!
//! What comes behind it has no part in the vector, and is not found. So nobody may leave it out without a word: whoever writes rows asks
//! for vectors of whole texts first ([`Embedder::embed_whole`](crate::Embedder::embed_whole)), and decides about those that are too long.

use std::fmt;

/// How much of a text a model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// So many tokens, special ones included.
    Tokens(usize),
    /// So many tokens, of which texts can only be estimated to have as many: the provider has the tokenizer.
    Estimated(usize),
    /// So many bytes.
    Bytes(usize),
}

impl fmt::Display for Reads {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens(tokens) | Self::Estimated(tokens) => write!(formatter, "{tokens} tokens"),
            Self::Bytes(bytes) => write!(formatter, "{bytes} bytes"),
        }
    }
}
