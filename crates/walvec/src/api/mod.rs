//! What requests and answers of the HTTP API say: for the server, for the commands that ask it, and for tests.
//!
//! - [`collections`]: the collections and their fields
//! - [`dead_letters`]: parked rows
//! - [`tasks`]: long work

pub(crate) mod collections;
pub(crate) mod dead_letters;
pub(crate) mod tasks;
