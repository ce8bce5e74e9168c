//! What requests and answers of the HTTP API say: for the server, for the commands that ask it, and for tests.
//!
//! - [`search`], [`score`]: the answer of a search
//! - [`collections`]: the collections and their fields
//! - [`dead_letters`]: parked rows
//! - [`points`]: points exactly as they are stored
//! - [`tasks`]: long work
//! - [`problem`]: what went wrong with a request
//! - [`schema`]: schemas of values whose types belong to other crates
//! - [`announcement`]: where a running walvec is, and the key of its owner

pub(crate) mod announcement;
pub(crate) mod collections;
pub(crate) mod dead_letters;
pub(crate) mod points;
pub(crate) mod problem;
pub(crate) mod schema;
pub(crate) mod score;
pub(crate) mod search;
pub(crate) mod tasks;
