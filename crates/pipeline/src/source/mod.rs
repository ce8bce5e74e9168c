//! What is read from PostgreSQL, and in which order: how to start, what to watch, which rows to read again.
//!
//! - [`start`]: decides how to start, from the stored state and what PostgreSQL says; pure
//! - [`facts`](mod@facts): collects the facts for that decision
//! - [`anew`]: which tables must be read again at a start, while the stream of the others continues
//! - [`aside`]: tables that cannot be followed any more, while the others go on
//! - [`gap`]: changes that the stream can no longer prove to bring, and what follows; [`replay`]: proof that there are none
//! - [`owner`]: the right to write collections that other processes can reach
//! - [`filled_from`]: which database a collection is filled from
//! - [`reread`]: reads rows again while the stream goes on: backfill, repair and altered tables
//! - [`preflight`]: what must hold before a session follows the tables; [`snapshot`]: the slot of a snapshot
//! - [`rows`]: reads rows by their keys, and rows that other rows look up
//! - [`watch`]: looks at the server, the catalogue and the collections concurrently with the stream
//! - [`unseen`]: transactions that the stream has brought and that a statement may not see yet
//! - [`lookup_fanout`]: finds the rows whose documents use a changed row of a looked-up table
//! - `fixtures`: tables and shapes for tests

pub mod anew;
pub(crate) mod aside;
pub(crate) mod facts;
pub(crate) mod filled_from;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod gap;
pub(crate) mod lookup_fanout;
pub(crate) mod owner;
pub(crate) mod preflight;
pub(crate) mod replay;
pub mod reread;
pub(crate) mod rows;
pub(crate) mod snapshot;
pub mod start;
pub(crate) mod unseen;
pub(crate) mod watch;
