//! An embedding provider for tests: it speaks the three protocols over HTTP, and misbehaves when it is told to.
//!
//! - [`TestProvider`]: the server, what it was asked, and how it is told to misbehave
//! - [`Fault`]: in which ways
//! - `protocols`: requests and answers
//!
//! Its vectors are those of `hash/64`.

mod fault;
mod protocols;
mod server;

pub use fault::Fault;
pub use server::{Asked, TestProvider};

/// The dimension of its vectors, unless a request names another.
pub const DIMENSION: usize = 64;
