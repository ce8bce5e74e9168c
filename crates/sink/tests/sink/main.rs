//! Guarantees to users of a sink. One binary, because the engine is large and should be linked
//! once.
//!
//! - [`writing`]: batches, deletions, sweeps, what is refused
//! - [`searching`]: order, filters, refused requests
//! - [`opening`]: locks, fingerprints, indexes, closing
//! - [`beside`]: concurrent reads, writes and index builds
//! - [`durability`]: kills at random moments; [`rounds`]: kills between the rounds of an index build
//! - [`journal`]: changes that are in the journal and not in the engine's files
//! - [`disk`]: a full disk
//! - [`limits`]: a Qdrant server with rate limits
//! - [`server`]: a collection on a Qdrant server
//! - [`tenants`]: shards by the value of a field
//! - [`layouts`]: vectors with a name, fields inside an object
//! - [`hybrid`]: sparse vectors, searches by keyword, two rankings fused
//! - [`paged`]: the hits of a search, page by page
//! - [`ordered`]: points in the order of a field, page by page

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod beside;
mod common;
mod disk;
mod durability;
mod hybrid;
mod journal;
mod layouts;
mod limits;
mod opening;
mod ordered;
mod paged;
mod rounds;
mod searching;
mod server;
mod tenants;
mod writing;
