//! How much of a text a model reads.
//!
//! The rest has no part in the vector, and searches do not find it. It must not be left out silently, so writers of rows ask for vectors
//! of whole texts first ([`Embedder::embed_whole`](crate::Embedder::embed_whole)), and decide about those that are too long.

use std::fmt;

/// How much of a text a model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// This many tokens, special ones included.
    Tokens(usize),
    /// This many tokens, where the tokens of a text can only be estimated: the provider has the tokenizer.
    Estimated(usize),
    /// This many bytes.
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
