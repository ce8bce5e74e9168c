use super::*;

fn wait(pid: i32) -> LockWait {
    LockWait {
        table: "public.books".to_owned(),
        is_for_end: false,
        is_ours: true,
        pid,
        role: "app".to_owned(),
        what: "ALTER TABLE".to_owned(),
    }
}

fn shown(telemetry: &Telemetry) -> Option<Problem> {
    telemetry.subscribe().borrow().problem.clone()
}

#[test]
fn a_wait_is_shown_if_two_looks_in_a_row_find_it_and_until_there_is_none() {
    let telemetry = Telemetry::new(Vec::new(), false);
    let mut wait_of = ShownWait { trouble: ProblemGuard::new(&telemetry), last: None };
    let is_shown = |pid: &str| shown(&telemetry).is_some_and(|problem| problem.message.contains(pid));
    wait_of.found(Some(wait(41)));
    assert_eq!(shown(&telemetry), None, "it may be over in a moment");
    wait_of.found(Some(wait(41)));
    assert!(is_shown("41"));
    let remedy = shown(&telemetry).unwrap().remedy.unwrap();
    assert!(remedy.contains("pg_terminate_backend(41)"), "{remedy}");
    wait_of.found(Some(wait(42)));
    assert!(is_shown("41"), "another one has to last too");
    wait_of.found(Some(wait(42)));
    assert!(is_shown("42"));
    wait_of.found(None);
    assert_eq!(shown(&telemetry), None);
    wait_of.found(Some(wait(42)));
    assert_eq!(shown(&telemetry), None, "it is another wait");
}

#[test]
fn waits_are_looked_for_while_rows_are_copied_and_while_the_stream_is_late() {
    let status = |phase, lag_ms| Status { phase, lag_ms, ..Status::default() };
    for (phase, lag_ms, expected) in [
        (Phase::Starting, None, true),
        (Phase::Snapshot, None, true),
        (Phase::Streaming, None, false),
        (Phase::Streaming, Some(LATE_MS), false),
        (Phase::Streaming, Some(LATE_MS + 1), true),
        (Phase::Stopping, None, false),
    ] {
        assert_eq!(may_wait(&status(phase, lag_ms)), expected, "{phase:?}, {lag_ms:?}");
    }
}

#[tokio::test]
async fn what_is_shown_goes_with_the_work_that_waited() {
    let telemetry = Telemetry::new(Vec::new(), false);
    let mut wait_of = ShownWait { trouble: ProblemGuard::new(&telemetry), last: None };
    wait_of.found(Some(wait(41)));
    wait_of.found(Some(wait(41)));
    drop(wait_of);
    assert_eq!(shown(&telemetry), None);
}
