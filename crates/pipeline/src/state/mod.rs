//! What survives a restart.
//!
//! - [`records`]: what the state file holds about the source, the tables and the collections
//! - [`store`]: the state file
//! - [`checkpoint`]: the only module that advances the confirmed position
//! - [`dead_letters`]: dead letters, and where they are stored; [`dead_letters_topic`]: in a topic
//! - [`witness`]: proof that a collection is not an older state of itself

pub mod checkpoint;
pub mod dead_letters;
pub mod dead_letters_topic;
pub mod records;
pub mod store;
pub(crate) mod witness;
