//! Fakes for unit tests, which fail, hold and delay on command, and builders for what the pipeline handles.
//!
//! - [`rows`]: a table, its rows and their changes
//! - [`sink`]: where points are stored
//! - [`embedder`]: what makes vectors
//! - [`row_source`]: what is read again from PostgreSQL
//! - [`source`]: PostgreSQL, as far as a running pipeline asks it
//! - [`letters`]: where dead letters are stored
//! - [`collection`]: a collection with its writer, and what writers share

pub(crate) mod collection;
pub(crate) mod embedder;
pub(crate) mod letters;
pub(crate) mod row_source;
pub(crate) mod rows;
pub(crate) mod sink;
pub(crate) mod source;

pub(crate) use collection::{CollectionOptions, TestCollection, TestShared};
pub(crate) use embedder::TestEmbedder;
pub(crate) use letters::TestLetters;
pub(crate) use row_source::TestRowSource;
pub(crate) use sink::{Fault, SinkCall, TestSink};
pub(crate) use source::{TestServer, TestSource};
