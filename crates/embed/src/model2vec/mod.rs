//! Static models: a table with one vector per token, made from a larger model by [Model2Vec](https://github.com/MinishLab/model2vec).
//!
//! - `table`: its vectors
//! - `embedder`: from texts to vectors
//!
//! A text's vector is the mean of its tokens' vectors. No network runs, so a text takes microseconds instead of milliseconds. There
//! is no context either: a word means the same wherever it stands, and the order of words does not count.
//!
//! There is no limit of tokens: all of a text counts, up to a megabyte. Model2Vec's own programs read 512 tokens unless told
//! otherwise; up to there the vectors agree, except that their length is always 1 here.

#[cfg(feature = "local-models")]
mod embedder;
#[cfg(feature = "local-models")]
mod table;

#[cfg(feature = "local-models")]
pub use embedder::StaticEmbedder;
