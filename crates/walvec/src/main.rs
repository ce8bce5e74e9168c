//! `walvec` keeps a Qdrant collection an exact, live, searchable image of PostgreSQL tables.
//!
//! From the ground floor up; a module uses only what stands above it in this list:
//!
//! - [`config`]: walvec.yaml, the environment and the flags, validated before anything connects
//! - [`failure`]: an error with its code and its remedy; [`codes`]: the meaning of every code
//! - [`private_file`]: files that only their owner may read; [`terminal`]: what a person sees on stderr
//! - [`api`]: what requests and answers of the HTTP API say
//! - [`tasks`]: long work, one task at a time
//! - [`search`]: what a search means, and finding its hits
//! - [`assembly`]: from a configuration to the parts that run
//! - [`model_check`]: whether a provider has another model now under the same name
//! - [`reindex`]: new collections that take over from the served ones
//! - [`http`]: the HTTP API, health and metrics; [`ui`]: the search page
//! - [`daemon`]: runs the pipeline and its HTTP server until they are told to stop
//! - [`client`]: requests of a command to a running walvec
//! - [`demo`]: a temporary PostgreSQL with a catalogue of books
//! - [`cli`]: the commands, one file each; exit codes and how failures are printed

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod api;
mod assembly;
mod cli;
mod client;
mod codes;
mod config;
mod daemon;
mod demo;
mod failure;
mod http;
mod model_check;
mod private_file;
mod reindex;
mod search;
mod tasks;
mod terminal;
#[cfg(test)]
mod testkit;
mod ui;

use std::process::ExitCode;

/// The C library's allocator keeps what threads have freed: after a million rows that was half of the memory of the process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let (arguments, wants_json) = cli::parse();
    // The provider for all TLS except librdkafka's. It fails only if one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let _traces = cli::logging::start(&arguments);
    #[cfg(feature = "failpoints")]
    let _failpoints = fail::FailScenario::setup();
    let logs_json = arguments.logs_json();
    match cli::execute(arguments) {
        Ok(code) => code,
        Err(failure) => cli::failed::show(&failure, wants_json, logs_json),
    }
}
