//! Tests of capture with a real PostgreSQL: one temporary cluster for all tests, and one database for each.
//!
//! `WALVEC_POSTGRES` chooses the server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod blockers;
mod columns;
mod connecting;
mod feedback;
mod filters;
mod handover;
mod hosts;
mod keys;
mod locks;
mod poolers;
mod preflight;
mod publications;
mod rights;
mod shapes;
mod silence;
mod support;
mod values;
