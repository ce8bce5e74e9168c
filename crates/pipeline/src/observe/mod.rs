//! What the status, the metrics and the traces show.
//!
//! - [`status`]: the status, as the API and `walvec status` give it
//! - [`telemetry`]: keeps the status and the metrics up to date
//! - [`metrics`](mod@metrics): the metrics and what they mean
//! - [`problems`]: transient problems, shown until their owners recover
//! - [`lock_waits`]: statements that wait for each other's locks while tables are read
//! - [`trace`]: follows a change across processes
//! - `recorded`: keeps what is recorded, for tests

pub(crate) mod lock_waits;
pub mod metrics;
pub(crate) mod problems;
#[cfg(test)]
pub(crate) mod recorded;
pub mod status;
pub mod telemetry;
pub mod trace;
