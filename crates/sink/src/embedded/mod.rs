//! Qdrant's own engine inside this process. Only this module and `keywords` name `qdrant_edge`.
//!
//! ```text
//!  writes ──▶ writer (one at a time) ──▶ journal ──▶ Store ◀── readers (blocking pool)
//!                └─ index build (one thread, now and then)
//! ```
//!
//! - [`Directory`] (`aliases`): which collection a name stands for
//! - [`data_dir`]: the lock that keeps a second process out
//! - `paths`: where the files of a collection lie
//! - [`Embedded`]: a collection (`collection`), or its stand-in in a program without the engine (`absent`)
//! - `manifest`: what a collection was made for
//! - `store`: opening, closing and reopening the engine; its panics become errors; room on the disk
//! - `engine_log`: the engine's own log: numbering and growth
//! - `journal`: changes on their way into the files, recorded in case they are cut short; one for all collections
//! - `legacy`: changes that an earlier version of walvec left
//! - `duplicates`: points that an index build left twice when it was cut short
//! - `writer`: the owner of every change
//! - `owner_queue`: the queue in front of that owner
//! - `steps`: a batch as the engine takes it, checked before anything is changed
//! - `read`: retrieve, count, scroll, search
//! - `indexes`: the payload indexes of a collection
//! - `convert`: ids, filters and errors in the engine's types

/// Marks a step at which a test can crash the program; does nothing without the feature `failpoints`.
#[cfg(feature = "embedded")]
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name, |_| std::process::abort());
    };
}

#[cfg(not(feature = "embedded"))]
mod absent;
mod aliases;
#[cfg(feature = "embedded")]
mod collection;
#[cfg(feature = "embedded")]
mod convert;
pub mod data_dir;
#[cfg(feature = "embedded")]
mod duplicates;
#[cfg(feature = "embedded")]
mod engine_log;
#[cfg(feature = "embedded")]
mod indexes;
#[cfg(feature = "embedded")]
mod journal;
#[cfg(feature = "embedded")]
mod legacy;
#[cfg_attr(not(feature = "embedded"), expect(dead_code, reason = "only a collection that can be opened has all of it"))]
mod manifest;
#[cfg(feature = "embedded")]
mod owner_queue;
mod paths;
#[cfg(feature = "embedded")]
mod read;
#[cfg(feature = "embedded")]
mod steps;
#[cfg(feature = "embedded")]
mod store;
#[cfg(feature = "embedded")]
mod writer;

#[cfg(not(feature = "embedded"))]
pub use absent::Embedded;
pub use aliases::Directory;
#[cfg(feature = "embedded")]
pub use collection::Embedded;
pub use data_dir::{DataDir, create_private_dir};
