//! Temporary PostgreSQL clusters: a real server for the demo, the tests and the benchmarks, removed when they end.
//!
//! - [`installation`]: finding a PostgreSQL server (13 or newer) on this machine
//! - [`packaged`]: servers in Python and npm packages that were installed with the program
//! - [`cluster`]: a running cluster: start, stop, crash, start again
//! - [`options`]: the options of a cluster
//! - `layout`: the files of a cluster and its configuration
//! - `guard`: the process that stops the server and removes its files however the program ends, `kill -9` included
//! - `account`: the account that the server runs as, because PostgreSQL refuses to run as root
//! - `command`: running PostgreSQL's own programs
//! - `sql`: the few statements that a cluster's owner needs: create a database, drop it, connect
//! - [`volume`]: a small file system, to be filled up
//! - [`error`]: what can go wrong, and what to type then
//!
//! A server listens on 127.0.0.1 only, has logical replication switched on, and is not reachable through a socket file.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod account;
pub mod cluster;
mod command;
pub mod error;
mod guard;
pub mod installation;
mod layout;
pub mod options;
pub mod packaged;
mod sql;
pub mod volume;

pub use cluster::Cluster;
pub use error::ThrowawayError;
pub use installation::{Installation, SearchPlaces, Version};
pub use options::{Access, ClusterDir, ClusterOptions, Durability};
pub use packaged::PackagedServer;
pub use volume::Volume;
