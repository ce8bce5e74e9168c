//! Every end-to-end test, on every PostgreSQL server under test.
//!
//! - [`smoke`]: a row's way from a commit into a search, and through a restart and a kill
//! - [`harness`]: whether these tests can fail: the comparison finds every sort of difference

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod harness;
mod smoke;

use std::process::ExitCode;

fn main() -> ExitCode {
    walvec_e2e::suite::main(&[smoke::tests(), harness::tests()].concat())
}
