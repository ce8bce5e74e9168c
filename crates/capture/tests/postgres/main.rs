//! Capture against real PostgreSQL. One throw-away cluster for all tests, one database for each.
//!
//! `WALVEC_POSTGRES` chooses the server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod connecting;
mod feedback;
mod handover;
mod hosts;
mod keys;
mod preflight;
mod rights;
mod shapes;
mod support;
mod values;
