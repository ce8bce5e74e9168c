//! Tests of the test broker itself, with a real broker.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod end;
mod rights;
mod serving;
