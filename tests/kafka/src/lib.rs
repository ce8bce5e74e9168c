//! Apache Kafka itself for a test: one broker on 127.0.0.1, gone when the test ends.
//!
//! - [`TestBroker`]: starts, stops, is killed, pauses, starts again with its data
//! - [`Options`]: how the broker is configured
//! - [`available`], [`can_test`]: whether this machine can run one
//! - `access`: the broker's own commands, and access rights
//! - `config`: the broker's properties
//! - `guard`: the process that ends the broker and removes its files however the test ends, `kill -9` included
//! - `installation`: Java and the broker's jars, which `scripts/fetch-kafka.sh` fetches
//! - `java`: a running broker process, and its log
//! - `ports`: ports that no client takes while the broker is down
//! - `tls`: an authority and certificates of the test's own
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use walvec_test_kafka::{Options, TestBroker};
//!
//! let broker = TestBroker::start(Options::default()).await?;
//! // ... a client writes to `broker.bootstrap()` ...
//! broker.kill().await?;
//! // ... and waits ...
//! broker.start_again().await?;
//! # Ok(())
//! # }
//! ```

// Test code: it may panic, and its errors are read by the person who wrote the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod broker;
mod config;
mod guard;
mod installation;
mod java;
mod options;
mod ports;
mod tls;

pub use access::{Operation, Resource};
pub use broker::TestBroker;
pub use installation::{Missing, available, can_test};
pub use options::{Options, Protocols, Sasl, Security, User};
pub use tls::ClientCertificate;
