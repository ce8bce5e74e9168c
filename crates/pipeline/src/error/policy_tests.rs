use Policy::{Retry, Stop};
use walvec_capture::{CaptureError, Resource};
use walvec_model::TableName;

use super::*;

fn assert_row(errors: impl IntoIterator<Item = CaptureError>, expected: PolicyRow) {
    for error in errors {
        let words = error.to_string();
        let error = PipelineError::from(error);
        let found = During::ALL.map(|during| error.policy(during));
        assert_eq!(found, expected, "{words}");
    }
}

fn server() -> String {
    "h:5432/d".to_owned()
}

fn reason() -> String {
    "why".to_owned()
}

fn connect() -> CaptureError {
    CaptureError::Connect { server: server(), reason: reason() }
}

fn auth() -> CaptureError {
    CaptureError::Auth { server: server(), reason: reason() }
}

fn exhausted(resource: Resource) -> CaptureError {
    CaptureError::Exhausted { resource, doing: reason(), reason: reason() }
}

fn statement(sqlstate: &str) -> CaptureError {
    CaptureError::Statement { doing: reason(), reason: reason(), sqlstate: sqlstate.to_owned() }
}

fn table() -> TableName {
    TableName::new("public", "t")
}

#[test]
fn a_server_that_is_away_is_waited_for_once_it_was_there() {
    let standby = CaptureError::OtherTarget { server: server(), wanted: "primary", found: "it is a standby" };
    let demoted = CaptureError::Standby { server: server() };
    assert_row([connect(), standby, demoted], [Stop, Retry, Retry]);
}

#[test]
fn one_of_several_hosts_that_may_come_back_is_waited_for() {
    let no_host = |tried| CaptureError::NoHost { tried };
    assert_row([no_host(vec![auth(), connect()])], [Stop, Retry, Retry]);
    assert_row([no_host(vec![auth(), auth()])], [Stop; 3]);
}

#[test]
fn a_full_server_is_an_error_at_the_first_start_and_for_a_job_and_is_waited_for_later() {
    let limits = [Resource::ReplicationSlots, Resource::WalSenders, Resource::Connections];
    assert_row(limits.map(exhausted), [Stop, Retry, Stop]);
}

#[test]
fn a_server_without_memory_or_disk_is_waited_for() {
    assert_row([Resource::Memory, Resource::Disk].map(exhausted), [Stop, Retry, Retry]);
}

#[test]
fn a_slot_that_is_busy_and_a_snapshot_that_was_overtaken_pass_by_themselves() {
    let busy = CaptureError::SlotBusy { slot: "s".to_owned(), reason: reason() };
    let (rewritten, spool) = (CaptureError::Rewritten { table: table() }, CaptureError::Spool { reason: reason() });
    assert_row([busy, rewritten, spool, CaptureError::Closed], [Retry; 3]);
}

#[test]
fn a_statement_is_tried_again_if_its_code_says_that_it_may_succeed() {
    assert_row(["57P01", "08006", "40001", "55P03", "53000"].map(statement), [Retry; 3]);
    assert_row(["42601", "42P01", "22023", ""].map(statement), [Stop; 3]);
}

#[test]
fn settings_that_are_wrong_stop() {
    let database = CaptureError::Database { database: "d".to_owned(), server: server() };
    let tls = CaptureError::Tls { server: server(), reason: reason() };
    let rights = CaptureError::Rights { doing: reason(), reason: reason(), grant: None };
    let pooler = CaptureError::Pooler { server: server(), reason: reason() };
    let condition = CaptureError::Condition { table: table(), reason: reason() };
    let config = CaptureError::Config { reason: reason() };
    let level = CaptureError::WalLevel { found: "replica".to_owned() };
    let setting = CaptureError::Setting { setting: reason(), reason: reason(), remedy: reason() };
    let foreign = CaptureError::ForeignPublication { publication: reason(), difference: reason() };
    let owned = CaptureError::Owned { collection: reason(), holder: reason() };
    assert_row([auth(), database, tls, rights, pooler, condition, config, level, setting, foreign, owned], [Stop; 3]);
}

#[test]
fn what_would_lose_changes_or_cannot_be_read_stops() {
    let slot = || "s".to_owned();
    let publication = CaptureError::Publication { publication: slot(), difference: reason(), sql: reason() };
    let encoding = CaptureError::Encoding { place: reason(), reason: reason() };
    assert_row(
        [
            CaptureError::Unsendable { reason: reason() },
            CaptureError::TooLarge { doing: reason(), reason: reason() },
            CaptureError::SlotMissing { slot: slot() },
            CaptureError::SlotExists { slot: slot() },
            CaptureError::SlotLost { slot: slot(), reason: reason() },
            publication,
            CaptureError::Schema { table: table(), reason: reason() },
            CaptureError::Table { table: table(), reason: reason() },
            CaptureError::NoKey { table: table(), reason: reason() },
            encoding,
            CaptureError::Protocol { reason: reason() },
        ],
        [Stop; 3],
    );
}

#[test]
fn what_was_built_upon_and_is_gone_begins_again_at_any_time() {
    let missing = SinkError::Missing { url: server(), collection: "c".to_owned() };
    let gone = PipelineError::Sink { collection: "c".to_owned(), source: missing };
    let altered = CaptureError::Altered { table: table(), reason: reason() };
    for error in [PipelineError::Altered { table: table() }, altered.into(), gone] {
        assert!(During::ALL.iter().all(|during| error.policy(*during) == Policy::Restart), "{error}");
    }
}

#[test]
fn of_several_hosts_the_one_that_gives_the_most_hope_decides() {
    let no_host = |tried| CaptureError::NoHost { tried };
    let busy = || CaptureError::SlotBusy { slot: "s".to_owned(), reason: reason() };
    assert_row([no_host(vec![auth(), busy()])], [Retry; 3]);
    assert_row([no_host(vec![auth(), exhausted(Resource::Connections)])], [Stop, Retry, Stop]);
    assert_row([no_host(vec![no_host(vec![connect()]), auth()])], [Stop, Retry, Retry]);
    assert_row([no_host(Vec::new())], [Stop; 3]);
}

#[test]
fn a_limit_is_judged_before_an_attempt_as_after_it() {
    for resource in
        [Resource::ReplicationSlots, Resource::WalSenders, Resource::Connections, Resource::Memory, Resource::Disk]
    {
        let error = PipelineError::from(exhausted(resource));
        for during in During::ALL {
            assert_eq!(of_resource(resource, during), error.policy(during), "{resource:?}, {during:?}");
        }
    }
}
