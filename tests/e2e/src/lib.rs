//! The harness of the end-to-end tests: the real program against real PostgreSQL servers.
//!
//! - [`suite`]: a list of tests, each run once per server, under a name that ends in the server's version
//! - [`servers`]: which servers, and what they can do
//! - [`context`]: what a test gets: a database of its own, a directory, a way to start walvec
//! - [`settings`]: a walvec.yaml
//! - [`kafka`]: a broker between the stages, and how far its groups have come
//! - [`records`]: records of topics, written and read as any other program would
//! - [`others`]: programs that are not walvec
//! - [`files`]: copies of data directories
//! - [`image`]: whether a collection is the exact image of a table; `layout`: in which form
//!
//! The crate `walvec-test-program` has walvec as a child process: [`Walvec`], and [`wait`].
//!
//! A test is an `async fn(TestContext) -> anyhow::Result<()>`, listed in its module's `tests()`:
//!
//! ```text
//! pub fn tests() -> Vec<Test> {
//!     vec![
//!         test!(an_inserted_row_can_be_found),
//!         test!(a_row_that_leaves_the_filter_is_gone).since(15),
//!         test!(a_lost_slot_stops_the_pipeline_by_name).on_own_server(&[("max_slot_wal_keep_size", "1MB")]),
//!     ]
//! }
//! ```

// A harness is test code: it may panic, and its errors are read by the person who wrote the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod context;
pub mod files;
pub mod image;
pub mod kafka;
mod layout;
pub mod others;
pub mod records;
pub mod servers;
pub mod settings;
pub mod suite;

pub use context::TestContext;
pub use image::Expected;
pub use kafka::Kafka;
pub use servers::Server;
pub use settings::{Collection, Settings};
pub use suite::Test;
pub use walvec_test_program::{Walvec, wait};
pub use walvec_transform::PayloadLayout;

/// Returns how often a test repeats a random trial: `full` times for `make prove`, a tenth of that otherwise, and at least
/// once.
#[must_use]
pub fn repeats(full: u64) -> u64 {
    if is_full() { full } else { (full / 10).max(1) }
}

/// Returns whether this run is `make prove`.
#[must_use]
pub fn is_full() -> bool {
    std::env::var_os("WALVEC_TEST_FULL").is_some_and(|value| !value.is_empty())
}
