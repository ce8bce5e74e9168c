//! Embedding models for tests: a provider that speaks the three protocols over HTTP, with faults on command, and a
//! static model.
//!
//! - [`TestProvider`]: the server, its record of requests, and its controls
//! - [`Fault`]: the faults that it can show
//! - `protocols`: requests and answers
//! - [`write_static_model`]: a model's directory
//!
//! Their vectors are those of `hash/64`.

mod fault;
mod protocols;
mod server;
mod static_model;

pub use fault::Fault;
pub use server::{Asked, TestProvider};
pub use static_model::write_static_model;

/// The dimension of its vectors, unless a request names another.
pub const DIMENSION: usize = 64;
