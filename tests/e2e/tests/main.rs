//! Every end-to-end test, on every PostgreSQL server under test.
//!
//! - [`smoke`]: a row from its commit to a search, and through a restart and a kill
//! - [`operations`]: every operation on a row, and on a table
//! - [`aside`]: a table that cannot be followed any more stops alone
//! - [`anew`]: tables that are read again while the others go on
//! - [`altered`]: tables and types that are altered, partitions that come and go
//! - [`partitions`]: partitions that no check has seen in the state in which rows were written to them
//! - [`telling`]: what the commands print for people and programs: hits, the status, errors
//! - [`printed`]: what the commands print, compared with files that a review shows; [`reviewed`] compares
//! - [`compose`]: the database role that compose.yaml sets up
//! - [`asking`]: pages of hits, fields, allowed hosts, tokens, health
//! - [`progress`]: long work reports its progress
//! - [`unsent`]: large values that PostgreSQL does not send
//! - [`locks`]: what walvec reads keeps no statement of the application waiting
//! - [`values`]: values that stores or readers cannot hold as they are
//! - [`types`]: how the values of each type are stored, rendered, filtered and sorted
//! - [`many_tables`]: what a start, an idle second and a change cost does not grow with the number of tables
//! - [`memory`]: memory stays within the configured bounds, for rows of every size
//! - [`faults`]: kills, crashes, cut connections
//! - [`engine`]: the engine inside the program, which builds its index concurrently with everything else
//! - [`failover`]: a primary that dies, and its standby
//! - [`broker_failover`]: a primary that dies, and its standby, behind a broker
//! - [`gaps`]: lost changes
//! - [`too_large`]: rows that PostgreSQL cannot send
//! - [`ownership`]: one process, one table, no older state
//! - [`full_disks`]: disks of PostgreSQL and of walvec that are full
//! - [`limits`]: a PostgreSQL server that has reached a limit
//! - [`sessions`]: limits, logins and streams of PostgreSQL that are not as they should be
//! - [`refusals`]: attempts that cannot work end in a clear message and leave everything as it was
//! - [`check`]: what is missing, how to put it right, and what `run` will do
//! - [`reindex`]: another model or text, while the old one goes on answering
//! - [`backfill`]: rows read again while the stream goes on
//! - [`servers`]: a Qdrant server instead of the engine inside the process
//! - [`broker`]: a broker between the stages, which still make the exact image
//! - [`workers`]: workers that are killed, frozen, added and removed
//! - [`topics`]: brokers that go away, records, topics and collections that are gone
//! - [`verify`]: `walvec verify` finds every sort of mismatch, none where there is none, and has them mended
//! - [`tenants`]: a collection on a cluster, sharded by a column
//! - [`broker_commands`]: the commands, with a broker between the stages
//! - [`layouts`]: payloads as the vector stores of other libraries read them
//! - [`broker_open`]: topics that other programs read and write: Quix Streams, the tutorial's
//! - [`broker_debezium`]: collections that follow what Debezium writes
//! - [`broker_compacted`]: topics of other programs that forget deletes, or whose server was another one before
//! - [`broker_nulls`]: rows that a program between capture and the workers removes
//! - [`broker_input`]: brokers that refuse, topics that are missing, records that cannot be read or written
//! - [`chunks`]: long texts in chunks, all of which follow their row
//! - [`hybrid`]: searches by keyword, and by both, whose sparse vectors follow the rows
//! - [`init`]: a configuration for an existing database
//! - [`lookups`]: documents with rows of other tables, which follow changes of those rows
//! - [`lookup_refusals`]: lookups that cannot work
//! - [`providers`]: models behind an HTTP interface, through their faults
//! - [`late_vectors`]: late vectors do not hold up other rows
//! - [`long_texts`]: texts that are longer than the model reads are not cut silently
//! - [`statements`]: the application's own statements go on working
//! - [`static_models`]: models that are a table of vectors
//! - [`harness`]: a check that these tests can fail: the comparison finds every sort of difference

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod altered;
mod anew;
mod aside;
mod asking;
mod backfill;
mod broker;
mod broker_commands;
mod broker_compacted;
mod broker_debezium;
mod broker_failover;
mod broker_input;
mod broker_nulls;
mod broker_open;
mod check;
mod chunks;
mod compose;
mod engine;
mod failover;
mod faults;
mod full_disks;
mod gaps;
mod harness;
mod hybrid;
mod init;
mod late_vectors;
mod layouts;
mod limits;
mod locks;
mod long_texts;
mod lookup_refusals;
mod lookups;
mod many_tables;
mod memory;
mod operations;
mod ownership;
mod partitions;
mod printed;
mod progress;
mod providers;
mod refusals;
mod reindex;
mod reviewed;
mod servers;
mod sessions;
mod smoke;
mod statements;
mod static_models;
mod telling;
mod tenants;
mod too_large;
mod topics;
mod types;
mod unsent;
mod values;
mod verify;
mod workers;

use std::process::ExitCode;

use walvec_e2e::Test;

fn main() -> ExitCode {
    // The tests' HTTP clients use no TLS, but cannot be created without a cryptography provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let behind = behind_the_source().into_iter().map(Test::once_unless_proving);
    walvec_e2e::suite::main(&of_the_source().into_iter().chain(behind).collect::<Vec<_>>())
}

/// Tests of behaviour that differs between PostgreSQL's versions, or that depends on walvec's statements.
fn of_the_source() -> Vec<Test> {
    [
        smoke::tests(),
        operations::tests(),
        altered::tests(),
        anew::tests(),
        partitions::tests(),
        locks::tests(),
        unsent::tests(),
        values::tests(),
        types::tests(),
        check::tests(),
        lookup_refusals::tests(),
    ]
    .concat()
}

/// Tests of the steps after that, and of failures.
fn behind_the_source() -> Vec<Test> {
    [
        aside::tests(),
        faults::tests(),
        engine::tests(),
        gaps::tests(),
        too_large::tests(),
        ownership::tests(),
        failover::tests(),
        sessions::tests(),
        limits::tests(),
        full_disks::tests(),
        telling::tests(),
        printed::tests(),
        asking::tests(),
        compose::tests(),
        progress::tests(),
        many_tables::tests(),
        memory::tests(),
        reindex::tests(),
        backfill::tests(),
        servers::tests(),
        broker::tests(),
        broker_commands::tests(),
        workers::tests(),
        topics::tests(),
        layouts::tests(),
        chunks::tests(),
        hybrid::tests(),
        init::tests(),
        lookups::tests(),
        tenants::tests(),
        broker_open::tests(),
        broker_debezium::tests(),
        broker_failover::tests(),
        broker_input::tests(),
        broker_nulls::tests(),
        broker_compacted::tests(),
        providers::tests(),
        late_vectors::tests(),
        long_texts::tests(),
        verify::tests(),
        refusals::tests(),
        statements::tests(),
        static_models::tests(),
        harness::tests(),
    ]
    .concat()
}
