//! `walvec` keeps a Qdrant collection an exact, live, searchable image of PostgreSQL tables.
//!
//! - [`cli`]: the commands, one file each; exit codes and how failures are printed
//! - [`client`]: requests of a command to a running walvec
//! - [`codes`]: the meaning of every error code
//! - [`failure`]: an error with its code and its remedy
//! - [`private_file`]: files that only their owner may read
//! - [`terminal`]: what a person sees on stderr
//! - [`config`]: walvec.yaml, the environment and the flags, validated before anything connects
//! - [`api`]: what requests and answers of the HTTP API say
//! - [`app`]: assembles a pipeline from a configuration
//! - [`collection`]: opens a collection where the configuration says it lives
//! - [`serve`]: runs the pipeline and its HTTP server until they are told to stop
//! - [`broker`] and [`staged`]: the stages of a process that works through a broker, and running them
//! - [`supervise`]: runs the pipeline, and handles requests for long work
//! - [`tasks`]: long work, and its progress
//! - [`reindex`] and [`remembered`]: new collections that take over from the served ones, and what a later start
//!   has to know
//! - [`swapped`]: whether a provider has another model now under the same name
//! - [`last_run`]: how the last run on a data directory ended
//! - [`http`] and [`ui`]: the HTTP API, health, metrics and the search page
//! - [`search`]: what a search means, and finding its hits
//! - [`labels`]: the labels of enums
//! - [`demo`]: a throw-away PostgreSQL with a catalogue of books

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod api;
mod app;
mod broker;
mod cli;
mod client;
mod codes;
mod collection;
mod config;
mod demo;
mod failure;
mod http;
mod labels;
mod last_run;
mod private_file;
mod reindex;
mod remembered;
mod search;
mod serve;
mod staged;
mod supervise;
mod swapped;
mod tasks;
mod terminal;
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
