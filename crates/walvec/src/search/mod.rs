//! Searches: what callers write, what it means for a collection, and finding the hits.
//!
//! - [`request`], [`body`]: a search as query strings and JSON bodies say it, checked
//! - [`filter`]: conditions on fields, as they are written
//! - [`resolve`]: the meaning of a condition for the field that it names
//! - [`enum_labels`]: whether an enum has the label that it is compared with
//! - [`mode`]: whether a search compares meaning, words, or both
//! - [`ranking`]: the order of the hits, and a page of them
//! - [`cursor`]: where the next page of a search begins
//! - [`order`]: in which order points are listed
//! - [`serving`]: what searches need of the collections
//! - [`description`]: a collection's description for programs
//! - [`searcher`]: embed, search, count
//! - [`words`]: the words of a query inside texts

pub(crate) mod body;
pub(crate) mod cursor;
pub(crate) mod description;
mod enum_labels;
pub(crate) mod filter;
pub(crate) mod mode;
pub(crate) mod order;
pub(crate) mod ranking;
pub(crate) mod request;
pub(crate) mod resolve;
pub(crate) mod searcher;
pub(crate) mod serving;
pub(crate) mod words;
