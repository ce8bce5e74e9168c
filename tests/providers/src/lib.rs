//! Who embeds, for tests: a provider that speaks the three protocols over HTTP, and misbehaves when it is told to; and a
//! static model.
//!
//! - [`TestProvider`]: the server, what it was asked, and how it is told to misbehave
//! - [`Fault`]: in which ways
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
