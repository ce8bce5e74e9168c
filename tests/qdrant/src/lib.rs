//! A Qdrant server inside the test process: the real protocol, the real engine, faults on command.
//!
//! - [`TestServer`]: starts, stops, restarts with or without its data
//! - [`Faults`]: which faults happen next, and to which calls
//! - [`Call`], [`Calls`]: the calls so far, and how many were in flight at once
//! - `service`: the steps that every call goes through: counting, keys, faults
//! - `collections`, `points`: the calls
//! - `query`: searches as the engine takes them
//! - `updates`: writes as the engine takes them
//! - `registry`: collections, aliases, and their engines on disk
//! - `sharding`: shards by a key
//! - `strict`: filters by fields without an index
//! - `convert`, `filter`: the protocol's terms in the engine's, and back
//! - [`RateLimits`]: how many points a collection accepts or returns per minute
//! - `wire`: connections that can be cut
//! - [`Detour`]: a proxy for the server that can hold a request back
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use walvec_test_qdrant::{Code, Fault, TestServer};
//!
//! let server = TestServer::start()?;
//! server.faults().next(Fault::Status(Code::Unavailable, "busy".to_owned()));
//! // ... a client writes to `server.url()`, is refused, tries again ...
//! server.restart().await?;
//! assert_eq!(server.calls().overlaps(), [""; 0]);
//! # Ok(())
//! # }
//! ```

// Test code: it may panic, and its errors are read by the person who wrote the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Every call answers with `tonic::Status`, whose size is not ours to choose.
#![allow(clippy::result_large_err)]

mod calls;
mod collections;
mod convert;
mod detour;
mod faults;
mod filter;
mod limits;
mod points;
mod query;
mod registry;
mod server;
mod service;
mod sharding;
mod strict;
mod updates;
mod wire;

pub use calls::{Call, Calls};
pub use detour::Detour;
pub use faults::{Fault, Faults};
pub use limits::RateLimits;
pub use qdrant_client::qdrant::UpdateStatus;
pub use server::TestServer;
pub use tonic::Code;
